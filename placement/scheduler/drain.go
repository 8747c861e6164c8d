package scheduler

import (
	"cmp"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// DrainTime is a drain's deadline when its author gave none.
const DrainTime = time.Hour

// Action is what a drain does with a task.
type Action string

// The actions.
const (
	ActMove       Action = "move"       // a replacement runs before it is stopped (service); stopped and started elsewhere (batch)
	ActWait       Action = "wait"       // left alone
	ActCheckpoint Action = "checkpoint" // asked to save its work, stopped, started elsewhere
	ActStop       Action = "stop"       // stopped for good
	ActStopFirst  Action = "stop-first" // a singleton: its next copy starts when this one has ended
	ActBlocked    Action = "blocked"    // no lawful place with room: left where it is
)

// Fate is what a drain does with one task, and when.
type Fate struct {
	Job    placement.JobID    `json:"job"`
	Name   string             `json:"name,omitempty"`
	Task   placement.TaskID   `json:"task"`
	Node   placement.NodeID   `json:"node"` // where it is
	Kind   placement.Kind     `json:"kind"`
	Type   placement.JobType  `json:"type"`
	Tenant placement.TenantID `json:"tenant"`
	Tag    string             `json:"tag"` // the job's own residency tag
	Action Action             `json:"action"`
	To     placement.NodeID   `json:"to,omitempty"`
	// Mode is how a task gets to its new place that its driver could move while it
	// runs: live, near-live or restart. Note says why.
	Mode string `json:"mode,omitempty"`
	// At is when the action is due; zero means at once (or, for wait, never).
	At   time.Time `json:"at,omitzero"`
	Code string    `json:"code,omitempty"` // of a blocked task: the constraint in its way
	Note string    `json:"note"`
	Hint string    `json:"hint,omitempty"`
}

// PlanDrain tells what draining a node would do to every live task on it,
// before anything is done. The snapshot's Tasks must hold those of the node.
// The same rules decide in [Plan] once the node is draining.
func PlanDrain(s placement.Snapshot, node placement.NodeID, d placement.Drain) []Fate {
	return PlanDrainSet(s, []placement.NodeID{node}, d)
}

// PlanDrainSet is [PlanDrain] for nodes that are drained together: none of them
// is a place for what leaves another. A node that drains already is
// planned by the new drain too.
func PlanDrainSet(s placement.Snapshot, set []placement.NodeID, d placement.Drain) []Fate {
	s.Nodes = slices.Clone(s.Nodes)
	if d.StartedAt.IsZero() {
		d.StartedAt = s.Now
	}
	for i, n := range s.Nodes {
		if slices.Contains(set, n.ID) {
			changed := *n
			changed.State, changed.Drain = placement.NodeDraining, &d
			s.Nodes[i] = &changed
		}
	}
	p := newPlanner(s)
	p.tend()
	var out []Fate
	for _, f := range p.fates {
		if slices.Contains(set, f.Node) {
			out = append(out, f)
		}
	}
	return out
}

// tend decides about the live tasks on draining and silent nodes.
func (p *planner) tend() {
	tasks := slices.Clone(p.s.Tasks)
	slices.SortFunc(tasks, func(a, b *placement.Task) int { return cmp.Compare(a.ID, b.ID) })
	for _, t := range tasks {
		job, at := p.s.Jobs[t.Job], p.nodes[t.Node]
		if job == nil || at == nil || !t.Status.Live() {
			continue
		}
		switch {
		case t.Moving():
			p.tendMove(job, t, at.node)
		case job.Spec.Gang():
			p.tendGang(job, t, at.node)
		case at.node.State == placement.NodeDraining:
			p.drain(job, t, at.node)
		case at.node.Contact != placement.ContactAlive:
			p.miss(job, t, at.node)
		}
	}
}

// order is what a drain's rules ask for one task.
type order struct {
	action Action    // wait, move, checkpoint or stop
	at     time.Time // of wait: when its rule changes to then
	then   placement.OnDrain
	force  bool // stop it when there is no place to move to
}

// rule reads the drain rules: the job's own word wins, the operator's fills its
// silence at the deadline, a service moves and a batch task may finish.
func rule(job *placement.Job, d *placement.Drain, now time.Time) order {
	end := deadline(d)
	due := !end.IsZero() && !now.Before(end)
	service := job.Spec.Type == placement.TypeService
	switch own := job.Spec.OnDrain; {
	case own == placement.DrainMove, own == placement.DrainCheckpoint && (service || due), own == placement.DrainStop && due:
		return order{action: Action(own)}
	case own == placement.DrainWait:
		return order{action: ActWait}
	case own != "": // checkpoint or stop, before the deadline
		return order{action: ActWait, at: end, then: own}
	case service:
		return order{action: ActMove, force: due && d.OnDeadline == placement.DrainStop}
	case !due:
		return order{action: ActWait, at: end, then: d.OnDeadline}
	case d.OnDeadline == placement.DrainCheckpoint, d.OnDeadline == placement.DrainStop:
		return order{action: Action(d.OnDeadline)}
	}
	return order{action: ActWait}
}

// deadline is when a drain's patience ends.
func deadline(d *placement.Drain) time.Time {
	if d.Deadline.IsZero() && !d.StartedAt.IsZero() {
		return d.StartedAt.Add(DrainTime)
	}
	return d.Deadline
}

// drain decides about one task of a draining node.
func (p *planner) drain(job *placement.Job, t *placement.Task, n *placement.Node) {
	d := n.Drain
	if d == nil {
		d = &placement.Drain{}
	}
	f := Fate{
		Job: job.ID, Name: job.Name, Task: t.ID, Node: n.ID, Kind: job.Kind, Type: job.Spec.Type, Tenant: job.Tenant, Tag: job.Residency,
	}
	p.decide(&f, job, t, n, rule(job, d, p.s.Now))
	p.fates = append(p.fates, f)
	// A blocked or waiting task is looked at again when the deadline passes.
	if f.Action == ActWait || f.Action == ActBlocked {
		p.wake(deadline(d))
	}
}

// decide fills in the fate and takes the step that it calls for.
func (p *planner) decide(f *Fate, job *placement.Job, t *placement.Task, n *placement.Node, o order) {
	switch {
	case t.Stop:
		p.keepRoom(job, t)
		f.Action, f.Note = ActStop, "it is being stopped: "+t.StopReason
	case job.StopRequested:
		f.Action, f.Note = ActStop, "its job is being stopped"
	case p.onTheMove(f, t, n):
	case p.covered(f, job, t):
	case n.Contact != placement.ContactAlive && job.Spec.Type != placement.TypeService:
		f.Action, f.Code, f.Note = ActBlocked, string(NodeContact), "its node is silent: it may still run, so no second copy is started"
		f.Hint = "if the node is gone for good: sovmesh node remove NODE"
	case n.Contact != placement.ContactAlive && job.Spec.Singleton && !p.expired(t):
		f.Action, f.Code, f.Note = ActBlocked, string(NodeContact), "its node is silent: its next copy starts when its lease has ended"
		f.Hint = "wait for the lease to end"
		p.wake(t.LeaseUntil)
	case o.action == ActStop:
		f.Action, f.Note = ActStop, "stopped for good, as its drain rule says"
		p.stop(t, "its node is drained and its drain rule says stop", false)
	case o.action == ActWait:
		f.Action, f.At, f.Note = ActWait, o.at, waitNote(o)
	default:
		p.move(f, job, t, n, o)
	}
}

// waitNote says how long a task is left alone.
func waitNote(o order) string {
	switch o.then {
	case placement.DrainCheckpoint:
		return "it may finish; at the deadline it saves its work and starts elsewhere"
	case placement.DrainStop:
		return "it may finish; at the deadline it is stopped for good"
	}
	return "it may finish, however long that takes"
}

// covered reports that another copy already takes the task's place. A copy
// that runs makes this one surplus.
func (p *planner) covered(f *Fate, job *placement.Job, t *placement.Task) bool {
	for _, other := range p.tasks[job.ID] {
		at := p.nodes[other.Node]
		if other.ID == t.ID || other.Stop || at == nil || !p.steady(at.node) {
			continue
		}
		f.Action, f.To = ActMove, other.Node
		f.Note = "its replacement " + string(other.ID) + " is starting"
		if other.Status == placement.TaskRunning {
			f.Note = "its replacement " + string(other.ID) + " runs"
			p.stop(t, "replaced by "+string(other.ID), false)
		}
		return true
	}
	return p.crowded(f, job, t)
}

// crowded reports that the job has another copy already, on a node that is
// itself draining or silent: the state holds two copies at most, so one of them
// has to end first.
func (p *planner) crowded(f *Fate, job *placement.Job, t *placement.Task) bool {
	for _, other := range p.tasks[job.ID] {
		if other.ID == t.ID {
			continue
		}
		f.Action, f.Note = ActMove, "its copy "+string(other.ID)+" is on the way too: one after the other"
		if at := p.nodes[other.Node]; at != nil && at.node.Contact != placement.ContactAlive {
			f.Action, f.Code = ActBlocked, string(NodeContact)
			f.Note = "its copy " + string(other.ID) + " is on a silent node and may still run: a third is not started"
			f.Hint = "if that node is gone for good: sovmesh node remove NODE"
		}
		return true
	}
	return false
}

// steady reports whether tasks of the node are left where they are.
func (p *planner) steady(n *placement.Node) bool {
	return n.State != placement.NodeDraining && n.State != placement.NodeDrained && n.Contact == placement.ContactAlive
}

// move gives a task its place elsewhere, or says what is in the way. Nothing
// is ever widened: a task without a lawful place stays.
func (p *planner) move(f *Fate, job *placement.Job, t *placement.Task, n *placement.Node, o order) {
	if job.HeldBack(p.s.Now) {
		f.Action, f.At, f.Note = ActWait, job.NotBefore, "its last replacement failed; the next try is held back"
		p.wake(job.NotBefore)
		return
	}
	at, class := p.refuge(job, n)
	if at == nil {
		p.block(f, class, t, o)
		return
	}
	f.To = at.node.ID
	if job.Spec.Singleton && p.expired(t) && n.Contact != placement.ContactAlive {
		f.Action, f.Note = ActMove, "its replacement runs before it is stopped"
		p.assign(job, class, at, WhyDrain, t.ID)
		return
	}
	w := howMoved(job, t, n, at.node, o.action == ActCheckpoint)
	if f.Action, f.Mode, f.Note = w.action, w.mode, w.note; w.first {
		p.assignMove(job, class, at, t, w.move)
		return
	}
	p.take(class, at) // so that two tasks do not count on the same room
	p.stop(t, stopMoved, true)
}

// refuge is the place that a task of the job would move to, nil if there is
// none: one that takes it while it runs, if there is such a one. Drains, of people
// and of failing hardware, and defragmentation all ask here: a task has one place
// to go, whoever wants it gone.
func (p *planner) refuge(job *placement.Job, from *placement.Node) (*space, *class) {
	class := p.class(job)
	if at := p.pickAlike(class, job.Kind, from); at != nil {
		return at, class
	}
	return p.pick(class, failedOn(job)), class
}

// stopMoved is the reason of a stop after which the job wants a new task.
const stopMoved = "its node is drained"

// keepRoom holds the place that a task was stopped for until its job asks for
// it, so that the queue does not take it meanwhile.
func (p *planner) keepRoom(job *placement.Job, t *placement.Task) {
	if t.StopReason != stopMoved || job.StopRequested {
		return
	}
	class := p.class(job)
	if at := p.pick(class, ""); at != nil {
		p.take(class, at)
	}
}

// block leaves the task where it is and says why.
func (p *planner) block(f *Fate, c *class, t *placement.Task, o order) {
	e := p.explainClass(c)
	f.Action, f.Code, f.Note, f.Hint = ActBlocked, string(e.Code), e.Reason, e.Hint
	if o.force {
		f.Action, f.Note = ActStop, "the deadline passed and there is no place for it: "+e.Reason
		p.stop(t, "the drain's deadline passed and no other place may hold it", false)
	}
}

// stop records the end of a task.
func (p *planner) stop(t *placement.Task, reason string, again bool) {
	p.out.Stop = append(p.out.Stop, Stop{Task: t.ID, Job: t.Job, Reason: reason, Again: again})
}

// miss decides about a task whose node is silent: a service gets a second copy
// after its patience, a singleton when its lease has ended, a batch task never
// by itself.
func (p *planner) miss(job *placement.Job, t *placement.Task, n *placement.Node) {
	if t.Stop || job.StopRequested {
		return
	}
	if p.onTheMove(&Fate{}, t, n) {
		return
	}
	var due time.Time
	switch {
	case job.Spec.Singleton:
		if due = t.LeaseUntil; due.IsZero() || job.Spec.Type == placement.TypeBatch && job.Spec.Restart.Policy == "never" {
			return
		}
	case job.Spec.Type == placement.TypeService:
		due = n.ContactAt.Add(p.class(job).policy.patient)
	default:
		return
	}
	if p.covered(&Fate{}, job, t) {
		return
	}
	if job.HeldBack(p.s.Now) && job.NotBefore.After(due) {
		due = job.NotBefore
	}
	if due.After(p.s.Now) {
		p.wake(due)
		return
	}
	class := p.class(job)
	if at := p.pick(class, t.Node); at != nil {
		p.assign(job, class, at, WhyLost, t.ID)
	}
}

// expired reports whether a singleton's lease has ended, so that its node has
// ended the task.
func (p *planner) expired(t *placement.Task) bool {
	return !t.LeaseUntil.IsZero() && t.LeaseUntil.Before(p.s.Now)
}
