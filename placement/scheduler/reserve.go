package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// QueueReserved is why a job waits though nodes would have room for it: that
// room is kept for one that comes before it.
const QueueReserved Constraint = "queue.reserved"

// reserveAfter is how long the first of the queue waits until room is kept for
// it. Before, whatever frees is given to who fits: nothing stands idle for a
// gang that would have fitted a moment later.
const reserveAfter = time.Minute

// reservation is what the plan keeps for the first job of the queue that does
// not fit: on each of some nodes the room of so many of its tasks. Other jobs
// take nothing there of which there is not enough.
type reservation struct {
	job   *placement.Job
	class *class
	need  map[int32]int // tasks to be, by node
}

// heldFrom reports whether the class would take room on the node that is kept.
func (p *planner) heldFrom(c *class, at *space) bool {
	if p.kept == nil {
		return false
	}
	n := p.kept.need[at.index]
	if n == 0 {
		return false
	}
	head := p.kept.class.res
	short := func(free, takes, needs int64) bool { return takes > 0 && needs > 0 && free-takes < needs }
	return short(int64(at.cpu), int64(c.res.CPU), int64(head.CPU)*int64(n)) ||
		short(int64(at.memory), int64(c.res.Memory), int64(head.Memory)*int64(n)) ||
		short(int64(at.gpus), int64(c.res.GPUs), int64(head.GPUs)*int64(n))
}

// reserve keeps room for a job that was refused, if it is the first of those
// that could start once others end. Nodes that are nearly empty are kept first:
// nothing new goes there, so what runs there ends and the job starts. No running
// times are known, so nobody is let in on a promise to end in time.
func (p *planner) reserve(job *placement.Job, c *class) {
	since := waitedSince(job)
	if p.kept != nil || since.IsZero() || p.s.Now.Sub(since) < reserveAfter {
		return
	}
	type place struct {
		at   *space
		most int // tasks that the empty node holds
		used int64
	}
	var all []place
	total := 0
	for _, i := range c.open {
		at := &p.spaces[i]
		n := at.node
		if most := c.fitsIn(n.Inventory.CPU, n.Inventory.Memory, c.seats(at, true)); most > 0 {
			all = append(all, place{at, most, p.inUse(c, at)})
			total += most
		}
	}
	if total < job.Spec.Size() {
		return // some of them are closed or silent: it waits for those
	}
	slices.SortFunc(all, func(a, b place) int {
		return cmp.Or(cmp.Compare(c.score(a.at)>>scorePrefer, c.score(b.at)>>scorePrefer), cmp.Compare(a.used, b.used), cmp.Compare(a.at.index, b.at.index))
	})
	r := &reservation{job: job, class: c, need: map[int32]int{}}
	for left := job.Spec.Size(); left > 0; all = all[1:] {
		r.need[all[0].at.index] = min(left, all[0].most)
		left -= all[0].most
	}
	p.keep(r)
}

// keep puts a reservation into force for everything that follows in the plan.
func (p *planner) keep(r *reservation) {
	p.kept = r
	for i := range p.spaces {
		if r.need[int32(i)] > 0 {
			p.spaces[i].version++ // the classes' indexes look at it again
			p.log = append(p.log, int32(i))
		}
	}
}

// inUse is how much of what the class asks for is taken on the node: devices if
// it asks for any, else thousandths of its processor.
func (p *planner) inUse(c *class, at *space) int64 {
	if c.res.GPUs > 0 {
		return int64(len(at.node.Inventory.Devices)) - int64(at.gpus)
	}
	return int64(at.total-at.cpu) * 1000 / max(1, int64(at.total))
}

// refuse records that a job waits, and why; the first that could start when
// others end gets its room kept.
func (p *planner) refuse(job *placement.Job, c *class) {
	e := p.explainClass(c)
	switch {
	case e.Outcome == Fits && p.kept != nil:
		e = p.tellKept(e)
	case e.Outcome == Full:
		p.preempt(job, c)
		p.reserve(job, c)
		if p.kept != nil {
			e.Reserved = &Reserved{Nodes: len(p.kept.need), Job: p.kept.job.ID}
		}
	}
	p.out.Refused = append(p.out.Refused, Refusal{Job: job.ID, Explanation: e})
}

// tellKept says that room is free and not for this job.
func (p *planner) tellKept(e Explanation) Explanation {
	n := len(p.kept.need)
	e.Outcome, e.Code = Full, QueueReserved
	e.Reason = fmt.Sprintf("%s with room for it %s kept for a job that comes before it", nodes(n), isAre(n))
	e.Hint = "it waits until that job has started, or for room elsewhere"
	e.Reserved = &Reserved{Nodes: n, Job: p.kept.job.ID}
	return e
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// mayReserve reports whether some job waits long enough to have room kept for it.
func mayReserve(s *placement.Snapshot) bool {
	return slices.ContainsFunc(s.Wanted, func(j *placement.Job) bool {
		since := waitedSince(j)
		return !since.IsZero() && s.Now.Sub(since) >= reserveAfter
	})
}
