package ledger

import (
	"encoding/binary"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

var factory = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// Tree is the part of an RFC 6962 tree that is needed to append to it and to
// know its root: at most 64 hashes, whatever its size. It is not safe for
// concurrent use.
type Tree struct{ r *compact.Range }

// NewTree is the empty tree.
func NewTree() *Tree { return &Tree{factory.NewEmptyRange(0)} }

// Append adds an encoded leaf and returns its position, from 0.
func (t *Tree) Append(leaf []byte) uint64 {
	at := t.r.End()
	// Append errs for overlapping ranges only, which one hash cannot be.
	_ = t.r.Append(rfc6962.DefaultHasher.HashLeaf(leaf), nil)
	return at
}

// Size is the number of leaves.
func (t *Tree) Size() uint64 { return t.r.End() }

// Root is the RFC 6962 tree hash; that of the empty tree is SHA-256 of nothing.
func (t *Tree) Root() Hash {
	root, err := t.r.GetRootHash(nil)
	if err != nil || root == nil {
		root = rfc6962.DefaultHasher.EmptyRoot()
	}
	return Hash(root)
}

// Clone is an independent copy.
func (t *Tree) Clone() *Tree {
	hashes := append([][]byte(nil), t.r.Hashes()...)
	r, _ := factory.NewRange(0, t.r.End(), hashes) // the count was right before
	return &Tree{r}
}

// Marshal writes the size (8 bytes, big endian) and the roots of the perfect
// subtrees from left to right
// (https://github.com/transparency-dev/merkle/blob/main/docs/compact_ranges.md).
func (t *Tree) Marshal() []byte {
	out := binary.BigEndian.AppendUint64(nil, t.r.End())
	for _, h := range t.r.Hashes() {
		out = append(out, h...)
	}
	return out
}

// UnmarshalTree reads what [Tree.Marshal] wrote and nothing else.
func UnmarshalTree(data []byte) (*Tree, error) {
	if len(data) < 8 {
		return nil, fmt.Errorf("no compact range: %d bytes are too few", len(data))
	}
	size := binary.BigEndian.Uint64(data)
	rest := data[8:]
	if want := compact.RangeSize(0, size) * len(Hash{}); len(rest) != want {
		return nil, fmt.Errorf("no compact range: a tree of %d leaves has %d bytes of hashes, not %d", size, want, len(rest))
	}
	hashes := make([][]byte, 0, len(rest)/len(Hash{}))
	for ; len(rest) > 0; rest = rest[len(Hash{}):] {
		hashes = append(hashes, append([]byte(nil), rest[:len(Hash{})]...))
	}
	r, err := factory.NewRange(0, size, hashes)
	if err != nil {
		return nil, fmt.Errorf("no compact range: %w", err)
	}
	return &Tree{r}, nil
}
