package scheduler

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

func moves(key string) func(*placement.Node) {
	return func(n *placement.Node) {
		n.Inventory.Drivers = append(slices.Clone(n.Inventory.Drivers), "vm")
		n.Inventory.Moves = map[string]string{"process": key, "vm": key}
	}
}

func machine(j *placement.Job) { j.Kind, j.Spec.Kind = placement.KindVM, placement.KindVM }

func TestHowADrainMovesWhatRuns(t *testing.T) {
	host := func(j *placement.Job) { j.Spec.Setup = &placement.Setup{Network: &placement.Network{Host: true}} }
	failed := func(n int) func(*placement.Task) {
		return func(t *placement.Task) { t.MoveFails, t.MoveTrouble = n, "the line broke" }
	}
	none := func(*placement.Task) {}
	tests := []struct {
		name   string
		job    *placement.Job
		task   func(*placement.Task)
		target func(*placement.Node)
		action Action
		mode   string
		note   string // a part of it
		move   placement.MoveMode
	}{
		{"a service", job("a", service), none, moves("7.2"), ActMove, ModeLive, "as it is", placement.MoveLive},
		{"a machine", job("a", service, machine), none, moves("7.2"), ActMove, ModeLive, "as it is", placement.MoveLive},
		{"a singleton", job("a", service, singleton), none, moves("7.2"), ActMove, ModeLive, "as it is", placement.MoveLive},
		{"batch that moves", job("a", onDrain(placement.DrainMove)), none, moves("7.2"), ActMove, ModeLive, "as it is", placement.MoveLive},
		{"batch that saves its work", job("a", service, onDrain(placement.DrainCheckpoint)), none, moves("7.2"), ActCheckpoint, "", "saves", ""},
		{"after one that failed", job("a", service), failed(1), moves("7.2"), ActMove, ModeNearLive, "did not end: the line broke", placement.MoveNearLive},
		{"after two that failed", job("a", service), failed(2), moves("7.2"), ActMove, ModeRestart, "did not end: the line broke", ""},
		{"a machine after two that failed", job("a", service, machine), failed(2), moves("7.2"), ActStopFirst, ModeRestart, "it is stopped, then", ""},
		{"a singleton after two that failed", job("a", service, singleton), failed(2), moves("7.2"), ActStopFirst, ModeRestart, "at most one", ""},
		{"a machine, another QEMU", job("a", service, machine), none, moves("8.0"), ActStopFirst, ModeRestart, "n2 has another QEMU", ""},
		{"another driver", job("a", service), none, moves("8.0"), ActMove, ModeRestart, "n2 has another driver of process", ""},
		{"a node that takes none", job("a", service), none, func(*placement.Node) {}, ActMove, ModeRestart, "n2 takes no running tasks", ""},
		{"with devices", job("a", service), func(t *placement.Task) { t.Devices = []string{"x"} }, moves("7.2"), ActMove, ModeRestart, "GPU passthrough: cannot be moved live", ""},
		{"the node's own network", job("a", service, host), none, moves("7.2"), ActMove, ModeRestart, "own network", ""},
		{"it starts", job("a", service), func(t *placement.Task) { t.Status = placement.TaskStarting }, moves("7.2"), ActMove, ModeRestart, "does not run", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := world([]*placement.Node{node("n1", moves("7.2"), draining(noon.Add(time.Hour), placement.DrainWait)), node("n2", tt.target)})
			task := runs(&s, tt.job, "n1")
			tt.task(task)
			f := PlanDrain(s, "n1", *s.Nodes[0].Drain)[0]
			if f.Action != tt.action || f.Mode != tt.mode || !strings.Contains(f.Note, tt.note) {
				t.Errorf("fate %+v", f)
			}
			d := Plan(s)
			if tt.move == "" {
				if slices.ContainsFunc(d.Assign, func(a placement.Assignment) bool { return a.Move != "" }) {
					t.Errorf("assigns %+v", d.Assign)
				}
				return
			}
			if len(d.Assign) != 1 || d.Assign[0].Move != tt.move || d.Assign[0].Replaces != task.ID || d.Assign[0].Node != "n2" || len(d.Stop) != 0 {
				t.Fatalf("assigns %+v, stops %+v", d.Assign, d.Stop)
			}
			s = apply(s, d)
			if again := Plan(s); !again.Empty() {
				t.Errorf("planned again: %+v", again)
			}
			if f := PlanDrain(s, "n1", *s.Nodes[0].Drain)[0]; f.Mode != string(tt.move) || f.To != "n2" || !strings.Contains(f.Note, "being moved") {
				t.Errorf("on its way it has the fate %+v", f)
			}
		})
	}
}

// A node that takes the task as it runs is preferred; one outside the tag is none,
// also when it is the only one free.
func TestATaskIsMovedWithinItsTagAlone(t *testing.T) {
	north := func(n *placement.Node) { n.Site = "north" }
	south := func(n *placement.Node) { n.Site = "south" }
	s := world([]*placement.Node{
		node("n1", moves("7.2"), north, draining(noon.Add(time.Hour), placement.DrainWait)),
		node("n2", moves("8.0"), north), node("n3", moves("7.2"), north, used(4000, 0)), node("n4", moves("7.2"), south),
	})
	runs(&s, job("a", service, tagged("site:north")), "n1")
	if d := Plan(s); len(d.Assign) != 1 || d.Assign[0].Node != "n3" || d.Assign[0].Move != placement.MoveLive {
		t.Fatalf("assigns %+v, want it on n3, which takes it as it runs", d.Assign)
	}
	full := func(i int) { used(8000, 0)(s.Nodes[i]) }
	s.Nodes[1], s.Nodes[2] = new(*s.Nodes[1]), new(*s.Nodes[2])
	full(1)
	full(2)
	f := PlanDrain(s, "n1", *s.Nodes[0].Drain)[0]
	if d := Plan(s); !d.Empty() || f.Action != ActBlocked || f.Code == "" || f.Hint == "" || f.To != "" {
		t.Errorf("with n4 alone free: %+v, planned %+v", f, d)
	}
}

func TestAMoveIsGivenUpWhenANodeOfItIsLost(t *testing.T) {
	begun := func(change func(s *placement.Snapshot)) (placement.Snapshot, placement.TaskID) {
		s := world([]*placement.Node{node("n1", moves("7.2"), draining(noon.Add(time.Hour), placement.DrainWait)), node("n2", moves("7.2"))})
		runs(&s, job("a", service), "n1")
		d := Plan(s)
		s = apply(s, d)
		for i := range s.Nodes {
			s.Nodes[i] = new(*s.Nodes[i])
		}
		change(&s)
		return s, d.Assign[0].Task
	}
	for name, at := range map[string]int{"old": 0, "new": 1} {
		s, to := begun(func(s *placement.Snapshot) { silentSince(10 * time.Second)(s.Nodes[at]) })
		if d := Plan(s); !d.Empty() || !d.Wake.Equal(noon.Add(20*time.Second)) {
			t.Errorf("the %s node is silent for 10 s: %+v", name, d)
		}
		s, to = begun(func(s *placement.Snapshot) { silentSince(time.Hour)(s.Nodes[at]) })
		if d := Plan(s); len(d.Assign) != 0 || len(d.Stop) != 1 || d.Stop[0].Task != to || d.Stop[0].Again {
			t.Errorf("the %s node is silent for an hour: %+v", name, d)
		}
	}
	s, to := begun(func(s *placement.Snapshot) { draining(noon.Add(time.Hour), placement.DrainWait)(s.Nodes[1]) })
	if d := Plan(s); len(d.Assign) != 0 || len(d.Stop) != 1 || d.Stop[0].Task != to {
		t.Errorf("the new node is drained: %+v", d)
	}
	if f := PlanDrain(s, "n2", *s.Nodes[1].Drain); len(f) != 1 || f[0].Action != ActStop {
		t.Errorf("the drain of the new node: %+v", f)
	}
}
