package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// NotLeader says that a command must go to another node, and to which.
type NotLeader struct {
	// Leader is empty while nobody leads.
	Leader placement.NodeID
	Addr   string
}

func (e *NotLeader) Error() string {
	if e.Leader == "" {
		return "the region has no leader at the moment"
	}
	return fmt.Sprintf("this node does not lead the region: %s at %s does", e.Leader, e.Addr)
}

// Hint says what to do.
func (e *NotLeader) Hint() string {
	if e.Leader == "" {
		return "try again in a second; if it lasts, a majority of the voters is down: sovmesh node list"
	}
	return "send it to the leader"
}

// Is makes every NotLeader an [ErrNoLeader].
func (e *NotLeader) Is(target error) bool { return target == ErrNoLeader }

// ErrNoLeader is any refusal because the node does not lead; the error itself
// is a *[NotLeader].
var ErrNoLeader = errors.New("no leader")

// WrongClock says that a command's stamp and a replica's clock are too far apart.
type WrongClock struct{ Skew, Max time.Duration }

func (e *WrongClock) Error() string {
	return fmt.Sprintf("the clocks of this region's nodes differ by %s, more than %s", e.Skew.Round(time.Second), e.Max)
}

// Hint says what to do.
func (e *WrongClock) Hint() string { return "set the clock of the node that is wrong, best by NTP" }

// Group commit: whatever is queued is committed together whenever fewer than
// four batches are in flight; there is no timer.
const (
	batchesInFlight = 4
	batchMax        = 256
	batchBytes      = 1 << 20
)

// jobsInFlight bounds the new jobs that are being committed; further ones wait
// their turn. However many clients submit, most of what is committed is what places
// their jobs (the controller has twice as many assignments in flight) and what
// ends them: a region that can do no more accepts more slowly, and nothing that it
// accepted lies about.
const jobsInFlight = 128

type proposal struct {
	raw  []byte
	done chan outcome
}

type outcome struct {
	result state.Result
	err    error
}

// Propose stamps a command and returns once it is committed and this node's own
// view contains it (a view that lags by more than a second is not waited for).
// It is held and tried again across lost leaders until ctx
// ends, and takes effect once. A refusal by the state is a *[state.Refused].
func (g *Group) Propose(ctx context.Context, cmd state.Command, actor string) (state.Result, error) {
	head := state.Head{Version: g.View().StateVersion(), Time: g.cfg.Clock(), Actor: actor}
	if _, err := io.ReadFull(g.cfg.Rand, head.Salt[:]); err != nil {
		return state.Result{}, fmt.Errorf("read randomness: %w", err)
	}
	raw, err := state.Encode(head, cmd)
	if err != nil {
		return state.Result{}, err
	}
	wait := 10 * time.Millisecond
	for n := 0; ; n, wait = n+1, min(2*wait, 100*time.Millisecond) {
		result, err := g.try(ctx, head, raw, n)
		if err == nil {
			g.awaitApplied(ctx, result.Index)
			return result, result.Err()
		}
		if final(err) {
			return state.Result{}, err
		}
		if err := g.pause(ctx, wait, err); err != nil {
			return state.Result{}, err
		}
	}
}

// final errors do not go away by trying again.
func final(err error) bool {
	var clock *WrongClock
	var refused *state.Refused
	return errors.As(err, &clock) || errors.As(err, &refused)
}

// pause waits before the next try; at the end of ctx it gives the last error.
func (g *Group) pause(ctx context.Context, d time.Duration, last error) error {
	changed := g.lead.changes()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-changed:
	case <-g.done:
		return fmt.Errorf("this node has left the region's group: %w", last)
	case <-ctx.Done():
		return fmt.Errorf("%w (%w)", last, context.Cause(ctx))
	}
	return nil
}

// try proposes once, here or at the leader. Where none is known (a replica with
// a full disk hears nothing of elections) it asks the voters in turn.
func (g *Group) try(ctx context.Context, head state.Head, raw []byte, n int) (state.Result, error) {
	if skew := g.cfg.Clock().Sub(head.Time).Abs(); skew > g.cfg.MaxSkew {
		return state.Result{}, &WrongClock{skew, g.cfg.MaxSkew} // held too long to be still true
	}
	r := g.raft.Load()
	if r == nil {
		return state.Result{}, &NotLeader{}
	}
	if r.State() == raft.Leader {
		return g.commit(ctx, raw)
	}
	leader, ok := g.leader(r)
	if !ok || leader.Node == g.cfg.Self {
		leader, ok = g.guess(n)
	}
	if !ok || g.cfg.Forward == nil {
		return state.Result{}, &NotLeader{leader.Node, leader.Addr}
	}
	return g.forward(ctx, r, leader, raw)
}

// lookAtLeader is how often a forwarded command looks whether its leader leads.
const lookAtLeader = 50 * time.Millisecond

// forward asks the leader, and lets go once this node hears that it leads no
// longer: a leader that was lost would otherwise be waited for as long as the
// connection to it lasts. The command may be asked for again: its salt is its name.
func (g *Group) forward(ctx context.Context, r *raft.Raft, leader Member, raw []byte) (state.Result, error) {
	asked, cancel := context.WithCancel(ctx)
	defer cancel()
	known, _ := g.leader(r) // empty if the leader was guessed
	go func() {             // ends with asked
		look := time.NewTicker(lookAtLeader)
		defer look.Stop()
		for {
			select {
			case <-asked.Done():
				return
			case <-look.C:
				if now, _ := g.leader(r); now.Node != known.Node {
					cancel()
					return
				}
			}
		}
	}()
	result, err := g.cfg.Forward(asked, leader, raw)
	if err != nil && asked.Err() != nil && ctx.Err() == nil {
		return state.Result{}, &NotLeader{} // look again who leads
	}
	return result, err
}

// guess is the n-th of the other voters.
func (g *Group) guess(n int) (Member, bool) {
	voters := slices.DeleteFunc(g.Peers(), func(m Member) bool { return !m.Voter || m.Node == g.cfg.Self })
	if len(voters) == 0 {
		return Member{}, false
	}
	return voters[n%len(voters)], true
}

// ProposeRaw commits a command that another node of the region encoded and
// stamped. It does so on the leader only, and refuses a stamp that is too far
// from this node's clock. Whether the state refused it stands in the result.
func (g *Group) ProposeRaw(ctx context.Context, raw []byte) (state.Result, error) {
	head, _, err := state.Decode(raw)
	if err != nil {
		return state.Result{}, &state.Refused{Code: "command.malformed", Message: err.Error(), Advice: "both nodes must run the same version"}
	}
	if skew := g.cfg.Clock().Sub(head.Time).Abs(); skew > g.cfg.MaxSkew {
		return state.Result{}, &WrongClock{skew, g.cfg.MaxSkew}
	}
	r := g.raft.Load()
	if r == nil || r.State() != raft.Leader {
		leader, _ := g.leader(r)
		return state.Result{}, &NotLeader{leader.Node, leader.Addr}
	}
	return g.commit(ctx, raw)
}

// commit queues a command and waits for what came of it.
func (g *Group) commit(ctx context.Context, raw []byte) (state.Result, error) {
	if skew := g.clock.off(); skew != 0 {
		return state.Result{}, &WrongClock{skew, g.cfg.MaxSkew}
	}
	if _, kind, err := state.DecodeHead(raw); err == nil && kind == state.KindSubmitJob {
		select {
		case g.jobs <- struct{}{}:
			defer func() { <-g.jobs }()
		case <-ctx.Done():
			return state.Result{}, context.Cause(ctx)
		case <-g.done:
			return state.Result{}, raft.ErrRaftShutdown
		}
	}
	p := &proposal{raw: raw, done: make(chan outcome, 1)}
	select {
	case g.queue <- p:
	case <-ctx.Done():
		return state.Result{}, context.Cause(ctx)
	case <-g.done:
		return state.Result{}, raft.ErrRaftShutdown
	}
	select {
	case o := <-p.done:
		return o.result, o.err
	case <-ctx.Done():
		return state.Result{}, context.Cause(ctx)
	}
}

// batch is the group commit.
func (g *Group) batch(ctx context.Context, r *raft.Raft) {
	slots := make(chan struct{}, batchesInFlight)
	var flying sync.WaitGroup
	defer flying.Wait()
	for {
		var all []*proposal
		select {
		case p := <-g.queue:
			all = append(all, p)
		case <-ctx.Done():
			return
		}
		all, ok := g.gather(ctx, all, slots)
		if !ok {
			answer(all, raft.ErrRaftShutdown)
			return
		}
		// A raft that waits for its disk takes nothing; then another may lead.
		future := r.Apply(encodeBatch(all), g.cfg.HeartbeatTimeout)
		flying.Go(func() {
			land(future, all)
			<-slots
		})
	}
}

// gather takes a slot, and meanwhile and after it whatever is queued.
func (g *Group) gather(ctx context.Context, all []*proposal, slots chan struct{}) ([]*proposal, bool) {
	size := len(all[0].raw)
	room := func() chan *proposal {
		if len(all) < batchMax && size < batchBytes {
			return g.queue
		}
		return nil
	}
	add := func(p *proposal) {
		all = append(all, p)
		size += len(p.raw)
	}
	for taken := false; !taken; {
		select {
		case slots <- struct{}{}:
			taken = true
		case p := <-room():
			add(p)
		case <-ctx.Done():
			return all, false
		}
	}
	for {
		select {
		case p := <-room():
			add(p)
		default:
			return all, true
		}
	}
}

// land answers every proposer of a batch.
func land(future raft.ApplyFuture, all []*proposal) {
	if err := future.Error(); err != nil {
		answer(all, err)
		return
	}
	results, ok := future.Response().([]state.Result)
	if !ok || len(results) != len(all) {
		err, _ := future.Response().(error)
		answer(all, errors.Join(errors.New("this replica has stopped"), err))
		return
	}
	for i, p := range all {
		p.done <- outcome{result: results[i]}
	}
}

func answer(all []*proposal, err error) {
	for _, p := range all {
		p.done <- outcome{err: err}
	}
}
