package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// give moves a running task away: it is sent, its commit is proposed, and what
// the ledger then says is carried out. recovered is set for a move that an earlier
// agent began: it is not sent again. Once the task stands still, nothing but the
// ledger lets it go on.
func (r *Runner) give(ctx context.Context, t *task, recovered bool) {
	r.mu.Lock()
	settled := t.move.settled
	r.mu.Unlock()
	defer close(settled)
	m, err := r.migrator(t)
	sent := false
	switch {
	case err != nil:
	case recovered:
		r.mu.Lock()
		sent = t.rec.Move.Sent && t.move.held
		r.mu.Unlock()
		err = errAgentAnew
	default:
		sent, err = r.send(ctx, t, m)
	}
	if ctx.Err() != nil {
		return
	}
	end := MoveEnd{Commit: sent}
	if !sent && err != nil {
		end.Reason, end.Blameless = err.Error(), blameless(err)
		r.log.Warn("a move did not get on", "task", t.rec.Task, "to", t.rec.Move.With, "err", err)
	}
	if r.settleMove(ctx, t, end) {
		r.carryOutMove(ctx, t, m)
	}
}

// moveAskEvery is how long the region may take to show an end that it took.
const moveAskEvery = 5 * time.Second

// settleMove asks for the end of the move until the ledger shows one. It reports
// false when the agent or the task ends before.
func (r *Runner) settleMove(ctx context.Context, t *task, end MoveEnd) bool {
	r.mu.Lock()
	decided := t.move.decided
	from, to := t.moveEnds()
	r.mu.Unlock()
	until, pause := time.Now().Add(r.cfg.MoveWithin), r.cfg.Retry
	for {
		r.mu.Lock()
		is, ended := t.move.is, t.over()
		r.mu.Unlock()
		if is != undecided {
			return true
		}
		if ended {
			return false // its end, once reported, ends the move
		}
		if end.Commit && time.Now().After(until) {
			end = MoveEnd{Reason: "the region's ledger did not take it in time", Blameless: true}
		}
		err := r.decideMove(ctx, from, to, end)
		var no *MoveRefusedError
		if taken := end.Commit && err == nil || errors.As(err, &no) && no.Taken; taken {
			r.mu.Lock()
			t.move.taken = true
			r.mu.Unlock()
		}
		again := pause
		switch {
		case no != nil && end.Commit:
			// An earlier try may still be on its way: only a committed end counts. What
			// the ledger does not take, by the law or for who is silent, is no fault of the move.
			end = MoveEnd{Reason: no.Reason, Blameless: true}
		case err == nil || no != nil:
			again = moveAskEvery // a view will show it
		case ctx.Err() == nil:
			r.explain(t, "its move waits for the region's ledger: "+err.Error())
		}
		wait := time.NewTimer(again)
		select {
		case <-decided:
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
		if ctx.Err() != nil {
			return false
		}
		pause = min(2*pause, max(r.cfg.RetryMax, r.cfg.Retry))
	}
}

// errNoMoves is told of a node that was set up without them since the move began.
var errNoMoves = errors.New("this node does not move running tasks any more")

func (r *Runner) decideMove(ctx context.Context, from, to placement.TaskID, end MoveEnd) error {
	if r.cfg.Moves == nil {
		return errNoMoves
	}
	return r.cfg.Moves.Decide(ctx, from, to, end)
}

// moveEnds are the tasks at both ends of its move. The caller holds mu.
func (t *task) moveEnds() (from, to placement.TaskID) {
	if t.rec.Move.Away {
		return t.rec.Task, t.rec.Move.With
	}
	return t.rec.Move.With, t.rec.Task
}

// staysHere says whether what the task keeps is this node's, once its move is
// decided: a task that is over may have ended before its move did, or with it, and
// a view does not tell. known is false when the agent ends before that is known.
func (r *Runner) staysHere(ctx context.Context, t *task) (stays, known bool) {
	r.mu.Lock()
	is, taken, away := t.move.is, t.move.taken, t.rec.Move.Away
	from, to := t.moveEnds()
	r.mu.Unlock()
	if is == undecided {
		return false, false
	}
	if is == here || taken {
		return is == here || !away, true
	}
	for pause := r.cfg.Retry; ; pause = min(2*pause, r.cfg.RetryMax) {
		err := r.decideMove(ctx, from, to, MoveEnd{Reason: "the task is over", Blameless: true})
		var no *MoveRefusedError
		if err == nil || errors.As(err, &no) {
			return away != (no != nil && no.Taken), true
		}
		r.explain(t, "what became of its move is asked of the region's ledger: "+err.Error())
		if !sleep(ctx, pause) {
			return false, false
		}
	}
}

// carryOutMove does what the ledger decided.
func (r *Runner) carryOutMove(ctx context.Context, t *task, m Migrator) {
	r.mu.Lock()
	is, held, h, mode, to := t.move.is, t.move.held, *t.rec.Handle, t.rec.Move.Mode, t.rec.Move.Node
	r.mu.Unlock()
	stays, known := true, true
	if held && m == nil {
		r.log.Error("a task that stands still for its move has no driver that could end it", "task", t.rec.Task)
		r.explain(t, "it stands still for its move, and its driver does not move tasks any more")
		return
	}
	if held {
		stays, known = r.staysHere(ctx, t)
	}
	switch {
	case !known:
	case stays:
		if held && (is == over || r.leaseEnded(t)) {
			r.end(ctx, t, m, h, 0) // it does not go on for a moment
		}
		if ctx.Err() != nil || (held && !r.decideHere(ctx, t, m, h, true)) {
			return
		}
		if is == here {
			r.moved.add(mode, "kept")
			r.log.Info("a task was not moved", "task", t.rec.Task, "to", to)
		}
		r.endMove(t)
		r.carryOut(ctx, t)
	default:
		r.mu.Lock()
		t.move.away = true
		unwatch := t.move.unwatch
		r.mu.Unlock()
		if !r.decideHere(ctx, t, m, h, false) {
			return
		}
		if unwatch != nil {
			unwatch()
		}
		r.gaveAway(t)
	}
}

func (r *Runner) leaseEnded(t *task) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return t.leaseOver()
}

// gaveAway is the end here of a task that goes on elsewhere.
func (r *Runner) gaveAway(t *task) {
	r.mu.Lock()
	mode, to := t.rec.Move.Mode, t.rec.Move.Node
	t.rec.Move, t.quiet = nil, true
	r.mu.Unlock()
	r.moved.add(mode, "given")
	r.finish(t, placement.TaskStopped, "moved "+string(mode)+" to node "+string(to), nil)
}

// endInMove is the rest of a task that ended, or was lost with its machine, while
// its move was not decided. What it keeps, its disks, is that node's which the
// ledger names: the driver is told before the end is.
func (r *Runner) endInMove(ctx context.Context, t *task, h Handle, seen Observed) {
	m, err := r.migrator(t)
	if err != nil {
		r.log.Error("a task that ended in its move has no driver any more", "task", t.rec.Task, "err", err)
		return
	}
	r.mu.Lock()
	t.dead = true
	away, sent := t.rec.Move.Away, t.rec.Move.Sent
	r.mu.Unlock()
	if !r.settleMove(ctx, t, MoveEnd{Commit: away && sent, Reason: "it ended on its node while it stood still for the move"}) {
		return
	}
	stays, known := r.staysHere(ctx, t)
	if !known || !r.decideHere(ctx, t, m, h, stays) {
		return
	}
	switch {
	case stays:
		r.endMove(t)
		r.settle(ctx, t, m, h, seen)
	case away:
		r.mu.Lock()
		t.move.away = true
		r.mu.Unlock()
		r.gaveAway(t)
	default:
		r.moved.add(t.rec.Move.Mode, "refused")
		r.giveUp(t)
	}
}

// awaitMove holds the news of a task's end back until its move is decided: the end
// is told where the task was then.
func (r *Runner) awaitMove(ctx context.Context, t *task) {
	r.mu.Lock()
	t.dead = true
	inMove, settled, hurry := t.rec.Move != nil, t.move.settled, t.move.hurry
	r.mu.Unlock()
	if !inMove {
		return
	}
	if hurry != nil {
		hurry()
	}
	select {
	case <-settled:
	case <-ctx.Done():
	}
}

// send hands the task over. It reports whether all of it is on the other side:
// then it stands still here.
func (r *Runner) send(ctx context.Context, t *task, m Migrator) (sent bool, err error) {
	r.mu.Lock()
	h, move := *t.rec.Handle, *t.rec.Move
	to := placement.Task{ID: move.With, Job: t.rec.Job, Kind: t.rec.Kind, Node: move.Node, Replaces: t.rec.Task, Move: move.Mode}
	r.mu.Unlock()
	defer func() {
		if !sent {
			r.mu.Lock()
			t.move.free = !t.move.held
			r.mu.Unlock()
			r.carryOut(ctx, t)
		}
	}()
	if err := r.save(t); err != nil {
		return false, fmt.Errorf("its node cannot write down that it is moved: %w", err)
	}
	if reasons, err := m.CanMove(ctx, h); err != nil || len(reasons) > 0 {
		return false, errors.Join(err, joined(reasons))
	}
	release, err := r.turn(ctx, t, r.giving, "other tasks are moved away from this node; its turn comes")
	if err != nil {
		return false, err
	}
	defer release()
	way, stall, _, stop := r.bound(ctx, t, to)
	defer stop()
	defer func() { err = r.lawfully(to, err) }()
	if err := r.awaitReady(way, to, stall, func(why string) { r.report(t, placement.TaskRunning, why) }); err != nil {
		if err = cause(way, err); errors.Is(err, errMoveLate) {
			err = errNoTurn
		}
		return false, err
	}
	streams := &outgoing{moves: r.cfg.Moves, to: to, used: make(map[string]bool)}
	defer streams.close()
	defer context.AfterFunc(way, func() {
		if errors.As(context.Cause(way), new(*UnlawfulError)) {
			streams.close() // no byte more, however long the driver takes to end it
		}
	})()
	r.mu.Lock()
	t.move.held = true // until the driver says otherwise
	r.mu.Unlock()
	err = m.Send(way, h, move.Mode, streams, r.progress(t, move, stall))
	var unsure *UndecidedError
	r.mu.Lock()
	t.move.held = err == nil || errors.As(err, &unsure)
	noted := *t.rec.Move // a save may be reading the old one
	noted.Sent = err == nil
	t.rec.Move = &noted
	r.mu.Unlock()
	if err != nil {
		return false, cause(way, err)
	}
	// Without it the next agent gives the move up, which the ledger refuses if it
	// has taken it by then. The task stands meanwhile: nobody waits for a disk.
	r.lives.Go(func() { _ = r.save(t) })
	return true, nil
}

func joined(reasons []string) error {
	if len(reasons) == 0 {
		return nil
	}
	return errors.New(strings.Join(reasons, "; "))
}

// cause prefers why a context ended to what that broke.
func cause(ctx context.Context, err error) error {
	if why := context.Cause(ctx); why != nil && ctx.Err() != nil {
		return why
	}
	return err
}

var (
	errMoveDecided = errors.New("the ledger has decided the move already")
	errMoveStalled = errors.New("nothing of it got on for long")
	errMoveLate    = errors.New("it took longer than a move may take")
	errMoveStopped = errors.New("the task is to end")
	errNoTurn      = errors.New("the other node did not come to take it in within the time that a move may take")
	errAgentAnew   = errors.New("its agent started anew before all of it was sent")
)

// blameless reports whether a move that ended so might have ended well. One whose
// target did not come to it in time counts: what that node fetched for it is thrown
// away, so the same move, tried again, may end so for ever.
func blameless(err error) bool {
	return errors.Is(err, errAgentAnew) || errors.Is(err, errMoveStopped) || errors.As(err, new(*UnlawfulError))
}

// judgeEvery is how often it is judged whether what is moved may still go there: the
// law, or what its nodes are, may change while its disks are copied.
const judgeEvery = 2 * time.Second

// judge cancels a move that is not lawful any more.
func (r *Runner) judge(ctx context.Context, to placement.Task, cancel context.CancelCauseFunc) {
	for sleep(ctx, judgeEvery) {
		var no *UnlawfulError
		if err := r.cfg.Moves.Lawful(to); errors.As(err, &no) {
			cancel(no)
			return
		}
	}
}

// lawfully is why a move ended: the law's word goes first, for the other side may
// have heard it before.
func (r *Runner) lawfully(to placement.Task, err error) error {
	var no *UnlawfulError
	if err == nil || errors.As(err, &no) {
		return err
	}
	if errors.As(r.cfg.Moves.Lawful(to), &no) {
		return errors.Join(no, err)
	}
	return err
}

// bound is the context of a move: it ends when the ledger has decided, when the
// task is to end, when it may not go there any more, when nothing gets on, and after
// all when the time is over.
func (r *Runner) bound(ctx context.Context, t *task, to placement.Task) (way context.Context, stall, late *time.Timer, stop func()) {
	way, cancel := context.WithCancelCause(ctx)
	late = time.AfterFunc(r.cfg.MoveWithin, func() { cancel(errMoveLate) })
	stall = time.AfterFunc(r.cfg.MoveStall, func() { cancel(errMoveStalled) })
	r.mu.Lock()
	decided := t.move.decided
	t.move.hurry = func() { cancel(errMoveStopped) }
	stopped := t.stop != "" || t.dead // it may have ended before there was a hurry
	r.mu.Unlock()
	if stopped {
		cancel(errMoveStopped)
	}
	var watching sync.WaitGroup
	watching.Go(func() { r.judge(way, to, cancel) })
	watching.Go(func() {
		select {
		case <-decided:
			cancel(errMoveDecided)
		case <-way.Done():
		}
	})
	return way, stall, late, func() {
		stall.Stop()
		late.Stop()
		cancel(nil)
		watching.Wait()
	}
}

// awaitReady waits until the other side is there to take the task in. As long as
// that node answers, it gets on: it may have much to fetch.
func (r *Runner) awaitReady(ctx context.Context, to placement.Task, stall *time.Timer, waits func(why string)) error {
	pause := r.cfg.Retry
	var last error
	for {
		ready, err := r.cfg.Moves.Ready(ctx, to)
		if ready {
			stall.Reset(r.cfg.MoveStall)
			return nil
		}
		if err == nil && pause == r.cfg.RetryMax && waits != nil {
			waits("its move waits for node " + string(to.Node) + ", which prepares for it, or takes other tasks in before")
			waits = nil
		}
		if err == nil {
			stall.Reset(r.cfg.MoveStall)
		} else {
			last = err
		}
		if !sleep(ctx, pause) {
			return errors.Join(context.Cause(ctx), last)
		}
		pause = min(2*pause, r.cfg.RetryMax)
	}
}

// moveSaidEvery is how often the region is told how far a move got.
const moveSaidEvery = 15 * time.Second

// progress shows how far a move got, here at once and in the region now and then.
func (r *Runner) progress(t *task, move Moving, stall *time.Timer) func(MoveProgress) {
	var mu sync.Mutex
	var last MoveProgress
	var said time.Time
	return func(p MoveProgress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Bytes != last.Bytes || p.Phase != last.Phase || p.Waited != last.Waited {
			stall.Reset(r.cfg.MoveStall)
		}
		last = p
		text := fmt.Sprintf("moving %s to %s: %s", move.Mode, move.Node, p.Phase)
		if p.Total > 0 {
			text += fmt.Sprintf(" %d of %d MiB", p.Bytes>>20, p.Total>>20)
		}
		if p.Still > 0 {
			r.moved.mu.Lock()
			r.moved.still = p.Still
			r.moved.mu.Unlock()
		}
		if now := time.Now(); now.Sub(said) >= moveSaidEvery {
			said = now
			r.report(t, placement.TaskRunning, text)
			return
		}
		r.explain(t, text)
	}
}
