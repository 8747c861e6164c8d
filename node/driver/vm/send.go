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
	// One that a snapshot of an earlier agent's holds still is not held by anybody.
	d.letGo(ctx, &runner.Observed{Handle: h, State: runner.StateRunning})
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

	disks  int       // that are sent
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
	s.disks = len(disks)
	s.hear()
	if s.logs, err = s.d.beginLog(ctx, s.h, s.to, &s.pipes); err != nil {
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
	}
	if err := s.sizes(ctx, o.Disks); err != nil {
		return nil, err
	}
	defer cutAfter(ctx, c.SetDeadline, answerPatience)()
	if err := s.wire.write(o); err != nil {
		return nil, fmt.Errorf("offer it to the other node: %w", err)
	}
	var a answer
	if err := s.wire.read(&a); err != nil {
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

// sizes are what QEMU has, which may have grown a disk.
func (s *sender) sizes(ctx context.Context, disks []offerDisk) error {
	var nodes []struct {
		Name  string `json:"node-name"`
		Image struct {
			Size int64 `json:"virtual-size"`
		}
	}
	if err := ask(ctx, s.m, "query-named-block-nodes", map[string]bool{"flat": true}, &nodes); err != nil {
		return err
	}
	for i := range disks {
		for _, n := range nodes {
			if n.Name == fmt.Sprintf("disk%d", i) {
				disks[i].Size = n.Image.Size
			}
		}
	}
	return nil
}

// hold holds the guest still from here on.
func (s *sender) hold(ctx context.Context) error {
	if err := ask(ctx, s.m, "stop", nil, nil); err != nil {
		return err
	}
	s.stands()
	return nil
}

func (s *sender) stands() {
	if s.since.IsZero() {
		s.since = time.Now()
		s.d.stands(s.h.Task, true)
		s.d.mark("stands")
	}
}

// mirror begins to copy a disk, and every write to it from now on. Of the first
// disk only what is not the image's goes over the wire.
func (s *sender) mirror(ctx context.Context, i int) error {
	name := moveName(i)
	c, err := s.to.Open(ctx, fmt.Sprintf("disk%d", i))
	if err != nil {
		return err
	}
	s.pipes.holds(c)
	l, err := s.pipes.listen(s.d.TaskDir(s.h.Task), name+".sock")
	if err != nil {
		return err
	}
	s.pipes.meet(ctx, l, c)
	// QEMU does nothing else while it greets the other side, its guest's disks
	// included: one that does not answer is hung up on.
	late := time.AfterFunc(greetPatience, func() { _, _ = l.Close(), c.Close() })
	err = ask(ctx, s.m, "blockdev-add", map[string]any{
		"driver": "nbd", "node-name": name, "export": fmt.Sprintf("disk%d", i),
		"server": map[string]string{"type": "unix", "path": name + ".sock"},
	}, nil)
	late.Stop()
	if err != nil {
		return err
	}
	sync := "full"
	if i == 0 {
		sync = "top"
	}
	return ask(ctx, s.m, "blockdev-mirror", map[string]any{
		"job-id": name, "device": fmt.Sprintf("disk%d", i), "target": name, "sync": sync, "auto-dismiss": false,
	}, nil)
}

// mirrored waits until every disk is the same on both sides. A guest that writes
// faster than the network takes is held still for the rest.
func (s *sender) mirrored(ctx context.Context) error {
	p := patienceFor(s.d.cfg.LiveFor)
	for {
		jobs, err := moveJobs(ctx, s.m)
		if err != nil {
			return err
		}
		ready, at := true, runner.MoveProgress{Phase: "disk"}
		for _, j := range jobs {
			switch {
			case j.Status == "concluded":
				return fmt.Errorf("copy a disk: %s", j.Error)
			case j.Status != "ready":
				ready = false
			}
			at.Bytes += j.Done
			at.Total += j.Total
		}
		if len(jobs) > 0 {
			s.told(at)
		}
		if ready {
			return nil
		}
		if p.over() && s.since.IsZero() {
			if err := s.hold(ctx); err != nil {
				return err
			}
		}
		if err := errors.Join(p.moved(at.Bytes), s.logs.send(ctx), s.heard()); err != nil {
			return err
		}
		pause(ctx, statusEvery)
	}
}

// memory sends the guest's memory, round by round while it writes, until QEMU
// holds it still for the rest.
func (s *sender) memory(ctx context.Context) error {
	c, err := s.to.Open(ctx, streamMemory)
	if err != nil {
		return err
	}
	s.pipes.holds(c)
	ours, theirs, err := s.pipes.pair(streamMemory)
	if err != nil {
		return err
	}
	defer theirs.Close()
	s.pipes.join(ours, c)
	if err := capabilities(ctx, s.m, "pause-before-switchover", "events"); err != nil {
		return err
	}
	if err := s.pace(ctx, sendRate, stillMost); err != nil {
		return err
	}
	if err := s.m.RunFD(ctx, "getfd", map[string]string{"fdname": streamMemory}, nil, theirs); err != nil {
		return err
	}
	if s.once {
		err = s.beginOnce(ctx)
	} else {
		err = s.migrate(ctx)
	}
	if err != nil {
		return err
	}
	return s.rounds(ctx)
}

// rounds follows the memory until QEMU holds the guest still for the last of it.
func (s *sender) rounds(ctx context.Context) error {
	if s.paused {
		s.stands()
	}
	p, quick := patienceFor(s.d.cfg.LiveFor), false
	for {
		mig, err := s.migration(ctx)
		if err != nil {
			return err
		}
		if mig.Status == "pre-switchover" {
			if s.once && s.since.IsZero() {
				return errLostWrite
			}
			s.stands()
			s.beside(ctx)
			return nil
		}
		at := runner.MoveProgress{Phase: "memory"}
		if mig.RAM != nil {
			at.Bytes, at.Total = mig.RAM.Sent, mig.RAM.Sent+mig.RAM.Left
		}
		s.told(at)
		if s.since.IsZero() && (p.over() || s.once && mig.nearEnd(1)) {
			if err := s.rest(ctx); err != nil {
				return err
			}
		}
		if s.once && s.since.IsZero() {
			if !quick && mig.nearEnd(2) {
				// QEMU sleeps where it is held to a rate: it is not to when the guest stands.
				if err := s.pace(ctx, sendRate, onceStill); err != nil {
					return err
				}
				quick = true
			}
			pause(ctx, switchEvery/4)
			continue
		}
		if !s.since.IsZero() {
			s.beside(ctx)
			if err := errors.Join(p.moved(at.Bytes), s.heard()); err != nil {
				return err
			}
			s.await(ctx, switchEvery)
			continue
		}
		if err := errors.Join(p.moved(at.Bytes), s.logs.send(ctx), s.heard()); err != nil {
			return err
		}
		s.await(ctx, statusEvery)
	}
}

// pace bounds the memory's stream, in bytes a second, and says how long QEMU may
// think that the guest stands for what is left of it.
func (s *sender) pace(ctx context.Context, rate int64, still time.Duration) error {
	return ask(ctx, s.m, "migrate-set-parameters", map[string]any{"max-bandwidth": rate, "downtime-limit": still.Milliseconds()}, nil)
}

func (s *sender) migrate(ctx context.Context) error {
	return ask(ctx, s.m, "migrate", map[string]string{"uri": "fd:" + streamMemory}, nil)
}

// migration asks how far the memory got, and fails when it failed.
func (s *sender) migration(ctx context.Context) (migration, error) {
	var mig migration
	if err := ask(ctx, s.m, "query-migrate", nil, &mig); err != nil {
		return mig, err
	}
	switch mig.Status {
	case "failed", "cancelled", "cancelling", "none", "":
		return mig, fmt.Errorf("QEMU gives the migration up: it is %s %s", mig.Status, mig.Error)
	}
	return mig, nil
}

// await waits until QEMU says something, most at most.
func (s *sender) await(ctx context.Context, most time.Duration) {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-s.m.Events():
	case <-t.C:
	case <-ctx.Done():
	}
}

// word is what the other side says after its answer: one thing, or that it hung up.
type word struct {
	step step
	err  error
}

func (w word) failed() error {
	switch {
	case w.err != nil:
		return w.err
	case w.step.Step == stepFailed:
		return fmt.Errorf("the other node could not take it in: %.2000s", w.step.Reason)
	}
	return fmt.Errorf("the other node says %q", w.step.Step)
}

// hear waits for the other side's word from now on.
func (s *sender) hear() {
	s.words = make(chan word, 1)
	s.pipes.wg.Go(func() {
		var w word
		w.err = s.wire.read(&w.step)
		s.words <- w
	})
}

// heard fails when the other side gives up.
func (s *sender) heard() error {
	select {
	case w := <-s.words:
		return w.failed()
	default:
		return nil
	}
}

// handOver lets QEMU send the last of it, and ends when the other side has
// written down that it has all. The guest stands.
func (s *sender) handOver(ctx context.Context) error {
	if err := s.meanwhile.disks(ctx); err != nil {
		return err
	}
	s.d.mark("disks")
	if err := ask(ctx, s.m, "migrate-continue", map[string]string{"state": "pre-switchover"}, nil); err != nil {
		return err
	}
	for p := patienceFor(lastPatience); ; {
		mig, err := s.migration(ctx)
		if err != nil {
			return err
		}
		if mig.Status == "completed" {
			break
		}
		if p.over() {
			return errors.New("QEMU does not end the migration")
		}
		if s.await(ctx, switchEvery); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	s.d.mark("devices")
	open, err := s.meanwhile.rest(ctx)
	if err == nil {
		err = s.logs.send(ctx)
	}
	if err != nil {
		return err
	}
	s.d.mark("output")
	// From here on nothing is asked of this QEMU until the ledger has spoken. It
	// stands by its own word, and may have been taken over by its guest.
	if err := s.d.Freeze(ctx, s.h.Task); err != nil {
		return err
	}
	s.d.mark("frozen")
	s.sent = true // from the first byte of the word on, the other side may have it
	if err := s.say(ctx, step{Step: stepSent, Log: s.logs.at, Sessions: open}); err != nil {
		return err
	}
	return s.last(ctx)
}

// last waits for the other side's last word.
func (s *sender) last(ctx context.Context) error {
	t := time.NewTimer(lastPatience)
	defer t.Stop()
	select {
	case w := <-s.words:
		if w.err == nil && w.step.Step == stepReceived {
			s.d.mark("received")
			s.told(runner.MoveProgress{Phase: "switch", Still: time.Since(s.since)})
			return nil
		}
		s.sent = w.err != nil || w.step.Step != stepFailed // else it says that it has given it up
		return w.failed()
	case <-t.C:
		return fmt.Errorf("the other node says nothing for %v", lastPatience)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *sender) say(ctx context.Context, what step) error {
	defer cutAfter(ctx, s.wire.conn.SetWriteDeadline, lastPatience)()
	return s.wire.write(what)
}

// span bounds one part of a move.
type span struct {
	until time.Time
	last  int64
	since time.Time // it moved
}

func patienceFor(most time.Duration) *span {
	now := time.Now()
	return &span{until: now.Add(most), since: now}
}

func (p *span) over() bool { return time.Now().After(p.until) }

// moved fails when nothing did for long.
func (p *span) moved(bytes int64) error {
	if bytes != p.last {
		p.last, p.since = bytes, time.Now()
	}
	if time.Since(p.since) > stallPatience {
		return fmt.Errorf("nothing was sent for %v", stallPatience)
	}
	return nil
}

// cutAfter makes what is done under a connection's deadline fail after most, or
// when ctx ends, until it is called.
func cutAfter(ctx context.Context, deadline func(time.Time) error, most time.Duration) func() {
	_ = deadline(time.Now().Add(most))
	stop := context.AfterFunc(ctx, func() { _ = deadline(time.Unix(1, 0)) })
	return func() {
		if stop() {
			_ = deadline(time.Time{})
		}
	}
}
