package controller

import (
	"context"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// watchContact records which nodes answer. A node that is silent for
// SilentAfter becomes unknown, and so do its tasks; the first answer brings
// both back.
func (c *Controller) watchContact(ctx context.Context) error {
	silentSince := map[placement.NodeID]time.Time{}
	for sleep(ctx, c.cfg.ContactEvery) {
		var back, gone []placement.NodeID
		now := c.cfg.Now()
		for _, n := range c.cfg.Log.View().Nodes() {
			if c.answers(n.ID) {
				delete(silentSince, n.ID)
				if n.Contact != placement.ContactAlive {
					back = append(back, n.ID)
				}
				continue
			}
			if silentSince[n.ID].IsZero() {
				silentSince[n.ID] = now
			}
			if n.Contact != placement.ContactUnknown && now.Sub(silentSince[n.ID]) >= c.cfg.SilentAfter {
				gone = append(gone, n.ID)
			}
		}
		if len(gone) > 0 {
			c.propose(ctx, state.SetContact{Nodes: gone, Contact: placement.ContactUnknown})
		}
		if len(back) > 0 {
			c.propose(ctx, state.SetContact{Nodes: back, Contact: placement.ContactAlive})
		}
	}
	return nil
}

func (c *Controller) answers(node placement.NodeID) bool {
	if node == c.cfg.Self {
		return true
	}
	alive, _ := c.cfg.Members.Alive(node)
	return alive
}

// renewLeases extends the leases of singletons on nodes that answer. A node
// that does not see the renewal ends its task when the old lease is over.
func (c *Controller) renewLeases(ctx context.Context) error {
	for sleep(ctx, c.cfg.LeaseFor/6) {
		view, now := c.cfg.Log.View(), c.cfg.Now()
		for _, n := range view.Nodes() {
			if n.Contact != placement.ContactAlive {
				continue
			}
			var due []placement.TaskID
			for _, t := range view.TasksOn(n.ID) {
				if t.Status.Live() && !t.LeaseUntil.IsZero() && t.LeaseUntil.Sub(now) < c.cfg.LeaseFor*2/3 {
					due = append(due, t.ID)
				}
			}
			if len(due) > 0 {
				c.propose(ctx, state.RenewLeases{Node: n.ID, Tasks: due, Until: now.Add(c.cfg.LeaseFor)})
			}
		}
	}
	return nil
}
