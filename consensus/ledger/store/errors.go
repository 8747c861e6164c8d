package store

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// Conflict says that a leaf was offered for an index that holds another one, or
// that cannot hold it. Two replicas, or a replica and its past, have diverged.
type Conflict struct {
	Index     uint64
	Have, Got ledger.Hash // of the leaves; zero where there is none
	Reason    string
}

func (e *Conflict) Error() string {
	if e.Have == e.Got {
		return fmt.Sprintf("ledger entry %d does not fit the store: %s", e.Index, e.Reason)
	}
	return fmt.Sprintf("ledger entry %d does not fit the store: %s (leaf hash %x here, %x now)", e.Index, e.Reason, e.Have[:8], e.Got[:8])
}

// Hint says what to do.
func (e *Conflict) Hint() string {
	return "keep the data directory as evidence, remove the node and let it join again: sovmesh node remove NODE"
}

// Gap says that leaves are not here: the replica was restored from a snapshot
// and has not been filled up from its peers yet.
type Gap struct{ From, To uint64 }

func (e *Gap) Error() string {
	return fmt.Sprintf("ledger entries %d to %d are not here yet: this replica is being filled up by its peers", e.From, e.To-1)
}

// Hint says what to do.
func (e *Gap) Hint() string { return "ask another voter, or again in a moment" }

// Beyond says that something was asked for that the tree does not have yet.
type Beyond struct{ Size uint64 }

func (e *Beyond) Error() string {
	return fmt.Sprintf("the ledger has %d entries, and this is beyond them", e.Size)
}

// Hint says what to do.
func (e *Beyond) Hint() string { return "read the checkpoint first: it says how long the ledger is" }

// Rot says that bytes on disk are not those that were written.
type Rot struct {
	File string
	// Index is of the first leaf that is in doubt.
	Index uint64
}

func (e *Rot) Error() string {
	return fmt.Sprintf("the ledger file %s is damaged at entry %d: what it holds is not what the tree proves", e.File, e.Index)
}

// Hint says what to do.
func (e *Rot) Hint() string {
	return "keep a copy as evidence, move the ledger directory away and restart: the entries come back from the other voters"
}

// Lie says that a peer's answer does not fit the committed root.
type Lie struct {
	Index uint64
	What  string
}

func (e *Lie) Error() string {
	return fmt.Sprintf("a peer's answer for ledger entry %d is refused: %s", e.Index, e.What)
}

// Hint says what to do.
func (e *Lie) Hint() string {
	return "look at that node: its disk is damaged, or it is not what it says"
}

// Full says that the disk takes no more.
type Full struct {
	File string
	Err  error
}

func (e *Full) Error() string {
	return fmt.Sprintf("no room to write the ledger file %s: %v", e.File, e.Err)
}

// Unwrap gives the cause.
func (e *Full) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *Full) Hint() string {
	return "make room on the disk of the data directory; nothing is lost meanwhile: the raft log is kept until the ledger is written"
}

// Corrupt says that the files are not what a sync left behind.
type Corrupt struct {
	File string
	Err  error
}

func (e *Corrupt) Error() string {
	return fmt.Sprintf("the ledger file %s is damaged: %v", e.File, e.Err)
}

// Unwrap gives the cause.
func (e *Corrupt) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *Corrupt) Hint() string { return (&Rot{}).Hint() }

// ErrErased is the answer for an opening that was erased.
var ErrErased = errors.New("the bytes behind this ledger entry were erased; the entry and its proof stay valid")

// ErrNoOpening is the answer for an opening that this replica does not hold.
var ErrNoOpening = errors.New("this replica does not hold the bytes behind this ledger entry")

// written gives a failed write its type.
func written(file string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &Full{file, err}
	}
	return fmt.Errorf("write the ledger file %s: %w", file, err)
}
