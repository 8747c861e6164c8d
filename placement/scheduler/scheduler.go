// Package scheduler decides where tasks run.
//
// It is a pure function of a snapshot: no I/O, no clock, no randomness, no
// error return, and the same answer whatever order maps are walked in. What it
// decides is exact (task, node, devices), so that a node has nothing left to
// decide; what it cannot decide comes back as a [Refusal] with its reason.
//
// The rule that must hold: nothing is ever assigned outside its residency
// policy, whatever else is full, drained or silent. A place that is not lawful
// is not a worse place, it is none.
//
// The controller of a region's leader proposes what [Plan] says; the API shows
// [Explain] and [PlanDrain]; forwarding asks [Rank] which regions to try.
package scheduler

import (
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Decisions are what one plan wants changed. Everything in it fits together:
// capacity given to one assignment is not given to another.
type Decisions struct {
	// Assign are new tasks, exact to node and devices.
	Assign []placement.Assignment
	// Stop are tasks that a drain or a finished replacement ends.
	Stop []Stop
	// Preempt are tasks to end so that a job has room.
	Preempt []Preemption
	// Refused are the wanted jobs that found no node, in queue order.
	Refused []Refusal
	// Drained are the draining nodes with no live task left, sorted.
	Drained []placement.NodeID
	// Wake is when the next decision falls due by time alone (a drain's
	// deadline, a restart held back, a lease, a partition's limit); zero when
	// nothing waits for time.
	Wake time.Time
}

// Empty reports whether there is nothing to propose. Refusals and Wake are not
// proposals.
func (d Decisions) Empty() bool { return len(d.Assign)+len(d.Stop)+len(d.Preempt)+len(d.Drained) == 0 }

// Stop ends one task; its job's stop_grace is how long it gets.
type Stop struct {
	Task   placement.TaskID
	Job    placement.JobID
	Reason string
	// Again: the job wants a new task elsewhere once this one has ended.
	Again bool
}

// Refusal is a wanted job that found no node now, with the whole reason.
type Refusal struct {
	Job         placement.JobID
	Explanation Explanation
}

// The reasons that an assignment's record gives (placement.Why).
const (
	WhyNew     = "new"
	WhyRestart = "restart"
	WhyDrain   = "drain"
	WhyLost    = "lost" // its node is silent for longer than its tag allows
)

// Plan decides everything that the snapshot calls for: replacements and stops
// for draining and silent nodes first, so that a long queue cannot hold a drain
// up, then the wanted jobs in the order of the queue. What was decided and applied is not
// decided again.
//
// It is [Scheduler.Plan] of one that has learned from the snapshot's own jobs
// alone.
func Plan(s placement.Snapshot) Decisions { return New().Plan(s) }

// Place finds room for one job now, as [Plan] would if it were alone in the
// queue, behind whoever waits in it; nil if there is none. The explanation is the
// state before it. Whoever asks often keeps the [Ahead].
func Place(s placement.Snapshot, job *placement.Job) (*placement.Assignment, Explanation) {
	return AheadOf(s).Place(s, job)
}

// want finds a node for one more task of a job.
func (p *planner) want(job *placement.Job) {
	if job.StopRequested || job.Status.Terminal() {
		return
	}
	if job.HeldBack(p.s.Now) {
		p.wake(job.NotBefore)
		return
	}
	if p.made[job.ID] > 0 || p.fenced(job) {
		return
	}
	reason := WhyNew
	if job.Attempts > 0 {
		reason = WhyRestart
	}
	tenant := p.tenancy(job.Tenant)
	whole, barred := tenant.limited(job)
	if whole != nil {
		p.out.Refused = append(p.out.Refused, Refusal{Job: job.ID, Explanation: p.overLimit(job, whole)})
		return
	}
	class := p.classBut(job, barred)
	switch {
	case p.claim(job, class, reason):
	case job.Spec.Gang():
		if !p.wantGang(job, class, reason) {
			p.turnAway(job, class)
		}
	default:
		at := p.pick(class, failedOn(job))
		if at == nil {
			p.turnAway(job, class)
			return
		}
		p.assign(job, class, at, reason, "")
		p.charge(job, at, p.out.Assign[len(p.out.Assign)-1].Devices)
	}
}

// turnAway refuses a job for which there is no room, or none among the devices
// that its tenant may still have.
func (p *planner) turnAway(job *placement.Job, c *class) {
	if c.barred != "" && p.explainClass(p.class(job)).Outcome == Fits {
		t := p.tenancy(job.Tenant)
		p.out.Refused = append(p.out.Refused, Refusal{Job: job.ID, Explanation: p.overLimit(job, t.barredBound(job, c.barred))})
		return
	}
	p.refuse(job, c)
}

// claim places a job on the room that is held for it, if that node still may
// have it; the room is counted as used already.
func (p *planner) claim(job *placement.Job, c *class, reason string) bool {
	hold, ok := p.s.Held[job.ID]
	if !ok || job.Spec.Gang() {
		return false
	}
	at := p.nodes[hold.Node]
	if at == nil || c.fixed[at.index] != 0 || len(hold.Devices) != c.res.GPUs {
		return false
	}
	a := p.record(job, c, at, reason)
	a.Devices = slices.Clone(hold.Devices)
	p.out.Assign = append(p.out.Assign, a)
	return true
}

// failedOn is the node that a restarted job should rather not return to.
func failedOn(job *placement.Job) placement.NodeID {
	if job.Attempts == 0 {
		return ""
	}
	return job.Node
}

// fenced reports whether another copy of a singleton may still run: nobody
// starts a second one.
func (p *planner) fenced(job *placement.Job) bool {
	return job.Spec.Singleton && slices.ContainsFunc(p.tasks[job.ID], func(t *placement.Task) bool { return !p.expired(t) })
}

// assign takes room on the node and records the assignment.
func (p *planner) assign(job *placement.Job, c *class, at *space, reason string, replaces placement.TaskID) {
	a := p.record(job, c, at, reason)
	a.Replaces = replaces
	a.Devices = p.take(c, at)
	p.out.Assign = append(p.out.Assign, a)
}

// record is an assignment without its devices. The attempts of a job count
// from 1.
func (p *planner) record(job *placement.Job, c *class, at *space, reason string) placement.Assignment {
	p.made[job.ID]++
	a := placement.Assignment{
		Task: job.ID.Task(0, job.Attempts+p.made[job.ID]),
		Job:  job.ID,
		Node: at.node.ID,
		Why:  c.policy.why(at.node.Site),
	}
	a.Why.Score, a.Why.Reason = int64(c.score(at)), reason
	return a
}

// wake remembers the earliest time at which something falls due.
func (p *planner) wake(at time.Time) {
	if at.After(p.s.Now) && (p.out.Wake.IsZero() || at.Before(p.out.Wake)) {
		p.out.Wake = at
	}
}

// finishDrains names the draining nodes that hold nothing any more.
func (p *planner) finishDrains() {
	busy := make(map[placement.NodeID]bool)
	for _, t := range p.s.Tasks {
		if t.Status.Live() {
			busy[t.Node] = true
		}
	}
	for _, a := range p.out.Assign {
		busy[a.Node] = true
	}
	for _, n := range p.s.Nodes {
		if n.State == placement.NodeDraining && n.Used.Tasks == 0 && !busy[n.ID] {
			p.out.Drained = append(p.out.Drained, n.ID)
		}
	}
	slices.SortFunc(p.out.Drained, func(a, b placement.NodeID) int { return strings.Compare(string(a), string(b)) })
}
