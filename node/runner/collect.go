package runner

import (
	"context"
	"slices"
	"time"
)

// collect removes output and records of tasks that are over, that the region
// knows to be over, and whose time to be kept has passed or whose job was erased.
func (r *Runner) collect(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var done []*task
	for _, t := range r.tasks {
		if t.over() && t.absent && !t.collecting && (t.quiet || !r.reports.busy(t.rec.Task)) {
			done = append(done, t)
		}
	}
	slices.SortFunc(done, func(a, b *task) int { return b.rec.EndedAt.Compare(a.rec.EndedAt) })
	for i, t := range done {
		if !t.move.away && i < r.cfg.KeepFinished && time.Since(t.rec.EndedAt) < r.cfg.KeepFor && !r.last.Erased[t.rec.Job] {
			continue
		}
		t.collecting = true
		floor := r.last.Index
		r.lives.Go(func() { r.remove(ctx, t, floor) })
	}
	r.forget(ctx)
}

// remove destroys what the driver keeps, then forgets the task. What fails is
// tried again at the next view.
func (r *Runner) remove(ctx context.Context, t *task, floor uint64) {
	var err error
	if d := r.cfg.Drivers[string(t.rec.Kind)]; d != nil && t.rec.Handle != nil {
		err = d.Destroy(ctx, *t.rec.Handle)
	}
	if err == nil && t.rec.Outputs != nil && r.cfg.Outputs != nil {
		err = r.cfg.Outputs.Drop(ctx, t.rec.Task)
	}
	if err == nil {
		err = r.cfg.Store.Delete(t.rec.Task, floor)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t.collecting = false
	if err != nil {
		if ctx.Err() == nil {
			r.log.Warn("remove a task that is over", "task", t.rec.Task, "err", err)
		}
		return
	}
	r.floor = max(r.floor, floor)
	delete(r.tasks, t.rec.Task)
	r.notify()
}
