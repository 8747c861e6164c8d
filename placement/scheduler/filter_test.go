package scheduler

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

func TestEachFilterNamesItself(t *testing.T) {
	h := gpus(4, h100, 80*placement.GiB)
	gpuJob := func(r placement.Resources) func(*placement.Job) {
		r.CPU = 1000
		return asks(r)
	}
	tests := []struct {
		name    string
		node    *placement.Node
		job     *placement.Job
		code    Constraint
		outcome Outcome
		change  string // the relaxation that would let it in
	}{
		{"fits", node("n1"), job("a"), "", Fits, ""},
		{"another country's tag", node("n1"), job("a", tagged("DE")), ResidencyRefused, Refused, "widen"},
		{"the tenant's layer refuses", node("n1"), job("a", tagged("EU", "DE")), ResidencyRefused, Refused, "widen"},
		{"a denied country", node("n1"), job("a", tagged("EU,!FR")), ResidencyRefused, Refused, "widen"},
		{"a claim nobody stated", node("n1"), job("a", tagged("FR-IDF")), ResidencyUnknown, Unknown, "documented"},
		{"a tag this pack cannot read", node("n1"), job("a", tagged("ATLANTIS")), ResidencyUnknown, Unknown, ""},
		{"a long form that is damaged", node("n1"), job("a", tagged("json:eyJ9")), ResidencyUnknown, Unknown, ""},
		{"cordoned", node("n1", func(n *placement.Node) { n.State = placement.NodeCordoned }), job("a"), NodeState, Full, "resume"},
		{"draining", node("n1", draining(noon, placement.DrainWait)), job("a"), NodeState, Full, "resume"},
		{"drained", node("n1", func(n *placement.Node) { n.State = placement.NodeDrained }), job("a"), NodeState, Full, "resume"},
		{"silent", node("n1", silentSince(0)), job("a"), NodeContact, Full, "silent"},
		{"pinned to another node", node("n1"), job("a", func(j *placement.Job) { j.Spec.NodeName = "n2" }), NodePinned, Impossible, "drop the binding to node n2"},
		{"pinned to another site", node("n1"), job("a", func(j *placement.Job) { j.Spec.Site = "north" }), NodePinned, Impossible, "drop the binding to site north"},
		{"no driver", node("n1"), job("a", func(j *placement.Job) { j.Kind = placement.KindVM }), NodeDriver, Impossible, "driver vm"},
		{"no resolver in the region", node("n1"), job("a", asksOf("192.0.2.53")), NodeResolver, Impossible, "tasks.resolvers"},
		{"another resolver", node("n1", resolves("192.0.2.54", "2001:db8::53")), job("a", asksOf("192.0.2.53")), NodeResolver, Impossible, "name one that the region's operator does: 192.0.2.54, 2001:db8::53"},
		{"one of two resolvers", node("n1", resolves("192.0.2.53")), job("a", asksOf("192.0.2.53", "192.0.2.54")), NodeResolver, Impossible, "192.0.2.53"},
		{"its resolvers, as people write them", node("n1", resolves("192.0.2.53", "2001:db8::53")), job("a", asksOf("2001:DB8:0::53", "::ffff:192.0.2.53")), "", Fits, ""},
		{"no cpu now", node("n1", used(7500, 0)), job("a"), FreeCPU, Full, "ask for cpu 500m"},
		{"no cpu ever", node("n1"), job("a", asks(placement.Resources{CPU: 9000})), FreeCPU, Impossible, "ask for cpu 8"},
		{"no memory now", node("n1", used(0, 32*placement.GiB-1)), job("a"), FreeMemory, Full, "ask for less memory"},
		{"no memory ever", node("n1"), job("a", asks(placement.Resources{Memory: placement.TiB})), FreeMemory, Impossible, "ask for memory 32GiB"},
		{"no gpu at all", node("n1"), job("a", gpuJob(placement.Resources{GPUs: 1})), GPUCount, Impossible, ""},
		{"gpus taken", node("n1", h, used(0, 0, "n1-gpu-0", "n1-gpu-1", "n1-gpu-2")), job("a", gpuJob(placement.Resources{GPUs: 2})), GPUFree, Full, "ask for 1 GPU"},
		{"gpus sick", node("n1", h, func(n *placement.Node) {
			for i := range n.Inventory.Devices {
				n.Inventory.Devices[i].Health = placement.DeviceLost
			}
		}), job("a", gpuJob(placement.Resources{GPUs: 1})), GPUHealth, Full, "repaired or cleared"},
		{"some gpus sick, the others held", node("n1", h, used(0, 0, "n1-gpu-0"), sick(placement.DeviceCordoned, 1, 2, 3)), job("a", gpuJob(placement.Resources{GPUs: 3})), GPUHealth, Full, "repaired or cleared"},
		{"more than are there, sick or not", node("n1", h, sick(placement.DeviceLost, 1)), job("a", gpuJob(placement.Resources{GPUs: 9})), GPUCount, Impossible, "ask for 3 GPUs"},
		{"cut into instances", node("n1", h, cut("1g.10gb", 7)), job("a", gpuJob(placement.Resources{GPUs: 5})), GPUCount, Impossible, "ask for 4 GPUs"},
		{"instances", node("n1", h, cut("1g.10gb", 7)), job("a", gpuJob(placement.Resources{GPUs: 7, GPUProfile: "1g.10gb"})), "", Fits, ""},
		{"instances held", node("n1", h, cut("1g.10gb", 2), used(0, 0, "n1-mig-0")), job("a", gpuJob(placement.Resources{GPUs: 2, GPUProfile: "1g.10gb"})), GPUFree, Full, "ask for 1 GPU"},
		{"a profile that no device has", node("n1", h, cut("1g.10gb", 7)), job("a", gpuJob(placement.Resources{GPUs: 1, GPUProfile: "3g.40gb"})), GPUProfile, Impossible, "take another MIG profile: a whole GPU, 1g.10gb"},
		{"an instance is no gpu", node("n1", cut("1g.10gb", 7)), job("a", gpuJob(placement.Resources{GPUs: 1})), GPUCount, Impossible, ""},
		{"no confidential device", node("n1", h), job("a", gpuJob(placement.Resources{GPUs: 1, Confidential: true})), GPUSealed, Impossible, "do without"},
		{"a confidential device that is lost", node("n1", h, sealed, sick(placement.DeviceLost, 0, 1, 2, 3)), job("a", gpuJob(placement.Resources{GPUs: 1, Confidential: true})), GPUHealth, Full, ""},
		{"a share of a part-held device", node("n1", gpus(1, h100, 80*placement.GiB), shares("n1-gpu-0", 700)), job("a", gpuJob(placement.Resources{GPUs: 1, GPUShare: 300})), "", Fits, ""},
		{"a share that is not left", node("n1", gpus(1, h100, 80*placement.GiB), shares("n1-gpu-0", 701)), job("a", gpuJob(placement.Resources{GPUs: 1, GPUShare: 300})), GPUFree, Full, "ask for gpu_share 200m"},
		{"one of two models", node("n1", h), job("a", gpuJob(placement.Resources{GPUs: 1, GPUModel: "A100|H100"})), "", Fits, ""},
		{"none of two models", node("n1", h), job("a", gpuJob(placement.Resources{GPUs: 1, GPUModel: "A100|B200"})), GPUModel, Impossible, "take another model"},
		{"more gpus than any node has", node("n1", h), job("a", gpuJob(placement.Resources{GPUs: 5})), GPUCount, Impossible, "ask for 4 GPUs"},
		{"another model", node("n1", h), job("a", gpuJob(placement.Resources{GPUs: 1, GPUModel: "A100"})), GPUModel, Impossible, "take another model: " + h100},
		{"too little device memory", node("n1", h), job("a", gpuJob(placement.Resources{GPUs: 1, GPUMemory: 100 * placement.GiB})), GPUMemory, Impossible, "ask for gpu_memory 80GiB"},
		{"model in any case", node("n1", h), job("a", gpuJob(placement.Resources{GPUs: 4, GPUModel: "h100", GPUMemory: 80 * placement.GiB})), "", Fits, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := world([]*placement.Node{tt.node}, tt.job)
			e := Explain(s, tt.job)
			if e.Outcome != tt.outcome || e.Code != tt.code {
				t.Errorf("%s by %q (%s), want %s by %q", e.Outcome, e.Code, e.Reason, tt.outcome, tt.code)
			}
			if (tt.outcome == Fits) != (len(Plan(s).Assign) == 1) {
				t.Errorf("explained as %s, but planned %+v", e.Outcome, Plan(s).Assign)
			}
			if tt.outcome != Fits && (e.Hint == "" || len(Plan(s).Refused) != 1) {
				t.Errorf("no hint or no refusal: %+v", e)
			}
			found := tt.change == ""
			for _, c := range e.Changes {
				found = found || strings.Contains(c.What, tt.change) && c.Nodes == 1
			}
			if !found {
				t.Errorf("no change %q in %+v", tt.change, e.Changes)
			}
		})
	}
}

// Every fraction of a device is given once: shares fill one device before they
// open another, and nobody gets a whole one that is held in part.
func TestSharesFillOneDeviceFirst(t *testing.T) {
	half := asks(placement.Resources{CPU: 100, GPUs: 1, GPUShare: 500})
	n := node("n1", gpus(2, h100, 80*placement.GiB))
	s := world([]*placement.Node{n}, job("a", half), job("b", half), job("c", half), job("d", asks(placement.Resources{CPU: 100, GPUs: 1})), job("e", half), job("f", half))
	d := Plan(s)
	held := map[string]int{}
	for _, a := range d.Assign {
		held[a.Devices[0]] += 500
	}
	if len(d.Assign) != 4 || held["n1-gpu-0"] != 1000 || held["n1-gpu-1"] != 1000 {
		t.Fatalf("%v of %+v", held, d.Assign)
	}
	if len(d.Refused) != 2 || d.Refused[0].Job != "fra-1.d" || d.Refused[0].Explanation.Code != GPUFree {
		t.Errorf("refused %+v", d.Refused)
	}
}

func TestTheBriefSaysTheLargestHole(t *testing.T) {
	h := gpus(4, h100, 80*placement.GiB)
	nodes := []*placement.Node{
		node("n1", h, used(0, 0, "n1-gpu-0")), node("n2", h, used(0, 0, "n2-gpu-0", "n2-gpu-1")), node("n3"), node("n4", h, used(8000, 0)),
		node("n5", h, func(n *placement.Node) { n.State = placement.NodeCordoned }),
	}
	j := job("a", asks(placement.Resources{CPU: 1000, GPUs: 4}))
	e := Explain(world(nodes, j), j)
	if want := "5 nodes: 2 gpu-free<4 (largest hole 3), 1 cordoned, 1 gpus<4, 1 cpu"; e.Brief != want {
		t.Errorf("%q, want %q", e.Brief, want)
	}
	// With a node that takes it, the largest hole is there and says nothing of the others.
	e = Explain(world(append(nodes, node("n6", h)), j), j)
	if want := "6 nodes: 1 fit, 2 gpu-free<4, 1 cordoned, 1 gpus<4, 1 cpu"; e.Brief != want || e.Counts[len(e.Counts)-1].Detail != "4 asked for" {
		t.Errorf("%q, %+v; want %q", e.Brief, e.Counts, want)
	}
}

func TestANodeCountsForTheFirstFilterItFails(t *testing.T) {
	nodes := []*placement.Node{
		node("n1", silentSince(0), func(n *placement.Node) { n.State = placement.NodeCordoned }),
		node("n2", used(8000, 32*placement.GiB)),
		node("n3", used(7500, 32*placement.GiB)),
		node("n4", used(0, 32*placement.GiB)),
		node("n5", func(n *placement.Node) { n.Inventory.Drivers = nil }),
	}
	j := job("a")
	e := Explain(world(nodes, j), j)
	want := []Count{{NodeState, 1, ""}, {NodeDriver, 1, "kind process"}, {FreeCPU, 2, "1 asked for"}, {FreeMemory, 1, "1GiB asked for"}}
	if len(e.Counts) != len(want) {
		t.Fatalf("counts %+v, want %+v", e.Counts, want)
	}
	sum := e.Fitting
	for i := range want {
		if e.Counts[i] != want[i] {
			t.Errorf("count %d is %+v, want %+v", i, e.Counts[i], want[i])
		}
		sum += e.Counts[i].Nodes
	}
	if sum != e.Nodes || e.Code != FreeCPU || e.Outcome != Full {
		t.Errorf("%d of %d nodes counted, %s by %s", sum, e.Nodes, e.Outcome, e.Code)
	}
}

func TestTheDominantReasonIsOfNodesThatCouldHoldIt(t *testing.T) {
	h := gpus(8, h100, 80*placement.GiB)
	nodes := []*placement.Node{
		node("n1", h, used(0, 0, "n1-gpu-0", "n1-gpu-1", "n1-gpu-2", "n1-gpu-3", "n1-gpu-4")),
		node("n2", gpus(8, "NVIDIA A100-SXM4-80GB", 80*placement.GiB)),
		node("n3", gpus(8, "NVIDIA A100-SXM4-80GB", 80*placement.GiB)),
		node("n4", h, used(8000, 0)),
		node("n5", h, used(8000, 0)),
	}
	j := job("a", asks(placement.Resources{CPU: 1000, GPUs: 4, GPUModel: "H100"}))
	e := Explain(world(nodes, j), j)
	if e.Outcome != Full || e.Code != FreeCPU || !strings.Contains(e.Reason, "2 of 3 nodes that could hold it have less than 1 cores free") {
		t.Errorf("%s by %s: %s", e.Outcome, e.Code, e.Reason)
	}
}

func TestExplanationIsStableAndNamesNoNode(t *testing.T) {
	j := job("a", tagged("EU"), asks(placement.Resources{CPU: 1000, GPUs: 8, GPUModel: "H100"}))
	s := world([]*placement.Node{node("secret-1", gpus(4, h100, 80*placement.GiB)), node("secret-2")}, j)
	first, err := json.Marshal(Explain(s, j))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, _ := json.Marshal(Explain(s, j))
		if string(again) != string(first) {
			t.Fatalf("%s\nthen\n%s", first, again)
		}
	}
	if strings.Contains(string(first), "secret") {
		t.Errorf("a node is named: %s", first)
	}
}

// Programs read it: the fields and their order do not change by the way.
func TestTheExplanationAsJSON(t *testing.T) {
	h := gpus(4, h100, 80*placement.GiB)
	j := job("a", asks(placement.Resources{CPU: 1000, GPUs: 4, GPUModel: "H100"}))
	s := world([]*placement.Node{node("n1", h, used(0, 0, "n1-gpu-0")), node("n2", h, sick(placement.DeviceLost, 0)), node("n3")}, j)
	e := Explain(s, j)
	e.LawPack = "sha256:x"
	got, err := json.Marshal(e)
	want := `{"region":"fra-1","outcome":"full","code":"gpu.free",` +
		`"reason":"no room now: 1 of 2 nodes that could hold it has fewer than 4 GPUs free","hint":"it waits and starts when there is room",` +
		`"rule":"tag.allow","law_pack":"sha256:x","on":"2026-11-21","nodes":3,"fitting":0,"counts":[{"constraint":"gpu.count","nodes":1,"detail":"fewer than 4"},` +
		`{"constraint":"gpu.health","nodes":1,"detail":"cordoned or lost"},{"constraint":"gpu.free","nodes":1,"detail":"4 asked for, the largest hole has 3"}],` +
		`"largest_hole":3,"brief":"3 nodes: 1 gpus\u003c4, 1 gpu-health, 1 gpu-free\u003c4 (largest hole 3)",` +
		`"changes":[{"constraint":"gpu.health","what":"have the cordoned or lost GPUs repaired or cleared","nodes":1},{"constraint":"gpu.free","what":"ask for 3 GPUs","nodes":2}]}`
	if err != nil || string(got) != want {
		t.Errorf("%s\nwant\n%s %v", got, want, err)
	}
}

func TestExplainWithoutNodes(t *testing.T) {
	for tag, want := range map[string]Outcome{"EU": Full, "DE": Refused, "FR-IDF": Unknown} {
		j := job("a", tagged(tag))
		if e := Explain(world(nil, j), j); e.Outcome != want || e.Reason == "" {
			t.Errorf("%s in a region without nodes: %s (%s), want %s", tag, e.Outcome, e.Reason, want)
		}
	}
	s := world([]*placement.Node{node("n1")}, job("a"))
	s.Pack = nil
	if e := Explain(s, s.Wanted[0]); e.Outcome != Unknown {
		t.Errorf("without a law pack: %s", e.Outcome)
	}
}

func TestExitCodes(t *testing.T) {
	for o, want := range map[Outcome]int{Fits: 0, Full: 10, Impossible: 11, Refused: 20, Unknown: 30} {
		if o.ExitCode() != want {
			t.Errorf("%s ends with %d, want %d", o, o.ExitCode(), want)
		}
	}
}

// asksOf has a job's tasks ask resolvers.
func asksOf(resolvers ...string) func(*placement.Job) {
	return func(j *placement.Job) {
		j.Spec.Setup = &placement.Setup{Network: &placement.Network{DNS: resolvers}}
	}
}

// resolves gives a node the region's resolvers.
func resolves(all ...string) func(*placement.Node) {
	return func(n *placement.Node) { n.Inventory.Resolvers = all }
}
