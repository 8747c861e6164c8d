package scheduler

import (
	"encoding/base64"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Where jobs of eight GPUs arrive too, one of two leaves the whole node to them.
func TestWholeNodesAreKeptForThoseWhoNeedThem(t *testing.T) {
	nodes := []*placement.Node{
		node("n1", gpus(8, h100, 80*placement.GiB)),
		node("n2", gpus(8, h100, 80*placement.GiB), used(0, 0, "n2-gpu-0", "n2-gpu-1", "n2-gpu-2", "n2-gpu-3", "n2-gpu-4", "n2-gpu-5")),
		node("n3"),
	}
	two := job("two", asks(placement.Resources{CPU: 1000, GPUs: 2}))
	learned := New()
	learned.Learn(world(nodes), []*placement.Job{job("eight", asks(placement.Resources{CPU: 1000, GPUs: 8}))})
	a := only(t, learned.Plan(world(nodes, two)))
	if a.Node != "n2" || !slices.Equal(a.Devices, []string{"n2-gpu-6", "n2-gpu-7"}) {
		t.Errorf("two GPUs went to %s %v, want the two that were left on n2", a.Node, a.Devices)
	}
	if a := only(t, Plan(world(nodes, job("cpu")))); a.Node != "n3" {
		t.Errorf("a job without GPUs went to %s, want the node without GPUs", a.Node)
	}
}

func TestEqualNodesShareATenantsJobs(t *testing.T) {
	nodes := []*placement.Node{node("n1"), node("n2"), node("n3")}
	var jobs []*placement.Job
	for i := range 6 {
		jobs = append(jobs, job(fmt.Sprintf("j%d", i), asks(placement.Resources{CPU: 100})))
	}
	count := make(map[placement.NodeID]int)
	for _, a := range Plan(world(nodes, jobs...)).Assign {
		count[a.Node]++
	}
	for _, n := range nodes {
		if count[n.ID] != 2 {
			t.Errorf("%s got %d of 6 jobs, want 2: %v", n.ID, count[n.ID], count)
		}
	}
}

func TestPreferenceOrdersButNeverWidens(t *testing.T) {
	at := func(site string) func(*placement.Node) { return func(n *placement.Node) { n.Site = site } }
	long := `{"residency":{"allow":["site:north","site:south"],"prefer":["site:south","site:west"]}}`
	j := job("a", tagged(wire(t, long)))
	s := world([]*placement.Node{node("n1", at("north")), node("n2", at("south")), node("n3", at("west"))}, j)
	if a := only(t, Plan(s)); a.Node != "n2" {
		t.Errorf("placed on %s, want n2 at the preferred site", a.Node)
	}
	s.Nodes[1] = node("n2", at("south"), used(8000, 0))
	if a := only(t, Plan(s)); a.Node != "n1" {
		t.Errorf("placed on %s, want n1: preference must not widen", a.Node)
	}
}

func TestScopeOfComputeNarrows(t *testing.T) {
	long := `{"residency":{"allow":["EU"],"scope":{"compute":["DE"]}}}`
	j := job("a", tagged(wire(t, long)))
	if d := Plan(world([]*placement.Node{node("n1")}, j)); len(d.Assign) != 0 {
		t.Errorf("placed in FR what may only be computed in DE")
	}
}

// wire writes a canonical long form as a tag on the wire.
func wire(t *testing.T, long string) string {
	t.Helper()
	return "json:" + base64.RawURLEncoding.EncodeToString([]byte(long))
}

func TestARestartPrefersAnotherNode(t *testing.T) {
	nodes := []*placement.Node{node("n1"), node("n2")}
	failed := job("a", func(j *placement.Job) { j.Attempts, j.Node = 1, "n1" })
	a := only(t, Plan(world(nodes, failed)))
	if a.Node != "n2" || a.Why.Reason != WhyRestart || a.Task != failed.ID.Task(0, 2) {
		t.Errorf("restart as %s on %s (%s)", a.Task, a.Node, a.Why.Reason)
	}
	if a := only(t, Plan(world(nodes[:1], failed))); a.Node != "n1" {
		t.Errorf("with no other node: %s", a.Node)
	}
}

func TestDevicesChosen(t *testing.T) {
	n := node("n1", gpus(2, "NVIDIA H200", 141*placement.GiB), gpus(2, h100, 80*placement.GiB), func(n *placement.Node) {
		n.Inventory.Devices[2].Health = placement.DeviceDegraded
	})
	tests := []struct {
		name string
		ask  placement.Resources
		want []string
	}{
		{"least memory that does, sound first", placement.Resources{GPUs: 1}, []string{"n1-gpu-3"}},
		{"one model rather than two", placement.Resources{GPUs: 2}, []string{"n1-gpu-2", "n1-gpu-3"}},
		{"a mixture when nothing else does", placement.Resources{GPUs: 3}, []string{"n1-gpu-0", "n1-gpu-2", "n1-gpu-3"}},
		{"memory", placement.Resources{GPUs: 1, GPUMemory: 100 * placement.GiB}, []string{"n1-gpu-0"}},
		{"model", placement.Resources{GPUs: 2, GPUModel: "H200"}, []string{"n1-gpu-0", "n1-gpu-1"}},
	}
	for _, tt := range tests {
		a := only(t, Plan(world([]*placement.Node{n}, job("a", asks(tt.ask)))))
		if !slices.Equal(a.Devices, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, a.Devices, tt.want)
		}
	}
}

func TestHeldRoomGoesToItsJob(t *testing.T) {
	n := node("n1", gpus(1, h100, 80*placement.GiB), used(8000, 0, "n1-gpu-0"))
	j := job("a", asks(placement.Resources{CPU: 1000, GPUs: 1}))
	s := world([]*placement.Node{n}, j)
	if d := Plan(s); len(d.Assign) != 0 {
		t.Fatalf("placed on a full node: %+v", d.Assign)
	}
	s.Held = map[placement.JobID]placement.Hold{j.ID: {Node: "n1", Devices: []string{"n1-gpu-0"}}}
	if a := only(t, Plan(s)); a.Node != "n1" || !slices.Equal(a.Devices, []string{"n1-gpu-0"}) {
		t.Errorf("held room not used: %+v", a)
	}
	s.Wanted[0] = job("a", asks(j.Spec.Resources), tagged("DE"))
	if d := Plan(s); len(d.Assign) != 0 {
		t.Errorf("a reservation widened a tag: %+v", d.Assign)
	}
}

func TestPlaceFindsOneNode(t *testing.T) {
	j := job("a")
	a, e := Place(world([]*placement.Node{node("n1")}), j)
	if a == nil || a.Node != "n1" || e.Outcome != Fits {
		t.Errorf("%+v, %+v", a, e)
	}
	if a, e := Place(world(nil), j); a != nil || e.Outcome != Full {
		t.Errorf("%+v, %+v", a, e)
	}
}

func TestWhyIsEnoughToRepeatADecision(t *testing.T) {
	s := world([]*placement.Node{node("n1")}, job("a"))
	a := only(t, Plan(s))
	if a.Why.LawPack != s.Pack.Hash() || a.Why.On != "2026-11-21" || a.Why.Rule != "tag.allow" || a.Why.Reason != WhyNew {
		t.Errorf("why: %+v", a.Why)
	}
	if a.Task != "fra-1.a/0.1" {
		t.Errorf("the first task is %s", a.Task)
	}
}

func TestWhatIsNotWantedNow(t *testing.T) {
	later := noon.Add(time.Minute)
	d := Plan(world([]*placement.Node{node("n1")},
		job("held", func(j *placement.Job) { j.NotBefore = later }),
		job("stopping", func(j *placement.Job) { j.StopRequested = true }),
		job("over", func(j *placement.Job) { j.Status = placement.JobComplete }),
	))
	if !d.Empty() || len(d.Refused) != 0 || !d.Wake.Equal(later) {
		t.Errorf("%+v, want nothing but a wake at %s", d, later)
	}
}

// Best fit by the index must be best fit by looking at every node.
func TestIndexEqualsScan(t *testing.T) {
	var nodes []*placement.Node
	for i := range 40 {
		nodes = append(nodes, node(fmt.Sprintf("n%02d", i), gpus(i%5, h100, 80*placement.GiB)))
	}
	var jobs []*placement.Job
	for i := range 200 {
		tenant := placement.TenantID(fmt.Sprintf("t%d", i%3))
		ask := placement.Resources{CPU: placement.MilliCPU(100 * (1 + i%4)), GPUs: i % 7 % 3}
		jobs = append(jobs, job(fmt.Sprintf("j%03d", i), asks(ask), func(j *placement.Job) {
			j.Tenant = tenant
			if i%9 == 0 {
				j.Attempts, j.Node = 1, "n00"
			}
		}))
	}
	fast := Plan(world(nodes, jobs...))
	learned := New()
	slow := learned.planner(world(nodes, jobs...))
	learned.learnWanted(slow)
	again := func(id placement.JobID) {
		j := slow.s.Jobs[id]
		slow.class(j).scanned = false // scan again, whatever the class
		slow.want(j)
	}
	for _, a := range fast.Assign { // in the order of the queue; who is refused takes nothing
		again(a.Job)
	}
	for _, r := range fast.Refused {
		again(r.Job)
	}
	if len(fast.Assign) != len(slow.out.Assign) || len(fast.Refused) != len(slow.out.Refused) {
		t.Fatalf("%d placed by index, %d by scan", len(fast.Assign), len(slow.out.Assign))
	}
	for i := range fast.Assign {
		if a, b := fast.Assign[i], slow.out.Assign[i]; a.Node != b.Node || !slices.Equal(a.Devices, b.Devices) {
			t.Fatalf("job %d: %s %v by index, %s %v by scan", i, a.Node, a.Devices, b.Node, b.Devices)
		}
	}
}
