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

func gang(n int) func(*placement.Job) { return func(j *placement.Job) { j.Spec.Members = n } }
func spread(s placement.Spread) func(*placement.Job) {
	return func(j *placement.Job) { j.Spec.Spread = s }
}
func at(site string) func(*placement.Node) { return func(n *placement.Node) { n.Site = site } }
func linked(fabric string) func(*placement.Node) {
	return func(n *placement.Node) {
		for i := range n.Inventory.Devices {
			n.Inventory.Devices[i].Fabric = fabric
		}
	}
}

var oneGPU = asks(placement.Resources{CPU: 100, Memory: placement.GiB, GPUs: 1})

// where are the nodes of an only gang, by member.
func where(t *testing.T, d Decisions) string {
	t.Helper()
	var out []string
	for i, a := range d.Assign {
		if a.Task != a.Job.Task(i, 1) {
			t.Fatalf("member %d is %s", i, a.Task)
		}
		out = append(out, string(a.Node))
	}
	return strings.Join(out, " ")
}

func TestAGangGetsAllItsPlacesOrNone(t *testing.T) {
	nodes := []*placement.Node{node("n1", gpus(2, h100, 80)), node("n2", gpus(1, h100, 80)), node("n3")}
	if d := Plan(world(nodes, job("a", gang(3), oneGPU))); where(t, d) != "n1 n1 n2" {
		t.Errorf("placed at %s", where(t, d))
	}
	d := Plan(world(nodes, job("a", gang(4), oneGPU), job("b", oneGPU)))
	if len(d.Assign) != 1 || d.Assign[0].Job != "fra-1.b" {
		t.Fatalf("assigned %+v", d.Assign)
	}
	e := d.Refused[0].Explanation
	if e.Outcome != Impossible || e.Code != GangRoom || !strings.Contains(e.Reason, "3 of its 4") {
		t.Errorf("told %+v", e)
	}
	busy := []*placement.Node{node("n1", gpus(2, h100, 80), used(100, 0, "n1-gpu-0")), nodes[1]}
	e = Explain(world(busy), job("a", gang(3), oneGPU))
	if e.Outcome != Full || e.Code != GangRoom || !strings.Contains(e.Reason, "2 of its 3") {
		t.Errorf("told %+v", e)
	}
}

func TestAGangStandsCloseOrApart(t *testing.T) {
	eight := gpus(8, h100, 80*placement.GiB)
	nodes := []*placement.Node{
		node("a1", gpus(2, h100, 80), at("north")), node("a2", eight, at("north"), linked("f1"), used(0, 0, "a2-gpu-0", "a2-gpu-1", "a2-gpu-2")),
		node("b1", gpus(4, h100, 80), at("south"), linked("f2")), node("b2", gpus(4, h100, 80), at("south"), linked("f2")), node("c1", gpus(6, h100, 80), at("west")),
	}
	for _, c := range []struct {
		members int
		spread  placement.Spread
		want    string
	}{
		{4, "", "b1 b1 b1 b1"},                // one node, the one that it fills
		{5, "", "a2 a2 a2 a2 a2"},             // five are free there: no hole is left
		{7, "", "b1 b1 b1 b1 b2 b2 b2"},       // one fabric rather than one site of two kinds
		{3, placement.SpreadNode, "a1 b1 b2"}, // fullest first, one each
	} {
		if got := where(t, Plan(world(nodes, job("g", gang(c.members), oneGPU, spread(c.spread))))); got != c.want {
			t.Errorf("%d members, spread %q: %s, want %s", c.members, c.spread, got, c.want)
		}
	}
	d := Plan(world(nodes, job("g", gang(6), oneGPU, spread(placement.SpreadSite))))
	sites := map[string]int{}
	for _, a := range d.Assign {
		sites[nodeOf(world(nodes), a.Node).Site]++
	}
	if fmt.Sprint(sites) != "map[north:2 south:2 west:2]" {
		t.Errorf("spread over sites: %v", sites)
	}
}

// Whatever the world: all members or none, of one attempt, each once, on
// distinct devices, and what is refused is told as refused.
func TestGangsArePlacedWholeOrNotAtAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyWorld(t)
		d := Plan(s)
		members := map[placement.JobID][]int{}
		for _, a := range d.Assign {
			n, attempt, ok := a.Task.Member()
			if j := s.Jobs[a.Job]; j.Spec.Gang() {
				if !ok || attempt != j.Attempts+1 || a.Replaces != "" {
					t.Fatalf("%+v of attempt %d", a, j.Attempts)
				}
				members[a.Job] = append(members[a.Job], n)
			}
		}
		for id, got := range members {
			want := s.Jobs[id].Spec.Size()
			if len(got) != want || !slices.IsSorted(got) || got[len(got)-1] != want-1 || len(slices.Compact(got)) != want {
				t.Fatalf("members %v of %s, which has %d", got, id, want)
			}
			if slices.ContainsFunc(d.Refused, func(r Refusal) bool { return r.Job == id }) {
				t.Fatalf("%s is placed and refused", id)
			}
		}
		for _, r := range d.Refused {
			if r.Explanation.Outcome == Fits && s.Jobs[r.Job].Spec.Gang() {
				t.Fatalf("%s is refused and fits: %+v", r.Job, r.Explanation)
			}
		}
	})
}

// A drain moves a gang as a whole or not at all, and its own places on the nodes
// that stay count.
func TestADrainMovesAGangAsAWhole(t *testing.T) {
	member := func(s *placement.Snapshot, j *placement.Job, i int, on string, device int) {
		runs(s, j, on, func(task *placement.Task) {
			task.ID, task.Devices = j.ID.Task(i, 1), []string{fmt.Sprintf("%s-gpu-%d", on, device)}
		})
	}
	j := job("g", gang(3), oneGPU, onDrain(placement.DrainMove))
	for name, c := range map[string]struct {
		spare int
		want  Action
	}{"there is room": {1, ActMove}, "there is none": {0, ActBlocked}} {
		s := world([]*placement.Node{
			node("n1", gpus(2, h100, 80), draining(noon.Add(time.Hour), placement.DrainStop)), node("n2", gpus(1, h100, 80)), node("n3", gpus(1+c.spare, h100, 80)),
		})
		member(&s, j, 0, "n1", 0)
		member(&s, j, 1, "n2", 0)
		member(&s, j, 2, "n3", 0)
		fates := PlanDrain(s, "n1", placement.Drain{Deadline: noon.Add(time.Hour)})
		if len(fates) != 1 || fates[0].Action != c.want {
			t.Errorf("%s: %+v", name, fates)
		}
		d := Plan(s)
		if stops := len(d.Stop); stops > 1 || (stops == 1) != (c.want == ActMove) || stops == 1 && !d.Stop[0].Again {
			t.Errorf("%s: stops %+v", name, d.Stop)
		}
	}
}
