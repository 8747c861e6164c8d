package runner

import (
	"context"

	"github.com/sovmesh/sovmesh/placement"
)

// A node gives Config.MovesOut tasks away at once and takes Config.MovesIn: each
// move copies memory and disks, and more at once make every one of them longer,
// and their tasks stand still for longer. A move has its turn at its source before
// it asks for one at its target, which gives it when it is asked: so whoever has a
// turn gets on, and no two nodes wait for each other.

// turn waits for one of the turns of moves from here, and says meanwhile why. It
// ends early when the ledger has decided, or the task is to end.
func (r *Runner) turn(ctx context.Context, t *task, turns chan struct{}, why string) (release func(), err error) {
	release = func() { <-turns }
	select {
	case turns <- struct{}{}:
		return release, nil
	default:
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	decided, stopped := t.move.decided, t.stop != "" || t.dead
	t.move.hurry = func() { cancel(errMoveStopped) }
	r.mu.Unlock()
	if stopped {
		return nil, errMoveStopped
	}
	r.report(t, placement.TaskRunning, "its move waits: "+why)
	select {
	case turns <- struct{}{}:
		return release, nil
	case <-decided:
		return nil, errMoveDecided
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// letIn reports whether a task that waits here for what it takes over may take it
// in now: its source asks. The caller holds mu.
func (r *Runner) letIn(in *incoming) bool {
	if in == nil {
		return false
	}
	if !in.turn && r.taking < r.cfg.MovesIn {
		in.turn = true
		r.taking++
		if in.late != nil {
			in.late.Reset(r.cfg.MoveWithin)
		}
	}
	return in.turn
}

// letOut gives a turn back. The caller holds mu.
func (r *Runner) letOut(in *incoming) {
	if in.turn {
		in.turn = false
		r.taking--
	}
}
