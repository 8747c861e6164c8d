package consensus

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// View is the region's state as this node has applied it: never wrong, perhaps
// behind. It costs nothing and never blocks.
func (g *Group) View() *state.View { return g.machine.view.Load() }

// Wait gives a view newer than the index, as soon as there is one.
func (g *Group) Wait(ctx context.Context, after uint64) (*state.View, error) {
	for {
		view, changed := g.machine.watch()
		if view.Index() > after {
			return view, nil
		}
		select {
		case <-changed:
		case <-g.done:
			return view, raft.ErrRaftShutdown
		case <-ctx.Done():
			return view, context.Cause(ctx)
		}
	}
}

// ownViewWithin bounds how long an acknowledgement waits for a lagging view.
const ownViewWithin = time.Second

// awaitApplied waits until the own view contains an index. The command is
// committed whether it does or not, so a replica that lags (a full disk, a cut)
// does not hold the acknowledgement back for long.
func (g *Group) awaitApplied(ctx context.Context, index uint64) {
	if index == 0 || g.View().Index() >= index {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, ownViewWithin)
	defer cancel()
	_, _ = g.Wait(ctx, index-1)
}

// ReadIndex returns a view that contains everything acknowledged before the
// call. It does so on the leader only: a barrier once per term, then a word
// from a majority that this node still leads.
func (g *Group) ReadIndex(ctx context.Context) (*state.View, error) {
	r := g.raft.Load()
	if r == nil || r.State() != raft.Leader {
		leader, _ := g.leader(r)
		return nil, &NotLeader{leader.Node, leader.Addr}
	}
	if err := g.barrierOnce(ctx, r); err != nil {
		return nil, err
	}
	view := g.View()
	if err := wait(ctx, r.VerifyLeader()); err != nil {
		leader, _ := g.leader(r)
		return nil, &NotLeader{leader.Node, leader.Addr}
	}
	return view, nil
}

// barrierOnce makes sure that all entries of earlier terms are applied.
func (g *Group) barrierOnce(ctx context.Context, r *raft.Raft) error {
	term := r.CurrentTerm()
	g.barrierMu.Lock()
	passed := g.barrierTerm == term
	g.barrierMu.Unlock()
	if passed {
		return nil
	}
	if err := wait(ctx, r.Barrier(0)); err != nil {
		return err
	}
	g.barrierMu.Lock()
	g.barrierTerm = max(g.barrierTerm, term)
	g.barrierMu.Unlock()
	return nil
}

// wait waits for a future or for ctx, whichever ends first. A future of a raft
// that runs is always answered, so its goroutine ends.
func wait(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Leader is who leads as far as this node knows.
func (g *Group) Leader() (placement.NodeID, bool) {
	m, ok := g.leader(g.raft.Load())
	return m.Node, ok
}

func (g *Group) leader(r *raft.Raft) (Member, bool) {
	if r == nil {
		return Member{}, false
	}
	addr, id := r.LeaderWithID()
	m := Member{Node: placement.NodeID(id), Addr: string(addr), Voter: true}
	if n := g.View().Node(m.Node); n != nil && n.QUIC != "" {
		m.Addr = n.QUIC
	}
	return m, id != ""
}

// IsLeader reports whether this node leads and has applied all that was
// committed before it did.
func (g *Group) IsLeader() bool { return g.lead.is() }

// Peers is the raft configuration as this node knows it; empty before it was
// bootstrapped or added.
func (g *Group) Peers() []Member {
	r := g.raft.Load()
	if r == nil {
		return nil
	}
	f := r.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	var out []Member
	for _, s := range f.Configuration().Servers {
		out = append(out, Member{placement.NodeID(s.ID), string(s.Address), s.Suffrage == raft.Voter})
	}
	return out
}

// Allowed reports whether a node of this region may speak raft here: members
// and whoever this replica does not know yet (it may be behind), not workers.
func (g *Group) Allowed(node placement.NodeID) bool {
	for _, m := range g.Peers() {
		if m.Node == node {
			return true
		}
	}
	n := g.View().Node(node)
	return n == nil || n.Role != placement.RoleWorker
}
