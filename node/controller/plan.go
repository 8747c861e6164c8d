package controller

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

const (
	// proposalsInFlight bounds what one plan proposes at once; group commit makes
	// a few raft entries of them. It is more than the clients that submit at once,
	// whose proposals they share the entries with, so that placing keeps up.
	proposalsInFlight = 512
	// restMin and restMax bound the pause after a plan that changed nothing, so
	// that a long queue of jobs without a place does not cost a core.
	restMin = 2 * time.Millisecond
	restMax = 250 * time.Millisecond
)

// plan wakes on every newer view, on the plan's own deadline, and after a while
// where what stood in the way leaves no trace in the ledger when it ends: a
// proposal that was not answered, a node in doubt, a transfer that failed.
func (c *Controller) plan(ctx context.Context, h *homeless) error {
	view := c.cfg.Log.View()
	rest := restMin
	var capacity []*placement.Node
	var mind *scheduler.Scheduler
	for ctx.Err() == nil {
		var p scheduler.Decisions
		again := false
		if !nothingToDecide(view) {
			s := view.Snapshot(c.cfg.Now())
			if mind == nil {
				mind = scheduler.New()
				mind.Learn(s, view.Jobs("", view.JobCount(), nil))
			}
			p, again = c.decide(mind, s)
		}
		changed, undone := c.carryOut(ctx, p)
		if stays := c.leaveIfDrained(ctx, view); again || undone || stays {
			p.Wake = earlier(p.Wake, c.cfg.Now().Add(c.cfg.ContactEvery))
		}
		var ids []placement.JobID
		for _, r := range p.Refused {
			if r.Explanation.Code != scheduler.QuotaLimit { // a limit is not there to be gone around
				ids = append(ids, r.Job)
			}
		}
		h.set(ids)

		// A node's record is replaced whenever anything about it changes.
		if now := view.Nodes(); changed || !slices.Equal(now, capacity) {
			capacity, rest = now, restMin
		} else {
			rest = min(rest*2, restMax)
		}
		next, err := c.wait(ctx, view.Index(), p.Wake, rest)
		if err != nil {
			return err
		}
		view = next
	}
	return nil
}

// earlier is the earlier of two times, of which a may be zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// nothingToDecide reports whether the queue can only wait: no node takes tasks,
// none is being emptied or silent, and no other region could be asked instead.
func nothingToDecide(view *state.View) bool {
	return view.Working() == 0 && !hasPeers(view) && len(view.Unsettled()) == 0
}

// decide plans, and reports whether a node in doubt stood in the way. A node that
// gossip doubts gets nothing new: a batch task on a node that just died would wait
// for it for ever. Whom gossip doubts is asked of the nodes that a plan names, and
// only when it names one in doubt of all.
func (c *Controller) decide(mind *scheduler.Scheduler, s placement.Snapshot) (p scheduler.Decisions, doubted bool) {
	p = mind.Plan(s)
	if !slices.ContainsFunc(p.Assign, func(a placement.Assignment) bool {
		return a.Node != c.cfg.Self && c.cfg.Members.Suspect(a.Node)
	}) {
		return p, false
	}
	s, doubted = c.silenced(s)
	return mind.Plan(s), doubted
}

// silenced is a snapshot in which nodes in doubt take nothing, and whether there
// is one.
func (c *Controller) silenced(s placement.Snapshot) (_ placement.Snapshot, doubted bool) {
	s.Nodes = slices.Clone(s.Nodes)
	for i, n := range s.Nodes {
		if n.ID != c.cfg.Self && n.Contact == placement.ContactAlive && c.cfg.Members.Suspect(n.ID) {
			silent := *n
			silent.Contact = placement.ContactUnknown
			silent.ContactAt = s.Now
			s.Nodes[i], doubted = &silent, true
		}
	}
	return s, doubted
}

// wait returns the newest view once there is one after index, or wake has come.
func (c *Controller) wait(ctx context.Context, index uint64, wake time.Time, rest time.Duration) (*state.View, error) {
	if rest > restMin && !sleep(ctx, rest) {
		return c.cfg.Log.View(), nil
	}
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if !wake.IsZero() {
		bounded, cancel = context.WithTimeout(ctx, max(wake.Sub(c.cfg.Now()), restMin))
	}
	defer cancel()
	view, err := c.cfg.Log.Wait(bounded, index)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return c.cfg.Log.View(), nil
		}
		return nil, err
	}
	return view, nil
}

// carryOut proposes a plan and reports whether anything came of it, and whether
// anything did not. Every assignment, or gang, is a command of its own: one that
// the newer state refuses takes no other with it.
func (c *Controller) carryOut(ctx context.Context, p scheduler.Decisions) (changed, undone bool) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(proposalsInFlight)
	done := make([]bool, len(p.Assign)+len(p.Stop)+len(p.Preempt)+len(p.Drained))
	at := 0
	submit := func(cmd state.Command) {
		i := at
		at++
		g.Go(func() error {
			_, done[i] = c.propose(gctx, cmd)
			return nil
		})
	}
	for _, s := range p.Stop {
		submit(state.StopTasks{Tasks: []placement.TaskID{s.Task}, Reason: s.Reason, Again: s.Again})
	}
	for _, unit := range units(p.Assign) {
		submit(state.Assign{Assignments: unit})
	}
	for _, out := range p.Preempt {
		submit(state.Preempt{For: out.For, Tasks: out.Tasks})
	}
	for _, n := range p.Drained {
		submit(state.FinishDrain{Node: n})
	}
	_ = g.Wait()
	done = done[:at]
	return slices.Contains(done, true), slices.Contains(done, false)
}

// leaveIfDrained gives the leadership away when this node is being emptied:
// somebody is about to switch it off. It reports that it could not.
func (c *Controller) leaveIfDrained(ctx context.Context, view *state.View) (stays bool) {
	self := view.Node(c.cfg.Self)
	if self == nil || c.cfg.Transfer == nil || self.State != placement.NodeDraining && self.State != placement.NodeDrained {
		return false
	}
	err := c.cfg.Transfer(ctx)
	if err != nil && ctx.Err() == nil {
		c.cfg.Logger.Warn("leadership stays on a draining node", "node", c.cfg.Self, "err", err)
	}
	return err != nil
}
