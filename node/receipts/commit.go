package receipts

import (
	"crypto/sha256"
	"hash"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// The bodies that a key commits to.
const (
	ofRequest  = 0x01
	ofResponse = 0x02
)

// Commit is a leaf's commitment to a body: SHA-256(key || what || body), with
// what 0x01 for a request and 0x02 for a response. The key is in no leaf and in
// no evidence pack: "yes" and "no" cannot be told apart by trying, and with the
// key the receipt's owner shows what stood there. Erasing the key erases it.
func Commit(key ledger.Salt, what byte, body []byte) ledger.Hash {
	h := committing(key, what)
	h.Write(body)
	return sum(h)
}

func committing(key ledger.Salt, what byte) hash.Hash {
	h := sha256.New()
	h.Write(append(key[:], what))
	return h
}

func sum(h hash.Hash) (out ledger.Hash) {
	h.Sum(out[:0])
	return out
}
