package scheduler

import (
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// moveSilence is how long a move waits for a node of it that is silent. What runs
// there runs on; only the move is given up.
const moveSilence = 30 * time.Second

// The ways in which a drain's plan says that a task which could be moved while it
// runs gets to its new place.
const (
	ModeLive     = string(placement.MoveLive)
	ModeNearLive = string(placement.MoveNearLive)
	ModeRestart  = "restart"
)

// way is how a task gets to its new place.
type way struct {
	action Action
	mode   string // empty for what no driver moves while it runs
	note   string
	first  bool // a copy runs there before it is stopped
	move   placement.MoveMode
}

// howMoved says how a task gets from one node to another. What can be moved while
// it runs is; after a move that came to nothing the task is held still for the
// next one, and after that one it is started anew.
func howMoved(job *placement.Job, t *placement.Task, from, to *placement.Node, checkpoint bool) way {
	plain := restarted(job, checkpoint)
	if from.Inventory.Moves[string(job.Kind)] == "" || checkpoint || job.Spec.Gang() {
		return plain
	}
	if why := staysBehind(job, t, from, to); why != "" {
		plain.mode, plain.note = ModeRestart, why+"; "+plain.note
		return plain
	}
	w := way{action: ActMove, first: true, mode: ModeLive, move: placement.MoveLive, note: "it goes on there as it is"}
	if t.MoveFails > 0 {
		w.mode, w.move, w.note = ModeNearLive, placement.MoveNearLive, "the last live move did not end: "+t.MoveTrouble
	}
	return w
}

// movesMost is how many moves of a task may come to nothing before it is started
// anew at its new place.
const movesMost = 2

// staysBehind says why a task that its driver could move is started anew instead,
// empty if nothing is in the way.
func staysBehind(job *placement.Job, t *placement.Task, from, to *placement.Node) string {
	setup := job.Spec.Setup
	switch {
	case len(t.Devices) > 0:
		return "GPU passthrough: cannot be moved live"
	case setup != nil && setup.Network != nil && setup.Network.Host:
		return "it uses its node's own network"
	case t.Status != placement.TaskRunning || from.Contact != placement.ContactAlive:
		return "it does not run"
	case t.MoveFails >= movesMost:
		return "its last moves did not end: " + t.MoveTrouble
	case to.Inventory.Moves[string(job.Kind)] == "":
		return string(to.ID) + " takes no running tasks"
	case to.Inventory.Moves[string(job.Kind)] != from.Inventory.Moves[string(job.Kind)]:
		return string(to.ID) + " has another " + runsOn(job.Kind)
	}
	return ""
}

// runsOn names what two nodes must have alike, in an operator's word.
func runsOn(kind placement.Kind) string {
	if kind == placement.KindVM || kind == placement.KindMicroVM {
		return "QEMU"
	}
	return "driver of " + string(kind)
}

// restarted is the way of a task that begins anew at its new place. Of what has
// disks of its own there are never two copies.
func restarted(job *placement.Job, checkpoint bool) way {
	switch {
	case job.Spec.Singleton:
		return way{action: ActStopFirst, note: "at most one copy may run: it is stopped, then started elsewhere"}
	case job.Kind == placement.KindVM && job.Spec.Type == placement.TypeService && !checkpoint:
		return way{action: ActStopFirst, note: "its disks are one machine's: it is stopped, then started elsewhere"}
	case job.Spec.Type == placement.TypeService && !checkpoint:
		return way{action: ActMove, note: "its replacement runs before it is stopped", first: true}
	case checkpoint:
		return way{action: ActCheckpoint, note: "it saves its work, is stopped and started elsewhere"}
	}
	return way{action: ActMove, note: "it is stopped and started elsewhere"}
}

// pickAlike is [planner.pick] among the nodes that take a running task from where
// it is; nil if none of them has room.
func (p *planner) pickAlike(c *class, kind placement.Kind, from *placement.Node) *space {
	key := from.Inventory.Moves[string(kind)]
	if key == "" || c.full {
		return nil
	}
	var best entry
	found := false
	for _, i := range c.open {
		n := p.spaces[i].node
		if n.ID == from.ID || n.Inventory.Moves[string(kind)] != key {
			continue
		}
		if e, ok := c.entry(i); ok && (!found || e.before(best)) {
			best, found = e, true
		}
	}
	if !found {
		return nil
	}
	return &p.spaces[best.node]
}

// assignMove is [planner.assign] for a task that goes on at its new place.
func (p *planner) assignMove(job *placement.Job, c *class, at *space, old *placement.Task, mode placement.MoveMode) {
	p.assign(job, c, at, WhyDrain, old.ID)
	p.out.Assign[len(p.out.Assign)-1].Move = mode
}

// takingOver is the task that a move of t shall go on as, nil if t is not moved.
func (p *planner) takingOver(t *placement.Task) *placement.Task {
	for _, other := range p.tasks[t.Job] {
		if other.Replaces == t.ID && other.Moving() {
			return other
		}
	}
	return nil
}

// tendMove decides about a task that is not there yet: its move is given up when
// its node is to be emptied, or is silent for long.
func (p *planner) tendMove(job *placement.Job, t *placement.Task, n *placement.Node) {
	switch {
	case t.Stop:
	case n.State == placement.NodeDraining:
		p.stop(t, "its new node is drained", false)
		p.fates = append(p.fates, Fate{
			Job: job.ID, Name: job.Name, Task: t.ID, Node: n.ID, Kind: job.Kind, Type: job.Spec.Type, Tenant: job.Tenant, Tag: job.Residency,
			Action: ActStop, Note: "it is not here yet: its move is given up, and it goes on where it is",
		})
	case n.Contact != placement.ContactAlive:
		p.giveUpLater(t, n, "its new node is silent")
	}
}

// giveUpLater ends a move one node of which is silent, once that was so for long.
func (p *planner) giveUpLater(to *placement.Task, silent *placement.Node, why string) {
	if due := silent.ContactAt.Add(moveSilence); due.After(p.s.Now) {
		p.wake(due)
		return
	}
	p.stop(to, why, false)
}

// onTheMove fills in the fate of a task that is being moved, and reports whether
// it is.
func (p *planner) onTheMove(f *Fate, t *placement.Task, n *placement.Node) bool {
	to := p.takingOver(t)
	if to == nil || to.Stop {
		return false
	}
	f.Action, f.To, f.Mode, f.Note = ActMove, to.Node, string(to.Move), "it is being moved"
	if t.Reason != "" {
		f.Note = t.Reason
	}
	if n.Contact != placement.ContactAlive {
		p.giveUpLater(to, n, "the node that it was to take over from is silent")
	}
	return true
}
