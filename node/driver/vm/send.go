//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// What bounds a move: the answer takes as long as the target needs to have the
// image, the last word as long as it needs to write a note.
const (
	answerPatience = 30 * time.Minute
	lastPatience   = time.Minute
	greetPatience  = 5 * time.Second
	// stallPatience is how long nothing may move at all.
	stallPatience = 2 * time.Minute
	// sendRate is QEMU's own bound on the stream of memory, in bytes a second: the
	// network has others. stillMost is how long it thinks that the guest may stand.
	sendRate  = 8 << 30
	stillMost = 100 * time.Millisecond
)

// Send hands a machine over while it runs. Nothing that fails before the other
// side has all of it changes anything for the guest.
func (d *Driver) Send(ctx context.Context, h runner.Handle, mode placement.MoveMode, to runner.Streams, told func(runner.MoveProgress)) error {
	if mode != placement.MoveLive && mode != placement.MoveNearLive {
		return fmt.Errorf("move task %s: %q is no way to move what runs", h.Task, mode)
	}
	// One that a snapshot of an earlier agent's holds still is not held by anybody, and
	// frozen file systems would stay so over there.
	seen := runner.Observed{Handle: h, State: runner.StateRunning}
	d.letGo(ctx, &seen)
	d.thawLeft(ctx, &seen)
	done, err := d.moving(h.Task)
	if err != nil {
		return err
	}
	defer done()
	s := &sender{d: d, h: h, mode: mode, to: to, told: told}
	if s.told == nil {
		s.told = func(runner.MoveProgress) {}
	}
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("move task %s: %w", h.Task, err)
	}
	defer s.m.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer s.pipes.close()
	defer cancel()
	err = s.run(ctx)
	if err == nil {
		return nil
	}
	if !s.sent {
		if back := s.back(context.WithoutCancel(ctx)); back == nil {
			return fmt.Errorf("move task %s: %w", h.Task, err)
		} else {
			err = errors.Join(err, back)
		}
	}
	return &runner.UndecidedError{Task: h.Task, Err: err}
}

// sender is one move at its source.
type sender struct {
	d     *Driver
	h     runner.Handle
	mode  placement.MoveMode
	to    runner.Streams
	told  func(runner.MoveProgress)
	m     *qmp.Client
	pipes pipes
	wire  *wire
	words chan word
	logs  *logTail

	along   []offerSnapshot // snapshots that go along
	streams int             // that its disks and their snapshots have

	once   bool      // its memory is sent in one round
	paused bool      // before the move
	since  time.Time // it stands; zero while it runs
	sent   bool      // the other side was told that it has all
	shared bool      // the other side has what it keeps where this one has it

	meanwhile *meanwhile // what is done while the rest of its memory goes
}

// begin makes sure that the task can go, and writes down that it may.
func (s *sender) begin(ctx context.Context) error {
	id := s.h.Task
	n, err := s.d.note(id)
	if err != nil {
		return err
	}
	if n != nil {
		return errors.New("it was moved before, and that is not decided")
	}
	if s.d.restoring(id) || there(s.d.TaskDir(id), restoreNote) {
		return errors.New("its disks are being set back to a snapshot, which was cut off: resume it, which completes that")
	}
	reasons, err := s.d.CanMove(ctx, s.h)
	if err != nil {
		return err
	}
	if len(reasons) > 0 {
		return fmt.Errorf("%s", reasons[0])
	}
	if s.m, err = s.d.dialControl(ctx, id); err != nil {
		return err
	}
	var machine struct {
		Running bool
		Status  string
	}
	if err = sweep(ctx, s.m); err == nil {
		err = ask(ctx, s.m, "query-status", nil, &machine)
	}
	if err == nil && !machine.Running && machine.Status != "paused" {
		err = fmt.Errorf("its machine is %s", machine.Status)
	}
	s.paused = !machine.Running
	if err == nil {
		err = writeNote(s.d.TaskDir(id), note{Way: out, Stage: underWay, Paused: s.paused})
	}
	if err == nil && s.d.Stopping(id) {
		err = errors.Join(errors.New("it is being ended"), s.d.removeNote(id))
	}
	if err != nil {
		_ = s.m.Close()
	}
	return err
}

// back lets the guest go on here, as if nothing had been.
func (s *sender) back(ctx context.Context) error {
	if err := s.d.Thaw(s.h.Task); err != nil {
		return s.over(ctx, err)
	}
	m := s.m
	if m.Err() != nil {
		again, err := s.d.dialControl(ctx, s.h.Task)
		if err != nil {
			return s.over(ctx, err)
		}
		defer again.Close()
		m = again
	}
	// The other sides of what QEMU waits for end first.
	s.pipes.close()
	err := sweep(ctx, m)
	if err == nil {
		err = letRun(ctx, m, s.paused)
	}
	if err != nil {
		return s.over(ctx, err)
	}
	s.d.sessions.goOn(s.h.Task)
	return s.d.removeNote(s.h.Task)
}

// over is for a machine that ended while it was moved: nothing waits for a decision.
func (s *sender) over(ctx context.Context, err error) error {
	if o, seen := s.d.Driver.Recover(ctx, s.h); seen == nil && o.State != runner.StateRunning {
		return s.d.removeNote(s.h.Task)
	}
	return fmt.Errorf("it stands here and could not be made to go on: %w", err)
}

func (s *sender) run(ctx context.Context) error {
	disks, err := s.agree(ctx)
	if err != nil {
		return err
	}
	s.streams = len(disks)
	s.hear()
	if s.logs, err = s.d.beginLog(ctx, s.h, s.to, &s.pipes); err != nil {
		return err
	}
	if err := s.snapshots(ctx); err != nil { // before anything stands still
		return err
	}
	if s.mode == placement.MoveNearLive {
		if err := s.hold(ctx); err != nil {
			return err
		}
	}
	for _, i := range disks {
		if err := s.mirror(ctx, i); err != nil {
			return fmt.Errorf("copy disk %d: %w", i, err)
		}
	}
	if err := s.mirrored(ctx); err != nil {
		return err
	}
	s.meanwhile = newMeanwhile(ctx)
	defer s.meanwhile.end()
	if err := s.memory(ctx); err != nil {
		return err
	}
	return s.handOver(ctx)
}

// agree offers the machine and hears which of its disks are to be sent.
func (s *sender) agree(ctx context.Context) ([]int, error) {
	m, t, err := s.d.told(s.h.Task)
	if err != nil {
		return nil, err
	}
	s.once = m.Accel.Name == qemu.TCG
	key, err := moveKey(m.Accel, m.Network != nil)
	if err != nil {
		return nil, err
	}
	c, err := s.to.Open(ctx, streamControl)
	if err != nil {
		return nil, fmt.Errorf("reach the other node: %w", err)
	}
	s.pipes.holds(c)
	s.wire = newWire(c)
	o := describeMachine(key, s.h.Task, &m, t)
	o.Paused = s.paused
	if t.keeps() {
		var done func()
		if o.Storage, o.Probe, done, err = s.d.shows(); err != nil {
			return nil, err
		}
		defer done()
		if s.along, _, err = s.d.along(s.h.Task, t.Disks); err != nil {
			return nil, err
		}
		o.Snapshots = s.along
	}
	if err := s.sizes(ctx, o.Disks); err != nil {
		return nil, err
	}
	defer cutAfter(ctx, c.SetDeadline, answerPatience)()
	if err := s.wire.write(o); err != nil {
		return nil, fmt.Errorf("offer it to the other node: %w", err)
	}
	var a answer
	heard := runner.Awaiting(s.told)
	err = s.wire.read(&a)
	heard()
	if err != nil {
		return nil, fmt.Errorf("hear the other node's answer: %w", err)
	}
	if a.Refused != "" {
		return nil, fmt.Errorf("the other node does not take it: %.2000s", a.Refused)
	}
	seen := make(map[int]bool)
	for _, i := range a.Disks {
		if i < 0 || i >= len(t.Disks) || seen[i] {
			return nil, fmt.Errorf("the other node wants disks %v of %d", a.Disks, len(t.Disks))
		}
		seen[i] = true
	}
	for i, one := range t.Disks {
		if seen[i] == (a.Shared && one.Kept) {
			return nil, fmt.Errorf("the other node wants disks %v of %d, and says that what the machine keeps is shared: %t", a.Disks, len(t.Disks), a.Shared)
		}
	}
	s.shared = a.Shared
	return a.Disks, nil
}
