package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/sovmesh/sovmesh/placement"
)

// NoPartError is the answer to asking of a driver what it cannot do.
type NoPartError struct {
	Driver string
	What   string // in words: "run commands in its tasks"
}

func (e *NoPartError) Error() string { return fmt.Sprintf("the %s driver cannot %s", e.Driver, e.What) }

// Hint says where it can be done.
func (e *NoPartError) Hint() string {
	return "what each kind of job offers stands in its driver's facts: sovmesh node show NODE"
}

// NotRunningError is the answer to reaching into a task that does not run.
type NotRunningError struct {
	Task   placement.TaskID
	Status placement.TaskStatus
}

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("task %s does not run: it is %s", e.Task, e.Status)
}

// Hint says what can be had of it.
func (e *NotRunningError) Hint() string {
	return "wait until it runs; its output is kept: sovmesh job logs"
}

// part finds the driver of a running task, as what it is asked for.
func part[P any](r *Runner, id placement.TaskID, what string) (p P, h Handle, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tasks[id]
	if t == nil {
		return p, h, &UnknownTaskError{id}
	}
	d := r.cfg.Drivers[string(t.rec.Kind)]
	if t.rec.Status != placement.TaskRunning || t.rec.Handle == nil || d == nil {
		return p, h, &NotRunningError{id, t.rec.Status}
	}
	p, ok := d.(P)
	if !ok {
		return p, h, &NoPartError{d.Name(), what}
	}
	return p, *t.rec.Handle, nil
}

// The parts that can be asked of a task, in words, for [NoPartError].
const (
	partExec     = "run further commands in its tasks"
	partConsole  = "open a console: its tasks have none"
	partDial     = "connect to ports of its tasks"
	partPause    = "hold its tasks still"
	partInspect  = "say what holds its tasks in"
	partSnapshot = "copy its tasks' state"
	partDisks    = "keep snapshots of its tasks' disks"
)

// Exec runs a command in a running task.
func (r *Runner) Exec(ctx context.Context, id placement.TaskID, req ExecRequest) (Exit, error) {
	d, h, err := part[Execer](r, id, partExec)
	if err != nil {
		return Exit{}, err
	}
	return d.Exec(ctx, h, req)
}

// Console opens the serial console of a running task.
func (r *Runner) Console(ctx context.Context, id placement.TaskID) (io.ReadWriteCloser, error) {
	d, h, err := part[Consoler](r, id, partConsole)
	if err != nil {
		return nil, err
	}
	return d.Console(ctx, h)
}

// Dial connects to a TCP port of a running task.
func (r *Runner) Dial(ctx context.Context, id placement.TaskID, port int) (net.Conn, error) {
	d, h, err := part[Dialer](r, id, partDial)
	if err != nil {
		return nil, err
	}
	return d.Dial(ctx, h, port)
}

// BusyError is the answer to holding or copying a task that is being moved. Its
// console, commands and ports are reached until it stands still.
type BusyError struct{ Task placement.TaskID }

func (e *BusyError) Error() string { return fmt.Sprintf("task %s is being moved", e.Task) }

// Hint says when to ask again.
func (e *BusyError) Hint() string { return "wait for the end of the move: sovmesh job show" }

// settled refuses what would cross a move.
func (r *Runner) settled(id placement.TaskID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tasks[id]; t != nil && t.rec.Move != nil {
		return &BusyError{id}
	}
	return nil
}

// Pause holds a running task still; Resume lets it go on. Its processor time is
// given to nobody else meanwhile: it counts as running.
func (r *Runner) Pause(ctx context.Context, id placement.TaskID) error {
	d, h, err := part[Pauser](r, id, partPause)
	if err == nil {
		err = r.settled(id)
	}
	if err != nil {
		return err
	}
	return d.Pause(ctx, h)
}

// Resume lets a task go on that [Runner.Pause] holds.
func (r *Runner) Resume(ctx context.Context, id placement.TaskID) error {
	d, h, err := part[Pauser](r, id, partPause)
	if err == nil {
		err = r.settled(id)
	}
	if err != nil {
		return err
	}
	return d.Resume(ctx, h)
}

// Snapshot copies a running task's state into a directory.
func (r *Runner) Snapshot(ctx context.Context, id placement.TaskID, dir string) (Snapshot, error) {
	d, h, err := part[Snapshotter](r, id, partSnapshot)
	if err == nil {
		err = r.settled(id)
	}
	if err != nil {
		return Snapshot{}, err
	}
	return d.Snapshot(ctx, h, dir)
}

// disks is the driver of a running task that is in no move, for what is done with
// snapshots of its disks.
func (r *Runner) disks(id placement.TaskID) (DiskSnapshotter, Handle, error) {
	d, h, err := part[DiskSnapshotter](r, id, partDisks)
	if err == nil {
		err = r.settled(id)
	}
	return d, h, err
}

// SnapshotDisks keeps a copy of a running task's disks by a name.
func (r *Runner) SnapshotDisks(ctx context.Context, id placement.TaskID, name string) (DiskSnapshot, error) {
	d, h, err := r.disks(id)
	if err != nil {
		return DiskSnapshot{}, err
	}
	return d.SnapshotDisks(ctx, h, name)
}

// DiskSnapshots are those that a running task has, oldest first.
func (r *Runner) DiskSnapshots(ctx context.Context, id placement.TaskID) ([]DiskSnapshot, error) {
	d, h, err := r.disks(id)
	if err != nil {
		return nil, err
	}
	return d.DiskSnapshots(ctx, h)
}

// RemoveDiskSnapshot removes one.
func (r *Runner) RemoveDiskSnapshot(ctx context.Context, id placement.TaskID, name string) error {
	d, h, err := r.disks(id)
	if err != nil {
		return err
	}
	return d.RemoveDiskSnapshot(ctx, h, name)
}

// RestoreDisks sets a running task's disks back to one, and begins it anew on them.
func (r *Runner) RestoreDisks(ctx context.Context, id placement.TaskID, name string) (DiskSnapshot, error) {
	d, h, err := r.disks(id)
	if err != nil {
		return DiskSnapshot{}, err
	}
	return d.RestoreDisks(ctx, h, name)
}

// Isolation is what holds a running task in, and what it was refused meanwhile.
// A driver that counts nothing leaves the denials out.
func (r *Runner) Isolation(ctx context.Context, id placement.TaskID) ([]Boundary, []Denial, error) {
	d, h, err := part[Inspector](r, id, partInspect)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, inspectWithin)
	defer cancel()
	seen, err := d.Inspect(ctx, h)
	if err != nil {
		return nil, nil, fmt.Errorf("look into task %s: %w", id, err)
	}
	counter, h, err := part[Counter](r, id, "")
	var none *NoPartError
	if errors.As(err, &none) {
		return seen.Boundary, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	denied, err := counter.Denied(ctx, h)
	if err != nil {
		return nil, nil, fmt.Errorf("count what task %s was refused: %w", id, err)
	}
	return seen.Boundary, denied, nil
}
