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
	made  bool          // others end, or will be ended, for it
	// until is when all that runs on those nodes has ended at the latest; zero if
	// nobody knows. closed: nobody is let in before, whatever it promises.
	until  time.Time
	closed bool
}

// lookAhead bounds of how many nodes a reservation asks when they become empty.
const lookAhead = 256

// heldFrom reports whether so many tasks of the class would take room on the node
// that is kept.
func (p *planner) heldFrom(c *class, at *space, tasks int) bool {
	r := p.keptOn(at)
	if r == nil || c.lasts > 0 && !r.closed && !p.s.Now.Add(c.lasts).After(r.until) {
		return false
	}
	n, head := r.need[at.index], r.class.res
	short := func(free, takes, needs int64) bool { return takes > 0 && needs > 0 && free-takes < needs }
	return short(int64(at.cpu), int64(c.res.CPU)*int64(tasks), int64(head.CPU)*int64(n)) ||
		short(int64(at.memory), int64(c.res.Memory)*int64(tasks), int64(head.Memory)*int64(n)) ||
		r.class.shortBeside(c, at, n, c.res.GPUs*tasks)
}

// keptOn is the reservation that the node is part of, nil for none.
func (p *planner) keptOn(at *space) *reservation {
	for _, r := range p.kept {
		if r.need[at.index] > 0 {
			return r
		}
	}
	return nil
}

// shortBeside reports whether the node would have too few devices left for so many
// tasks of the head's class if the other class took some. Only devices that the
// head could use count, and only those are missed.
func (head *class) shortBeside(c *class, at *space, n, devices int) bool {
	if head.res.GPUs == 0 || c.res.GPUs == 0 {
		return false
	}
	if head.res.GPUShare > 0 { // each device taken is the seat of some shares
		lost := min(devices, head.common(c, at)) * int(placement.WholeGPU/head.res.GPUShare)
		return lost > 0 && head.seats(at, false)-lost < n
	}
	free, both := 0, 0
	for _, l := range at.free {
		if l.count <= 0 || head.shape(l.shape) != fitAll {
			continue
		}
		free += int(l.count)
		if c.shape(l.shape) == fitAll {
			both += int(l.count)
		}
	}
	takes := min(devices, both)
	return takes > 0 && free-takes < head.res.GPUs*n
}

// common is how many devices of the node may be given to either class.
func (head *class) common(c *class, at *space) (n int) {
	for i := range at.node.Inventory.Devices {
		d := &at.node.Inventory.Devices[i]
		id := head.p.shapes.of(d, 0)
		if d.Offered() && head.shape(id) == fitAll && c.shape(id) == fitAll && at.idle(d) > 0 {
			n++
		}
	}
	return n
}

// reserve keeps room for a job that was refused, if it is the first of those
// that could start once others end. Nodes that are nearly empty are kept first:
// nothing new goes there, so what runs there ends and the job starts. Where the
// running times of all that is there are known, nodes that end first are kept, and
// who ends before the last of them is let in until the job has waited too long.
func (p *planner) reserve(job *placement.Job, c *class) {
	since := waitedSince(job)
	if len(p.kept) > 0 || since.IsZero() || p.s.Now.Sub(since) < reserveAfter {
		return
	}
	type place struct {
		at   *space
		most int // tasks that the empty node holds
		used int64
		end  time.Time // when it is empty at the latest, if sure
		sure bool
	}
	var all []place
	total := 0
	for _, i := range c.open {
		at := &p.spaces[i]
		n := at.node
		if most := c.fitsIn(n.Inventory.CPU, n.Inventory.Memory, c.seats(at, true)); most > 0 {
			all = append(all, place{at: at, most: most, used: p.inUse(c, at)})
			total += most
		}
	}
	if total < job.Spec.Size() {
		return // some of them are closed or silent: it waits for those
	}
	slices.SortFunc(all, func(a, b place) int {
		return cmp.Or(cmp.Compare(c.score(a.at)>>scorePrefer, c.score(b.at)>>scorePrefer), cmp.Compare(a.used, b.used), cmp.Compare(a.at.index, b.at.index))
	})
	if p.s.Ends != nil {
		few := all[:min(lookAhead, len(all))]
		for i := range few {
			if few[i].end, few[i].sure = p.s.Ends(few[i].at.node.ID); few[i].end.IsZero() {
				few[i].end = p.s.Now
			}
		}
		slices.SortStableFunc(few, func(a, b place) int {
			return cmp.Or(cmp.Compare(c.score(a.at)>>scorePrefer, c.score(b.at)>>scorePrefer), cmp.Compare(b2i(b.sure), b2i(a.sure)),
				cmp.Compare(b2i(a.sure)*int(a.end.Sub(p.s.Now)), b2i(b.sure)*int(b.end.Sub(p.s.Now))))
		})
	}
	r := &reservation{job: job, class: c, need: map[int32]int{}, until: p.s.Now, closed: job.Aged(p.s.Now)}
	for left := job.Spec.Size(); left > 0; all = all[1:] {
		r.need[all[0].at.index] = min(left, all[0].most)
		left -= all[0].most
		switch at := all[0]; {
		case !at.sure || r.until.IsZero():
			r.until = time.Time{}
		case at.end.After(r.until):
			r.until = at.end
		}
	}
	p.keep(r)
}

// keep puts a reservation into force for everything that follows in the plan.
func (p *planner) keep(r *reservation) {
	p.kept = append(p.kept, r)
	for i := range p.spaces {
		if r.need[int32(i)] > 0 {
			p.spaces[i].version++ // the classes' indexes look at it again
			p.log = append(p.log, int32(i))
		}
	}
}

// inUse is how much of what the class asks for is taken on the node: devices that
// it could use if it asks for any, else thousandths of its processor.
func (p *planner) inUse(c *class, at *space) (n int64) {
	if c.res.GPUs > 0 {
		for i := range at.node.Inventory.Devices {
			d := &at.node.Inventory.Devices[i]
			if !d.Partitioned && c.shape(p.shapes.of(d, 0)) == fitAll && at.idle(d) < placement.WholeGPU {
				n++
			}
		}
		return n
	}
	return int64(at.total-at.cpu) * 1000 / max(1, int64(at.total))
}

// refuse records that a job waits, and why; the first that could start when
// others end gets its room kept.
func (p *planner) refuse(job *placement.Job, c *class) {
	e := p.explainClass(c)
	switch {
	case e.Outcome == Fits && len(p.kept) > 0:
		e = p.tellKept(e)
	case e.Outcome == Full:
		if not := p.preempt(job, c); not.why != "" {
			not.tell(&e)
			p.noted[job.ID] = true
		}
		p.reserve(job, c)
		e.Reserved = p.reservedFor(job)
	}
	p.out.Refused = append(p.out.Refused, Refusal{Job: job.ID, Explanation: e})
}

// tell says that room can be made for the job, and why not yet.
func (n notYet) tell(e *Explanation) {
	when := ""
	if !n.at.IsZero() {
		when = " at " + n.at.UTC().Format("15:04:05")
	}
	e.Reason += "; room may be made for it" + when + ": " + n.why
	e.NextTry = n.at
}

// tellKept says that room is free and not for this job.
func (p *planner) tellKept(e Explanation) Explanation {
	first, n := p.kept[0], 0
	for _, r := range p.kept {
		n += len(r.need)
	}
	who, until := "a job that comes", "that job has"
	if len(p.kept) > 1 {
		who, until = "jobs that come", "those jobs have"
	}
	e.Outcome, e.Code = Full, QueueReserved
	e.Reason = fmt.Sprintf("%s with room for it %s kept for %s before it", nodes(n), isAre(n), who)
	e.Hint = "it waits until " + until + " started, or for room elsewhere"
	e.Reserved = &Reserved{Nodes: n, Job: first.job.ID, Until: first.until}
	return e
}

// reservedFor is the room that is kept for a refused job, else that of the first
// before it; nil if none is.
func (p *planner) reservedFor(job *placement.Job) *Reserved {
	for i := len(p.kept) - 1; i >= 0; i-- {
		if r := p.kept[i]; i == 0 || r.job.ID == job.ID {
			return &Reserved{Nodes: len(r.need), Job: r.job.ID, Until: r.until}
		}
	}
	return nil
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
