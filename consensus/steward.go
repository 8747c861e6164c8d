package consensus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// ErrStopped says that [Group.Run] has returned, whose error says why.
var ErrStopped = errors.New("the group does not run")

// Bootstrap makes the region: this node alone votes, and the first command is
// committed. It is called once in a region's life, while Run runs; if Run has
// returned, it is an [ErrStopped].
func (g *Group) Bootstrap(ctx context.Context, first state.InitRegion, actor string) (state.Result, error) {
	select {
	case <-g.ready:
	case <-g.done:
		return state.Result{}, fmt.Errorf("bootstrap: %w", ErrStopped)
	case <-ctx.Done():
		return state.Result{}, context.Cause(ctx)
	}
	self := raft.Server{ID: raft.ServerID(g.cfg.Self), Address: raft.ServerAddress(g.cfg.Advertise)}
	err := g.raft.Load().BootstrapCluster(raft.Configuration{Servers: []raft.Server{self}}).Error()
	if errors.Is(err, raft.ErrCantBootstrap) {
		if g.View().Self() != nil {
			return state.Result{}, fmt.Errorf("bootstrap: this data directory already holds region %s", g.cfg.Region)
		}
	} else if err != nil {
		return state.Result{}, fmt.Errorf("bootstrap region %s: %w", g.cfg.Region, err)
	}
	g.standAlone(ctx)
	return g.Propose(ctx, first, actor)
}

// TransferLeadership gives the lead to another voter, any if to is empty.
func (g *Group) TransferLeadership(ctx context.Context, to placement.NodeID) error {
	r := g.raft.Load()
	if r == nil || r.State() != raft.Leader {
		leader, _ := g.leader(r)
		return &NotLeader{leader.Node, leader.Addr}
	}
	if to == "" {
		return wait(ctx, r.LeadershipTransfer())
	}
	for _, m := range g.Peers() {
		if m.Node == to && m.Voter {
			// Transfers to a voter that does not answer pile up inside raft: the second
			// waits for ever, and this node takes no command as long as it runs.
			net := g.net.Load()
			if net == nil {
				return &NotLeader{}
			}
			if _, err := g.feel(ctx, net, m); err != nil {
				return fmt.Errorf("node %s does not answer, so it cannot lead: %w", to, err)
			}
			return wait(ctx, r.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(m.Addr)))
		}
	}
	return fmt.Errorf("node %s is no voter of region %s", to, g.cfg.Region)
}

const (
	stewardEvery = 250 * time.Millisecond
	changeWithin = 5 * time.Second
	// A newcomer votes once it is this close to the leader's log, so that its
	// vote never holds up commits.
	closeEnough = 256
)

// steward is the leader's own work: it makes raft's configuration follow the
// roles in the ledger, replaces voters that are gone, gives the lead away when
// this node is drained or its clock is wrong, and has replicas compared.
func (g *Group) steward(ctx context.Context, r *raft.Raft, net *mux) {
	tick := time.NewTicker(stewardEvery)
	defer tick.Stop()
	compared := time.Now()
	var size uint64
	for {
		if g.giveAway(ctx, r) {
			return
		}
		if err := g.reconcile(ctx, r, net); err != nil && ctx.Err() == nil {
			g.log.Warn("change the raft configuration", "region", g.cfg.Region, "err", err)
		}
		g.replaceVoter(ctx)
		if d := g.cfg.DigestInterval; d > 0 && time.Since(compared) >= d {
			if now := g.View().LedgerSize(); now > size+2 {
				_ = g.CompareReplicas(ctx)
				size = now
			}
			compared = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// giveAway transfers the lead if this node should not have it and another can.
func (g *Group) giveAway(ctx context.Context, r *raft.Raft) bool {
	self := g.View().Node(g.cfg.Self)
	leaving := self != nil && (self.State == placement.NodeDraining || self.State == placement.NodeDrained || self.Role != placement.RoleVoter)
	wrong := g.clock.off() != 0
	if !leaving && !wrong {
		return false
	}
	for _, m := range g.Peers() {
		n := g.View().Node(m.Node)
		if m.Voter && m.Node != g.cfg.Self && n != nil && n.State == placement.NodeReady && n.Role == placement.RoleVoter && (wrong || n.Contact == placement.ContactAlive) {
			// With a wrong clock nothing can be proposed, so contact is what it was.
			ctx, cancel := context.WithTimeout(ctx, changeWithin)
			err := g.TransferLeadership(ctx, m.Node)
			cancel()
			if err == nil {
				return true
			}
		}
	}
	return false
}

// reconcile makes at most one change, so that each is judged on what the last
// one left.
func (g *Group) reconcile(ctx context.Context, r *raft.Raft, net *mux) error {
	view := g.View()
	members := map[placement.NodeID]Member{}
	for _, m := range g.Peers() {
		members[m.Node] = m
		n := view.Node(m.Node)
		if m.Node != g.cfg.Self && (n == nil || n.Role == placement.RoleWorker) {
			g.log.Info("leaves the group", "region", g.cfg.Region, "node", m.Node)
			return r.RemoveServer(raft.ServerID(m.Node), 0, changeWithin).Error()
		}
	}
	for _, n := range view.Nodes() {
		if n.Role == placement.RoleWorker || n.QUIC == "" {
			continue
		}
		if done, err := g.reconcileNode(ctx, r, net, n, members[n.ID]); done {
			return err
		}
	}
	return nil
}

// reconcileNode changes what is amiss with one node; done if it changed anything.
func (g *Group) reconcileNode(ctx context.Context, r *raft.Raft, net *mux, n *placement.Node, m Member) (done bool, err error) {
	id, addr := raft.ServerID(n.ID), raft.ServerAddress(n.QUIC)
	voter := n.Role == placement.RoleVoter
	switch {
	case m.Node == "":
		g.log.Info("joins the group", "region", g.cfg.Region, "node", n.ID)
		return true, r.AddNonvoter(id, addr, 0, changeWithin).Error()
	case m.Addr != n.QUIC && m.Voter:
		return true, r.AddVoter(id, addr, 0, changeWithin).Error()
	case m.Addr != n.QUIC:
		// AddNonvoter leaves a known server's address alone; it is let in anew.
		return true, r.RemoveServer(id, 0, changeWithin).Error()
	case voter && !m.Voter:
		p, err := g.feel(ctx, net, m)
		if err != nil || p.applied+closeEnough < r.AppliedIndex() {
			return false, nil // it is not there yet
		}
		g.log.Info("votes", "region", g.cfg.Region, "node", n.ID)
		return true, r.AddVoter(id, addr, 0, changeWithin).Error()
	case !voter && m.Voter && n.ID != g.cfg.Self:
		return true, r.DemoteVoter(id, 0, changeWithin).Error()
	}
	return false, nil
}

// replaceVoter gives the vote of a node that is gone for good, or of one that
// was removed, to the standby that has been there longest.
func (g *Group) replaceVoter(ctx context.Context) {
	view := g.View()
	var gone *placement.Node
	var standbys []*placement.Node
	voters := 0
	for _, n := range view.Nodes() {
		switch {
		case n.Role == placement.RoleVoter:
			voters++
			if n.ID != g.cfg.Self && n.Contact == placement.ContactUnknown && g.cfg.Clock().Sub(n.ContactAt) > g.cfg.ReplaceAfter {
				gone = n
			}
		case n.Role == placement.RoleStandby && n.Contact == placement.ContactAlive:
			standbys = append(standbys, n)
		}
	}
	if len(standbys) == 0 || gone == nil && voters >= view.VotersWanted() {
		return
	}
	next := slices.MinFunc(standbys, func(a, b *placement.Node) int { return cmp.Or(a.JoinedAt.Compare(b.JoinedAt), cmp.Compare(a.ID, b.ID)) })
	ctx, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	if _, err := g.Propose(ctx, state.SetRole{Node: next.ID, Role: placement.RoleVoter}, g.actor()); err != nil || gone == nil {
		return
	}
	_, _ = g.Propose(ctx, state.SetRole{Node: gone.ID, Role: placement.RoleStandby}, g.actor())
}
