package fake

import (
	"context"
	"slices"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

var (
	_ runner.Inspector = (*Driver)(nil)
	_ runner.Counter   = (*Driver)(nil)
)

// See makes a task look like this from outside; one of which nothing was said
// looks like nothing that is known.
func (w *World) See(id placement.TaskID, a runner.Actual) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[id] = a
}

// Deny makes it known that a task was refused these destinations.
func (w *World) Deny(id placement.TaskID, all ...runner.Denial) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.denied[id] = all
}

// Inspect tells what [World.See] made of the task.
func (d *Driver) Inspect(_ context.Context, h runner.Handle) (runner.Actual, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	return d.world.seen[h.Task], d.world.failAsk
}

// Denied tells what [World.Deny] made known.
func (d *Driver) Denied(_ context.Context, h runner.Handle) ([]runner.Denial, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	return slices.Clone(d.world.denied[h.Task]), d.world.failAsk
}
