package scheduler

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/engine"
)

// Scheduler plans with what it has learned of the jobs that arrive. It lives
// across the plans of one leader; a new one learns from the ledger's newest jobs
// ([Scheduler.Learn]), so that nothing learned has to be kept apart. It is used
// by one goroutine at a time.
//
// What it knows orders lawful nodes and nothing else: a fresh one places the same
// jobs lawfully, only less well.
type Scheduler struct {
	shapes  shapes
	sites   []string
	drivers [][]string // the lists of drivers that nodes have
	cluster *engine.Cluster
	mix     engine.Mix // what was learned, while no cluster holds it
	counted int        // numbers given away when nodes were last read as a whole
	was     *numbers   // those that the mix is in, while spaces have others
	spaces  []space    // of the newest plan: those of whose node nothing changed serve the next
	named   map[placement.NodeID]*space
	states  map[string]int32 // see [Scheduler.stateOf]
	seen    map[placement.JobID]bool
	refused map[placement.JobID]bool // those that wait since they were counted as refused
}

// LearnFrom is of how many of the ledger's newest jobs a new leader learns: what
// came before counts little.
const LearnFrom = 2000

// New is a scheduler that has learned nothing.
func New() *Scheduler {
	return &Scheduler{shapes: shapes{ids: make(map[shape]int32)}, states: make(map[string]int32)}
}

// Plan is [Plan] with what was learned so far, and learns from the jobs that the
// snapshot shows for the first time.
func (s *Scheduler) Plan(snap placement.Snapshot) Decisions {
	p := s.planner(snap)
	s.learnWanted(p)
	p.tend()
	p.serve()
	s.learnRefused(p)
	p.finishDrains()
	return p.out
}

// Learn counts jobs as arrivals, oldest first. Those that still wait are refused
// by the first plan, and count as refused then.
func (s *Scheduler) Learn(snap placement.Snapshot, jobs []*placement.Job) {
	p := s.planner(snap)
	s.seen = make(map[placement.JobID]bool)
	for _, j := range jobs[max(0, len(jobs)-LearnFrom):] {
		s.seen[j.ID] = true
		s.arrive(p, j)
	}
	s.settle()
}

// settle lets what was learned count from now on, a few jobs too.
func (s *Scheduler) settle() {
	if s.cluster != nil {
		s.cluster.Settle()
	}
}

// learnWanted counts the wanted jobs that the last plan did not see. A job that
// is to start again came before.
func (s *Scheduler) learnWanted(p *planner) {
	seen := make(map[placement.JobID]bool, len(p.s.Wanted))
	for _, j := range p.s.Wanted {
		seen[j.ID] = true
		if !s.seen[j.ID] && j.Attempts == 0 {
			s.arrive(p, j)
		}
	}
	s.seen = seen
	s.settle()
}

func (s *Scheduler) arrive(p *planner, j *placement.Job) {
	if s.cluster == nil {
		return
	}
	d := p.demandOf(j)
	for range j.Spec.Size() {
		s.cluster.Learn(d)
	}
}

// learnRefused counts the jobs that this plan found no room for, each once until it
// is placed, whatever else it waits for meanwhile. What a limit, a law or a job's
// own impossible wish keeps waiting would gain nothing from room that is kept together.
func (s *Scheduler) learnRefused(p *planner) {
	refused := make(map[placement.JobID]bool, len(p.out.Refused))
	for _, j := range p.s.Wanted {
		if s.refused[j.ID] {
			refused[j.ID] = true
		}
	}
	fresh := make(map[placement.JobID]bool)
	for i := range p.out.Refused {
		r := &p.out.Refused[i]
		if e := &r.Explanation; e.Outcome != Full || e.Code == QuotaLimit || e.Code == QueueReserved {
			continue
		}
		fresh[r.Job] = !refused[r.Job]
		refused[r.Job] = true
	}
	s.refused = refused
	if s.cluster == nil {
		return
	}
	for _, j := range p.s.Wanted {
		if !fresh[j.ID] {
			continue
		}
		d := p.demandOf(j)
		for range j.Spec.Size() {
			s.cluster.Refuse(d)
		}
	}
}

// demandOf is what one task of a job asks of the engine. It takes a class of its
// own: those of the plan know what was placed before them.
func (p *planner) demandOf(j *placement.Job) engine.Demand {
	c := &class{p: p, group: &group{policy: p.court.policy(j.Policy)}}
	c.res, c.site = j.Spec.Resources, j.Spec.Site
	return c.demand()
}

// sync reads the nodes that changed since the last plan, and tells the cluster of
// them. A node's record is replaced whenever anything about it changes. Beyond
// what the engine can tell apart nodes are not ranked by it.
func (s *Scheduler) sync(p *planner) {
	changed, all := p.readSpaces()
	if s.cluster == nil || all {
		s.rebuild(p)
		return
	}
	if len(s.states) > 4*len(s.spaces)+64 { // most are of no node any more
		clear(s.states)
		for i := range s.spaces {
			m := s.machine(p, &s.spaces[i])
			s.spaces[i].state = s.stateOf(&m)
		}
	}
	for _, i := range changed {
		m := s.machine(p, &p.spaces[i])
		if err := s.cluster.Set(m); err != nil {
			s.mix, s.cluster = s.cluster.Mix(), nil
			return
		}
		p.spaces[i].state = s.stateOf(&m)
	}
}

func (s *Scheduler) rebuild(p *planner) {
	mix := s.mix
	if s.cluster != nil {
		mix = s.cluster.Mix()
	}
	if s.was != nil {
		s.was.renumber(&mix, s)
		s.was = nil
	}
	s.counted = s.given()
	clear(s.states)
	machines := make([]engine.Node, len(p.spaces))
	for i := range p.spaces {
		machines[i] = s.machine(p, &p.spaces[i])
		p.spaces[i].state = s.stateOf(&machines[i])
	}
	cluster, err := engine.New(machines, engine.DefaultConfig())
	if err == nil && len(mix.Classes) > 0 {
		err = cluster.SetMix(mix)
	}
	if s.cluster = cluster; err != nil {
		s.mix, s.cluster = mix, nil // an inventory that the engine cannot hold
	}
}

// stateOf numbers what the engine sees of a node but its name, from 1: nodes of
// one number cost a demand the same, so that a plan rates each kind of node once
// and not each of ten thousand.
func (s *Scheduler) stateOf(n *engine.Node) int32 {
	var room [512]byte
	key := room[:0]
	add := func(v int64) { key = binary.AppendVarint(key, v) }
	flag := func(v bool) { add(int64(b2i(v))) }
	add(int64(n.Zone))
	add(n.CPU)
	add(n.Memory)
	flag(n.Cordoned)
	flag(n.Confidential)
	add(int64(n.Offers))
	for i := range n.Devices {
		d := &n.Devices[i]
		add(int64(d.Model))
		add(int64(d.Profile))
		add(int64(d.Idle))
		add(int64(d.Island))
		add(int64(d.NUMA))
		flag(d.Off)
	}
	id, ok := s.states[string(key)]
	if !ok {
		id = int32(len(s.states) + 1)
		s.states[string(key)] = id
	}
	return id
}

// machine is a node as the engine sees it.
func (s *Scheduler) machine(p *planner, at *space) engine.Node {
	n := at.node
	out := engine.Node{
		Name: string(n.ID), Zone: min(int(at.site), engine.SetMax-1), CPU: max(0, int64(at.cpu)), Memory: max(0, int64(at.memory)),
		Cordoned: !n.Offers(), Devices: make([]engine.Device, len(n.Inventory.Devices)),
	}
	at.order = deviceOrder(n)
	var last int32
	islands := make(map[string]int)
	number := func(kind, name string) int {
		if name == "" {
			return 0
		}
		if _, ok := islands[kind+name]; !ok {
			islands[kind+name] = len(islands) + 1
		}
		return islands[kind+name]
	}
	for i, here := range at.order {
		d := &n.Inventory.Devices[here]
		last = s.shapes.of(d, last)
		out.Devices[i] = engine.Device{
			Model: min(int(last), engine.SetMax-1), Profile: s.shapes.profile(d.Profile), Idle: max(0, int(n.Used.Idle(d.UUID))),
			Island: number("link ", d.Island), NUMA: number("numa ", d.NUMA), Off: !d.Offered(),
		}
	}
	return out
}

// deviceOrder is the order in which the devices of a node are given away where
// the engine sees no difference: those of least memory first, so that big ones
// stay for those who need them, and sound ones before degraded ones.
func deviceOrder(n *placement.Node) []int32 {
	order := make([]int32, len(n.Inventory.Devices))
	for i := range order {
		order[i] = int32(i)
	}
	worse := func(d *placement.Device) int {
		if d.Health == placement.DeviceOK {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		x, y := &n.Inventory.Devices[a], &n.Inventory.Devices[b]
		return cmp.Or(cmp.Compare(x.Memory, y.Memory), cmp.Compare(worse(x), worse(y)))
	})
	return order
}

// demand is a demand of the class as the engine sees it.
func (c *class) demand() engine.Demand {
	d := engine.Demand{CPU: int64(c.res.CPU), Memory: int64(c.res.Memory), Num: c.res.GPUs}
	for i, site := range c.p.mind.sites {
		if c.policy.at(site).constraint == "" && (c.site == "" || c.site == site) {
			d.Zones = d.Zones.With(min(i, engine.SetMax-1))
		}
	}
	if d.Num == 0 {
		return d
	}
	d.Milli, d.Profile = int(c.res.PerDevice()), c.p.mind.shapes.profile(c.res.GPUProfile)
	all := true
	for id := range c.p.mind.shapes.list {
		switch f := c.shape(int32(id)); {
		case f == fitAll:
			d.Models = d.Models.With(min(id, engine.SetMax-1))
		case f&fitKind != 0:
			all = false
		}
	}
	if all {
		d.Models = engine.Set{} // whatever it is: bound to nothing
	}
	return d
}

// rater is the engine's opinion on nodes for the class; nil if it has none.
func (c *class) rater() *engine.Rater {
	if !c.rated && c.p.mind.cluster != nil {
		c.rates = c.p.mind.cluster.Rater(c.demand())
	}
	c.rated = true
	return c.rates
}

// costNone stands for a cost of nothing: some demands do not fragment but mend.
const costNone = 512

// cost is the engine's bin for the node, from 0 to costMax. Only its order means
// anything.
func (c *class) cost(at *space) uint64 {
	if c.rater() == nil {
		return costNone
	}
	if at.state <= 0 {
		return c.rate(at)
	}
	for int32(len(c.known)) <= at.state {
		c.known = append(c.known, make([]uint16, int(at.state)+1)...)
	}
	if c.known[at.state] == 0 {
		c.known[at.state] = uint16(c.rate(at) + 1)
	}
	return uint64(c.known[at.state] - 1)
}

// rate asks the engine.
func (c *class) rate(at *space) uint64 {
	bin, ok := c.rates.Cost(int(at.index))
	if !ok {
		return costMax // room that the engine does not see comes last
	}
	return uint64(min(max(bin+costNone, 0), costMax-1))
}

// chosen are the UUIDs of the devices that the engine would give of the node, in
// its order; nil to choose by other rules: where it has no opinion, or its choice
// is degraded or given away already.
func (p *planner) chosen(c *class, at *space) []string {
	r := c.rater()
	if r == nil {
		return nil
	}
	var out []string
	for _, i := range r.Devices(int(at.index)) {
		d := &at.node.Inventory.Devices[at.order[i]]
		if d.Health != placement.DeviceOK || at.idle(d) < c.res.PerDevice() {
			return nil
		}
		out = append(out, d.UUID)
	}
	if len(out) != c.res.GPUs {
		return nil
	}
	return out
}

// book takes what was given away from the engine's books.
func (p *planner) book(c *class, at *space, devices []string) {
	s := p.mind
	if s.cluster == nil {
		return
	}
	spot := engine.Spot{Node: int(at.index)}
	for i, here := range at.order {
		if slices.Contains(devices, at.node.Inventory.Devices[here].UUID) {
			spot.Devices = append(spot.Devices, i)
		}
	}
	// A refusal means that the books differ: the node is read anew next time.
	_ = s.cluster.Take(engine.Demand{CPU: int64(c.res.CPU), Memory: int64(c.res.Memory), Num: len(devices), Milli: int(c.res.PerDevice())}, spot)
}

// profile numbers MIG profiles; 0 is a device that is not cut.
func (s *shapes) profile(name string) int {
	if name == "" {
		return 0
	}
	i := slices.Index(s.profiles, name)
	if i < 0 {
		i = len(s.profiles)
		s.profiles = append(s.profiles, name)
	}
	return i + 1
}
