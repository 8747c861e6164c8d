package scheduler

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

// holding adds a running task that holds so many GPUs of a node, from the first on.
func holding(s *placement.Snapshot, id, on string, first, count int, change ...func(*placement.Job)) *placement.Task {
	change = append([]func(*placement.Job){asks(placement.Resources{CPU: 100, GPUs: count})}, change...)
	var devices []string
	for k := range count {
		devices = append(devices, fmt.Sprintf("%s-gpu-%d", on, first+k))
	}
	return runs(s, job(id, change...), on, func(t *placement.Task) { t.Devices = devices })
}

func eight(n *placement.Node) { gpus(8, h100, 80*placement.GiB)(n) }

func TestDefragEmptiesTheNodeThatCostsLeast(t *testing.T) {
	s := world([]*placement.Node{node("n1", eight), node("n2", eight), node("n3", eight)})
	holding(&s, "a", "n1", 0, 1, service)
	holding(&s, "b", "n2", 0, 2, service)
	holding(&s, "c", "n2", 2, 2, service)
	holding(&s, "d", "n3", 0, 6) // a batch task whose owner said nothing
	d := PlanDefrag(s, 1)
	if len(d.Moves) != 1 || d.Moves[0].Job != "fra-1.a" || d.Moves[0].To == "n1" || d.Moves[0].Action != ActMove {
		t.Fatalf("%+v", d.Moves)
	}
	if d.Before.Free != 13 || d.After.Free != 13 || d.Before.Empty != 0 || d.After.Empty != 1 || d.After.Largest != 8 {
		t.Errorf("before %+v, after %+v", d.Before, d.After)
	}
	if len(d.Kept) != 1 || d.Kept[0] != (Kept{"its owner does not let it move", 1}) || d.Tasks != 4 {
		t.Errorf("kept %+v of %d", d.Kept, d.Tasks)
	}
}

// Nothing moves whose owner did not agree, whatever it would free.
func TestDefragAsksTheOwner(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change []func(*placement.Job)
		action Action // empty: it stays
	}{
		{"batch, nothing said", nil, ""},
		{"batch says wait", []func(*placement.Job){onDrain(placement.DrainWait)}, ""},
		{"batch says stop", []func(*placement.Job){onDrain(placement.DrainStop)}, ""},
		{"batch says move", []func(*placement.Job){onDrain(placement.DrainMove)}, ActMove},
		{"batch says checkpoint", []func(*placement.Job){onDrain(placement.DrainCheckpoint)}, ActCheckpoint},
		{"preemptible batch", []func(*placement.Job){func(j *placement.Job) { j.Spec.Preemptible = true }}, ActMove},
		{"preemptible batch says wait", []func(*placement.Job){func(j *placement.Job) { j.Spec.Preemptible = true }, onDrain(placement.DrainWait)}, ""},
		{"service", []func(*placement.Job){service}, ActMove},
		{"service says wait", []func(*placement.Job){service, onDrain(placement.DrainWait)}, ""},
		{"singleton service", []func(*placement.Job){service, singleton}, ""},
		{"singleton service says move", []func(*placement.Job){service, singleton, onDrain(placement.DrainMove)}, ActStopFirst},
		{"bound to its node", []func(*placement.Job){service, func(j *placement.Job) { j.Spec.NodeName = "n1" }}, ""},
		{"bound to its site", []func(*placement.Job){service, func(j *placement.Job) { j.Spec.Site = "north" }}, ""},
		{"not lawful anywhere else", []func(*placement.Job){service, tagged("site:north")}, ""},
		{"a member of a gang", []func(*placement.Job){service, func(j *placement.Job) { j.Spec.Members = 2 }}, ""},
		{"its job is being stopped", []func(*placement.Job){service, func(j *placement.Job) { j.StopRequested = true }}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := world([]*placement.Node{node("n1", eight, func(n *placement.Node) { n.Site = "north" }), node("n2", eight)})
			holding(&s, "a", "n1", 0, 1, tt.change...)
			holding(&s, "b", "n2", 0, 3)
			d := PlanDefrag(s, 10)
			if moved := len(d.Moves) == 1; moved != (tt.action != "") || moved && d.Moves[0].Action != tt.action {
				t.Errorf("%+v, want %q", d.Moves, tt.action)
			}
		})
	}
}

func TestDefragMovesSharesTogether(t *testing.T) {
	share := func(id, on string, device int) func(*placement.Snapshot) {
		return func(s *placement.Snapshot) {
			r := placement.Resources{CPU: 100, GPUs: 1, GPUShare: 400}
			uuid := fmt.Sprintf("%s-gpu-%d", on, device)
			task := runs(s, job(id, service, asks(r)), on)
			task.Devices = []string{uuid}
			i := slices.IndexFunc(s.Nodes, func(n *placement.Node) bool { return n.ID == task.Node })
			n := *s.Nodes[i]
			n.Used.Shares = append(slices.Clone(n.Used.Shares), placement.DeviceShare{UUID: uuid, Held: 400})
			s.Nodes[i] = &n
		}
	}
	s := world([]*placement.Node{node("n1", eight), node("n2", eight)})
	share("a", "n1", 0)(&s)
	share("b", "n2", 0)(&s)
	d := PlanDefrag(s, 10)
	if len(d.Moves) != 1 || d.Moves[0].Share != 400 || d.Moves[0].Frees != 1 || d.Before.Free != 14 || d.After.Free != 15 || d.After.Empty != 1 {
		t.Errorf("%+v", d)
	}
}

// A plan never has more moves than asked for, never moves a task twice, never
// onto a node that it emptied or one that takes no work, and what it says comes
// of it does.
func TestDefragKeepsItsPromises(t *testing.T) {
	for seed := range 20 {
		s := crowded(seed)
		limit := seed % 7
		d := PlanDefrag(s, limit)
		if len(d.Moves) > limit {
			t.Fatalf("seed %d: %d moves, %d were allowed", seed, len(d.Moves), limit)
		}
		twice, left := map[placement.TaskID]bool{}, map[placement.NodeID]bool{}
		for _, m := range d.Moves {
			to := s.Nodes[slices.IndexFunc(s.Nodes, func(n *placement.Node) bool { return n.ID == m.To })]
			if twice[m.Task] || left[m.To] || !to.Offers() || m.From == m.To {
				t.Fatalf("seed %d: %+v of %+v", seed, m, d.Moves)
			}
			twice[m.Task], left[m.From] = true, true
			if c := newPlanner(s).class(s.Jobs[m.Job]); c.fixed[slices.Index(s.Nodes, to)]&failLaw != 0 {
				t.Fatalf("seed %d: %s moves to %s, where it may not be", seed, m.Task, m.To)
			}
		}
		if len(d.Moves) > 0 && d.After.Empty < d.Before.Empty || d.After.Free < d.Before.Free {
			t.Errorf("seed %d: %d moves and it is worse: %+v, %+v", seed, len(d.Moves), d.Before, d.After)
		}
		if again := PlanDefrag(s, limit); len(again.Moves) != len(d.Moves) || len(d.Moves) > 0 && again.Moves[0] != d.Moves[0] {
			t.Errorf("seed %d: planned %+v, then %+v", seed, d.Moves, again.Moves)
		}
	}
}

// crowded is a region of thirty nodes, some at a site of their own, with tasks
// of one to four GPUs of owners of every mind.
func crowded(seed int) placement.Snapshot {
	var nodes []*placement.Node
	for i := range 30 {
		nodes = append(nodes, node(fmt.Sprintf("n%02d", i), eight, func(n *placement.Node) {
			if i%5 == 0 {
				n.Site = "north"
			}
			if i%11 == 10 {
				n.State = placement.NodeCordoned
			}
		}))
	}
	s := world(nodes)
	x := uint32(seed*2654435761 + 12345)
	draw := func(n int) int {
		x = x*1664525 + 1013904223
		return int(x>>16) % n
	}
	for i := range 60 {
		on := fmt.Sprintf("n%02d", draw(30))
		at := slices.IndexFunc(s.Nodes, func(n *placement.Node) bool { return string(n.ID) == on })
		count := 1 + draw(4)
		if first := len(s.Nodes[at].Used.Devices); first+count <= 8 {
			changes := [][]func(*placement.Job){{service}, {}, {onDrain(placement.DrainMove)}, {service, tagged("site:north")}}[draw(4)]
			holding(&s, fmt.Sprintf("j%02d", i), on, first, count, changes...)
		}
	}
	return s
}

func BenchmarkDefrag(b *testing.B) {
	var nodes []*placement.Node
	for i := range 1200 {
		nodes = append(nodes, node(fmt.Sprintf("n%04d", i), eight))
	}
	s := world(nodes)
	for i, n := range nodes {
		for k := range 1 + i%7 {
			j := job(fmt.Sprintf("j%d-%d", i, k), service, asks(placement.Resources{CPU: 100, GPUs: 1}))
			s.Jobs[j.ID] = j
			task := &placement.Task{ID: j.ID.Task(0, 1), Job: j.ID, Kind: j.Kind, Tenant: j.Tenant, Node: n.ID, Resources: j.Spec.Resources, Status: placement.TaskRunning, Devices: []string{fmt.Sprintf("%s-gpu-%d", n.ID, k)}}
			s.Tasks = append(s.Tasks, task)
			s.Nodes[i] = charged(s.Nodes[i], task.Resources, task.Devices)
		}
	}
	b.ResetTimer()
	for b.Loop() {
		PlanDefrag(s, DefragMoves)
	}
}
