package scheduler

import (
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Outcome is the answer to "would it be placed here?".
type Outcome string

// The outcomes, best first.
const (
	Fits       Outcome = "fits"
	Full       Outcome = "full"       // lawful, but no capacity now
	Impossible Outcome = "impossible" // lawful, but no hardware of this region could ever hold it
	Refused    Outcome = "refused"    // not lawful in this region
	Unknown    Outcome = "unknown"    // nobody can say whether it is lawful here
)

// ExitCode is what the command line ends with on the outcome.
func (o Outcome) ExitCode() int {
	switch o {
	case Fits:
		return 0
	case Full:
		return 10
	case Impossible:
		return 11
	case Refused:
		return 20
	}
	return 30
}

// Explanation says why a job is where it is, from the filter chain itself. It
// names no node: whoever asks may not be allowed to see them.
type Explanation struct {
	Region  placement.RegionID `json:"region"`
	Outcome Outcome            `json:"outcome"`
	// Code is the dominant constraint: the one that most of the lawful nodes
	// that could hold the job fail first (of an impossible job: most of the
	// lawful nodes if they were empty), the later in the chain if equal. Empty
	// if the job fits.
	Code   Constraint `json:"code,omitempty"`
	Reason string     `json:"reason"`
	Hint   string     `json:"hint,omitempty"`
	// Rule, LawPack and On say which law decided.
	Rule    string `json:"rule"`
	LawPack string `json:"law_pack"`
	On      string `json:"on"`
	// Nodes is how many were looked at; Fitting plus all Counts make it up.
	Nodes   int     `json:"nodes"`
	Fitting int     `json:"fitting"`
	Counts  []Count `json:"counts"`
	// LargestHole is the most GPUs that would serve the job and are free on one
	// node that fails nothing else.
	LargestHole int `json:"largest_hole,omitempty"`
	// Brief is the counts in one line, the most first.
	Brief string `json:"brief"`
	// Changes are single relaxations, each of which would let it in now.
	Changes []Change `json:"changes,omitempty"`
	// Reserved is room that the job may not have though it is free; nil for none.
	Reserved *Reserved `json:"reserved,omitempty"`
	// NextTry is when room may be made for it, if only time stands in the way;
	// zero if something else does.
	NextTry time.Time `json:"next_try,omitzero"`
}

// Reserved is room kept for the first of the queue, which needs more than is
// free together.
type Reserved struct {
	Nodes int `json:"nodes"` // kept
	// Job is who it is kept for; whoever shows it asks first whether the asker may
	// know of that job.
	Job placement.JobID `json:"job,omitempty"`
	// Until is when it is given back, or the job is expected to start; zero if
	// nobody knows.
	Until time.Time `json:"until,omitzero"`
}

// Count is how many nodes fail a constraint first.
type Count struct {
	Constraint Constraint `json:"constraint"`
	Nodes      int        `json:"nodes"`
	// Detail is what of the demand they fail, and how near they come.
	Detail string `json:"detail,omitempty"`
}

// Change is one relaxation and how many nodes would then fit.
type Change struct {
	Constraint Constraint `json:"constraint"`
	What       string     `json:"what"`
	Nodes      int        `json:"nodes"`
}

// Explain says where a job would fit in this region now and what keeps it from
// everywhere else.
func Explain(s placement.Snapshot, job *placement.Job) Explanation {
	return NewExplainer(s).Explain(job)
}

// Explainer explains jobs of one snapshot. What the whole queue has to be planned
// for is planned once for all of them. It is used by one goroutine at a time.
type Explainer struct {
	s       placement.Snapshot
	plain   *planner                         // nothing is placed in it
	queue   *planner                         // the whole queue is; nil until somebody asks
	refused map[placement.JobID]*Explanation // of that queue
}

// NewExplainer explains what the snapshot shows.
func NewExplainer(s placement.Snapshot) *Explainer { return &Explainer{s: s} }

// Explain is [Explain] of the snapshot.
func (x *Explainer) Explain(job *placement.Job) Explanation {
	if x.plain == nil {
		x.plain = surveyor(x.s)
	}
	p := x.plain
	tenant := p.tenancy(job.Tenant)
	whole, barred := tenant.limited(job)
	if job.Status != placement.JobPending && job.Status != "" {
		whole, barred = nil, "" // its own tasks are what is held
	}
	if whole != nil {
		return p.overLimit(job, whole)
	}
	e := p.explainClass(p.classBut(job, barred))
	if barred != "" && e.Outcome != Fits && p.explainClass(p.class(job)).Outcome == Fits {
		return p.overLimit(job, tenant.barredBound(job, barred))
	}
	if mayReserve(&x.s) && (e.Outcome == Fits || e.Outcome == Full) || x.s.TasksOn != nil && e.Outcome == Full {
		return x.explainQueued(job, e)
	}
	return e
}

// serve plans the whole queue.
func (x *Explainer) serve() {
	x.queue, x.refused = newPlanner(x.s), map[placement.JobID]*Explanation{}
	x.queue.serve()
	for i := range x.queue.out.Refused {
		r := &x.queue.out.Refused[i]
		x.refused[r.Job] = &r.Explanation
	}
}

// explainQueued adds what the queue as a whole means for the job: what the plan
// says if it waits, and whether it would get room beside what is kept if not.
func (x *Explainer) explainQueued(job *placement.Job, e Explanation) Explanation {
	if x.queue == nil {
		x.serve()
	}
	p := x.queue
	if told := x.refused[job.ID]; told != nil && (len(p.kept) > 0 || p.noted[job.ID]) {
		return *told
	}
	if len(p.kept) == 0 {
		return e
	}
	if _, waits := x.s.Jobs[job.ID]; waits || e.Outcome != Fits {
		return e
	}
	c := p.class(job)
	_, room := p.berths(c, nil)
	if room < job.Spec.Size() {
		return p.tellKept(e)
	}
	return e
}

// explainClass surveys the class once; every job of it gets the same answer, and so
// does whoever is refused and differs in what only orders nodes. Who finds room is
// not told for another: the next may find it taken.
func (p *planner) explainClass(c *class) Explanation {
	if c.told != nil {
		return *c.told
	}
	alike := c.classKey
	alike.tenant, alike.lasts, alike.near, alike.rank = "", 0, "", placement.Rank{}
	e, known := p.told[alike]
	if !known {
		if e = p.tell(c, p.survey(c)); e.Outcome != Fits {
			p.told[alike] = e
		}
	}
	c.told = &e
	return e
}

// tell turns a survey into the explanation.
func (p *planner) tell(c *class, v *survey) Explanation {
	e := Explanation{
		Region: p.s.Region, LawPack: p.court.packHash(), On: p.court.on.String(),
		Nodes: len(p.spaces), Fitting: v.fit, Counts: []Count{},
	}
	for i, n := range v.first {
		if n > 0 {
			e.Counts = append(e.Counts, Count{chain[i], n, c.detail(chain[i], v.hole)})
		}
	}
	switch {
	case v.right != nil:
		e.Rule = v.right.rule
	case v.site == nil: // no node at all: the region as a whole is judged
		v.site = c.policy.at("")
		e.Rule = v.site.rule
	}
	switch {
	case v.fit > 0:
		e.Outcome, e.Reason = Fits, fmt.Sprintf("%s could take it now", nodes(v.fit))
	case v.lawful == 0 && v.site.constraint != "":
		tellUnlawful(&e, c, v)
	case v.ever == 0:
		p.tellNever(&e, c, v)
	default:
		p.tellFull(&e, c, v)
	}
	p.tellGang(&e, c)
	e.LargestHole = v.hole
	if v.fit == 0 {
		e.Changes = changes(c, v)
	}
	e.Brief = c.brief(&e)
	return e
}

// tellUnlawful speaks of a region in which no node is lawful. One that is
// unknown makes the whole answer unknown: it may yet turn out lawful.
func tellUnlawful(e *Explanation, c *class, v *survey) {
	worst := v.site
	e.Outcome, e.Code = Refused, ResidencyRefused
	if v.first[failUnknown.first()] > 0 || worst.constraint == ResidencyUnknown {
		e.Outcome, e.Code = Unknown, ResidencyUnknown
	}
	e.Rule, e.Reason = worst.rule, worst.reason
	if e.Outcome == Unknown {
		e.Hint = "an unknown fact satisfies no rule: have the region's facts documented, or name what is known in the tag"
		return
	}
	e.Hint = fmt.Sprintf("see which regions satisfy the tag: sovmesh residency check '%s'", c.policy.tag)
}

// tellNever speaks of hardware that is not there.
func (p *planner) tellNever(e *Explanation, c *class, v *survey) {
	e.Outcome, e.Code = Impossible, dominant(v.ideal)
	e.Reason = fmt.Sprintf("no node of region %s could ever hold it, even empty: %s", e.Region, c.wants(e.Code))
	e.Hint = "ask for less, or for what the region has: sovmesh gpu list, sovmesh node list"
	if len(p.spaces) == 0 {
		e.Outcome, e.Code = Full, NodeState
		e.Reason = fmt.Sprintf("region %s has no node", e.Region)
		e.Hint = "add a node: sovmesh node token create"
	}
}

// tellFull speaks of room that is taken at the moment.
func (p *planner) tellFull(e *Explanation, c *class, v *survey) {
	e.Outcome, e.Code = Full, dominant(v.busy)
	n := v.busy[indexOf(e.Code)]
	e.Reason = fmt.Sprintf("no room now: %d of %s that could hold it %s", n, nodes(v.ever), c.lacks(e.Code, n))
	e.Hint = "it waits and starts when there is room"
	switch e.Code {
	case NodeState:
		e.Hint = "nodes take work again after: sovmesh node resume NODE"
	case NodeContact:
		e.Hint = "see which nodes are silent: sovmesh node list"
	case GPUHealth:
		e.Hint = "see what is wrong with them: sovmesh gpu list"
	}
}

// dominant is the constraint with the highest count, the later one if equal.
func dominant(counts [len(chain)]int) Constraint {
	best := 0
	for i, n := range counts {
		if n > 0 && n >= counts[best] {
			best = i
		}
	}
	return chain[best]
}

func indexOf(c Constraint) int {
	for i := range chain {
		if chain[i] == c {
			return i
		}
	}
	return 0
}
