package scheduler

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/engine"
)

// What a scheduler keeps between plans is what is there: of nodes that changed,
// of those that its last plan gave away and nobody committed, of all others.
func TestASchedulerThatLivesKnowsWhatIsThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lives := New()
		s := anyWorld(t)
		for range rapid.IntRange(1, 5).Draw(t, "plans") {
			p := lives.planner(s)
			for i := range p.spaces {
				want := lives.machine(p, &p.spaces[i])
				if got := lives.cluster.Node(i); !reflect.DeepEqual(*got, want) {
					t.Fatalf("node %s is kept as\n%+v, and is\n%+v", want.Name, *got, want)
				}
				if order := deviceOrder(s.Nodes[i]); !slices.Equal(p.spaces[i].order, order) {
					t.Fatalf("node %s: order %v, want %v", want.Name, p.spaces[i].order, order)
				}
				wantSpace(t, p, s.Nodes[i])
			}
			for _, j := range s.Wanted {
				c := p.class(j)
				for i := range p.spaces {
					if at := &p.spaces[i]; c.rater() != nil && (c.cost(at) != c.rate(at) || c.cost(at) != c.rate(at)) {
						t.Fatalf("job %s on node %s: %d is remembered, %d is its cost", j.ID, at.node.ID, c.cost(at), c.rate(at))
					}
				}
			}
			s = anyChange(t, s, lives.Plan(s))
		}
	})
}

// wantSpace compares what is kept of a node with its record read anew.
func wantSpace(t *rapid.T, p *planner, n *placement.Node) {
	at := p.nodes[n.ID]
	want := space{order: at.order}
	p.read(&want, n, at.index)
	want.state = at.state
	if !reflect.DeepEqual(*at, want) {
		t.Fatalf("the room of node %s is kept as\n%+v, and is\n%+v", n.ID, *at, want)
	}
}

// anyChange commits some of what was decided, and changes some nodes.
func anyChange(t *rapid.T, s placement.Snapshot, d Decisions) placement.Snapshot {
	nodes := make([]*placement.Node, len(s.Nodes))
	copy(nodes, s.Nodes)
	done := map[placement.JobID]bool{}
	for i, a := range d.Assign {
		if !rapid.Bool().Draw(t, fmt.Sprintf("committed %d", i)) {
			continue
		}
		for n := range nodes {
			if j := s.Jobs[a.Job]; nodes[n].ID == a.Node && j != nil {
				next := *nodes[n]
				next.Used = next.Used.With(j.Spec.Resources, a.Devices, 1)
				next.Used.Tasks++
				nodes[n] = &next
				done[a.Job] = true
			}
		}
	}
	for n := range nodes {
		if rapid.IntRange(0, 4).Draw(t, fmt.Sprintf("changed %d", n)) == 0 {
			next := *nodes[n]
			next.State = rapid.SampledFrom([]placement.NodeState{placement.NodeReady, placement.NodeCordoned}).Draw(t, "state")
			nodes[n] = &next
		}
	}
	s.Nodes = nodes
	var wanted []*placement.Job
	for _, j := range s.Wanted {
		if !done[j.ID] {
			wanted = append(wanted, j)
		}
	}
	s.Wanted = wanted
	return s
}

// Devices that one task gets together lie in one NVLink island if one has enough.
func TestDevicesOfOneIsland(t *testing.T) {
	n := node("n1", gpus(8, h100, 80*placement.GiB), used(0, 0, "n1-gpu-0", "n1-gpu-1"))
	for i := range n.Inventory.Devices {
		n.Inventory.Devices[i].Island = fmt.Sprint(i / 4)
	}
	four := job("four", asks(placement.Resources{GPUs: 4}))
	if a := only(t, Plan(world([]*placement.Node{n}, four))); !reflect.DeepEqual(a.Devices, []string{"n1-gpu-4", "n1-gpu-5", "n1-gpu-6", "n1-gpu-7"}) {
		t.Errorf("four devices %v, want those of the island that has four", a.Devices)
	}
}

// A device that jobs bound to one site can have nowhere else is left to them by
// a job that may run at either.
func TestScarcePlacesAreLeftToThoseWhoNeedThem(t *testing.T) {
	at := func(site string) func(*placement.Node) { return func(n *placement.Node) { n.Site = site } }
	nodes := []*placement.Node{
		node("n1", at("north"), gpus(2, h100, 80*placement.GiB)),
		node("n2", at("south"), gpus(2, h100, 80*placement.GiB)),
	}
	one := placement.Resources{GPUs: 1}
	var bound []*placement.Job
	for i := range 8 {
		bound = append(bound, job(fmt.Sprintf("b%d", i), asks(one), func(j *placement.Job) { j.Spec.Site = "north" }))
	}
	free := job("free", asks(one))
	if a := only(t, Plan(world(nodes, free))); a.Node != "n1" {
		t.Fatalf("with nothing learned it goes to %s, want the first", a.Node)
	}
	s := New()
	s.Learn(world(nodes), bound)
	if a := only(t, s.Plan(world(nodes, free))); a.Node != "n2" {
		t.Errorf("it went to %s, want n2: others can run nowhere but at n1", a.Node)
	}
}

// Jobs that wait for whole nodes teach the engine to keep nodes whole, and a new
// leader learns it from the queue. What waits for a limit, or for ever, does not.
func TestWhatWaitsIsSpoiledLess(t *testing.T) {
	cores := func(milli placement.MilliCPU) func(*placement.Node) {
		return func(n *placement.Node) { n.Inventory.CPU = milli }
	}
	wide := []*placement.Node{
		node("n1", cores(8000), gpus(4, h100, 80*placement.GiB), used(0, 0, "n1-gpu-0", "n1-gpu-1")),
		node("n2", cores(64000), gpus(4, h100, 80*placement.GiB)),
	}
	full := []*placement.Node{wide[0], node("n2", cores(64000), gpus(4, h100, 80*placement.GiB), used(0, 0, "n2-gpu-0", "n2-gpu-1"))}
	var came []*placement.Job
	for i := range 100 {
		came = append(came, job(fmt.Sprintf("s%d", i), asks(placement.Resources{CPU: 1000, GPUs: 1})))
	}
	fours := func(r placement.Resources) (out []*placement.Job) {
		for i := range 4 {
			out = append(out, job(fmt.Sprintf("four%d", i), asks(r)))
		}
		return out
	}
	mid := job("mid", asks(placement.Resources{CPU: 8000, GPUs: 1}), func(j *placement.Job) { j.Spec.Priority = 50 })
	goesTo := func(s *Scheduler) placement.NodeID {
		t.Helper()
		return only(t, s.Plan(world(wide, mid))).Node
	}
	waiting := fours(placement.Resources{CPU: 32000, GPUs: 4})

	fresh := New()
	fresh.Learn(world(full), append(slices.Clone(came), waiting...))
	if at := goesTo(fresh); at != "n2" {
		t.Fatalf("before anybody waited it goes to %s", at)
	}
	lives := New()
	lives.Learn(world(full), came)
	lives.Plan(world(full, waiting...))
	mix := lives.cluster.Mix()
	lives.Plan(world(full, waiting...)) // still waiting: counted once
	if again := lives.cluster.Mix(); !reflect.DeepEqual(mix, again) {
		t.Fatalf("who waits for two plans is counted twice:\n%+v\n%+v", mix, again)
	}
	limited := tenantsHold(world(full, waiting...), map[placement.TenantID]placement.TenantShare{"acme": {Bounds: []placement.Bound{{Tenant: "acme", Class: "gpus", Limit: 5, Held: 5000}}}})
	if d := lives.Plan(limited); d.Refused[0].Explanation.Code != QuotaLimit {
		t.Fatalf("refused %+v", d.Refused)
	}
	lives.Plan(world(full, waiting...)) // waited for something else meanwhile: the same wait
	if again := lives.cluster.Mix(); !reflect.DeepEqual(mix, again) {
		t.Fatalf("who waits for this and that is counted each time:\n%+v\n%+v", mix, again)
	}
	if at := goesTo(lives); at != "n1" {
		t.Errorf("while four jobs wait for whole nodes it goes to %s", at)
	}
	next := New()
	next.Learn(world(full), append(slices.Clone(came), waiting...))
	next.Plan(world(full, waiting...))
	if got := next.cluster.Mix(); !reflect.DeepEqual(got, mix) {
		t.Errorf("a new leader learns\n%+v\nand the old one knew\n%+v", got, mix)
	}
	never := New()
	never.Learn(world(full), came)
	never.Plan(world(full, fours(placement.Resources{CPU: 32000, GPUs: 5})...))
	for _, c := range never.cluster.Mix().Classes {
		if c.Refused > 0 {
			t.Errorf("five devices, which no node has, are waited for: %+v", c)
		}
	}
}

// Models and sites of nodes that left are forgotten, and what was learned of those
// that stay is not: a leader may live for years.
func TestNumbersOfWhatLeftAreUsedAgain(t *testing.T) {
	model := func(i int) string { return fmt.Sprintf("NVIDIA A%d", i) }
	guest := func(name string, i int) []*placement.Node {
		return []*placement.Node{
			node(name, at(fmt.Sprintf("site-%d", i)), gpus(1, model(i), 40*placement.GiB)),
			node("n2", at("home"), gpus(1, h100, 80*placement.GiB)),
		}
	}
	of := func(name string, n int) (out []*placement.Job) {
		for i := range n {
			out = append(out, job(fmt.Sprintf("%s-%d", name[len(name)-2:], i), asks(placement.Resources{CPU: 1000, GPUs: 1, GPUModel: name})))
		}
		return out
	}
	s := New()
	s.Learn(world(guest("n10", 10)), append(of("H100", 50), of(model(10), 30)...))
	for i := 10; i < 10+2*engine.SetMax; i++ {
		s.Plan(world(guest(fmt.Sprint("n", i), i)))
	}
	if len(s.shapes.list) != 2 || len(s.sites) != 2 || s.cluster == nil {
		t.Fatalf("%d shapes and %d sites are numbered, two of each are there", len(s.shapes.list), len(s.sites))
	}
	id := int(s.shapes.ids[shape{model: h100, memory: 80 * placement.GiB}])
	mix := s.cluster.Mix()
	if len(mix.Classes) != 1 || mix.Classes[0].Models != engine.SetOf(id) || mix.Classes[0].Count != 50<<16 {
		t.Errorf("of 50 arrivals for an H100, number %d, it knows %+v", id, mix.Classes)
	}
	for i := range 2 * engine.SetMax { // one node that tells another story each time
		s.Plan(world(guest("n1", i)))
		if s.given() > engine.SetMax/2 {
			t.Fatalf("%d numbers are given away, four are needed", s.given())
		}
	}
}
