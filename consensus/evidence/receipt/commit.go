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
	return NewCommitter().Commit(key, what, body)
}

// SaltOf is the salt of a leaf whose commitments a key opens: the first half of
// SHA-256(key || 0x03). It tells nothing of the key, and a receipt with another
// key is found out.
func SaltOf(key ledger.Salt) ledger.Salt { return NewCommitter().Salt(key) }

// Committer makes commitments, one after the other. It is not safe for
// concurrent use.
type Committer struct {
	h    hash.Hash
	head [len(ledger.Salt{}) + 1]byte
	sum  ledger.Hash
}

// NewCommitter makes one that may be used again and again.
func NewCommitter() *Committer { return &Committer{h: sha256.New()} }

// Start begins a commitment to a body that comes in parts: write them, then take
// the sum.
func (c *Committer) Start(key ledger.Salt, what byte) {
	copy(c.head[:], key[:])
	c.head[len(key)] = what
	c.h.Reset()
	c.h.Write(c.head[:])
}

// Write adds a part of the body. It takes everything.
func (c *Committer) Write(p []byte) (int, error) { return c.h.Write(p) }

// Sum is the commitment to what was written.
func (c *Committer) Sum() ledger.Hash {
	c.h.Sum(c.sum[:0])
	return c.sum
}

// Commit is [Commit].
func (c *Committer) Commit(key ledger.Salt, what byte, body []byte) ledger.Hash {
	c.Start(key, what)
	c.h.Write(body)
	return c.Sum()
}

// Salt is [SaltOf].
func (c *Committer) Salt(key ledger.Salt) (salt ledger.Salt) {
	h := c.Commit(key, ofSalt, nil)
	copy(salt[:], h[:])
	return salt
}
