package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sovmesh/sovmesh/placement"
)

func by(tenant string) func(*placement.Job) {
	return func(j *placement.Job) { j.Tenant = placement.TenantID(tenant) }
}
func urgent(priority int) func(*placement.Job) {
	return func(j *placement.Job) { j.Spec.Priority = priority }
}
func waits(d time.Duration) func(*placement.Job) {
	return func(j *placement.Job) { j.SubmittedAt, j.QueuedAt = noon.Add(-d), noon.Add(-d) }
}

// tenantsHold gives tenants what they hold and may hold.
func tenantsHold(s placement.Snapshot, all map[placement.TenantID]placement.TenantShare) placement.Snapshot {
	s.Share = func(id placement.TenantID) placement.TenantShare {
		t := all[id]
		t.Weight = max(1, t.Weight)
		return t
	}
	return s
}

// served are the jobs of a plan in the order in which they got their places.
func served(d Decisions) string {
	var out []string
	for _, a := range d.Assign {
		out = append(out, strings.TrimPrefix(string(a.Job), "fra-1."))
	}
	return strings.Join(out, " ")
}

func TestTheOrderOfTheQueue(t *testing.T) {
	gpu := func(n int64) placement.TenantShare { return placement.TenantShare{GPUs: n * 1000} }
	guaranteed := gpu(6)
	guaranteed.Bounds = []placement.Bound{{Tenant: "bank", Class: "gpus", Guarantee: 8, Held: 6000}}
	heavy := gpu(6)
	heavy.Weight = 3
	for name, c := range map[string]struct {
		jobs []*placement.Job
		have map[placement.TenantID]placement.TenantShare
		want string
	}{
		"priority first": {[]*placement.Job{job("low", oneGPU), job("high", oneGPU, urgent(9)), job("mid", oneGPU, urgent(5))}, nil, "high mid low"},
		"then who holds less": {[]*placement.Job{job("a1", oneGPU), job("a2", oneGPU), job("b1", oneGPU, by("bank")), job("b2", oneGPU, by("bank"))},
			map[placement.TenantID]placement.TenantShare{"acme": gpu(1)}, "b1 a1 b2 a2"},
		"divided by weight": {[]*placement.Job{job("a", oneGPU), job("b", oneGPU, by("bank"))},
			map[placement.TenantID]placement.TenantShare{"acme": gpu(3), "bank": heavy}, "b a"},
		"then age": {[]*placement.Job{job("young", oneGPU, by("bank"), waits(time.Second)), job("old", oneGPU, waits(time.Minute-1))}, nil, "old young"},
		"what is guaranteed comes before priority, and no further": {
			[]*placement.Job{job("a", oneGPU, urgent(9)), job("b1", oneGPU, by("bank")), job("b2", oneGPU, by("bank")), job("b3", oneGPU, by("bank"))},
			map[placement.TenantID]placement.TenantShare{"bank": guaranteed}, "b1 b2 a b3"},
		"who waited too long comes before priority": {
			[]*placement.Job{job("a", oneGPU, urgent(9)), job("patient", oneGPU, waits(placement.AgedAfter)), job("older", oneGPU, waits(placement.AgedAfter+1)), job("b", oneGPU, by("bank"))},
			map[placement.TenantID]placement.TenantShare{"bank": guaranteed}, "b older patient a"},
	} {
		if got := served(Plan(tenantsHold(world([]*placement.Node{node("n1", gpus(8, h100, 80))}, c.jobs...), c.have))); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestALimitHoldsJobsBack(t *testing.T) {
	bounds := func(b ...placement.Bound) map[placement.TenantID]placement.TenantShare {
		for i := range b {
			b[i].Tenant = "acme"
		}
		return map[placement.TenantID]placement.TenantShare{"acme": {Bounds: b}}
	}
	l4 := gpus(2, "NVIDIA L4", 24)
	two := asks(placement.Resources{CPU: 100, GPUs: 2})
	for name, c := range map[string]struct {
		have    map[placement.TenantID]placement.TenantShare
		jobs    []*placement.Job
		want    string
		code    Constraint
		outcome Outcome
	}{
		"what is left is given, no more": {bounds(placement.Bound{Class: "gpus", Limit: 3, Held: 1000}), []*placement.Job{job("a", two), job("b", oneGPU), job("c", oneGPU, by("bank"))}, "a c", QuotaLimit, Full},
		"alone it is too much":           {bounds(placement.Bound{Class: "gpus", Limit: 1}), []*placement.Job{job("a", two)}, "", QuotaLimit, Impossible},
		"a gang counts as a whole":       {bounds(placement.Bound{Class: "gpus", Limit: 3, Held: 0}), []*placement.Job{job("a", oneGPU, gang(4))}, "", QuotaLimit, Impossible},
		"cores too":                      {bounds(placement.Bound{Class: "cpu", Limit: 1, Held: 500}), []*placement.Job{job("a")}, "", QuotaLimit, Full},
		"another model is given":         {bounds(placement.Bound{Class: "H100", Limit: 4, Held: 4000}), []*placement.Job{job("a", two)}, "a", "", ""},
		"or there is none":               {bounds(placement.Bound{Class: "H100", Limit: 4, Held: 4000}), []*placement.Job{job("a", two), job("b", oneGPU)}, "a", QuotaLimit, Full},
		"no GPU, no limit of GPUs":       {bounds(placement.Bound{Class: "gpus", Limit: 1, Held: 1000}), []*placement.Job{job("a")}, "a", "", ""},
	} {
		s := tenantsHold(world([]*placement.Node{node("n1", gpus(4, h100, 80)), node("n2", l4)}, c.jobs...), c.have)
		d := Plan(s)
		if got := served(d); got != c.want {
			t.Errorf("%s: served %q, want %q", name, got, c.want)
		}
		if c.code == "" {
			continue
		}
		if len(d.Refused) != 1 || d.Refused[0].Explanation.Code != c.code || d.Refused[0].Explanation.Outcome != c.outcome || d.Refused[0].Explanation.Hint == "" {
			t.Errorf("%s: refused %+v", name, d.Refused)
		}
	}
	e := Explain(tenantsHold(world([]*placement.Node{node("n1", gpus(4, h100, 80))}), bounds(placement.Bound{Class: "gpus", Limit: 3, Held: 2500})), job("a", oneGPU))
	if e.Code != QuotaLimit || !strings.Contains(e.Reason, "tenant acme may hold 3 of gpus: 2.5 are held, and it asks for 1") {
		t.Errorf("explained %+v", e)
	}
}

// Any word of a model names it. A limit holds for what a job is given, not for
// what it calls it: planned beyond its limit it would be refused by the state,
// and planned again at once, without end.
func TestALimitHoldsHoweverTheModelIsCalled(t *testing.T) {
	have := map[placement.TenantID]placement.TenantShare{"acme": {Bounds: []placement.Bound{{Tenant: "acme", Class: "H100", Limit: 2, Held: 1000}}}}
	for model, want := range map[string]Outcome{"80GB": Full, "HBM3|L4": Full, "": Full, "H100": Full, "NVIDIA H100 80GB HBM3": Full} {
		a := job("a", asks(placement.Resources{CPU: 100, GPUs: 2, GPUModel: model}))
		s := tenantsHold(world([]*placement.Node{node("n1", gpus(4, "NVIDIA H100 80GB HBM3", 80))}, a), have)
		d := Plan(s)
		if len(d.Assign) > 0 || len(d.Refused) != 1 || d.Refused[0].Explanation.Code != QuotaLimit || d.Refused[0].Explanation.Outcome != want {
			t.Errorf("%q: assigned %+v, refused %+v", model, d.Assign, d.Refused)
		}
		if at, e := Place(s, job("b", asks(a.Spec.Resources))); at != nil || e.Outcome != Full || e.Code != QuotaLimit {
			t.Errorf("%q: a dry run answers %+v %+v", model, at, e)
		}
	}
	whole := map[placement.TenantID]placement.TenantShare{"acme": {Bounds: []placement.Bound{{Tenant: "acme", Class: "gpus", Limit: 1}}}}
	s := tenantsHold(world([]*placement.Node{node("n1", gpus(4, h100, 80))}), whole)
	if at, e := Place(s, job("b", asks(placement.Resources{CPU: 100, GPUs: 2}))); at != nil || e.Outcome != Impossible || e.Code != QuotaLimit {
		t.Errorf("a dry run beyond what the tenant may ever hold answers %+v %+v", at, e)
	}
}

// The room that is kept for the first of the queue is not taken by those after
// it, which go on elsewhere; a task that needs nothing of what is short passes.
func TestRoomIsKeptForTheFirstOfTheQueue(t *testing.T) {
	nodes := []*placement.Node{
		node("n1", gpus(4, h100, 80), used(1000, 0, "n1-gpu-0", "n1-gpu-1", "n1-gpu-2")), node("n2", gpus(4, h100, 80), used(1000, 0, "n2-gpu-0")),
	}
	big := job("big", asks(placement.Resources{CPU: 1000, GPUs: 4}), waits(2*time.Minute))
	now := waits(time.Second)
	s := world(nodes, big, job("s1", oneGPU, now), job("s2", oneGPU, now), job("cpu", by("bank"), now))
	d := Plan(s)
	if got := served(d); got != "s1 cpu" && got != "cpu s1" {
		t.Fatalf("served %q: n2 is kept, and has a place without a GPU: %+v %+v", got, d.Assign, d.Refused)
	}
	for _, a := range d.Assign {
		if a.Job == "fra-1.s1" && a.Node != "n1" {
			t.Errorf("s1 stands on %s, which is kept", a.Node)
		}
	}
	told := map[placement.JobID]Explanation{}
	for _, r := range d.Refused {
		told[r.Job] = r.Explanation
		if e := Explain(s, s.Jobs[r.Job]); e.Code != r.Explanation.Code || e.Reserved == nil {
			t.Errorf("%s is refused for %s and explained as %+v", r.Job, r.Explanation.Code, e)
		}
	}
	if e := told["fra-1.s2"]; e.Outcome != Full || e.Code != QueueReserved || e.Reserved == nil || e.Reserved.Nodes != 1 {
		t.Errorf("s2: %+v", e)
	}
	if e := told[big.ID]; e.Reserved == nil || e.Reserved.Job != big.ID {
		t.Errorf("big: %+v", e)
	}
	if e := Explain(s, job("new", asks(placement.Resources{CPU: 100, GPUs: 2}))); e.Code != QueueReserved {
		t.Errorf("a job that is checked: %+v", e)
	}
	if a, _ := Place(s, job("foreign", asks(placement.Resources{CPU: 100, GPUs: 2}))); a != nil {
		t.Error("who asks from another region gets what is kept for who waits here")
	}
	big.QueuedAt = noon.Add(-reserveAfter / 2)
	if got := served(Plan(s)); !strings.Contains(got, "s1") || !strings.Contains(got, "s2") {
		t.Errorf("before its time: %q", got)
	}
}

// flow is a region in which small jobs never stop coming: at every step some
// tasks end, new jobs arrive, and a plan is made.
type flow struct {
	s     placement.Snapshot
	step  int
	ends  map[placement.TaskID]int
	began map[placement.JobID]int
}

func (f *flow) next(arrive []*placement.Job, lasts func(*placement.Job) int) {
	f.step++
	f.s.Now = f.s.Now.Add(30 * time.Second)
	f.s.Tasks = slices.DeleteFunc(f.s.Tasks, func(task *placement.Task) bool {
		over := f.ends[task.ID] <= f.step
		if over {
			i := slices.IndexFunc(f.s.Nodes, func(n *placement.Node) bool { return n.ID == task.Node })
			n := new(*f.s.Nodes[i])
			n.Used = n.Used.With(task.Resources, task.Devices, -1)
			n.Used.Tasks--
			f.s.Nodes[i] = n
		}
		return over
	})
	for _, j := range arrive {
		j.SubmittedAt, j.QueuedAt = f.s.Now, f.s.Now
		f.s.Jobs[j.ID] = j
		f.s.Wanted = append(f.s.Wanted, j)
	}
	d := Plan(f.s)
	f.s = apply(f.s, d)
	for _, a := range d.Assign {
		f.began[a.Job] = f.step
		f.ends[a.Task] = f.step + lasts(f.s.Jobs[a.Job])
	}
}

// Small jobs of another tenant arrive for ever and would fill every hole; the
// gang starts all the same, after the longest of them and the aging bound at the
// latest, and meanwhile nothing stands idle that it does not wait for.
func TestNoGangStarves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []*placement.Node
		for i := range 4 {
			nodes = append(nodes, node(fmt.Sprintf("n%d", i), gpus(4, h100, 80)))
		}
		f := &flow{s: world(nodes), ends: map[placement.TaskID]int{}, began: map[placement.JobID]int{}}
		longest := rapid.IntRange(1, 8).Draw(t, "longest")
		priority := rapid.IntRange(0, 1).Draw(t, "priority")
		big := job("big", gang(rapid.IntRange(2, 3).Draw(t, "members")), asks(placement.Resources{CPU: 1000, GPUs: 4}), by("bank"))
		bound := int(placement.AgedAfter/(30*time.Second)) + int(reserveAfter/(30*time.Second)) + 2*longest + 4
		for n := 0; f.began[big.ID] == 0; n++ {
			if n > 20+bound {
				t.Fatalf("after %d steps the gang still waits; the longest small job takes %d", n, longest)
			}
			var arrive []*placement.Job
			for i := range rapid.IntRange(6, 10).Draw(t, "arrive") {
				arrive = append(arrive, job(fmt.Sprintf("s%d-%d", n, i), oneGPU, urgent(priority), by(fmt.Sprint("t", i%3))))
			}
			if n == 20 {
				arrive = append(arrive, big)
			}
			f.next(arrive, func(j *placement.Job) int {
				return 1 + (len(j.ID)*7+int(j.ID[len(j.ID)-1]))%longest
			})
			if len(f.s.Wanted) > 40 { // who waits longest is kept, as the queue of a region is bounded
				f.s.Wanted = append(f.s.Wanted[:20:20], arrive...)
				if n >= 20 && f.began[big.ID] == 0 && !slices.Contains(f.s.Wanted, big) {
					f.s.Wanted = append(f.s.Wanted, big)
				}
			}
		}
	})
}

// A job that waited too long and is guaranteed its room has one turn, not two.
func TestAJobIsRefusedOnce(t *testing.T) {
	guaranteed := map[placement.TenantID]placement.TenantShare{"bank": {Bounds: []placement.Bound{{Tenant: "bank", Class: "gpus", Guarantee: 8}}}}
	s := world([]*placement.Node{node("n1", gpus(1, h100, 80))},
		job("a", asks(placement.Resources{CPU: 100, GPUs: 2}), by("bank"), waits(2*placement.AgedAfter)), job("b", by("acme")))
	d := Plan(tenantsHold(s, guaranteed))
	if len(d.Refused) != 1 || served(d) != "b" {
		t.Errorf("refused %+v, served %q", d.Refused, served(d))
	}
}

// Room is kept of the devices that the first of the queue could use: nobody takes
// one of those, whatever else is free, and the others of the node are given away.
func TestRoomIsKeptOfTheDevicesThatCount(t *testing.T) {
	const l4 = "NVIDIA L4"
	model := func(n int, m string) func(*placement.Job) {
		return asks(placement.Resources{CPU: 100, GPUs: n, GPUModel: m})
	}
	big, now := model(4, "H100"), waits(time.Second)
	for name, c := range map[string]struct {
		node  *placement.Node
		after *placement.Job
		want  string
	}{
		"one of them is not free though others are": {node("n1", gpus(4, h100, 80), gpus(4, l4, 24), used(1000, 0, "n1-gpu-0")), job("s", model(1, "H100"), now), ""},
		"another model is":                          {node("n1", gpus(4, h100, 80), gpus(2, l4, 24), used(1000, 0, "n1-gpu-0")), job("s", model(1, "L4"), now), "s"},
		"nor is it taken by who may have either":    {node("n1", gpus(4, h100, 80), gpus(1, l4, 24), used(1000, 0, "n1-gpu-0")), job("s", model(1, "L4|H100"), now), ""},
	} {
		if got := served(Plan(world([]*placement.Node{c.node}, job("big", big, waits(2*time.Minute)), c.after))); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	half := asks(placement.Resources{CPU: 100, GPUs: 1, GPUShare: 500})
	s := world([]*placement.Node{node("n1", gpus(1, h100, 80), shares("n1-gpu-0", 300))}, job("big", half, gang(2), waits(2*time.Minute)), job("s", half, now))
	if got := served(Plan(s)); got != "" {
		t.Errorf("a share of what two shares wait for is given to %q", got)
	}
}

// A GPU that is cut counts once, and each instance by its part of it: seven small
// ones are no more than one whole GPU.
func TestInstancesCountByTheirPart(t *testing.T) {
	nodes := []*placement.Node{node("n1", cut("1g.10gb", 7)), node("n2", gpus(3, h100, 80))}
	p := newPlanner(world(nodes))
	if all := p.estate().gpus; all != 3000+7*142 {
		t.Errorf("the region has %d thousandths of GPUs", all)
	}
	slice := asks(placement.Resources{CPU: 100, GPUs: 1, GPUProfile: "1g.10gb"})
	jobs := []*placement.Job{job("w1", oneGPU, by("bank")), job("w2", oneGPU, by("bank"), waits(-time.Second))}
	for i := range 3 {
		jobs = append(jobs, job(fmt.Sprintf("i%d", i), slice, waits(-time.Minute)))
	}
	// acme's three instances are less of the region than bank's first GPU.
	if got := served(Plan(world(nodes, jobs...))); got != "w1 i0 i1 i2 w2" {
		t.Errorf("served %q", got)
	}
}

// All members of a gang together leave what is kept, not each of them alone.
func TestAGangTakesNothingThatIsKept(t *testing.T) {
	nodes := []*placement.Node{
		node("n1", gpus(8, h100, 80), used(1000, 0, "n1-gpu-0", "n1-gpu-1", "n1-gpu-2", "n1-gpu-3", "n1-gpu-4")),
		node("n2", gpus(16, h100, 80), used(1000, 0, "n2-gpu-0", "n2-gpu-1", "n2-gpu-2", "n2-gpu-3", "n2-gpu-4", "n2-gpu-5")),
	}
	// Two of the head's members wait for n1, the third has its four GPUs of the ten on n2.
	head := job("head", asks(placement.Resources{CPU: 100, GPUs: 4}), gang(3), waits(2*time.Minute))
	for size, want := range map[int]int{6: 6, 7: 0, 8: 0} {
		if d := Plan(world(nodes, head, job("s", asks(placement.Resources{CPU: 100, GPUs: 1}), gang(size), waits(time.Second)))); len(d.Assign) != want {
			t.Errorf("a gang of %d: %d members are placed, want %d: %s", size, len(d.Assign), want, served(d))
		}
	}
}

// Of a tenant's own bound and that of its region the one that is in the way is named.
func TestTheBoundThatBarsIsNamed(t *testing.T) {
	const peer = "ber-1/acme"
	s := world([]*placement.Node{node("n1", gpus(2, h100, 80))}, job("a", asks(placement.Resources{CPU: 100, GPUs: 1, GPUModel: "H100"}), by(peer)))
	s = tenantsHold(s, map[placement.TenantID]placement.TenantShare{peer: {Bounds: []placement.Bound{
		{Tenant: peer, Class: "H100", Guarantee: 1}, {Tenant: "ber-1/*", Class: "H100", Limit: 4, Held: 4000},
	}}})
	for _, e := range []Explanation{Plan(s).Refused[0].Explanation, Explain(s, s.Wanted[0])} {
		if e.Code != QuotaLimit || !strings.Contains(e.Reason, "may hold 4 of H100") {
			t.Errorf("%s: %s", e.Code, e.Reason)
		}
	}
}

func atMost(d time.Duration) func(*placement.Job) {
	return func(j *placement.Job) { j.Spec.MaxRuntime = placement.Duration(d) }
}

// Where it is known when the kept room is free, who ends before is let in, and
// nobody else: not one who ends later, nor one who says nothing; nobody once the
// first of the queue has waited too long, and nobody where one end is not known.
func TestWhoEndsInTimeIsLetIn(t *testing.T) {
	four := asks(placement.Resources{CPU: 1000, GPUs: 4})
	for name, c := range map[string]struct {
		runs  func(*placement.Job)
		head  time.Duration
		after func(*placement.Job)
		want  string
	}{
		"it ends in time":           {atMost(time.Hour), 2 * time.Minute, atMost(20 * time.Minute), "s"},
		"to the second":             {atMost(time.Hour), 2 * time.Minute, atMost(29 * time.Minute), "s"},
		"it may end later":          {atMost(time.Hour), 2 * time.Minute, atMost(29*time.Minute + time.Second), ""},
		"it says nothing":           {atMost(time.Hour), 2 * time.Minute, urgent(0), ""},
		"who runs says nothing":     {urgent(0), 2 * time.Minute, atMost(time.Second), ""},
		"the first waited too long": {atMost(time.Hour), placement.AgedAfter, atMost(20 * time.Minute), ""},
	} {
		s := world([]*placement.Node{node("n1", gpus(4, h100, 80))}, job("big", four, waits(c.head), urgent(9)), job("s", oneGPU, waits(time.Second), c.after))
		holds(&s, job("x", oneGPU, c.runs), "n1", 30*time.Minute, 0)
		until := time.Time{}
		s.Ends = func(placement.NodeID) (time.Time, bool) {
			end, sure := s.Jobs["fra-1.x"].Spec.EndsBy(s.Tasks[0], s.Now)
			if sure {
				until = end
			}
			return end, sure
		}
		d := Plan(s)
		if got := served(d); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if e := d.Refused[0].Explanation; e.Reserved == nil || !e.Reserved.Until.Equal(until) {
			t.Errorf("%s: %+v, want %s", name, e.Reserved, until)
		}
	}
}

// Nodes that are known to end first are kept, though more runs there.
func TestTheNodesThatEndFirstAreKept(t *testing.T) {
	s := world([]*placement.Node{node("n1", gpus(4, h100, 80)), node("n2", gpus(4, h100, 80))}, job("big", asks(placement.Resources{CPU: 1000, GPUs: 4}), waits(2*time.Minute)))
	holds(&s, job("x", oneGPU), "n1", time.Minute, 0)
	holds(&s, job("y", asks(placement.Resources{CPU: 1000, GPUs: 3}), atMost(2*time.Minute)), "n2", time.Minute, 0, 1, 2)
	s.Ends = func(id placement.NodeID) (time.Time, bool) { return noon.Add(time.Minute), id == "n2" }
	small := job("s", asks(placement.Resources{CPU: 100, GPUs: 1}), waits(time.Second))
	s.Wanted, s.Jobs[small.ID] = append(s.Wanted, small), small
	if a := only(t, Plan(s)); a.Node != "n1" {
		t.Errorf("the small one stands on %s", a.Node)
	}
}
