//go:build linux

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/keep"
	"github.com/sovmesh/sovmesh/node/driver/output"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/node/tree"
	"github.com/sovmesh/sovmesh/placement"
)

// Start makes the task's directory, then its supervisor, and waits for the
// supervisor's first word.
func (d *Driver) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	return d.start(ctx, s, spec{Spec: s}, d.handle(s.Task), nil)
}

func (d *Driver) start(ctx context.Context, s runner.Spec, full spec, h runner.Handle, fill func(dir string) error) (runner.Handle, error) {
	t := d.dir(s.Task)
	full.Cgroup, full.LogFileSize, full.LogFiles = d.cfg.Cgroup, d.cfg.LogFileSize, d.cfg.LogFiles
	if data, err := json.Marshal(full); err != nil || len(data) > maxSpec {
		return runner.Handle{}, &runner.StartError{Task: s.Task, Reason: fmt.Sprintf("its command and environment are larger than %d bytes", maxSpec)}
	}
	err := t.make(full, fill)
	if errors.Is(err, fs.ErrExist) {
		if err = d.clear(ctx, h, t); err == nil {
			err = t.make(full, fill)
		}
	}
	if err != nil {
		var exists *runner.ExistsError
		if errors.As(err, &exists) {
			return runner.Handle{}, err
		}
		return runner.Handle{}, fmt.Errorf("make the directory of task %s: %w", s.Task, err)
	}
	if err := s.Keep(h); err != nil {
		return runner.Handle{}, errors.Join(fmt.Errorf("keep the handle of task %s: %w", s.Task, err), os.RemoveAll(string(t)))
	}
	if full.Told == nil {
		if err := d.holdIn(ctx, t, s); err != nil {
			return runner.Handle{}, err
		}
	}
	word, err := d.spawn(ctx, t)
	switch {
	case err != nil:
		return d.doubtful(ctx, h, err)
	case word.Exists:
		return runner.Handle{}, &runner.ExistsError{Handle: h}
	case word.Reason != "":
		if err := d.letGo(context.WithoutCancel(ctx), s.Task, false); err != nil {
			return runner.Handle{}, err
		}
		return runner.Handle{}, &runner.StartError{Task: s.Task, Reason: word.Reason, Advice: word.Advice}
	}
	return h, nil
}

// holdIn decides how the task is held in and writes it down for the supervisor.
// Of a task that cannot be held nothing is left.
func (d *Driver) holdIn(ctx context.Context, t taskDir, s runner.Spec) error {
	h, err := d.hold(ctx, s)
	if err == nil && h == nil {
		return nil
	}
	if err == nil {
		var data []byte
		if data, err = json.Marshal(h); err == nil {
			err = os.WriteFile(t.path("held"), data, 0o600)
		}
	}
	if err != nil {
		return errors.Join(err, d.letGo(context.WithoutCancel(ctx), s.Task, true), os.RemoveAll(string(t)), d.forgetUser(s.Task))
	}
	return nil
}

// clear makes room for a task of which an earlier start left a directory, if
// nothing of it ever ran.
func (d *Driver) clear(ctx context.Context, h runner.Handle, t taskDir) error {
	seen, err := d.Recover(ctx, h)
	if err != nil {
		return err
	}
	if seen.State != runner.StateAbsent {
		return &runner.ExistsError{Handle: h}
	}
	return os.RemoveAll(string(t))
}

// doubtful settles a start of which no word came.
func (d *Driver) doubtful(ctx context.Context, h runner.Handle, cause error) (runner.Handle, error) {
	seen, err := d.Recover(context.WithoutCancel(ctx), h)
	switch {
	case err != nil:
		return runner.Handle{}, errors.Join(cause, err)
	case seen.State == runner.StateAbsent:
		return runner.Handle{}, cause
	default:
		return runner.Handle{}, &runner.ExistsError{Handle: h}
	}
}

// Recover reads what the task's directory says. Of a task that has not begun it
// makes sure that it never will.
func (d *Driver) Recover(_ context.Context, h runner.Handle) (runner.Observed, error) {
	return d.observe(h.Task, true)
}

func (d *Driver) observe(id placement.TaskID, settle bool) (runner.Observed, error) {
	t := d.dir(id)
	o := runner.Observed{Handle: d.handle(id), State: runner.StateAbsent, Facts: map[string]string{"dir": string(t)}}
	var c claim
	err := t.readJSON("claim", &c)
	if errors.Is(err, fs.ErrNotExist) && settle {
		err = t.voidClaim()
		if err == nil || errors.Is(err, fs.ErrExist) {
			err = t.readJSON("claim", &c)
		}
	}
	if errors.Is(err, fs.ErrNotExist) || (err == nil && c.Void) {
		return o, nil
	}
	if err != nil {
		return o, fmt.Errorf("look at task %s: %w", id, err)
	}
	// The supervisor writes the exit, then ends: asked in this order, an end is
	// not missed between the two.
	lives := c.alive()
	exit, err := t.exit()
	if err != nil {
		return o, fmt.Errorf("look at task %s: %w", id, err)
	}
	var what child
	if t.readJSON("child", &what) == nil {
		o.StartedAt = what.Since
		o.Facts["pid"] = fmt.Sprint(what.PID)
		o.Facts["cgroups"] = strings.Join(what.Cgroups, " ")
	}
	switch {
	case exit != nil:
		o.State, o.Exit = runner.StateExited, exit
	case lives:
		o.State = runner.StateRunning
	default:
		o.State = runner.StateGone
	}
	return o, nil
}

// List looks at every task directory.
func (d *Driver) List(context.Context) ([]runner.Observed, error) {
	entries, err := os.ReadDir(d.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	var all []runner.Observed
	for _, e := range entries {
		var s spec
		t := taskDir(filepath.Join(d.cfg.Dir, e.Name()))
		if !e.IsDir() || t.readJSON("spec", &s) != nil || dirName(s.Task) != e.Name() {
			continue // not a task, or one that is just made or removed
		}
		o, err := d.observe(s.Task, false)
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

// Wait waits for the supervisor to end, then reads the exit it left.
func (d *Driver) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	t := d.dir(h.Task)
	var c claim
	if err := t.readJSON("claim", &c); err != nil {
		return runner.Exit{}, fmt.Errorf("wait for task %s: %w", h.Task, err)
	}
	if err := c.wait(ctx); err != nil {
		return runner.Exit{}, err
	}
	exit, err := t.exit()
	if err == nil && exit == nil {
		err = fmt.Errorf("task %s left no exit: its supervisor was killed", h.Task)
	}
	if err != nil {
		return runner.Exit{}, err
	}
	// An end is an end: what cannot be given back now, on a full disk for one, is
	// with Stop and Destroy.
	_ = d.letGo(ctx, h.Task, false)
	return *exit, nil
}

// order changes the task's orders and wakes its supervisor.
func (d *Driver) order(t taskDir, change func(*orders)) (claim, error) {
	var c claim
	if err := t.readJSON("claim", &c); err != nil {
		return c, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var o orders
	if _, err := t.readSlot("orders", &o); err != nil {
		return c, err
	}
	change(&o)
	if err := t.writeSlot("orders", o); err != nil {
		return c, err
	}
	return c, c.signal(unix.SIGUSR1)
}

// Stop orders the supervisor to end the task and waits until it has; what held
// it goes with it, whoever else was waiting for the end.
func (d *Driver) Stop(ctx context.Context, h runner.Handle, grace time.Duration) error {
	if err := d.end(ctx, h, grace); err != nil {
		return err
	}
	return d.letGo(context.WithoutCancel(ctx), h.Task, false)
}

func (d *Driver) end(ctx context.Context, h runner.Handle, grace time.Duration) error {
	t := d.dir(h.Task)
	seen, err := d.observe(h.Task, true)
	if err != nil {
		return err
	}
	switch seen.State {
	case runner.StateGone:
		return d.endLeftovers(t, h.Task)
	case runner.StateRunning:
	default:
		return nil
	}
	c, err := d.order(t, func(o *orders) {
		now := time.Now()
		if !o.Stop || now.Add(grace).Before(o.StopAt.Add(o.Grace)) {
			o.Stop, o.Grace, o.StopAt = true, grace, now
		}
	})
	if err != nil {
		return fmt.Errorf("stop task %s: %w", h.Task, err)
	}
	if err := c.wait(ctx); err != nil {
		return err
	}
	if exit, err := t.exit(); err != nil || exit != nil {
		return err
	}
	return d.endLeftovers(t, h.Task)
}

// endLeftovers kills what a supervisor left that was itself killed.
func (d *Driver) endLeftovers(t taskDir, id placement.TaskID) error {
	var what child
	_ = t.readJSON("child", &what) // without it the environment tells
	killGroup(what.Cgroups)
	for range 50 {
		left := marked("SOVMESH_TASK=" + string(id))
		if len(left) == 0 {
			return removeGroups(what.Cgroups, time.Second)
		}
		for _, p := range left {
			if err := p.signal(unix.SIGKILL); err != nil {
				return err
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("task %s: processes of it do not end when killed", id)
}

// Lease tells the supervisor until when the task may run.
func (d *Driver) Lease(_ context.Context, h runner.Handle, until time.Time) error {
	_, err := d.order(d.dir(h.Task), func(o *orders) { o.LeaseUntil = until })
	if err != nil {
		return fmt.Errorf("renew the lease of task %s: %w", h.Task, err)
	}
	return nil
}

// Destroy ends the task if need be and removes its directory.
func (d *Driver) Destroy(ctx context.Context, h runner.Handle) error {
	t := d.dir(h.Task)
	if _, err := os.Stat(string(t)); errors.Is(err, fs.ErrNotExist) {
		return d.letGo(ctx, h.Task, true)
	}
	if err := d.Stop(ctx, h, 0); err != nil {
		return err
	}
	var c claim
	if t.readJSON("claim", &c) == nil {
		// It has written the exit; it must have gone before its directory does.
		if err := c.wait(ctx); err != nil {
			return err
		}
	}
	var what child
	if t.readJSON("child", &what) == nil {
		if err := removeGroups(what.Cgroups, time.Second); err != nil {
			return fmt.Errorf("remove task %s: %w", h.Task, err)
		}
	}
	var was held
	err := t.readJSON("held", &was)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err = errors.Join(err, d.letGo(ctx, h.Task, true)); err == nil {
		err = tree.RemoveAll(ctx, string(t)) // what it laid into its directories may be deep
	}
	if err == nil && was.User != 0 {
		err = d.giveUserBack(h.Task, was.User)
	}
	if err != nil {
		return fmt.Errorf("remove task %s: %w", h.Task, err)
	}
	if d.cfg.Hold.Volumes != "" {
		keep.Touch(d.volumes(h.Task.Job())) // it was in use until now
	}
	return nil
}

// Logs reads the task's output, both streams in the order they were written.
func (d *Driver) Logs(ctx context.Context, h runner.Handle, from int64, follow bool) (io.ReadCloser, error) {
	t := d.dir(h.Task)
	if _, err := os.Stat(string(t)); err != nil {
		return nil, fmt.Errorf("read the output of task %s: %w", h.Task, err)
	}
	return output.Open(ctx, string(t), from, follow, func() bool {
		o, err := d.observe(h.Task, false)
		return err == nil && o.State != runner.StateRunning
	}), nil
}

// Stats adds up what the task's processes use.
func (d *Driver) Stats(_ context.Context, h runner.Handle) (runner.Stats, error) {
	var what child
	if err := d.dir(h.Task).readJSON("child", &what); err != nil {
		return runner.Stats{}, fmt.Errorf("measure task %s: %w", h.Task, err)
	}
	s := runner.Stats{At: time.Now()}
	if !what.alive() {
		return s, nil
	}
	all := append([]int{what.PID}, descendants(what.PID)...)
	var c claim
	if what.Init != 0 && d.dir(h.Task).readJSON("claim", &c) == nil {
		// All below its supervisor but the namespace's first process: what was
		// executed in it, and what has lost its parents, is its too.
		all = slices.DeleteFunc(descendants(c.PID), func(pid int) bool { return pid == what.Init })
	}
	for _, pid := range all {
		cpu, memory, err := usage(pid)
		if err != nil {
			continue // ended meanwhile
		}
		s.CPU += cpu
		s.Memory += memory
		s.Processes++
	}
	return s, nil
}
