package scheduler

import (
	"cmp"
	"container/heap"
	"slices"

	"github.com/sovmesh/sovmesh/placement"
)

// planner is one plan in the making. It is used by one goroutine, once.
type planner struct {
	s       placement.Snapshot
	court   *court
	mind    *Scheduler // what is learned and numbered across plans
	shapes  *shapes
	spaces  []space // the mind's, as this plan finds and leaves them
	classes map[classKey]*class
	tasks   map[placement.JobID][]*placement.Task
	nodes   map[placement.NodeID]*space
	made    map[placement.JobID]int // tasks assigned in this plan
	groups  map[groupKey]*group
	tenants map[placement.TenantID][]int32 // tasks by node, as far as the snapshot shows them
	log     []int32                        // nodes whose room changed, in order
	fates   []Fate
	out     Decisions
	lines   map[placement.TenantID]*tenancy
	joint   map[placement.RegionID]*joint
	all     estate
	told    map[classKey]Explanation // of those that were refused, see explainClass
	noted   map[placement.JobID]bool // jobs for which room may be made, but not yet
	kept    []*reservation           // of different nodes, in queue order
	// promises: some running times are known, and room may be kept in this plan.
	promises bool
	tried    int // refused jobs that victims were looked for
	// avoiding: some job avoids another.
	avoiding bool
	named    []placement.Assignment // of this plan, of jobs that others may have to avoid
}

// newPlanner is one with nothing learned.
func newPlanner(s placement.Snapshot) *planner { return New().planner(s) }

func (m *Scheduler) planner(s placement.Snapshot) *planner {
	p := m.begin(s)
	m.sync(p)
	p.count()
	return p
}

// surveyor is a planner that only looks: no engine ranks its nodes.
func surveyor(s placement.Snapshot) *planner {
	p := New().begin(s)
	p.readSpaces()
	p.count()
	return p
}

func (m *Scheduler) begin(s placement.Snapshot) *planner {
	p := &planner{
		s:       s,
		mind:    m,
		court:   newCourt(&s),
		shapes:  &m.shapes,
		classes: make(map[classKey]*class),
		tasks:   make(map[placement.JobID][]*placement.Task),
		made:    make(map[placement.JobID]int),
		groups:  make(map[groupKey]*group),
		tenants: make(map[placement.TenantID][]int32),
		lines:   make(map[placement.TenantID]*tenancy),
		joint:   make(map[placement.RegionID]*joint),
		told:    make(map[classKey]Explanation),
		noted:   make(map[placement.JobID]bool),
	}
	p.promises = s.Ends != nil && mayReserve(&s)
	p.avoiding = s.Apart != nil || slices.ContainsFunc(s.Wanted, func(j *placement.Job) bool { return len(j.Spec.Avoid) > 0 })
	return p
}

// count notes the tasks that the snapshot shows.
func (p *planner) count() {
	for _, t := range p.s.Tasks {
		if !t.Status.Live() {
			continue
		}
		p.tasks[t.Job] = append(p.tasks[t.Job], t)
		if at := p.nodes[t.Node]; at != nil {
			p.tenant(t.Tenant)[at.index]++
		}
	}
}

// tenant counts a tenant's tasks by node.
func (p *planner) tenant(id placement.TenantID) []int32 {
	counts, ok := p.tenants[id]
	if !ok {
		counts = make([]int32, len(p.spaces))
		p.tenants[id] = counts
	}
	return counts
}

// entry is a node in a class's index.
type entry struct {
	score   uint64
	node    int32
	version uint32
}

// entries is a heap, best first; equal scores go by node id.
type entries []entry

func (e entries) Len() int           { return len(e) }
func (e entries) Less(i, j int) bool { return e[i].before(e[j]) }
func (e entries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *entries) Push(x any)        { *e = append(*e, x.(entry)) }
func (e *entries) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

func (e entry) before(o entry) bool {
	return e.score < o.score || e.score == o.score && e.node < o.node
}

// pick chooses the best node for one demand of the class, nil if none fits.
// avoid is a node that another one of equal fit is preferred to.
func (p *planner) pick(c *class, avoid placement.NodeID) *space {
	if c.full {
		return nil
	}
	var best, next *entry
	if c.scanned {
		best, next = c.fromIndex()
	} else {
		best, next = c.scan()
	}
	if best == nil {
		c.full = true
		return nil
	}
	if avoid != "" && next != nil && p.spaces[best.node].node.ID == avoid && next.score>>scoreCPU == best.score>>scoreCPU {
		best = next
	}
	return &p.spaces[best.node]
}

// scan looks at every node and keeps the two best.
func (c *class) scan() (best, next *entry) {
	c.scanned = true
	var a, b entry
	found := 0
	for _, i := range c.open {
		e, ok := c.entry(i)
		switch {
		case !ok:
		case found == 0:
			a, found = e, 1
		case e.before(a):
			a, b, found = e, a, 2
		case found == 1 || e.before(b):
			b, found = e, 2
		}
	}
	return pair(a, b, found)
}

func pair(a, b entry, found int) (best, next *entry) {
	if found > 0 {
		best = &a
	}
	if found > 1 {
		next = &b
	}
	return best, next
}

// entry rates one node that is open to the class; false if it has no room.
func (c *class) entry(node int32) (entry, bool) {
	at := &c.p.spaces[node]
	if c.room(at) != 0 || c.p.heldFrom(c, at, 1) {
		return entry{}, false
	}
	return entry{c.score(at), node, at.version}, true
}

// fromIndex gives what scan gives, from a heap that follows the planner's log.
func (c *class) fromIndex() (best, next *entry) {
	if !c.built {
		for _, i := range c.open {
			if e, ok := c.entry(i); ok {
				c.index = append(c.index, e)
			}
		}
		heap.Init(&c.index)
		c.built, c.seen = true, len(c.p.log)
	}
	c.catchUp()
	a, ok := c.top()
	if !ok {
		return nil, nil
	}
	heap.Pop(&c.index)
	b, ok := c.top()
	for ok && b.node == a.node { // the same node, entered twice
		heap.Pop(&c.index)
		b, ok = c.top()
	}
	heap.Push(&c.index, a)
	if !ok {
		return pair(a, b, 1)
	}
	return pair(a, b, 2)
}

// catchUp adds an entry for every node that changed since it last looked; the
// old entries fall out by their version.
func (c *class) catchUp() {
	log := c.p.log
	for i := c.seen; i < len(log); i++ {
		if i > c.seen && log[i] == log[i-1] {
			continue // the entry added just now is of the newest version
		}
		if c.fixed[log[i]] != 0 {
			continue
		}
		if e, ok := c.entry(log[i]); ok {
			heap.Push(&c.index, e)
		}
	}
	c.seen = len(log)
}

// top drops outdated entries and gives the best one.
func (c *class) top() (entry, bool) {
	for len(c.index) > 0 {
		if e := c.index[0]; e.version == c.p.spaces[e.node].version {
			return e, true
		}
		heap.Pop(&c.index)
	}
	return entry{}, false
}

func cmpInt(a, b int64) int     { return cmp.Compare(a, b) }
func cmpString(a, b string) int { return cmp.Compare(a, b) }
