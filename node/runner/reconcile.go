package runner

import (
	"context"
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// repeatAfter is how long the region may take to show what it was told before
// it is told once more. It bounds repetition to one report per view.
const repeatAfter = time.Second

// recover takes up the tasks of an earlier agent. None of them is started.
func (r *Runner) recover(ctx context.Context, records []Record, floor uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.floor = floor
	live := make(map[placement.TaskID]bool)
	defer func() { r.sweepSecrets(live) }()
	for _, rec := range records {
		t := &task{rec: rec, seen: rec.Index}
		r.tasks[rec.Task] = t
		if rec.Move != nil {
			t.move = newMoving()
		}
		if t.over() {
			r.lives.Go(func() { r.noteOutputs(ctx, t) })
			continue
		}
		live[rec.Task] = true
		t.setLease(rec.LeaseUntil, r.cfg)
		if rec.Handle != nil {
			t.alive = true
			r.lives.Go(func() { r.resume(ctx, t) })
		}
	}
}

// reconcile makes one committed view true on this node.
func (r *Runner) reconcile(ctx context.Context, w Wanted) {
	r.mu.Lock()
	if w.Index < r.floor || w.Index < r.last.Index {
		// An old replica: what it still wants may be over and forgotten.
		r.mu.Unlock()
		r.log.Warn("a view older than what this node has acted on is left aside", "index", w.Index)
		return
	}
	r.last = w
	var orders []*task
	present := make(map[placement.TaskID]bool, len(w.Tasks))
	for _, want := range w.Tasks {
		present[want.Task.ID] = true
		t := r.tasks[want.Task.ID]
		if t == nil || (!t.alive && !t.over()) {
			t = r.admit(ctx, w.Index, want, t)
		}
		if t == nil {
			continue
		}
		t.seen, t.absent = max(t.seen, w.Index), !want.Task.Status.Live()
		t.mismatch = t.disagrees(want.Task.Status)
		t.setLease(want.Task.LeaseUntil, r.cfg)
		r.followMove(ctx, w.Index, want, t)
		switch {
		case t.over():
		case want.Task.Stop:
			t.order(orDefault(want.Task.StopReason, "its region told it to end"), time.Duration(t.rec.Grace), false)
		case !want.Task.Status.Live():
			t.order("the region's state has it as "+string(want.Task.Status), time.Duration(t.rec.Grace), true)
		}
		orders = append(orders, t)
	}
	for id, t := range r.tasks {
		if present[id] || w.Index <= t.seen {
			continue // a view that may be older than the assignment says nothing
		}
		t.absent = true
		t.decide(over)
		if !t.over() {
			t.order("it is no longer assigned to this node", time.Duration(t.rec.Grace), true)
			orders = append(orders, t)
		}
	}
	r.mu.Unlock()
	for _, t := range orders {
		r.carryOut(ctx, t)
	}
	r.collect(ctx)
}

// admit begins the life of a task that this node has not seen, or of which it
// knows that nothing ran. It returns nil when there is nothing to keep. The
// caller holds mu.
func (r *Runner) admit(ctx context.Context, index uint64, want Want, t *task) *task {
	now := time.Now()
	if !want.Task.Status.Live() {
		return t
	}
	if t == nil {
		t = &task{rec: Record{
			Version: recordVersion, Task: want.Task.ID, Job: want.Task.Job, Kind: want.Task.Kind, Tenant: want.Task.Tenant,
			Devices: want.Task.Devices, Singleton: want.Job.Spec.Singleton, Grace: want.Job.Spec.StopGrace,
			MaxRuntime: want.Job.Spec.MaxRuntime, Serves: want.Job.Spec.Serves(),
			Index: index, Status: placement.TaskAssigned, Outputs: want.Job.Spec.Leaves(),
		}}
	}
	t.job, t.hosts = want.Job, want.Hosts
	t.setLease(want.Task.LeaseUntil, r.cfg)
	end := func(status placement.TaskStatus, reason string) *task {
		t.rec.Status, t.rec.Reason, t.rec.EndedAt, t.reported = status, reason, now, now
		r.tasks[t.rec.Task] = t
		r.reports.add(t.saying())
		r.log.Warn("task is not started", "task", t.rec.Task, "job", t.rec.Job, "reason", reason)
		r.lives.Go(func() { _ = r.save(t) })
		r.notify()
		return t
	}
	switch {
	case !want.Task.StartedAt.IsZero():
		return end(placement.TaskFailed, "this node has no trace of it any more, though it ran here; it is not started a second time")
	case want.Task.Stop:
		return end(placement.TaskStopped, orDefault(want.Task.StopReason, "its region told it to end"))
	case !t.leaseEnds.IsZero() && !t.leaseEnds.After(now):
		return nil // a renewed lease may still come
	}
	if err := r.cfg.Gate(want.Task, want.Job); err != nil {
		return end(placement.TaskFailed, RefusedPrefix+err.Error())
	}
	t.alive = true
	r.tasks[t.rec.Task] = t
	if want.Task.Move != placement.MoveRestart {
		t.startMove(Moving{With: want.Task.Replaces, Mode: want.Task.Move, Index: index})
		r.lives.Go(func() { r.take(ctx, t) })
		return t
	}
	r.lives.Go(func() { r.begin(ctx, t) })
	return t
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// disagrees reports whether the region shows something that this node knows
// better. The caller holds mu.
func (t *task) disagrees(shown placement.TaskStatus) bool {
	if t.over() {
		return shown.Live()
	}
	return t.rec.Status == placement.TaskRunning && shown.Live() && shown != placement.TaskRunning
}

// order notes that the task is to end; the first reason stands. The caller
// holds mu.
func (t *task) order(reason string, grace time.Duration, quiet bool) {
	if t.stop == "" {
		t.stop, t.grace, t.quiet = reason, grace, quiet
		if t.unwant != nil {
			t.unwant()
		}
	}
}

// setLease takes a lease that is later than the one known. The caller holds mu.
func (t *task) setLease(until time.Time, cfg Config) {
	if until.IsZero() || (!t.leaseEnds.IsZero() && !until.After(t.rec.LeaseUntil)) {
		return
	}
	t.rec.LeaseUntil = until
	t.leaseEnds = time.Now().Add(time.Until(until) - cfg.LeaseMargin - cfg.LeaseGrace)
	t.leasePassed = false
}

// carryOut gives a running task's driver the order to end it, once, and passes
// on a renewed lease.
func (r *Runner) carryOut(ctx context.Context, t *task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.cfg.Drivers[string(t.rec.Kind)]
	if t.over() || t.rec.Handle == nil || d == nil || t.rec.Status != placement.TaskRunning {
		return
	}
	h := *t.rec.Handle
	if !t.leaseEnds.IsZero() && !t.leasePassed {
		t.leasePassed = true
		until := t.rec.LeaseUntil.Add(-r.cfg.LeaseMargin)
		r.lives.Go(func() { r.passLease(ctx, t, d, h, until) })
	}
	if t.rec.Move != nil && !t.move.free {
		if t.stop != "" && t.move.hurry != nil {
			t.move.hurry() // see give, which comes back here
		}
		return
	}
	if t.stop == "" || t.stopping {
		return
	}
	t.stopping = true
	grace := t.grace
	r.notify()
	r.lives.Go(func() { r.end(ctx, t, d, h, grace) })
}

// passLease tells the driver until when the task may run without us, and keeps
// the renewal for the next agent. Failing that, this agent ends the task in
// time as long as it lives.
func (r *Runner) passLease(ctx context.Context, t *task, d Driver, h Handle, until time.Time) {
	if l, ok := d.(Leaser); ok {
		if err := l.Lease(ctx, h, until); err != nil && ctx.Err() == nil {
			r.log.Warn("pass a lease to the driver", "task", h.Task, "err", err)
		}
	}
	_ = r.save(t) // kept as a problem and tried again
}

// end asks the driver until it has ended the task. Why is with the job: people
// may have typed it, and no erasure reaches the log of a program.
func (r *Runner) end(ctx context.Context, t *task, d Driver, h Handle, grace time.Duration) {
	r.log.Info("ending a task", "task", h.Task, "job", t.rec.Job)
	pause := r.cfg.Retry
	for {
		err := d.Stop(ctx, h, grace)
		if err == nil || ctx.Err() != nil {
			return
		}
		r.log.Warn("end a task; trying again", "task", h.Task, "err", err)
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, r.cfg.RetryMax)
	}
}

// due does what time asks for (leases and running times that are over, records to save again,
// reports to repeat) and returns when it has to look again.
func (r *Runner) due(ctx context.Context) (next time.Time, ok bool) {
	now := time.Now()
	var orders, saves []*task
	at := func(when time.Time) {
		if !ok || when.Before(next) {
			next, ok = when, true
		}
	}
	r.mu.Lock()
	again := r.again
	r.again = false
	last := r.last
	for _, t := range r.tasks {
		if !t.leaseEnds.IsZero() && !t.over() && t.stop == "" {
			if t.leaseEnds.After(now) {
				at(t.leaseEnds)
			} else {
				t.order("its lease ended before it was renewed", r.cfg.LeaseGrace, false)
				orders = append(orders, t)
			}
		}
		if !t.runEnds.IsZero() && !t.over() && t.stop == "" {
			if t.runEnds.After(now) {
				at(t.runEnds)
			} else {
				t.order(fmt.Sprintf("it has run for its max_runtime of %s", time.Duration(t.rec.MaxRuntime)), time.Duration(t.rec.Grace), false)
				orders = append(orders, t)
			}
		}
		if t.broken && !t.stopping && !t.over() {
			orders = append(orders, t)
		}
		if t.unsaved {
			if t.saveAfter.After(now) {
				at(t.saveAfter)
			} else {
				saves = append(saves, t)
			}
		}
		if t.mismatch && !t.quiet && !r.reports.busy(t.rec.Task) {
			if when := t.reported.Add(repeatAfter); when.After(now) {
				at(when)
			} else {
				t.mismatch, t.reported = false, now
				r.reports.add(t.saying())
			}
		}
	}
	r.mu.Unlock()
	for _, t := range orders {
		r.carryOut(ctx, t)
	}
	for _, t := range saves {
		if r.save(t) != nil {
			at(time.Now().Add(r.cfg.RetryMax))
		}
	}
	if again && last.Index > 0 {
		r.reconcile(ctx, last)
	}
	return next, ok
}

// findStrays asks every driver once what it has, and shows what no record names.
func (r *Runner) findStrays(ctx context.Context) {
	for name, d := range r.cfg.Drivers {
		list, err := d.List(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.log.Warn("list what a driver has", "driver", name, "err", err)
			}
			continue
		}
		r.mu.Lock()
		var strays []Observed
		for _, o := range list {
			if r.tasks[o.Handle.Task] == nil && o.State == StateRunning {
				strays = append(strays, o)
				r.log.Warn("something runs here that no record names; it is left alone", "driver", name, "task", o.Handle.Task)
			}
		}
		r.strays[name] = strays
		r.notify()
		r.mu.Unlock()
	}
}
