//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/output"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// nbdSocket is where the source's writes to disks come in, in the task's
// directory: the machine's user has no way there, so it cannot be exchanged.
const nbdSocket = "nbd.sock"

// firstPatience bounds the wait for the other side's first words.
const firstPatience = time.Minute

// Receive takes in a machine that runs on another node. It is made here from its
// job alone; what the other side says of it is compared, and used for nothing.
func (d *Driver) Receive(ctx context.Context, s runner.Spec, from runner.Streams) (runner.Handle, error) {
	if s.Setup == nil {
		s.Setup = &placement.Setup{}
	}
	h := runner.Handle{Version: 1, Driver: d.Name(), Task: s.Task}
	seen, err := d.Driver.Recover(ctx, h)
	if err != nil {
		return runner.Handle{}, err
	}
	if seen.State != runner.StateAbsent {
		return runner.Handle{}, &runner.ExistsError{Handle: h}
	}
	done, err := d.moving(s.Task)
	if err != nil {
		return runner.Handle{}, err
	}
	defer done()
	d.stands(s.Task, true)
	ctx, cancel := context.WithCancel(ctx)
	r := &receiver{d: d, h: h, spec: s, from: from, logs: newLogTaker(), sessions: make(chan struct{}, maxSessions)}
	received := false
	defer func() {
		if !received { // a session may have been made while the rest was removed
			d.sessions.giveUp(s.Task)
		}
	}()
	defer r.pipes.close()
	defer cancel()
	if err = r.run(ctx); err == nil {
		received = true
		return h, nil
	}
	// First nothing of it is left, then the other side is told so.
	if gone := r.remove(context.WithoutCancel(ctx)); gone != nil {
		return runner.Handle{}, errors.Join(err, gone)
	}
	r.fail(err)
	return runner.Handle{}, fmt.Errorf("take task %s in: %w", s.Task, err)
}

// receiver is one move at its target.
type receiver struct {
	d     *Driver
	h     runner.Handle
	spec  runner.Spec
	from  runner.Streams
	m     *qmp.Client
	pipes pipes
	wire  *wire
	logs  *logTaker

	agreed bool  // the answer was given
	disks  []int // that the source writes
	// along are the snapshots that the source sends; snapped once they are all here.
	along   []offerSnapshot
	snapped atomic.Bool
	writing sync.Mutex // held while they are written
	// sessions are told of each that came, made or not.
	sessions chan struct{}
}

func (r *receiver) run(ctx context.Context) error {
	o, err := r.offer(ctx)
	if err != nil {
		return err
	}
	if err := r.spec.Keep(r.h); err != nil {
		return fmt.Errorf("keep the handle: %w", err)
	}
	r.spec.Keep = func(runner.Handle) error { return nil } // it was
	var a answer
	if a.Shared, err = r.d.sees(o.Storage, o.Probe); err != nil {
		return err
	}
	for i, one := range o.Disks {
		if !a.Shared || !one.Kept {
			a.Disks = append(a.Disks, i)
		}
	}
	if !a.Shared && len(o.Snapshots) > 0 {
		if err := r.d.room(r.h.Task, copiesSize(o.Snapshots)); err != nil {
			return err
		}
		r.along = o.Snapshots
	}
	if err := r.start(ctx, o, a.Shared); err != nil {
		return err
	}
	if r.m, err = r.d.dialControl(ctx, r.h.Task); err != nil {
		return err
	}
	defer r.m.Close()
	if err := r.open(ctx, a.Disks); err != nil {
		return err
	}
	if err := r.say(ctx, a); err != nil {
		return err
	}
	r.agreed = true
	ctx, cancel := context.WithCancelCause(ctx)
	defer func() { // whatever is still written is over before what lies there is removed
		cancel(nil)
		r.writing.Lock()
		defer r.writing.Unlock()
	}()
	r.pipes.wg.Go(func() { r.accept(ctx, cancel) })
	r.pipes.wg.Go(func() { r.watch(ctx, cancel) })
	return r.takeIn(ctx, o.Paused)
}

// offer hears what is to be taken in.
func (r *receiver) offer(ctx context.Context) (o offer, err error) {
	name, c, err := r.from.Accept(ctx)
	if err != nil {
		return o, err
	}
	r.pipes.holds(c)
	if name != streamControl {
		return o, fmt.Errorf("the other side begins with a stream %.40q", name)
	}
	r.wire = newWire(c)
	defer cutAfter(ctx, c.SetReadDeadline, firstPatience)()
	line, err := r.wire.line()
	if err != nil {
		return o, err
	}
	return parseOffer(line)
}

// start makes the machine, which waits for its guest.
func (r *receiver) start(ctx context.Context, o offer, shared bool) error {
	from := comes
	if shared {
		from = comesTo
	}
	r.d.images.use.RLock()
	defer r.d.images.use.RUnlock()
	claims, order, err := r.d.order(ctx, r.spec, from)
	defer r.d.release(claims)
	if err != nil {
		return err
	}
	mine, err := r.d.describeOrder(r.spec.Task, order)
	if err != nil {
		return err
	}
	if err := o.differs(mine); err != nil {
		return refuse(r.spec, "see that both nodes have the same image, QEMU and program; it can be stopped and started again elsewhere", "it is not the machine that this node would start: %v", err)
	}
	_, err = r.d.StartWork(ctx, r.spec, order)
	return err
}

// open lets the source's QEMU write the disks, and has ours read the stream of memory.
func (r *receiver) open(ctx context.Context, disks []int) error {
	if err := capabilities(ctx, r.m, "late-block-activate"); err != nil {
		return err
	}
	l, err := process.ListenUnix(r.d.TaskDir(r.h.Task), nbdSocket)
	if err != nil {
		return err
	}
	defer l.Close()
	file, err := l.(*net.UnixListener).File()
	if err != nil {
		return err
	}
	defer file.Close()
	if err := r.m.RunFD(ctx, "getfd", map[string]string{"fdname": "nbd"}, nil, file); err != nil {
		return err
	}
	err = ask(ctx, r.m, "nbd-server-start", map[string]any{"addr": map[string]any{"type": "fd", "data": map[string]string{"str": "nbd"}}}, nil)
	if err != nil {
		return err
	}
	for _, i := range disks {
		name := fmt.Sprintf("disk%d", i)
		err := ask(ctx, r.m, "block-export-add", map[string]any{"type": "nbd", "id": "move" + name, "node-name": name, "name": name, "writable": true}, nil)
		if err != nil {
			return err
		}
	}
	r.disks = disks
	return nil
}

// accept takes the streams that the source opens, each once.
func (r *receiver) accept(ctx context.Context, fail context.CancelCauseFunc) {
	seen := map[string]bool{streamControl: true}
	for {
		name, c, err := r.from.Accept(ctx)
		if err != nil {
			return // the move is over, or what is still missing never comes
		}
		session := sessionNumber(name)
		if !session || seen[name] {
			r.pipes.holds(c)
		}
		if seen[name] || !session && !r.known(name) {
			fail(fmt.Errorf("the other side opens a stream %.40q", name))
			return
		}
		seen[name] = true
		if name == streamSnapshots {
			r.pipes.holds(c)
			r.pipes.wg.Go(func() {
				if err := r.takeSnapshots(ctx, c); err != nil {
					fail(fmt.Errorf("take the snapshots of its disks in: %w", err))
				}
			})
			continue
		}
		if session {
			r.pipes.wg.Go(func() {
				_ = r.d.takeSession(ctx, r.h.Task, c) // it ends for its user, and the machine goes on
				r.sessions <- struct{}{}
			})
			continue
		}
		if err := r.stream(ctx, name, c); err != nil {
			fail(fmt.Errorf("stream %s: %w", name, err))
			return
		}
	}
}

func (r *receiver) known(name string) bool {
	if number, ok := strings.CutPrefix(name, "disk"); ok {
		i, err := strconv.ParseUint(number, 10, 16)
		return err == nil && slices.Contains(r.disks, int(i)) && strconv.FormatUint(i, 10) == number
	}
	return name == streamLog || name == streamMemory || name == streamSnapshots && len(r.along) > 0
}

func (r *receiver) stream(ctx context.Context, name string, c net.Conn) error {
	dir := r.d.TaskDir(r.h.Task)
	switch name {
	case streamLog:
		w := &output.Writer{Dir: dir, FileSize: r.d.cfg.LogFileSize, Files: r.d.cfg.LogFiles}
		r.pipes.wg.Go(func() { r.logs.run(c, w) })
		return nil
	case streamMemory:
		ours, theirs, err := r.pipes.pair(name)
		if err != nil {
			return err
		}
		defer theirs.Close()
		if err := r.m.RunFD(ctx, "getfd", map[string]string{"fdname": name}, nil, theirs); err != nil {
			return err
		}
		r.pipes.join(ours, c)
		return ask(ctx, r.m, "migrate-incoming", map[string]string{"uri": "fd:" + name}, nil)
	}
	theirs, err := process.DialUnix(ctx, dir, nbdSocket)
	if err != nil {
		return err
	}
	r.pipes.join(theirs, c)
	return nil
}

// watch fails when QEMU ends.
func (r *receiver) watch(ctx context.Context, fail context.CancelCauseFunc) {
	select {
	case <-r.m.Done():
		fail(errors.New("QEMU ended while it took the machine in"))
	case <-ctx.Done():
	}
}

// takeIn follows the source to the end. What it returns without an error is
// here, whole, and stands.
func (r *receiver) takeIn(ctx context.Context, paused bool) error {
	stop := context.AfterFunc(ctx, func() { _ = r.wire.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var s step
	var noteWhole func() error
	for s.Step != stepSent {
		s = step{}
		if err := r.wire.read(&s); err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		switch s.Step {
		case stepDisks:
			if len(r.along) > 0 && !r.snapped.Load() {
				return errors.New("the other side sent its disks, and not the snapshots of them that it had offered")
			}
			if err := ask(ctx, r.m, "nbd-server-stop", nil, nil); err != nil {
				return err
			}
			var err error
			if noteWhole, err = readyNote(r.d.TaskDir(r.h.Task), note{Way: in, Stage: whole, Paused: paused}); err != nil {
				return err
			}
		case stepSent:
		default:
			return fmt.Errorf("the other side says %.40q", s.Step)
		}
	}
	if noteWhole == nil {
		return errors.New("the other side sent no word of the disks")
	}
	ctx, cancel := context.WithTimeout(ctx, lastPatience)
	defer cancel()
	if err := r.loaded(ctx); err != nil {
		return err
	}
	if err := r.logs.until(ctx, s.Log); err != nil {
		return err
	}
	for range min(s.Sessions, maxSessions) {
		select {
		case <-r.sessions:
		case <-ctx.Done():
			return fmt.Errorf("wait for the sessions into it: %w", ctx.Err())
		}
	}
	// QEMU had each disk flushed when its copy ended.
	r.d.mark("loaded")
	if err := noteWhole(); err != nil {
		return err
	}
	// From here on it may go on here: whether the other side hears that or not is
	// the ledger's to ask.
	_ = r.say(ctx, step{Step: stepReceived})
	return nil
}

// loaded waits until QEMU has the guest whole.
func (r *receiver) loaded(ctx context.Context) error {
	for {
		var machine struct {
			Running bool
			Status  string
		}
		var mig migration
		if err := ask(ctx, r.m, "query-migrate", nil, &mig); err != nil {
			return err
		}
		switch mig.Status {
		case "completed":
			if err := ask(ctx, r.m, "query-status", nil, &machine); err != nil {
				return err
			}
			if machine.Running || machine.Status == "inmigrate" {
				return fmt.Errorf("QEMU has taken the machine in, and it is %s", machine.Status)
			}
			return nil
		case "failed":
			return fmt.Errorf("QEMU cannot take the machine in: %s", mig.Error)
		}
		if pause(ctx, switchEvery); ctx.Err() != nil {
			return fmt.Errorf("QEMU does not come to an end: it is %s", mig.Status)
		}
	}
}

func (r *receiver) say(ctx context.Context, what any) error {
	defer cutAfter(ctx, r.wire.conn.SetWriteDeadline, lastPatience)()
	return r.wire.write(what)
}

// remove leaves nothing of the machine.
func (r *receiver) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lastPatience)
	defer cancel()
	r.d.sessions.giveUp(r.h.Task)
	err := r.d.discardPlace(r.h.Task) // of a machine that was never made
	if _, there := os.Stat(r.d.TaskDir(r.h.Task)); there == nil {
		err = errors.Join(r.d.Driver.Stop(ctx, r.h, 0), r.d.discardPlace(r.h.Task), r.d.Driver.Destroy(ctx, r.h))
	}
	return err
}

// fail tells the other side that nothing of it will run here.
func (r *receiver) fail(err error) {
	if r.wire == nil {
		return
	}
	ctx := context.Background()
	why := fmt.Sprintf("%.2000s", err)
	if r.agreed {
		_ = r.say(ctx, step{Step: stepFailed, Reason: why})
		return
	}
	_ = r.say(ctx, answer{Refused: why})
}
