package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// take is the life of a task that takes over what runs elsewhere: it is received
// and stands still until the ledger says that it runs here.
func (r *Runner) take(ctx context.Context, t *task) {
	h, err := r.receive(ctx, t)
	if ctx.Err() != nil {
		return // the next agent sees what became of it
	}
	if err == nil {
		r.hold(ctx, t, h)
		return
	}
	r.moved.add(t.rec.Move.Mode, "refused")
	if errors.As(err, new(*UnlawfulError)) {
		r.awaitVerdict(ctx, t)
	}
	if ctx.Err() != nil {
		return
	}
	if r.verdict(t) == over {
		r.giveUp(t)
		return
	}
	r.log.Warn("a task was not taken in", "task", t.rec.Task, "err", err)
	r.finish(t, placement.TaskFailed, RefusedPrefix+startFailure(err), nil)
}

// verdictWithin is how long a task that may not be taken in waits for its source to
// say so: told by this side first, it would count as the move's own fault.
const verdictWithin = 20 * time.Second

func (r *Runner) awaitVerdict(ctx context.Context, t *task) {
	r.mu.Lock()
	decided := t.move.decided
	r.mu.Unlock()
	late := time.NewTimer(verdictWithin)
	defer late.Stop()
	select {
	case <-decided:
	case <-late.C:
	case <-ctx.Done():
	}
}

// giveUp ends a task that never ran here; its region knows.
func (r *Runner) giveUp(t *task) {
	r.mu.Lock()
	t.quiet = true
	r.mu.Unlock()
	r.finish(t, placement.TaskStopped, "its move was given up", nil)
}

// receive prepares for the task and takes it in.
func (r *Runner) receive(ctx context.Context, t *task) (_ Handle, err error) {
	m, err := r.migrator(t)
	if err != nil {
		return Handle{}, err
	}
	spec, here := r.spec(t), placement.Task{ID: t.rec.Task, Job: t.rec.Job}
	defer func() { err = r.lawfully(here, err) }()
	ctx, stall, late, stop := r.bound(ctx, t, here)
	defer stop()
	stall.Stop() // its sender looks at how it gets on
	late.Stop()  // its time begins with its turn
	if p, ok := r.cfg.Drivers[string(t.rec.Kind)].(Preparer); ok {
		r.report(t, placement.TaskStarting, "preparing for a task that is moved here")
		if err := p.Prepare(ctx, spec); err != nil {
			return Handle{}, cause(ctx, err)
		}
	}
	if err := r.bringInputs(ctx, t, m, &spec); err != nil {
		return Handle{}, cause(ctx, err)
	}
	if spec.SecretsDir, err = r.bringSecrets(ctx, t); err != nil {
		return Handle{}, err
	}
	in := newIncoming()
	in.late = late
	r.mu.Lock()
	r.incoming[t.rec.Task] = in
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.incoming, t.rec.Task)
		r.letOut(in)
		r.mu.Unlock()
		in.close()
	}()
	h, err := m.Receive(ctx, spec, in)
	if err != nil {
		return Handle{}, cause(ctx, err)
	}
	_ = r.keep(t, h) // its handle was kept before; tried again
	return h, nil
}

// hold keeps a task still that was taken in, until the ledger has spoken.
func (r *Runner) hold(ctx context.Context, t *task, h Handle) {
	m, err := r.migrator(t)
	if err != nil {
		r.log.Error("a task that was taken in has no driver any more", "task", t.rec.Task, "err", err)
		return
	}
	r.explain(t, "it is here, and stands still until the ledger says that it runs here")
	if seen, ended := r.stands(ctx, t, m, h); ended {
		r.endInMove(ctx, t, h, seen)
		return
	}
	stays, known := r.staysHere(ctx, t)
	if !known || (stays && !r.beforeItGoesOn(ctx, t, m, h)) || !r.decideHere(ctx, t, m, h, stays) {
		return
	}
	mode := t.rec.Move.Mode
	if !stays {
		r.moved.add(mode, "refused")
		r.giveUp(t)
		return
	}
	r.moved.add(mode, "taken")
	seen, err := m.Recover(ctx, h)
	if err != nil || seen.StartedAt.IsZero() {
		seen.StartedAt = t.rec.StartedAt
	}
	r.endMove(t)
	if err == nil && seen.State != StateRunning && seen.State != StateAbsent {
		r.settle(ctx, t, m, h, seen)
		return
	}
	r.log.Info("a task was moved here, and goes on", "task", t.rec.Task, "job", t.rec.Job)
	r.running(ctx, t, h, seen.StartedAt)
	r.watch(ctx, t, h)
}

// stands waits until the ledger has decided about a task that stands still, or
// the task has ended before.
func (r *Runner) stands(ctx context.Context, t *task, m Migrator, h Handle) (seen Observed, ended bool) {
	r.mu.Lock()
	decided := t.move.decided
	r.mu.Unlock()
	wait, cancel := context.WithCancel(ctx)
	end := make(chan Observed, 1)
	var watching sync.WaitGroup
	watching.Go(func() {
		for pause := r.cfg.Retry; ; pause = min(2*pause, r.cfg.RetryMax) {
			exit, err := m.Wait(wait, h)
			if err == nil {
				end <- Observed{Handle: h, State: StateExited, Exit: &exit}
				return
			}
			if o, err := m.Recover(wait, h); err == nil && o.State == StateGone {
				end <- o
				return
			}
			if !sleep(wait, pause) {
				return
			}
		}
	})
	defer watching.Wait()
	defer cancel()
	select {
	case <-decided:
		return Observed{}, false
	case seen := <-end:
		return seen, ctx.Err() == nil
	case <-ctx.Done():
		return Observed{}, false
	}
}

// beforeItGoesOn gives the driver the lease that came with the ledger's word. What
// may not run any more is ended where it stands.
func (r *Runner) beforeItGoesOn(ctx context.Context, t *task, m Migrator, h Handle) bool {
	r.mu.Lock()
	over := t.move.is == over || t.leaseOver()
	lease := !t.leaseEnds.IsZero() && !t.leasePassed
	until := t.rec.LeaseUntil.Add(-r.cfg.LeaseMargin)
	t.leasePassed = t.leasePassed || lease
	r.mu.Unlock()
	switch {
	case over:
		r.end(ctx, t, m, h, 0)
	case lease:
		r.passLease(ctx, t, m, h, until)
	}
	return ctx.Err() == nil
}

// maxStreams bounds the streams of one move.
const maxStreams = 16

// incoming are the streams of a task that is being taken in.
type incoming struct {
	next chan stream
	turn bool        // it may come in; guarded by Runner.mu
	late *time.Timer // ends it; may be nil

	mu    sync.Mutex
	names map[string]bool // guarded by mu
	conns []net.Conn      // guarded by mu
	over  bool            // guarded by mu
}

type stream struct {
	name string
	conn net.Conn
}

func newIncoming() *incoming {
	return &incoming{next: make(chan stream, maxStreams), names: make(map[string]bool)}
}

// Open is the sender's alone.
func (i *incoming) Open(context.Context, string) (net.Conn, error) {
	return nil, errors.New("the receiving side of a move opens no streams")
}

// Accept waits for the next stream.
func (i *incoming) Accept(ctx context.Context) (string, net.Conn, error) {
	select {
	case s, ok := <-i.next:
		if !ok {
			return "", nil, io.ErrClosedPipe
		}
		return s.name, s.conn, nil
	case <-ctx.Done():
		return "", nil, ctx.Err()
	}
}

// deliver hands a stream in. Each name is taken once.
func (i *incoming) deliver(name string, conn net.Conn) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.over:
		return errors.New("the move is over")
	case i.names[name]:
		return fmt.Errorf("stream %q of the move was opened before", name)
	case len(i.names) >= maxStreams:
		return fmt.Errorf("a move has %d streams at most", maxStreams)
	}
	i.names[name] = true
	if !strings.HasPrefix(name, SessionStream) {
		i.conns = append(i.conns, conn)
	}
	i.next <- stream{name, conn} // never full: maxStreams
	return nil
}

func (i *incoming) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
	for _, c := range i.conns {
		_ = c.Close()
	}
	for {
		select {
		case s := <-i.next: // nobody took it
			_ = s.conn.Close()
		default:
			return
		}
	}
}

// Expects reports whether the task waits on this node for what it takes over, and
// has its turn.
func (r *Runner) Expects(id placement.TaskID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.letIn(r.incoming[id])
}

// Deliver hands the task a stream of its move, which ends with the move. Whoever
// calls has judged who opened it.
func (r *Runner) Deliver(id placement.TaskID, name string, conn net.Conn) error {
	r.mu.Lock()
	in := r.incoming[id]
	r.mu.Unlock()
	if in == nil {
		return fmt.Errorf("task %s waits for nothing here", id)
	}
	return in.deliver(name, conn)
}

// outgoing are the streams of a task that is sent.
type outgoing struct {
	moves Moves
	to    placement.Task

	mu    sync.Mutex
	used  map[string]bool // guarded by mu
	conns []net.Conn      // guarded by mu
}

// Open makes a stream to the other side.
func (o *outgoing) Open(ctx context.Context, name string) (net.Conn, error) {
	o.mu.Lock()
	if o.used[name] || len(o.used) >= maxStreams {
		o.mu.Unlock()
		return nil, fmt.Errorf("stream %q of the move was opened before, or is one too many", name)
	}
	o.used[name] = true
	o.mu.Unlock()
	conn, err := o.moves.Open(ctx, o.to, name)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !strings.HasPrefix(name, SessionStream) {
		o.conns = append(o.conns, conn)
	}
	return conn, nil
}

// Accept is the receiver's alone.
func (o *outgoing) Accept(context.Context) (string, net.Conn, error) {
	return "", nil, errors.New("the sending side of a move takes no streams")
}

func (o *outgoing) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.conns {
		_ = c.Close()
	}
}
