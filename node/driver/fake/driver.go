package fake

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Driver is a runner.Driver on a [World].
type Driver struct{ world *World }

var (
	_ runner.Driver = (*Driver)(nil)
	_ runner.Leaser = (*Driver)(nil)
)

// Name is "fake".
func (d *Driver) Name() string { return string(placement.KindFake) }

// ShowsOutputs: a task saves to the directory that it is given.
func (d *Driver) ShowsOutputs() bool { return true }

// Fingerprint says that nothing here is real.
func (d *Driver) Fingerprint(context.Context) (runner.Fingerprint, error) {
	return runner.Fingerprint{Healthy: true, Version: "1", Facts: map[string]string{"isolation": "none: tasks exist in memory only"}}, nil
}

// Start begins what the command says.
func (d *Driver) Start(ctx context.Context, spec runner.Spec) (runner.Handle, error) {
	h := runner.Handle{Version: 1, Driver: d.Name(), Task: spec.Task}
	d.world.mu.Lock()
	old, fail := d.world.tasks[spec.Task], d.world.failStart
	d.world.mu.Unlock()
	if old != nil {
		return runner.Handle{}, &runner.ExistsError{Handle: h}
	}
	if err := spec.Keep(h); err != nil {
		return runner.Handle{}, fmt.Errorf("keep the handle of task %s: %w", spec.Task, err)
	}
	if err := ctx.Err(); err != nil {
		return runner.Handle{}, err
	}
	if fail != nil {
		if err := fail(spec); err != nil {
			return runner.Handle{}, err
		}
	}
	t, err := parse(spec, time.Now())
	if err != nil {
		return runner.Handle{}, err
	}
	t.handle = h
	t.lease = spec.LeaseUntil
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	if d.world.tasks[spec.Task] != nil {
		return runner.Handle{}, &runner.ExistsError{Handle: h}
	}
	d.world.tasks[spec.Task] = t
	delete(d.world.coming, place(spec.Task)) // the half of what was to come from elsewhere
	if d.world.disks[place(spec.Task)] == "" {
		d.world.disks[place(spec.Task)] = spec.Task
	}
	t.works = func(runs bool) { d.world.works(t, runs) }
	t.works(t.look(time.Now()) == nil)
	d.world.starts[spec.Task]++
	return h, nil
}

func (d *Driver) find(id placement.TaskID) (*task, error) {
	if d.world.failAsk != nil {
		return nil, d.world.failAsk
	}
	return d.world.tasks[id], nil
}

func (t *task) observe() runner.Observed {
	o := runner.Observed{Handle: t.handle, State: runner.StateRunning, StartedAt: t.began, Held: t.held}
	if e := t.look(time.Now()); e != nil {
		o.State, o.Exit = runner.StateExited, e
	} else if t.lost() {
		o.State = runner.StateGone
	}
	return o
}

// Recover looks the task up.
func (d *Driver) Recover(_ context.Context, h runner.Handle) (runner.Observed, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	t, err := d.find(h.Task)
	if err != nil {
		return runner.Observed{}, err
	}
	if t == nil {
		return runner.Observed{Handle: h, State: runner.StateAbsent}, nil
	}
	return t.observe(), nil
}

// List is every task of the world.
func (d *Driver) List(context.Context) ([]runner.Observed, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	if d.world.failAsk != nil {
		return nil, d.world.failAsk
	}
	var all []runner.Observed
	for _, t := range d.world.tasks {
		all = append(all, t.observe())
	}
	return all, nil
}

// Wait blocks until the task has ended.
func (d *Driver) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	for {
		d.world.mu.Lock()
		t, err := d.find(h.Task)
		if err != nil || t == nil || t.lost() {
			d.world.mu.Unlock()
			if err == nil {
				err = fmt.Errorf("task %s is gone", h.Task)
			}
			return runner.Exit{}, err
		}
		exit, changed, next := t.look(time.Now()), t.changed, t.next()
		d.world.mu.Unlock()
		if exit != nil {
			return *exit, nil
		}
		if err := await(ctx, changed, next); err != nil {
			return runner.Exit{}, err
		}
	}
}

// await returns when the channel closes or the time (zero: never) has come.
func await(ctx context.Context, changed <-chan struct{}, at time.Time) error {
	var tick <-chan time.Time
	if !at.IsZero() {
		timer := time.NewTimer(time.Until(at))
		defer timer.Stop()
		tick = timer.C
	}
	select {
	case <-changed:
	case <-tick:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Stop ends the task at once, or after grace if it is deaf.
func (d *Driver) Stop(ctx context.Context, h runner.Handle, grace time.Duration) error {
	d.world.mu.Lock()
	t, err := d.find(h.Task)
	if err != nil || t == nil || t.lost() || t.look(time.Now()) != nil {
		d.world.mu.Unlock()
		return err
	}
	now := time.Now()
	if t.deaf {
		if kill := now.Add(grace); t.killAt.IsZero() || kill.Before(t.killAt) {
			t.killAt = kill
		}
		t.touch()
	} else {
		t.end(runner.Exit{Code: 143, Signal: "SIGTERM", Stopped: true, At: now})
	}
	d.world.mu.Unlock()
	_, err = d.Wait(ctx, h)
	return err
}

// Lease kills the task at until, unless a later one comes in time.
func (d *Driver) Lease(_ context.Context, h runner.Handle, until time.Time) error {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	t, err := d.find(h.Task)
	if err == nil && t != nil && t.look(time.Now()) == nil {
		t.lease = until
		t.touch()
	}
	return err
}

// Destroy forgets the task.
func (d *Driver) Destroy(_ context.Context, h runner.Handle) error {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	t, err := d.find(h.Task)
	if err == nil && t != nil {
		if t.look(time.Now()) == nil {
			t.end(runner.Exit{Code: 137, Signal: "SIGKILL", Stopped: true, Killed: true, At: time.Now()})
		}
		d.world.works(t, false)
		delete(d.world.tasks, h.Task)
	}
	return err
}

// Logs reads what was printed.
func (d *Driver) Logs(ctx context.Context, h runner.Handle, from int64, follow bool) (io.ReadCloser, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	t, err := d.find(h.Task)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, &runner.UnknownTaskError{Task: h.Task}
	}
	ctx, cancel := context.WithCancel(ctx)
	return &reader{ctx: ctx, cancel: cancel, world: d.world, task: t, at: max(from, 0), follow: follow}, nil
}

// reader reads a task's output.
type reader struct {
	ctx    context.Context // of the one read that it serves; ended by Close
	cancel context.CancelFunc
	world  *World
	task   *task
	at     int64
	follow bool
}

func (r *reader) Read(p []byte) (int, error) {
	for {
		r.world.mu.Lock()
		n := 0
		r.at = max(r.at, r.task.cut)
		if skip := r.at - r.task.cut; skip < int64(len(r.task.output)) {
			n = copy(p, r.task.output[skip:])
			r.at += int64(n)
		}
		over := r.task.look(time.Now()) != nil || r.task.lost()
		changed, next := r.task.changed, r.task.next()
		r.world.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case over || !r.follow:
			return 0, io.EOF
		}
		if err := await(r.ctx, changed, next); err != nil {
			return 0, err
		}
	}
}

func (r *reader) Close() error {
	r.cancel()
	return nil
}
