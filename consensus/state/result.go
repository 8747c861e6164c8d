package state

import (
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// Result is Apply's answer to one command, the same on every replica.
type Result struct {
	// Index is the raft index that committed the command, Leaf the position of
	// its leaf in the ledger.
	Index uint64 `json:"index"`
	Leaf  uint64 `json:"leaf"`
	// LeafHash is the leaf's RFC 6962 hash; zero in a repeated answer and for
	// commands that leave no leaf.
	LeafHash ledger.Hash `json:"leaf_hash,omitzero"`
	// ID is what the command made or changed: a job, a node, a token, a
	// reservation's key.
	ID string `json:"id,omitempty"`
	// Repeated: the command, or one with the same idempotency key, had been
	// applied before; this is what came of it then.
	Repeated bool `json:"repeated,omitempty"`
	// Refused is set if the command was not accepted.
	Refused *Refused `json:"refused,omitempty"`
	// Entry is the leaf's bytes, for the store that serves proofs, and Salt is
	// what opens its commitment together with the command's bytes. They are no
	// part of the answer; Entry is nil where no leaf was appended.
	Entry []byte      `json:"-"`
	Salt  ledger.Salt `json:"-"`
}

// Err is the refusal as an error, nil if the command was accepted.
func (r Result) Err() error {
	if r.Refused == nil {
		return nil
	}
	return r.Refused
}

// recentMax is how many results are remembered so that a command proposed twice
// takes effect once. At 10,000 commands a second it is three seconds of them,
// and a lost leader stops the counting: only what was committed around the loss
// is ever proposed again.
const (
	recentChunk  = 1024
	recentChunks = 32
)

type recentResult struct {
	Salt    [16]byte
	Index   uint64
	Leaf    uint64
	ID      string
	Refused *Refused
}

// recentRing is a persistent list of results, newest last, dropped by chunks.
// A copy sees the results that were there when it was made: chunks are only
// appended to, and a copy keeps its own lengths.
type recentRing struct {
	chunks [][]recentResult
	first  uint64 // sequence of chunks[0][0], a multiple of recentChunk
}

func (r *recentRing) add(v recentResult) (seq uint64) {
	last := len(r.chunks) - 1
	if last < 0 || len(r.chunks[last]) == recentChunk {
		// A new outer slice, so that copies do not see it change.
		r.chunks = append(append([][]recentResult(nil), r.chunks...), make([]recentResult, 0, recentChunk))
		last = len(r.chunks) - 1
	} else {
		r.chunks = append([][]recentResult(nil), r.chunks...)
	}
	r.chunks[last] = append(r.chunks[last], v)
	return r.first + uint64(last*recentChunk+len(r.chunks[last])-1)
}

// trim drops the oldest chunk once there are too many and returns it.
func (r *recentRing) trim() []recentResult {
	if len(r.chunks) <= recentChunks {
		return nil
	}
	old := r.chunks[0]
	r.chunks = r.chunks[1:]
	r.first += recentChunk
	return old
}

func (r *recentRing) at(seq uint64) recentResult {
	i := seq - r.first
	return r.chunks[i/recentChunk][i%recentChunk]
}

// idempotencyWindow is how long a key is remembered, in ledger time.
const idempotencyWindow = 24 * time.Hour
