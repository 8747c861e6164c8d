package runner

import (
	"context"

	"github.com/sovmesh/sovmesh/placement"
)

// bringInputs has a task's inputs on this node, compared with their digests.
func (r *Runner) bringInputs(ctx context.Context, t *task) (string, error) {
	r.mu.Lock()
	setup, id, tenant := t.job.Spec.Setup, t.rec.Task, t.rec.Tenant
	r.mu.Unlock()
	if setup == nil || len(setup.Inputs) == 0 {
		return "", nil
	}
	if r.cfg.Inputs == nil {
		return "", &StartError{Task: id, Reason: "this node fetches no inputs of jobs", Advice: "run it on another node: name one with node"}
	}
	r.report(t, placement.TaskStarting, "fetching its inputs")
	return r.cfg.Inputs.Lay(ctx, id, tenant, setup.Inputs)
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
