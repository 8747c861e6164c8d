package scheduler

import (
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Ahead is what a region's own queue takes and keeps before anybody who asks from
// elsewhere: the places of its jobs that fit now, and the room kept for the first
// that do not. To work it out costs a plan of the whole queue, so it serves all
// that is asked within a moment. Nothing changes it, and several may use it at once.
type Ahead struct {
	at     time.Time
	flying []Flying
	kept   []keeping
}

// keeping is a reservation that outlives its plan.
type keeping struct {
	job    *placement.Job
	barred string
	need   map[placement.NodeID]int
	until  time.Time
	closed bool
}

// aheadFor is for how long the queue is not looked at again. What is decided by it
// is a hint: what is true is judged where it is committed.
const aheadFor = time.Second

// AheadOf works out what comes first in a snapshot.
func AheadOf(s placement.Snapshot) *Ahead {
	a := &Ahead{at: s.Now}
	if !mayReserve(&s) {
		return a
	}
	p := newPlanner(s)
	p.serve()
	for _, one := range p.out.Assign {
		job := s.Jobs[one.Job]
		if job == nil {
			continue
		}
		hold, held := s.Held[one.Job]
		a.flying = append(a.flying, Flying{Assignment: one, Spec: job, Kept: held && hold.Node == one.Node && !job.Spec.Gang()})
	}
	for _, r := range p.kept {
		k := keeping{job: r.job, barred: r.class.barred, need: make(map[placement.NodeID]int, len(r.need)), until: r.until, closed: r.closed}
		for i, n := range r.need {
			k.need[p.spaces[i].node.ID] = n
		}
		a.kept = append(a.kept, k)
	}
	return a
}

// Serves reports whether it may still be used at that time.
func (a *Ahead) Serves(now time.Time) bool {
	age := now.Sub(a.at)
	return age >= 0 && age < aheadFor
}

// Place finds room for one job in a snapshot behind all that comes first; nil if
// there is none. The explanation is the state before it.
func (a *Ahead) Place(s placement.Snapshot, job *placement.Job) (*placement.Assignment, Explanation) {
	p := newPlanner(Assume(s, a.still(&s)))
	a.keep(p)
	tenant := p.tenancy(job.Tenant)
	whole, barred := tenant.limited(job)
	if whole != nil {
		return nil, p.overLimit(job, whole)
	}
	class := p.classBut(job, barred)
	told := p.explainClass(class)
	if barred != "" && told.Outcome != Fits && p.explainClass(p.class(job)).Outcome == Fits {
		return nil, p.overLimit(job, tenant.barredBound(job, barred))
	}
	if job.Spec.Gang() {
		return nil, told // its members are placed by [Plan] alone, together
	}
	at := p.pick(class, failedOn(job))
	if at == nil {
		return nil, told
	}
	p.assign(job, class, at, WhyNew, "")
	return &p.out.Assign[0], told
}

// still is what of it no snapshot shows yet: the others have their places, or want
// none any more.
func (a *Ahead) still(s *placement.Snapshot) (out []Flying) {
	if len(a.flying) == 0 {
		return nil
	}
	wanted := make(map[placement.JobID]bool, len(s.Wanted))
	for _, j := range s.Wanted {
		wanted[j.ID] = true
	}
	for _, f := range a.flying {
		if wanted[f.Job] {
			out = append(out, f)
		}
	}
	return out
}

// keep puts the reservations into force for a plan, on the nodes that it still has.
func (a *Ahead) keep(p *planner) {
	for i := range a.kept {
		k := &a.kept[i]
		r := &reservation{job: k.job, class: p.classBut(k.job, k.barred), need: make(map[int32]int, len(k.need)), until: k.until, closed: k.closed}
		for id, n := range k.need {
			if at := p.nodes[id]; at != nil {
				r.need[at.index] = n
			}
		}
		p.keep(r)
	}
}
