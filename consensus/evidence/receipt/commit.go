package receipt

import (
	"crypto/sha256"
	"hash"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// The bodies that a key commits to.
const (
	OfRequest  = 0x01
	OfResponse = 0x02
	ofSalt     = 0x03
)

// Commit is a leaf's commitment to a body: SHA-256(key || what || body), with
// what 0x01 for a request and 0x02 for a response. The key is in no leaf and in
// no evidence pack: "yes" and "no" cannot be told apart by trying, and with the
// key the receipt's owner shows what stood there. Erasing the key erases it.
func Commit(key ledger.Salt, what byte, body []byte) ledger.Hash {
	h := Committing(key, what)
	h.Write(body)
	return Sum(h)
}

// Committing is a commitment to a body that comes in parts: write them, then
// take the [Sum].
func Committing(key ledger.Salt, what byte) hash.Hash {
	h := sha256.New()
	var head [len(key) + 1]byte
	copy(head[:], key[:])
	head[len(key)] = what
	h.Write(head[:])
	return h
}

// Sum ends a commitment.
func Sum(h hash.Hash) (out ledger.Hash) {
	h.Sum(out[:0])
	return out
}

// SaltOf is the salt of a leaf whose commitments a key opens: the first half of
// SHA-256(key || 0x03). It tells nothing of the key, and a receipt with another
// key is found out.
func SaltOf(key ledger.Salt) (salt ledger.Salt) {
	h := Commit(key, ofSalt, nil)
	copy(salt[:], h[:])
	return salt
}
