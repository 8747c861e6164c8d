package runner

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Moves is how a node hands its running tasks over to others, and takes theirs.
type Moves interface {
	// Ready reports whether the node of a task waits for what it is to take over.
	Ready(ctx context.Context, to placement.Task) (bool, error)
	// Lawful judges, by the newest view that this node has, whether what the task takes
	// over may be on its node, or on this one if it names none. An [*UnlawfulError] ends
	// the move; any other is no answer.
	Lawful(to placement.Task) error
	// Open makes a stream of that name to it. One that outlives the move ends when
	// that is not lawful any more.
	Open(ctx context.Context, to placement.Task, name string) (net.Conn, error)
	// Decide proposes the end of a move to the region's ledger. What came of it
	// stands in the views that follow, and nowhere else. A [*MoveRefusedError] says
	// that the proposal was committed and refused.
	Decide(ctx context.Context, from, to placement.TaskID, end MoveEnd) error
}

// MoveEnd is what a node proposes.
type MoveEnd struct {
	// Commit: the task runs at its new place from here on; else it goes on where it is.
	Commit bool
	Reason string // of one that is given up
	// Blameless: what stood in its way was not the move's own, and may be gone the
	// next time: it does not count as one that failed.
	Blameless bool
}

// UnlawfulError is why a task may not go where it was to.
type UnlawfulError struct{ Err error }

func (e *UnlawfulError) Error() string { return e.Err.Error() }

// Unwrap is the law's word.
func (e *UnlawfulError) Unwrap() error { return e.Err }

// MoveRefusedError is a proposal that the region's ledger refused.
type MoveRefusedError struct {
	Reason string
	// Taken: the task runs at its new place already, or did before it ended.
	Taken bool
}

func (e *MoveRefusedError) Error() string { return e.Reason }

// Moving is where the move of a task stands, as its node remembers it.
type Moving struct {
	With placement.TaskID   `json:"with"` // the task at the other end
	Node placement.NodeID   `json:"node,omitempty"`
	Mode placement.MoveMode `json:"mode"`
	// Away: this node gives the task; otherwise it takes it.
	Away bool `json:"away,omitempty"`
	// Index is that of the view that first showed the move: older ones know nothing
	// of it, and decide nothing.
	Index uint64 `json:"index"`
	// Sent: the other side has all of it.
	Sent bool `json:"sent,omitempty"`
}

// verdict is what the ledger says of a move.
type verdict int

const (
	undecided verdict = iota
	here              // it goes on on this node
	over              // it does not
)

// moving is the part of a task that a move needs in this process. Its fields are
// guarded by Runner.mu.
type moving struct {
	is      verdict
	decided chan struct{} // closed with the verdict
	held    bool          // it stands still until the ledger has spoken
	free    bool          // it runs here whatever the ledger says, and may be ended
	hurry   context.CancelFunc
	unwatch context.CancelFunc // ends the watch for its end
	away    bool               // it is over here, and goes on elsewhere
	taken   bool               // the ledger said that the new task took over
	settled chan struct{}      // closed when give is done with it
}

func newMoving() moving {
	return moving{decided: make(chan struct{}), settled: make(chan struct{})}
}

// startMove notes that a move begins. The caller holds mu.
func (t *task) startMove(m Moving) {
	t.rec.Move = &m
	unwatch := t.move.unwatch
	t.move = newMoving()
	t.move.unwatch = unwatch
}

// decide notes the ledger's word, once. The caller holds mu.
func (t *task) decide(v verdict) {
	if t.rec.Move == nil || t.move.is != undecided {
		return
	}
	t.move.is = v
	close(t.move.decided)
}

// followMove reads in a committed view where a move of the task stands. The
// caller holds mu.
func (r *Runner) followMove(ctx context.Context, index uint64, want Want, t *task) {
	r.followRunsSince(want, t)
	m := t.rec.Move
	switch {
	case m == nil:
		if to := want.MovesTo; to != nil && r.cfg.Moves != nil && want.Task.Status.Live() && t.rec.Status == placement.TaskRunning && t.rec.Handle != nil && !t.dead {
			t.startMove(Moving{With: to.ID, Node: to.Node, Mode: to.Move, Away: true, Index: index})
			r.lives.Go(func() { r.give(ctx, t, false) })
		}
	case index < m.Index:
	case !want.Task.Status.Live():
		t.decide(over)
	case m.Away && (want.MovesTo == nil || want.MovesTo.ID != m.With):
		t.decide(here)
	case !m.Away && !want.Task.StartedAt.IsZero():
		t.decide(here)
	}
}

// followRunsSince takes from a view since when a task runs that was moved here. It
// never changes, and every view may be the first that has it: an agent may have
// been killed before it kept it. The caller holds mu.
func (r *Runner) followRunsSince(want Want, t *task) {
	since := want.Task.RunsSince
	if since.IsZero() || since.Equal(t.rec.RunsSince) {
		return
	}
	t.rec.RunsSince = since
	if !t.runEnds.IsZero() {
		t.setRunEnds()
		r.poke()
	}
}

// resumeMove goes on with a move that an earlier agent began. It reports whether
// it saw to the rest of the task's life.
func (r *Runner) resumeMove(ctx context.Context, t *task, h Handle, seen Observed) bool {
	r.mu.Lock()
	m := t.rec.Move
	if m != nil {
		t.move.held, t.move.free = seen.Held != "", m.Away && seen.Held == ""
	}
	r.mu.Unlock()
	if m == nil {
		return false
	}
	if !m.Away && seen.Held == "" {
		r.endMove(t) // decided: it goes on here
		return false
	}
	if !m.Away {
		r.log.Info("recovered a task that was taken in", "task", t.rec.Task, "job", t.rec.Job)
		r.hold(ctx, t, h)
		return true
	}
	r.lives.Go(func() { r.give(ctx, t, true) })
	return false
}

// verdict is what the ledger said so far of the task's move.
func (r *Runner) verdict(t *task) verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	return t.move.is
}

// movedAway reports whether the task goes on elsewhere.
func (r *Runner) movedAway(t *task) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return t.move.away
}

// endMove forgets a move that is decided.
func (r *Runner) endMove(t *task) {
	r.mu.Lock()
	t.rec.Move, t.rec.Reason, t.move.held, t.move.free = nil, "", false, false
	r.mu.Unlock()
	_ = r.save(t) // kept as a problem and tried again; asked twice, the driver does nothing
	r.mu.Lock()
	r.again = true // the view may show the next move already
	r.mu.Unlock()
	r.poke()
}

// decideTries is how often a driver is asked to let a task that it was made to end
// be over here, before it is left as it is.
const decideTries = 3

// decideHere carries the ledger's word out, until the driver has done so. A task
// that is to end is ended, whatever its driver says of the move.
func (r *Runner) decideHere(ctx context.Context, t *task, m Migrator, h Handle, goesOn bool) bool {
	pause := r.cfg.Retry
	for left := decideTries; ; {
		err := m.Finish(ctx, h, goesOn)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		r.log.Error("carry out what the ledger says of a move; trying again", "task", t.rec.Task, "here", goesOn, "err", err)
		r.explain(t, "the ledger has decided its move, and its driver cannot carry it out: "+err.Error())
		if goesOn && r.toEnd(t) {
			if left--; left < 0 {
				return true // it does not run: its end is told as any other
			}
			r.end(ctx, t, m, h, 0)
		}
		if !sleep(ctx, pause) {
			return false
		}
		pause = min(2*pause, r.cfg.RetryMax)
	}
}

// toEnd reports whether the task was told to end, or its lease has ended.
func (r *Runner) toEnd(t *task) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return t.stop != "" || t.leaseOver()
}

// leaseOver reports that a singleton may not run any more. The caller holds mu.
func (t *task) leaseOver() bool {
	return !t.leaseEnds.IsZero() && !t.leaseEnds.After(time.Now())
}

// migrator is the task's driver, if it moves running tasks.
func (r *Runner) migrator(t *task) (Migrator, error) {
	if m, ok := r.cfg.Drivers[string(t.rec.Kind)].(Migrator); ok && r.cfg.Moves != nil {
		return m, nil
	}
	return nil, fmt.Errorf("this node has no driver that moves running tasks of kind %s", t.rec.Kind)
}

// Moved counts what became of moves since the agent started.
type Moved struct {
	Mode placement.MoveMode
	// Outcome is given (it went away), kept (it goes on here), taken or refused (it
	// came, or did not).
	Outcome string
	Count   uint64
}

// moveCounts counts moves. It has a mutex of its own.
type moveCounts struct {
	mu    sync.Mutex
	by    map[Moved]uint64 // guarded by mu; Count is 0 in the key
	still time.Duration    // guarded by mu: how long the last task that was given stood still
}

func (c *moveCounts) add(mode placement.MoveMode, outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = make(map[Moved]uint64)
	}
	c.by[Moved{Mode: mode, Outcome: outcome}]++
}

// MoveCounts are the moves since the agent started, and how long the last task
// that went away stood still.
func (r *Runner) MoveCounts() (all []Moved, still time.Duration) {
	r.moved.mu.Lock()
	defer r.moved.mu.Unlock()
	for m, n := range r.moved.by {
		m.Count = n
		all = append(all, m)
	}
	return all, r.moved.still
}
