package controller

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

const (
	// proposalsInFlight bounds the assignments that are proposed and not answered;
	// group commit makes a few raft entries of them. They are twice as many as the
	// new jobs that it lets in at once, so that placing keeps up with accepting;
	// more would wait longer for their turn without being placed sooner.
	proposalsInFlight = 256
	// planEvery is the least from one plan to the next while assignments are under
	// way: every raft entry makes a newer view, and a plan looks at all nodes.
	planEvery = 20 * time.Millisecond
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
	f := newFlight(proposalsInFlight)
	defer f.flying.Wait()
	for ctx.Err() == nil {
		began := time.Now()
		var p scheduler.Decisions
		again, changed, undone := false, false, false
		if !nothingToDecide(view) {
			s := f.over(view, view.Snapshot(c.cfg.Now()))
			if mind == nil {
				mind = scheduler.New()
				mind.Learn(s, view.Jobs("", view.JobCount(), nil))
			}
			p, again = c.decide(mind, s)
			changed, undone = c.carryOut(ctx, f, s, p)
		}
		landed, failed, flying := f.tally()
		changed, undone = changed || landed > 0, undone || failed > 0
		if stays := c.leaveIfDrained(ctx, view); again || undone || stays || flying > 0 {
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
		} else if flying == 0 || undone {
			rest = min(rest*2, restMax)
		}
		if flying > 0 && !sleep(ctx, planEvery-time.Since(began)) {
			break
		}
		next, err := c.wait(ctx, f, view.Index(), p.Wake, rest)
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

// wait returns the newest view once there is one after index, wake has come, or
// an assignment in flight was refused.
func (c *Controller) wait(ctx context.Context, f *flight, index uint64, wake time.Time, rest time.Duration) (*state.View, error) {
	if rest > restMin && !sleep(ctx, rest) {
		return c.cfg.Log.View(), nil
	}
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	if !wake.IsZero() {
		timer := time.AfterFunc(max(wake.Sub(c.cfg.Now()), restMin), cancel)
		defer timer.Stop()
	}
	f.onRefusal(cancel)
	defer f.onRefusal(nil)
	view, err := c.cfg.Log.Wait(bounded, index)
	if err != nil {
		if bounded.Err() != nil {
			return c.cfg.Log.View(), nil
		}
		return nil, err
	}
	return view, nil
}

// carryOut proposes a plan. Every assignment, or gang, is a command of its own: one
// that the newer state refuses takes no other with it. First starts and restarts
// are left in flight, the rest is waited for; it reports whether anything came of
// that, and whether anything did not.
func (c *Controller) carryOut(ctx context.Context, f *flight, s placement.Snapshot, p scheduler.Decisions) (changed, undone bool) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(proposalsInFlight)
	made := make([]bool, len(p.Assign)+len(p.Stop)+len(p.Preempt)+len(p.Drained))
	at := 0
	submit := func(cmd state.Command) {
		i := at
		at++
		g.Go(func() error {
			_, made[i] = c.propose(gctx, cmd)
			return nil
		})
	}
	for _, t := range p.Stop {
		submit(state.StopTasks{Tasks: []placement.TaskID{t.Task}, Reason: t.Reason, Again: t.Again})
	}
	for _, out := range p.Preempt {
		submit(state.Preempt{For: out.For, Tasks: out.Tasks})
	}
	for _, n := range p.Drained {
		submit(state.FinishDrain{Node: n})
	}
	all := units(s, p.Assign)
	for _, unit := range all {
		if unit[0].Replaces != "" {
			submit(assign(unit))
		}
	}
	for _, unit := range all {
		if unit[0].Replaces == "" {
			f.launch(ctx, c.put, unit)
		}
	}
	_ = g.Wait()
	made = made[:at]
	return slices.Contains(made, true), slices.Contains(made, false)
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
