package scheduler

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// anyWorld draws a region in any state: nodes of every kind, running tasks of
// every rule, and a queue.
func anyWorld(t *rapid.T) placement.Snapshot {
	pick := func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }
	var nodes []*placement.Node
	for i := range rapid.IntRange(0, 6).Draw(t, "nodes") {
		n := node(fmt.Sprintf("n%d", i), gpus(pick("gpus", 4), h100, 80*placement.GiB), gpus(pick("small gpus", 3), "NVIDIA L4", 24*placement.GiB))
		n.Site = []string{"", "north", "south"}[pick("site", 3)]
		switch pick("state", 6) {
		case 0:
			n.State = placement.NodeCordoned
		case 1:
			draining(noon.Add(time.Duration(pick("deadline", 3)-1)*time.Hour), []placement.OnDrain{"", placement.DrainWait, placement.DrainCheckpoint, placement.DrainStop}[pick("operator", 4)])(n)
		case 2:
			silentSince(time.Duration(pick("silent", 120)) * time.Second)(n)
		}
		nodes = append(nodes, n)
	}
	s := world(nodes)
	for i := range rapid.IntRange(0, 8).Draw(t, "running") {
		if len(nodes) == 0 {
			break
		}
		j := anyJob(t, fmt.Sprintf("r%d", i))
		anyTask(t, &s, j, pick("on", len(nodes)))
		if j = s.Jobs[j.ID]; j != nil && j.Spec.Type == placement.TypeService && !j.Spec.Gang() && pick("copies", 3) == 0 {
			anyTask(t, &s, j, pick("second on", len(nodes)))
		}
	}
	for i := range rapid.IntRange(0, 12).Draw(t, "wanted") {
		j := anyJob(t, fmt.Sprintf("w%02d", i))
		s.Wanted = append(s.Wanted, j)
		s.Jobs[j.ID] = j
	}
	return s
}

// anyTask lets a job run on a node, if that has room.
func anyTask(t *rapid.T, s *placement.Snapshot, j *placement.Job, on int) {
	p := newPlanner(*s)
	at, c := &p.spaces[on], p.class(j)
	if c.room(at) != 0 || j.Spec.Gang() && c.members(at) < j.Spec.Size() {
		return
	}
	for i := range j.Spec.Size() - 1 { // the first comes below
		anyMember(t, s, j, at, i+1, p.take(c, at))
	}
	anyMember(t, s, j, at, 0, p.take(c, at))
}

func anyMember(t *rapid.T, s *placement.Snapshot, j *placement.Job, at *space, member int, devices []string) {
	runs(s, j, string(at.node.ID), func(task *placement.Task) {
		if j.Spec.Gang() {
			task.ID = j.ID.Task(member, 1)
		}
		task.Devices = devices
		task.Status = rapid.SampledFrom([]placement.TaskStatus{placement.TaskRunning, placement.TaskStarting, placement.TaskUnknown}).Draw(t, "status")
		task.LeaseUntil = noon.Add(time.Duration(rapid.IntRange(-10, 10).Draw(t, "lease")) * time.Second)
	})
}

func anyJob(t *rapid.T, id string) *placement.Job {
	from := func(label string, words ...string) string { return rapid.SampledFrom(words).Draw(t, label) }
	return job(id, tagged(from("tag", "EU", "FR", "DE", "EU,!FR", "site:north", "ANY"), from("tenant tag", "EEA", "EU", "ANY,!US", "US")),
		asks(placement.Resources{
			CPU: placement.MilliCPU(rapid.IntRange(0, 5).Draw(t, "cores")) * 1000, Memory: placement.GiB,
			GPUs: rapid.IntRange(0, 3).Draw(t, "gpus"), GPUModel: from("model", "", "", "H100", "L4"),
		}),
		func(j *placement.Job) {
			j.Tenant = placement.TenantID(from("tenant", "acme", "bank"))
			j.Spec.Type = placement.JobType(from("type", "batch", "service"))
			j.Spec.OnDrain = placement.OnDrain(from("on drain", "", "wait", "move", "checkpoint", "stop"))
			j.Spec.Singleton = rapid.Bool().Draw(t, "singleton")
			j.Spec.Restart.Policy = from("restart", "never", "always")
			if rapid.IntRange(0, 3).Draw(t, "ganged") == 0 {
				j.Spec.Members, j.Spec.Singleton = rapid.IntRange(2, 5).Draw(t, "members"), false
				j.Spec.Spread = placement.Spread(from("spread", "", "node", "site"))
			}
		})
}

func TestNothingIsEverPlacedOutsideItsPolicy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyWorld(t)
		for _, a := range Plan(s).Assign {
			n := nodeOf(s, a.Node)
			var layers []residency.Layer
			for _, l := range s.Jobs[a.Job].Policy {
				tag, err := residency.ParseWire(l.Tag, s.Pack, residency.DateOf(s.Now))
				if err != nil {
					t.Fatal(err)
				}
				layers = append(layers, residency.Layer{Origin: l.Origin, Tag: tag})
			}
			if err := residency.Check(residency.NewPolicy(layers...), s.Facts.Site(s.Region, n.Site), s.Pack, residency.Options{On: residency.DateOf(s.Now)}); err != nil {
				t.Fatalf("%s on %s: %v", a.Job, a.Node, err)
			}
			if !n.Offers() {
				t.Fatalf("%s on %s, which is %s and %s", a.Job, a.Node, n.State, n.Contact)
			}
		}
	})
}

func TestNoDeviceTwiceAndNoNodeOverfull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyWorld(t)
		after := apply(s, Plan(s))
		for _, n := range after.Nodes {
			if n.Used.CPU > n.Inventory.CPU || n.Used.Memory > n.Inventory.Memory {
				t.Fatalf("%s holds %s cores and %s of %s and %s", n.ID, n.Used.CPU, n.Used.Memory, n.Inventory.CPU, n.Inventory.Memory)
			}
			if !slices.Equal(n.Used.Devices, slices.Compact(slices.Clone(n.Used.Devices))) {
				t.Fatalf("%s gave a device twice: %v", n.ID, n.Used.Devices)
			}
		}
		for _, a := range Plan(s).Assign {
			checkDevices(t, s, a)
		}
	})
}

// checkDevices: as many as asked for, all of the node, of the model, healthy.
func checkDevices(t *rapid.T, s placement.Snapshot, a placement.Assignment) {
	ask := s.Jobs[a.Job].Spec.Resources
	if len(a.Devices) != ask.GPUs {
		t.Fatalf("%s got %d devices, asked for %d", a.Job, len(a.Devices), ask.GPUs)
	}
	for _, uuid := range a.Devices {
		devices := nodeOf(s, a.Node).Inventory.Devices
		i := slices.IndexFunc(devices, func(d placement.Device) bool { return d.UUID == uuid })
		if i < 0 || !devices[i].Matches(ask) || !devices[i].Offered() {
			t.Fatalf("%s got %s on %s", a.Job, uuid, a.Node)
		}
	}
}

func TestPlanDependsOnNothingButTheSnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyWorld(t)
		other := s
		other.Jobs = maps.Clone(s.Jobs)
		other.Tasks = slices.Clone(s.Tasks)
		slices.Reverse(other.Tasks)
		if a, b := Plan(s), Plan(other); !reflect.DeepEqual(a, b) {
			t.Fatalf("%+v\nand\n%+v", a, b)
		}
	})
}

// What was decided is not decided again. While a stopped task is still to end,
// the room kept for it may be another one in the next plan, and what that frees
// may go to a job that was refused; nothing else may change.
func TestPlanningAgainChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyWorld(t)
		for range 3 {
			d := Plan(s)
			s = apply(s, d)
			next := Plan(s)
			if len(next.Stop)+len(next.Drained) > 0 {
				t.Fatalf("first %+v\nthen %+v", d, next)
			}
			moving := slices.ContainsFunc(s.Tasks, func(task *placement.Task) bool { return task.Stop })
			for _, a := range next.Assign {
				refused := slices.ContainsFunc(d.Refused, func(r Refusal) bool { return r.Job == a.Job })
				if !moving || !refused || a.Replaces != "" {
					t.Fatalf("first %+v\nthen %+v", d, next)
				}
			}
		}
	})
}

func TestOneTaskGetsOneFate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyWorld(t)
		d := Plan(s)
		stopped, made := make(map[placement.TaskID]bool), make(map[placement.JobID]bool)
		for _, stop := range d.Stop {
			if stopped[stop.Task] {
				t.Fatalf("%s is stopped twice", stop.Task)
			}
			stopped[stop.Task] = true
		}
		for _, a := range d.Assign {
			if s.Jobs[a.Job].Spec.Gang() {
				continue // see TestGangsArePlacedWholeOrNotAtAll
			}
			if made[a.Job] || stopped[a.Replaces] {
				t.Fatalf("%s gets two tasks, or one beside its stop: %+v", a.Job, d)
			}
			made[a.Job] = true
			live := 0
			for _, task := range s.Tasks {
				if task.Job == a.Job && task.Status.Live() {
					live++
				}
			}
			if live > 1 {
				t.Fatalf("a third copy of %s", a.Job)
			}
			j := s.Jobs[a.Job]
			if a.Replaces != "" && j.Spec.Type == placement.TypeBatch && !j.Spec.Singleton {
				t.Fatalf("a second copy of batch job %s", a.Job)
			}
		}
	})
}

// What explain calls fitting is what a plan places, and the counts add up.
func TestExplainAgreesWithPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyWorld(t)
		for _, j := range s.Wanted {
			one := s
			one.Wanted, one.Tasks = []*placement.Job{j}, nil
			e := Explain(one, j)
			placed := slices.ContainsFunc(Plan(one).Assign, func(a placement.Assignment) bool { return a.Job == j.ID })
			if placed != (e.Outcome == Fits) {
				t.Fatalf("placed %v, explained %+v", placed, e)
			}
			sum := e.Fitting
			for _, c := range e.Counts {
				sum += c.Nodes
			}
			if sum != e.Nodes || e.Reason == "" {
				t.Fatalf("%+v does not add up", e)
			}
		}
	})
}

func TestSummaryTellsNothingSmall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyWorld(t)
		out := Summarise(s.Nodes, SummaryFacts{Region: "fra-1", Now: noon, TTL: time.Minute})
		for _, c := range out.Classes {
			have := 0
			for _, n := range s.Nodes {
				if c.Class == ClassCPU || slices.ContainsFunc(n.Inventory.Devices, func(d placement.Device) bool { return d.Model == c.Class }) {
					have++
				}
			}
			if have < 3 != c.Withheld || c.Withheld && (c.Free != 0 || c.Largest != 0) {
				t.Fatalf("%d nodes have %s: %+v", have, c.Class, c)
			}
		}
	})
}

func nodeOf(s placement.Snapshot, id placement.NodeID) *placement.Node {
	i := slices.IndexFunc(s.Nodes, func(n *placement.Node) bool { return n.ID == id })
	return s.Nodes[i]
}
