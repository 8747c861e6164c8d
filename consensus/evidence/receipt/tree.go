package receipt

import (
	"crypto/sha256"
	"errors"
	"math/bits"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// Root is the RFC 6962 root of leaves.
func Root(leaves [][]byte) ledger.Hash {
	return RootOf(HashesOf(leaves))
}

// HashesOf are the leaf hashes of RFC 6962, 2.1.
func HashesOf(leaves [][]byte) []ledger.Hash {
	hashes := make([]ledger.Hash, len(leaves))
	for i, l := range leaves {
		hashes[i] = ledger.HashLeaf(l)
	}
	return hashes
}

// RootOf is the tree hash of RFC 6962, 2.1.
func RootOf(hashes []ledger.Hash) ledger.Hash {
	switch n := len(hashes); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return hashes[0]
	default:
		k := split(n)
		return ledger.HashChildren(RootOf(hashes[:k]), RootOf(hashes[k:]))
	}
}

// split is the largest power of two below n.
func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }

// Path is the audit path of RFC 6962, 2.1.1, from the leaf upwards.
func Path(hashes []ledger.Hash, index int) []ledger.Hash {
	if len(hashes) <= 1 {
		return nil
	}
	k := split(len(hashes))
	if index < k {
		return append(Path(hashes[:k], index), RootOf(hashes[k:]))
	}
	return append(Path(hashes[k:], index-k), RootOf(hashes[:k]))
}

// Kept is a receipt as an evidence pack has it: its leaf, or, of one that was
// not asked for, the hash alone, so that the segment's root can still be made.
type Kept struct {
	Leaf []byte      // nil for the hash alone
	Hash ledger.Hash // of the leaf
}

// RootOfKept is the root of a segment.
func RootOfKept(all []Kept) ledger.Hash {
	hashes := make([]ledger.Hash, len(all))
	for i := range all {
		hashes[i] = all[i].Hash
	}
	return RootOf(hashes)
}

// ErrProof is the answer to a receipt that is not what the segment's root says.
var ErrProof = errors.New("the receipt is not what stands in its segment: leaf, index, proof or root was changed")

// VerifyInclusion is nil if the leaf stands at index among count receipts whose
// tree has this root.
func VerifyInclusion(leaf []byte, index, count uint64, path []ledger.Hash, root ledger.Hash) error {
	hashes := make([][]byte, len(path))
	for i := range path {
		hashes[i] = path[i][:]
	}
	hash := ledger.HashLeaf(leaf)
	if proof.VerifyInclusion(rfc6962.DefaultHasher, index, count, hash[:], hashes, root[:]) != nil {
		return ErrProof
	}
	return nil
}
