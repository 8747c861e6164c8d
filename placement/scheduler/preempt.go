package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Preemption ends tasks so that a job which waits has room.
type Preemption struct {
	For   placement.JobID
	Tasks []placement.TaskID // one of each gang: the state ends the others with it
}

// preemptTries bounds for how many refused jobs one plan looks for victims.
const preemptTries = 4

// victim is a job that would be ended, and what that costs.
type victim struct {
	job   *placement.Job
	tasks []*placement.Task // all of them
	why   string
	lost  int64     // device-seconds, or core-seconds, since they began
	until time.Time // protected by its minimum run; zero if no more
}

// cheaper orders victims: a gang is broken last; what was borrowed goes before
// what was not, the lower priority, less work lost, the younger.
func cheaper(a, b *victim) int {
	own := func(v *victim) int {
		if v.why == placement.PreemptReclaim {
			return 0
		}
		return 1
	}
	return cmp.Or(a.until.Compare(b.until), cmp.Compare(b2i(a.job.Spec.Gang()), b2i(b.job.Spec.Gang())), cmp.Compare(own(a), own(b)), cmp.Compare(a.job.Spec.Priority, b.job.Spec.Priority),
		cmp.Compare(a.lost, b.lost), b.job.SubmittedAt.Compare(a.job.SubmittedAt), cmp.Compare(a.job.ID, b.job.ID))
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// preempt looks for tasks whose end gives the job room, simulates it, and asks
// for their end only if all of the job fits then. Room that is being made
// already is waited for. What is made, and what is free beside it, is kept. If
// only the first minute of some tasks stands in the way, or how many may be ended
// within an hour, it says when that is over.
//
// Room is made for one job at a time. For those behind it that could have some on
// other nodes it is kept there meanwhile: who is ended for the first would else
// start again on those, and be safe for its first minute.
func (p *planner) preempt(job *placement.Job, c *class) (not notYet) {
	if len(p.kept) > 0 && !p.kept[0].made || p.s.TasksOn == nil || p.tried >= preemptTries {
		return not
	}
	p.tried++
	open := slices.DeleteFunc(slices.Clone(c.open), func(i int32) bool { return p.keptOn(&p.spaces[i]) != nil })
	leaving, all := p.victims(job, open)
	gone := map[placement.NodeID][]*placement.Task{}
	for _, t := range leaving {
		gone[t.Node] = append(gone[t.Node], t)
	}
	room := func() (need map[int32]int, total int) {
		need = map[int32]int{}
		for _, i := range open {
			if n := p.roomWithout(c, &p.spaces[i], gone[p.spaces[i].node.ID]); n > 0 {
				need[i] = n
				total += n
			}
		}
		return need, total
	}
	size := job.Spec.Size()
	need, total := room()
	var chosen []*victim
	var early time.Time
	for _, v := range all {
		if total >= size {
			break
		}
		if v.until.After(early) {
			early = v.until // the protected ones come last
		}
		for _, t := range v.tasks {
			gone[t.Node] = append(gone[t.Node], t)
		}
		next, more := room2(p, c, gone, need, total, v)
		need, total = next, more
		chosen = append(chosen, v)
	}
	switch {
	case total < size:
		return not // it would not fit: nothing is ended
	case !early.IsZero():
		return notYet{early, "nobody is ended for another in the first minute"}
	}
	chosen = p.spare(c, size, total, gone, chosen)
	if len(chosen) == 0 && len(leaving) == 0 {
		return not
	}
	if not = p.affords(job, chosen); not.why != "" {
		return not
	}
	behind := len(p.kept) > 0
	p.keep(&reservation{job: job, class: c, need: p.berthsMade(c, open, size, gone), made: true})
	switch {
	case behind && len(chosen) > 0:
		return notYet{why: "it is being made for a job that comes before it"}
	case behind:
		return not // what leaves is enough
	}
	var tasks []placement.TaskID
	for _, v := range chosen {
		if v.job.Spec.Gang() {
			tasks = append(tasks, v.tasks[0].ID)
			continue
		}
		for _, t := range v.tasks {
			tasks = append(tasks, t.ID)
		}
	}
	for some := range slices.Chunk(tasks, placement.MaxPreempted) {
		p.out.Preempt = append(p.out.Preempt, Preemption{For: job.ID, Tasks: some})
	}
	return not
}

// notYet is why room is not made for a job that could have it, and until when; at
// is zero if time alone changes nothing.
type notYet struct {
	at  time.Time
	why string
}

// affords says what is wrong with ending all of the chosen: too many within an hour.
func (p *planner) affords(job *placement.Job, chosen []*victim) (not notYet) {
	if p.s.MayEnd == nil || len(chosen) == 0 {
		return not
	}
	tasks := 0
	for _, v := range chosen {
		tasks += len(v.tasks)
	}
	left, again := p.s.MayEnd(job.Tenant)
	if tasks <= left {
		return not
	}
	p.wake(again)
	return notYet{again, fmt.Sprintf("%s would be ended for it, and within an hour %d more may be for its tenant's jobs", count(tasks, "task"), left)}
}

// room2 is the room once a victim is gone, counted anew where it stood.
func room2(p *planner, c *class, gone map[placement.NodeID][]*placement.Task, need map[int32]int, total int, v *victim) (map[int32]int, int) {
	for _, t := range v.tasks {
		at := p.nodes[t.Node]
		if at == nil || c.fixed[at.index] != 0 || p.keptOn(at) != nil {
			continue
		}
		n := p.roomWithout(c, at, gone[t.Node])
		total += n - need[at.index]
		need[at.index] = n
	}
	return need, total
}

// spare leaves out victims, the dearest first, without whom the job fits too.
func (p *planner) spare(c *class, size, total int, gone map[placement.NodeID][]*placement.Task, chosen []*victim) []*victim {
	for i := len(chosen) - 1; i >= 0; i-- {
		v := chosen[i]
		without := total
		seen := map[placement.NodeID]bool{}
		for _, t := range v.tasks {
			at := p.nodes[t.Node]
			if seen[t.Node] || at == nil || c.fixed[at.index] != 0 || p.keptOn(at) != nil {
				continue
			}
			seen[t.Node] = true
			rest := slices.DeleteFunc(slices.Clone(gone[t.Node]), func(g *placement.Task) bool { return g.Job == v.job.ID })
			without += p.roomWithout(c, at, rest) - p.roomWithout(c, at, gone[t.Node])
		}
		if without < size {
			continue
		}
		total = without
		for id := range gone {
			gone[id] = slices.DeleteFunc(gone[id], func(g *placement.Task) bool { return g.Job == v.job.ID })
		}
		chosen = slices.Delete(chosen, i, i+1)
	}
	return chosen
}

// berthsMade are the nodes to keep: first those on which room is made.
func (p *planner) berthsMade(c *class, open []int32, size int, gone map[placement.NodeID][]*placement.Task) map[int32]int {
	need := map[int32]int{}
	for _, made := range []bool{true, false} {
		for _, i := range open {
			at := &p.spaces[i]
			if made != (len(gone[at.node.ID]) > 0) || size == 0 {
				continue
			}
			if n := min(size, p.roomWithout(c, at, gone[at.node.ID])); n > 0 {
				need[i] = n
				size -= n
			}
		}
	}
	return need
}

// victims are the tasks that are ending already on nodes that the job may have,
// and the jobs that may be ended for it, the cheapest first; those that have not
// run long enough yet are the last.
func (p *planner) victims(job *placement.Job, open []int32) (leaving []*placement.Task, out []*victim) {
	mine := &p.tenancy(job.Tenant).share
	found := map[placement.JobID]*victim{}
	for _, i := range open {
		for _, t := range p.s.TasksOn(p.spaces[i].node.ID) {
			if t.Stop {
				leaving = append(leaving, t)
				continue
			}
			v, seen := found[t.Job]
			if !seen {
				v = p.victim(job, t, mine)
				found[t.Job] = v
				if v != nil {
					out = append(out, v)
				}
			}
		}
	}
	slices.SortFunc(out, cheaper)
	back := placement.GivenBack{}
	return leaving, slices.DeleteFunc(out, func(v *victim) bool { // what is borrowed is less with each
		share := back.From(p.tenancy(v.job.Tenant).share)
		if placement.MayPreempt(job, v.job, p.takenBy(v.job), mine, share) == "" {
			return true
		}
		back.Add(share, p.takenBy(v.job))
		return false
	})
}

// victim is the job of a task, if it may be ended for the one that waits, now or
// once it has run long enough.
func (p *planner) victim(job *placement.Job, t *placement.Task, mine *placement.TenantShare) *victim {
	other := p.s.JobOf(t.Job)
	if other == nil {
		return nil
	}
	v := &victim{job: other, why: placement.MayPreempt(job, other, p.takenBy(other), mine, &p.tenancy(other.Tenant).share)}
	if v.why == "" {
		return nil
	}
	for _, m := range p.s.TasksOf(t.Job) {
		if !m.Status.Live() {
			continue
		}
		if m.Stop || m.Status == placement.TaskUnknown {
			return nil
		}
		if until := m.Protected(); p.s.Now.Before(until) && until.After(v.until) {
			p.wake(until)
			v.until = until
		}
		if !m.StartedAt.IsZero() {
			v.lost += int64(p.s.Now.Sub(m.StartedAt).Seconds()) * max(1, int64(len(m.Devices)))
		}
		v.tasks = append(v.tasks, m)
	}
	return v
}

// takenBy is what a job's live tasks hold of a class, by the devices that they were given.
func (p *planner) takenBy(job *placement.Job) placement.Takes {
	return func(class string) (n int64) {
		for _, t := range p.s.TasksOf(job.ID) {
			switch {
			case !t.Status.Live():
			case class == placement.ClassCPUs:
				n += int64(t.Resources.CPU)
			default:
				for _, id := range t.Devices {
					if at := p.nodes[t.Node]; at != nil && placement.OfClass(class, modelOf(at.node, id)) {
						n += int64(t.Resources.PerDevice())
					}
				}
			}
		}
		return n
	}
}

// roomWithout is how many tasks of the class fit on a node without some of
// those that it holds. A device counts once nobody holds a part of it.
func (p *planner) roomWithout(c *class, at *space, gone []*placement.Task) int {
	if len(gone) == 0 {
		return c.members(at)
	}
	cpu, memory := at.cpu, at.memory
	used := at.node.Used
	for _, t := range gone {
		cpu, memory = cpu+t.Resources.CPU, memory+t.Resources.Memory
		used = used.With(t.Resources, t.Devices, -1)
	}
	n := *at.node
	n.Used = used
	empty := *at
	empty.node, empty.cpu, empty.memory = &n, cpu, memory
	return c.fitsIn(cpu, memory, c.seats(&empty, false))
}
