package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

var _ runner.Migrator = (*Driver)(nil)

// The steps of a move, as [World.OnMove] hears of them.
const (
	StepReceive = "receive" // about to take in
	StepSend    = "send"    // the other side is there, nothing was sent
	StepSwitch  = "switch"  // held still, about to be handed over
	StepSent    = "sent"    // whole on both sides, about to say so
	StepFinish  = "finish"  // about to go on, or to be over
)

// Fleet watches the machines of a mesh: of what is moved, one copy runs at most.
type Fleet struct {
	mu      sync.Mutex
	running map[placement.JobID][]placement.TaskID // guarded by mu
	twice   []string                               // guarded by mu
}

// NewFleet watches nothing yet, see [World.Join].
func NewFleet() *Fleet { return &Fleet{running: make(map[placement.JobID][]placement.TaskID)} }

// Twice says when two copies of a job ran at once.
func (f *Fleet) Twice() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.twice)
}

// Running are the copies of a job that run now.
func (f *Fleet) Running(job placement.JobID) []placement.TaskID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.running[job])
}

func (f *Fleet) tell(id placement.TaskID, runs bool) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.DeleteFunc(f.running[id.Job()], func(other placement.TaskID) bool { return other == id })
	if runs {
		if len(all) > 0 {
			f.twice = append(f.twice, fmt.Sprintf("%s ran beside %s at %s", id, all[0], time.Now().Format(time.TimeOnly)))
		}
		all = append(all, id)
	}
	f.running[id.Job()] = all
}

// Join makes the world one of a fleet between whose machines running tasks move:
// those that have the same key.
func (w *World) Join(f *Fleet, key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fleet, w.key = f, key
}

// OnMove calls at for each step of a move on this machine, with the context of
// the step: it may block, and it may fail the step.
func (w *World) OnMove(at func(ctx context.Context, step string, task placement.TaskID) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onMove = at
}

// Carry makes a session go along with each task that is moved from this machine.
func (w *World) Carry() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.carries = true
}

// Session is this machine's end of the last session that went along with a task.
func (w *World) Session() net.Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.session
}

func (w *World) joined(session net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.session = session
}

func (w *World) step(ctx context.Context, step string, id placement.TaskID) error {
	w.mu.Lock()
	at := w.onMove
	w.mu.Unlock()
	if at == nil {
		return ctx.Err()
	}
	return errors.Join(at(ctx, step, id), ctx.Err())
}

// Count is how long a task's work was done, on all machines together; it stands
// still while the task does.
func (w *World) Count(id placement.TaskID) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.tasks[id]; t != nil {
		return t.worked(time.Now())
	}
	return 0
}

// worked is the task's counter. The caller holds the world's mu.
func (t *task) worked(now time.Time) time.Duration {
	if t.since.IsZero() {
		return t.done
	}
	return t.done + now.Sub(t.since)
}

// works starts or holds the counter, and tells the fleet. The caller holds mu.
func (w *World) works(t *task, runs bool) {
	now := time.Now()
	if !runs && !t.since.IsZero() {
		t.done, t.since = t.worked(now), time.Time{}
	}
	if runs && t.since.IsZero() {
		t.since = now
	}
	w.fleet.tell(t.handle.Task, runs)
}

// MoveKey is the world's, empty where it joined no fleet.
func (d *Driver) MoveKey(context.Context) (string, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	return d.world.key, nil
}

// CanMove refuses tasks whose command is stubborn.
func (d *Driver) CanMove(_ context.Context, h runner.Handle) ([]string, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	t, err := d.alive(h)
	if err == nil && t.deaf {
		return []string{"it is stubborn"}, nil
	}
	return nil, err
}

// handed is what goes over the stream: the task, with its counter.
type handed struct {
	Done   time.Duration `json:"done"`
	Output []byte        `json:"output,omitempty"`
	// Disk is who wrote it first, see [World.Disk].
	Disk placement.TaskID `json:"disk,omitempty"`
	// Session: a session goes along, on a stream of its own.
	Session bool `json:"session,omitempty"`
}

// stateStream is the one stream that a move needs.
const stateStream = "state"

// Receive takes a task in, and holds it still.
func (d *Driver) Receive(ctx context.Context, spec runner.Spec, from runner.Streams) (runner.Handle, error) {
	h := runner.Handle{Version: 1, Driver: d.Name(), Task: spec.Task}
	d.world.mu.Lock()
	old := d.world.tasks[spec.Task]
	d.world.mu.Unlock()
	if old != nil {
		return runner.Handle{}, &runner.ExistsError{Handle: h}
	}
	if err := spec.Keep(h); err != nil {
		return runner.Handle{}, err
	}
	if err := d.world.step(ctx, StepReceive, spec.Task); err != nil {
		return runner.Handle{}, err
	}
	name, conn, err := from.Accept(ctx)
	if err != nil {
		return runner.Handle{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if name != stateStream {
		return runner.Handle{}, fmt.Errorf("a stream %q is none of a fake task", name)
	}
	if _, err := conn.Write([]byte("?")); err != nil {
		return runner.Handle{}, err
	}
	var in handed
	if err := json.NewDecoder(conn).Decode(&in); err != nil {
		return runner.Handle{}, fmt.Errorf("take in task %s: %w", spec.Task, err)
	}
	if in.Session {
		_, session, err := from.Accept(ctx)
		if err != nil {
			return runner.Handle{}, err
		}
		d.world.joined(session)
	}
	t := &task{began: time.Now(), changed: make(chan struct{}), handle: h, held: runner.HeldReceived, done: in.Done, output: in.Output}
	t.works = func(runs bool) { d.world.works(t, runs) }
	d.world.mu.Lock()
	d.world.tasks[spec.Task] = t
	d.world.coming[place(spec.Task)] = coming{by: spec.Task, first: in.Disk}
	d.world.mu.Unlock()
	if _, err := conn.Write([]byte("!")); err != nil {
		d.world.mu.Lock()
		delete(d.world.tasks, spec.Task)
		delete(d.world.coming, place(spec.Task))
		d.world.mu.Unlock()
		return runner.Handle{}, err
	}
	return h, nil
}

// Send hands a task over and holds it still.
func (d *Driver) Send(ctx context.Context, h runner.Handle, mode placement.MoveMode, to runner.Streams, told func(runner.MoveProgress)) (err error) {
	d.world.mu.Lock()
	t, err := d.alive(h)
	if err == nil && mode == placement.MoveNearLive {
		d.world.works(t, false)
	}
	d.world.mu.Unlock()
	if err != nil {
		return err
	}
	began, undecided := time.Now(), false
	defer func() {
		d.world.mu.Lock()
		defer d.world.mu.Unlock()
		if err != nil && undecided {
			err = &runner.UndecidedError{Task: h.Task, Err: err}
		}
		if err != nil && !undecided && t.look(time.Now()) == nil && !t.lost() {
			t.held = ""
			d.world.works(t, true)
		}
	}()
	conn, err := to.Open(ctx, stateStream)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	heard := func() {}
	if told != nil {
		heard = runner.Awaiting(told)
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	heard()
	if err != nil {
		return err
	}
	if err := d.world.step(ctx, StepSend, h.Task); err != nil {
		return err
	}
	d.world.mu.Lock()
	t.held = runner.HeldSent
	d.world.works(t, false)
	out := handed{Done: t.done, Output: t.output, Disk: d.world.disks[place(h.Task)], Session: d.world.carries}
	d.world.mu.Unlock()
	if err := d.world.step(ctx, StepSwitch, h.Task); err != nil {
		return err
	}
	undecided = true
	if out.Session {
		session, err := to.Open(ctx, runner.SessionStream+"0")
		if err != nil {
			return err
		}
		d.world.joined(session)
	}
	if err := hand(conn, out); err != nil {
		return err
	}
	if err := d.world.step(ctx, StepSent, h.Task); err != nil {
		return err
	}
	if told != nil {
		told(runner.MoveProgress{Phase: "switch", Bytes: 1, Total: 1, Still: time.Since(began)})
	}
	return nil
}

// hand writes the task and waits for the other side's word that it has it.
func hand(conn net.Conn, out handed) error {
	if err := json.NewEncoder(conn).Encode(out); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

// Finish lets a held task go on, or ends it without a word.
func (d *Driver) Finish(ctx context.Context, h runner.Handle, here bool) error {
	if err := d.world.step(ctx, StepFinish, h.Task); err != nil {
		return err
	}
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	t, err := d.find(h.Task)
	if err != nil || t == nil || t.gone {
		return err
	}
	if t.held != "" {
		d.world.keepDisk(h.Task, here)
	}
	if t.lost() {
		t.held = ""
		return nil
	}
	if t.held == "" {
		if over := t.gone; over == here {
			return fmt.Errorf("task %s was decided the other way", h.Task)
		}
		return nil
	}
	t.held, t.gone = "", !here
	d.world.works(t, here && t.exit == nil)
	t.touch()
	return nil
}

// keepDisk keeps the task's disk on the side that the move was decided for. The
// caller holds mu.
func (w *World) keepDisk(id placement.TaskID, here bool) {
	at := place(id)
	in, takes := w.coming[at]
	switch {
	case takes && in.by == id:
		delete(w.coming, at)
		if here {
			w.disks[at] = in.first
		}
	case !here:
		delete(w.disks, at)
	}
}
