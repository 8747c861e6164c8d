package runner

import (
	"context"

	"github.com/sovmesh/sovmesh/placement"
)

// bringInputs has a task's inputs on this node, compared with their digests, and as
// the driver gives them to the workload: neither a start, of which there are few at
// once, nor the other side of a move waits for that.
func (r *Runner) bringInputs(ctx context.Context, t *task, d Driver, spec *Spec) (err error) {
	r.mu.Lock()
	setup, id, tenant := t.job.Spec.Setup, t.rec.Task, t.rec.Tenant
	r.mu.Unlock()
	if setup == nil || len(setup.Inputs) == 0 {
		return nil
	}
	if r.cfg.Inputs == nil {
		return &StartError{Task: id, Reason: "this node fetches no inputs of jobs", Advice: "run it on another node: name one with node"}
	}
	r.report(t, placement.TaskStarting, "fetching its inputs")
	if spec.InputsDir, err = r.cfg.Inputs.Lay(ctx, id, tenant, setup.Inputs); err != nil {
		return err
	}
	if p, ok := d.(InputsPreparer); ok {
		return p.PrepareInputs(ctx, *spec)
	}
	return nil
}

// dropInputs removes what a task was given.
func (r *Runner) dropInputs(id placement.TaskID) {
	if r.cfg.Inputs == nil {
		return
	}
	if err := r.cfg.Inputs.Drop(id); err != nil {
		r.log.Error("remove the inputs of a task that is over", "task", id, "err", err)
	}
}
