package scheduler

import (
	"fmt"
	"strings"

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
	// fail first, the later in the chain if equal. Empty if the job fits.
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
	// Changes are single relaxations, each of which would let it in now.
	Changes []Change `json:"changes,omitempty"`
}

// Count is how many nodes fail a constraint first.
type Count struct {
	Constraint Constraint `json:"constraint"`
	Nodes      int        `json:"nodes"`
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
	p := newPlanner(s)
	return p.explainClass(p.class(job))
}

// survey is one pass over the nodes: what each constraint keeps away, and what
// lifting it alone would give.
type survey struct {
	first  [len(chain)]int // nodes whose first failing filter it is
	lifted [len(chain)]int // nodes that would fit without it
	fit    int
	ever   int // lawful nodes that could hold it if they were empty and ready
	// ideal counts, for the lawful nodes that could never, the first failing
	// filter of the empty node.
	ideal  [len(chain)]int
	lawful int
	site   *verdict // of the first unlawful node
	right  *verdict // of the first lawful one
	// The most that a node has which fails nothing else.
	cpu    placement.MilliCPU
	memory placement.Bytes
	gpus   int
	models map[int32]bool // shapes that would do if the model did not matter
	device placement.Bytes
}

// explainClass surveys the class once; every job of it gets the same answer.
func (p *planner) explainClass(c *class) Explanation {
	if c.told == nil {
		e := p.tell(c, p.survey(c))
		c.told = &e
	}
	return *c.told
}

func (p *planner) survey(c *class) *survey {
	v := &survey{models: make(map[int32]bool)}
	for i := range p.spaces {
		v.look(c, &p.spaces[i])
	}
	return v
}

// look adds one node to the survey.
func (v *survey) look(c *class, at *space) {
	f := c.fixed[at.index] | c.room(at)
	if f&failLaw == 0 {
		v.lawful++
		if v.right == nil {
			v.right = c.policy.at(at.node.Site)
		}
		if g := c.empty(at); g == 0 {
			v.ever++
		} else {
			v.ideal[g.first()]++
		}
	} else if v.site == nil {
		v.site = c.policy.at(at.node.Site)
	}
	if f == 0 {
		v.fit++
		return
	}
	v.first[f.first()]++
	v.lift(c, at, f)
}

// lift notes what would let the node take the job if one filter were lifted.
func (v *survey) lift(c *class, at *space, f faults) {
	if f&failGPU != 0 && f&^failGPU == 0 {
		v.liftGPU(c, at)
		return
	}
	if f&(f-1) != 0 {
		return // fails more than one
	}
	v.lifted[f.first()]++
	switch f {
	case failCPU:
		v.cpu = max(v.cpu, at.cpu)
	case failMemory:
		v.memory = max(v.memory, at.memory)
	}
}

// liftGPU looks which of number, model and memory, lifted alone, would do.
func (v *survey) liftGPU(c *class, at *space) {
	t := c.tally(at.free)
	if t.both > 0 {
		v.gpus = max(v.gpus, t.both)
		v.lifted[failCount.first()]++
	}
	if t.memory >= c.res.GPUs {
		v.lifted[failModel.first()]++
		for _, l := range at.free {
			if l.count > 0 && c.shape(l.shape)&fitMemory != 0 {
				v.models[l.shape] = true
			}
		}
	}
	if t.model >= c.res.GPUs {
		v.lifted[failGPUMemory.first()]++
		for _, l := range at.free {
			if l.count > 0 && c.shape(l.shape)&fitModel != 0 {
				v.device = max(v.device, c.p.shapes.list[l.shape].memory)
			}
		}
	}
}

// empty are the filters that the node would fail even if it were ready, in
// contact and held nothing; every device that it lists counts.
func (c *class) empty(at *space) faults {
	n := at.node
	f := c.fixed[at.index] & (failPinned | failDriver)
	if n.Inventory.CPU < c.res.CPU {
		f |= failCPU
	}
	if n.Inventory.Memory < c.res.Memory {
		f |= failMemory
	}
	if c.res.GPUs > 0 {
		lots, _ := c.p.shapes.count(n, nil, func(*placement.Device) bool { return true })
		f |= c.devices(lots)
	}
	return f
}

// tell turns a survey into the explanation.
func (p *planner) tell(c *class, v *survey) Explanation {
	e := Explanation{
		Region: p.s.Region, LawPack: p.court.packHash(), On: p.court.on.String(),
		Nodes: len(p.spaces), Fitting: v.fit, Counts: []Count{},
	}
	for i, n := range v.first {
		if n > 0 {
			e.Counts = append(e.Counts, Count{chain[i], n})
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
		p.tellUnlawful(&e, v)
	case v.ever == 0:
		p.tellNever(&e, c, v)
	default:
		p.tellFull(&e, c, v)
	}
	if v.fit == 0 {
		e.Changes = changes(c, v)
	}
	return e
}

// tellUnlawful speaks of a region in which no node is lawful. One that is
// unknown makes the whole answer unknown: it may yet turn out lawful.
func (p *planner) tellUnlawful(e *Explanation, v *survey) {
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
	e.Hint = "see which regions satisfy the tag: sovmesh residency check TAG"
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
	lawful := v.first
	lawful[failRefused.first()], lawful[failUnknown.first()] = 0, 0
	e.Outcome, e.Code = Full, dominant(lawful)
	at := indexOf(e.Code)
	e.Reason = fmt.Sprintf("no room now: of %s that may hold it, %d %s", nodes(v.lawful), lawful[at], c.lacks(e.Code))
	if out := e.Nodes - v.lawful; out > 0 {
		e.Reason += fmt.Sprintf("; %s outside its tag", nodes(out))
	}
	e.Hint = "it waits and starts when there is room"
	switch e.Code {
	case NodeState:
		e.Hint = "nodes take work again after: sovmesh node resume NODE"
	case NodeContact:
		e.Hint = "see which nodes are silent: sovmesh node list"
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

// wants says what of the demand the hardware cannot give.
func (c *class) wants(code Constraint) string {
	switch code {
	case NodePinned:
		return "it is bound to " + c.pin() + ", which is not here or not lawful for it"
	case NodeDriver:
		return fmt.Sprintf("none runs jobs of kind %s", c.kind)
	case FreeCPU:
		return fmt.Sprintf("none has %s cores", c.res.CPU)
	case FreeMemory:
		return fmt.Sprintf("none has %s of memory", c.res.Memory)
	case GPUModel:
		return fmt.Sprintf("none has %d GPUs of model %s", c.res.GPUs, c.res.GPUModel)
	case GPUMemory:
		return fmt.Sprintf("none has %d such GPUs with %s of memory each", c.res.GPUs, c.res.GPUMemory)
	}
	return fmt.Sprintf("none has %d GPUs", c.res.GPUs)
}

// lacks says what most nodes lack at the moment.
func (c *class) lacks(code Constraint) string {
	switch code {
	case NodeState:
		return "are cordoned or drained"
	case NodeContact:
		return "are silent"
	case NodePinned:
		return "are not " + c.pin()
	case NodeDriver:
		return fmt.Sprintf("run no jobs of kind %s", c.kind)
	case FreeCPU:
		return fmt.Sprintf("have less than %s cores free", c.res.CPU)
	case FreeMemory:
		return fmt.Sprintf("have less than %s of memory free", c.res.Memory)
	case GPUModel:
		return fmt.Sprintf("have fewer than %d GPUs of model %s free", c.res.GPUs, c.res.GPUModel)
	case GPUMemory:
		return fmt.Sprintf("have fewer than %d such GPUs with %s of memory free", c.res.GPUs, c.res.GPUMemory)
	}
	return fmt.Sprintf("have fewer than %d GPUs free", c.res.GPUs)
}

// pin names what the job is bound to.
func (c *class) pin() string {
	if c.node != "" {
		return fmt.Sprintf("node %s", c.node)
	}
	return fmt.Sprintf("site %s", c.site)
}

// changes lists the relaxations that would let the job in now.
func changes(c *class, v *survey) []Change {
	var out []Change
	for i, n := range v.lifted {
		if n > 0 {
			out = append(out, Change{chain[i], c.change(chain[i], v), n})
		}
	}
	return out
}

// change says in words what lifting the constraint would be.
func (c *class) change(code Constraint, v *survey) string {
	switch code {
	case ResidencyRefused:
		return "widen the residency tag: only the owner of the data may"
	case ResidencyUnknown:
		return "have the unknown facts of the place documented"
	case NodeState:
		return "resume the nodes that are cordoned or draining"
	case NodeContact:
		return "bring the silent nodes back"
	case NodePinned:
		return "drop the binding to " + c.pin()
	case NodeDriver:
		return fmt.Sprintf("give the nodes the driver %s", c.kind)
	case FreeCPU:
		return fmt.Sprintf("ask for cpu %s", v.cpu)
	case FreeMemory:
		return fmt.Sprintf("ask for memory %s", v.memory)
	case GPUModel:
		return "take another model: " + strings.Join(c.p.modelNames(v.models), ", ")
	case GPUMemory:
		return fmt.Sprintf("ask for gpu_memory %s", v.device)
	}
	return fmt.Sprintf("ask for %d GPUs", v.gpus)
}

// modelNames are the models of the given shapes in order of their numbers.
func (p *planner) modelNames(ids map[int32]bool) []string {
	var out []string
	seen := make(map[string]bool)
	for id, s := range p.shapes.list {
		if ids[int32(id)] && !seen[s.model] {
			seen[s.model] = true
			out = append(out, s.model)
		}
	}
	return out
}

// nodes counts nodes in words.
func nodes(n int) string {
	if n == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", n)
}
