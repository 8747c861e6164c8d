package runner

import (
	"context"
	"net"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Migrator is a driver that hands a running task over to the same driver on
// another node, without ending it. The two speak over [Streams], which are the
// caller's: it has judged where they lead.
//
// What the task does is done on one side at most, at every instant and after any
// crash. Send and Receive both return with the task held still, whole on both
// sides. From there on Finish alone lets it go on, on the side that the
// region's ledger names, and gives it up on the other. Neither a new agent nor a
// user's "resume" does.
type Migrator interface {
	Driver
	// MoveKey is what two nodes must have alike for a running task to get from one
	// to the other: the hypervisor's version, machine, accelerator and processor.
	// Empty: no task of this node can.
	MoveKey(ctx context.Context) (string, error)
	// CanMove says what keeps the task from being moved while it runs, each reason
	// in words that an operator reads; empty if nothing does.
	CanMove(ctx context.Context, h Handle) ([]string, error)
	// Receive makes a place for a task that runs elsewhere and takes it in. It
	// calls spec.Keep as Start does, before anything runs, and leaves nothing
	// behind when it fails.
	Receive(ctx context.Context, spec Spec, from Streams) (Handle, error)
	// Send hands the task over; with near-live it is held still from the beginning.
	// told may be nil. After an error the task goes on here, unless the error is an
	// [*UndecidedError]: then it is held still until Finish.
	Send(ctx context.Context, h Handle, mode placement.MoveMode, to Streams, told func(MoveProgress)) error
	// Finish decides about a task that Send or Receive held still: it goes on here,
	// or it is over here, with nothing told of its end, and its traces wait for
	// Destroy. Of a task that is decided already it does nothing, and says so if it
	// was decided the other way.
	Finish(ctx context.Context, h Handle, here bool) error
}

// Streams are byte streams by name between the two sides of a move; each name
// is used once. They end with the move, but those that begin with [SessionStream]:
// by them sessions into the task go on, and each ends when either side closes it.
type Streams interface {
	// Open makes a stream; the sending side calls it.
	Open(ctx context.Context, name string) (net.Conn, error)
	// Accept waits for the next one; the receiving side calls it.
	Accept(ctx context.Context) (name string, c net.Conn, err error)
}

// SessionStream begins the names of streams that outlive their move.
const SessionStream = "session"

// MoveProgress is how far a move got.
type MoveProgress struct {
	Phase string `json:"phase"` // agree, snapshots, disk, memory, switch
	// Bytes were sent of Total, which grows while the task writes; 0 is unknown.
	Bytes int64 `json:"bytes"`
	Total int64 `json:"total,omitempty"`
	// Waited is how long the other side is awaited already, which is connected and has
	// to answer before anything is sent.
	Waited time.Duration `json:"-"`
	// Still is how long the task stood still, once that is known.
	Still time.Duration `json:"still,omitempty"`
}

// awaitSaidEvery is how often a move says that the other side is awaited: often
// enough that it does not count as standing still.
const awaitSaidEvery = 15 * time.Second

// Awaiting says that the other side is awaited until its result is called. Send
// does so while it reads from a stream that ends with the other side, and bounds it.
func Awaiting(told func(MoveProgress)) (heard func()) {
	began, stop, stopped := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(awaitSaidEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				told(MoveProgress{Phase: "agree", Waited: time.Since(began)})
			case <-stop:
				return
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

// Hold is why a task stands still until [Migrator.Finish].
type Hold string

// The holds.
const (
	HeldSent     Hold = "sent"     // handed over, or being so when the agent ended
	HeldReceived Hold = "received" // taken in, or being so when the agent ended
)

// UndecidedError is the end of a move of which this side does not know whether
// the other has all of it.
type UndecidedError struct {
	Task placement.TaskID
	Err  error
}

func (e *UndecidedError) Error() string {
	return "move task " + string(e.Task) + ": the other side may have all of it: " + e.Err.Error()
}

// Unwrap is what went wrong.
func (e *UndecidedError) Unwrap() error { return e.Err }

// Hint says who decides.
func (e *UndecidedError) Hint() string {
	return "the region's ledger decides where it goes on: sovmesh job show"
}
