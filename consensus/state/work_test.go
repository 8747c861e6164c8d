package state

import (
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

func TestAServiceIsReplacedBeforeItStops(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	id := f.submit(1, "EU", service)
	old := f.assign(id, "n1")
	f.report(old, placement.TaskRunning)
	f.ok(DrainNode{Node: "n1", Drain: placement.Drain{Deadline: f.now.Add(time.Hour)}})
	if snap := f.s.Snapshot(f.now); len(snap.Tasks) != 1 || snap.Jobs[id] == nil {
		t.Fatalf("snapshot shows %d tasks", len(snap.Tasks))
	}
	f.refused("task.exists", Assign{Assignments: []placement.Assignment{f.assignment(id, "n2")}})
	a := f.assignment(id, "n2")
	a.Replaces = old
	f.ok(Assign{Assignments: []placement.Assignment{a}})
	if f.s.Task(old).Stop {
		t.Fatal("the old task was told to stop before the new one ran")
	}
	f.refused("drain.unfinished", FinishDrain{Node: "n1"})
	f.report(a.Task, placement.TaskRunning)
	if !f.s.Task(old).Stop {
		t.Fatal("the old task was not told to stop")
	}
	f.report(old, placement.TaskStopped)
	f.wantJob(id, placement.JobRunning)
	if j := f.s.Job(id); j.Node != "n2" || j.Restarts != 0 {
		t.Errorf("job %+v", j)
	}
	f.ok(FinishDrain{Node: "n1"})
	f.ok(ResumeNode{Node: "n1"})
}

func TestRestarts(t *testing.T) {
	f := newFixture(t)
	batch := f.submit(1, "EU")
	f.report(f.assign(batch, "n1"), placement.TaskFailed)
	f.wantJob(batch, placement.JobFailed)
	id := f.submit(2, "EU", func(j *placement.Job) { j.Spec.Restart = placement.Restart{Policy: "on-failure", Attempts: 6} })
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 30} {
		f.report(f.assign(id, "n1"), placement.TaskFailed)
		j := f.s.Job(id)
		if j.Status != placement.JobPending || j.NotBefore.Sub(f.now) != want*time.Second {
			t.Fatalf("restart %d: %s, waits %s", i+1, j.Status, j.NotBefore.Sub(f.now))
		}
		if w := f.s.Snapshot(f.now).Wanted; len(w) != 1 || w[0].ID != id {
			t.Fatalf("the snapshot wants %v", w)
		}
	}
	f.report(f.assign(id, "n1"), placement.TaskFailed)
	f.wantJob(id, placement.JobFailed)
	svc := f.submit(3, "EU", service)
	f.report(f.assign(svc, "n1"), placement.TaskComplete)
	f.wantJob(svc, placement.JobPending)
	if n := len(f.s.TasksOf(id)); n != endedTasksKept {
		t.Errorf("%d ended tasks are kept", n)
	}
}

func TestAStoppedJob(t *testing.T) {
	f := newFixture(t)
	id := f.submit(1, "EU", service)
	task := f.assign(id, "n1")
	f.ok(StopJob{Job: id, Reason: "enough"})
	if !f.s.Task(task).Stop {
		t.Fatal("its task was not told")
	}
	f.report(task, placement.TaskStopped)
	f.wantJob(id, placement.JobStopped)
	moved := f.submit(2, "EU")
	task = f.assign(moved, "n1")
	f.ok(StopTasks{Tasks: []placement.TaskID{task}, Reason: "drain", Again: true})
	f.report(task, placement.TaskStopped)
	f.wantJob(moved, placement.JobPending)
	if j := f.s.Job(moved); j.Restarts != 0 || !j.NotBefore.IsZero() {
		t.Errorf("a moved job is %+v", j)
	}
}

func TestContactAndRemoval(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	batch, svc := f.submit(1, "EU"), f.submit(2, "EU", service)
	b, s := f.assign(batch, "n2"), f.assign(svc, "n2")
	f.report(b, placement.TaskRunning)
	f.ok(SetContact{Nodes: []placement.NodeID{"n2", "gone"}, Contact: placement.ContactUnknown})
	f.wantTask(b, placement.TaskUnknown)
	f.wantJob(batch, placement.JobUnknown)
	a := f.assignment(batch, "n1")
	a.Replaces = b
	f.refused("task.unknown", Assign{Assignments: []placement.Assignment{a}})
	f.ok(SetContact{Nodes: []placement.NodeID{"n2"}, Contact: placement.ContactAlive})
	f.wantTask(b, placement.TaskRunning)
	f.wantTask(s, placement.TaskAssigned)
	f.wantJob(batch, placement.JobRunning)
	f.refused("node.last", RemoveNode{Node: func() placement.NodeID { f.ok(SetRole{Node: "n2", Role: placement.RoleWorker}); return "n1" }()})
	f.ok(IssueCertificate{Node: "n2", Serial: "77", NotAfter: f.now.Add(time.Hour)})
	f.ok(RemoveNode{Node: "n2"})
	f.wantJob(batch, placement.JobLost)
	f.wantJob(svc, placement.JobPending)
	if !f.s.Revoked("77") || f.s.Node("n2") != nil {
		t.Error("the removed node's certificate is not revoked")
	}
}

func TestASingletonIsFencedByItsLease(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	id := f.submit(1, "EU", service, singleton)
	task := f.assign(id, "n2")
	f.report(task, placement.TaskRunning)
	f.ok(RenewLeases{Node: "n2", Tasks: []placement.TaskID{task}, Until: f.now.Add(time.Minute)})
	f.refused("lease.lost", RenewLeases{Node: "n1", Tasks: []placement.TaskID{task}, Until: f.now.Add(time.Minute)})
	f.ok(SetContact{Nodes: []placement.NodeID{"n2"}, Contact: placement.ContactUnknown})
	a := f.assignment(id, "n1")
	a.Replaces = task
	f.refused("singleton.lease", Assign{Assignments: []placement.Assignment{a}})
	f.now = f.now.Add(61 * time.Second)
	f.ok(Assign{Assignments: []placement.Assignment{a}})
	f.wantTask(task, placement.TaskLost)
	if n := len(f.s.liveTasks(id)); n != 1 {
		t.Errorf("%d live copies of a singleton", n)
	}
}

// A singleton whose node ended it with its lease wants its next copy; one that
// was told to stop does not, nor does a batch job that runs once.
func TestASingletonThatLostItsLeaseRunsAgain(t *testing.T) {
	f := newFixture(t)
	id := f.submit(1, "EU", service, singleton)
	task := f.assign(id, "n1")
	f.report(task, placement.TaskRunning)
	f.report(task, placement.TaskStopped)
	f.wantJob(id, placement.JobPending)
	task = f.assign(id, "n1")
	f.report(task, placement.TaskRunning)
	f.ok(StopJob{Job: id, Reason: "enough"})
	f.report(task, placement.TaskStopped)
	f.wantJob(id, placement.JobStopped)
	once := f.submit(2, "EU", singleton)
	task = f.assign(once, "n1")
	f.report(task, placement.TaskRunning)
	f.report(task, placement.TaskStopped)
	f.wantJob(once, placement.JobStopped)
}

func TestANodeSpeaksForItsOwnTasksOnly(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	id := f.submit(1, "EU")
	task := f.assign(id, "n1")
	f.refused("task.foreign", ReportTasks{Node: "n2", Reports: []placement.TaskReport{{Task: task, Status: placement.TaskComplete}}})
	f.wantTask(task, placement.TaskAssigned)
	f.report(task, placement.TaskComplete)
	f.report(task, placement.TaskRunning) // late
	f.wantTask(task, placement.TaskComplete)
}

func TestCapacity(t *testing.T) {
	f := newFixture(t)
	wants := func(n, g int) placement.JobID {
		return f.submit(n, "EU", func(j *placement.Job) { j.Spec.Resources.GPUs = g })
	}
	big, bad := wants(1, 2), wants(2, 1)
	a := f.assignment(big, "n1")
	f.refused("capacity.devices", Assign{Assignments: []placement.Assignment{a}})
	a.Devices = []string{"n1-gpu0", "n1-gpu0"}
	f.refused("capacity.devices", Assign{Assignments: []placement.Assignment{a}})
	a.Devices = []string{"n1-gpu0", "n1-gpu1"}
	b := f.assignment(bad, "n1")
	b.Devices = []string{"n1-gpu1"}
	f.refused("capacity.devices", Assign{Assignments: []placement.Assignment{a, b}})
	if f.s.Node("n1").Used.Tasks != 0 || len(f.s.TasksOf(big)) != 0 || f.s.queue.len() != 2 {
		t.Fatal("an assignment of two was taken by half")
	}
	f.ok(Assign{Assignments: []placement.Assignment{a}})
	f.refused("capacity.devices", Assign{Assignments: []placement.Assignment{b}})
	cpu := f.submit(3, "EU", func(j *placement.Job) { j.Spec.Resources.CPU = 64000 })
	f.refused("capacity.cpu", Assign{Assignments: []placement.Assignment{f.assignment(cpu, "n1")}})
	f.ok(CordonNode{Node: "n1"})
	f.refused("node.closed", Assign{Assignments: []placement.Assignment{f.assignment(cpu, "n1")}})
}

func TestJoining(t *testing.T) {
	f := newFixture(t)
	h := hashOf("t")
	f.ok(CreateJoinToken{Hash: h, Node: "n2", Expires: f.now.Add(time.Minute)})
	f.refused("token.name", JoinNode{TokenHash: h, Node: aNode("n3")})
	f.ok(JoinNode{TokenHash: h, Node: func() placement.Node { n := aNode("n2"); n.Region, n.Role = "evil", placement.RoleVoter; return n }()})
	if n := f.s.Node("n2"); n.Region != "fra-1" || n.Role != placement.RoleVoter {
		t.Errorf("node %+v", n)
	}
	f.refused("token.spent", JoinNode{TokenHash: h, Node: aNode("n3")}) // a replayed token
	h = hashOf("u")
	f.ok(CreateJoinToken{Hash: h, Expires: f.now.Add(time.Minute)})
	f.refused("node.exists", JoinNode{TokenHash: h, Node: aNode("n2")})
	f.now = f.now.Add(2 * time.Minute)
	f.refused("token.expired", JoinNode{TokenHash: h, Node: aNode("n3")})
	for _, id := range []string{"n3", "n4", "n5", "n6", "n7", "n8"} {
		f.node(id)
	}
	for id, want := range map[string]placement.NodeRole{"n3": placement.RoleVoter, "n4": placement.RoleStandby, "n7": placement.RoleStandby, "n8": placement.RoleWorker} {
		if got := f.s.Node(placement.NodeID(id)).Role; got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
	}
}

// A site decides what may run at a node: the node's later word does not move it.
func TestANodeCannotMoveItselfToAnotherSite(t *testing.T) {
	f := newFixture(t)
	n := f.s.Node("n1")
	report := ReportInventory{Node: "n1", Inventory: n.Inventory, Site: "elsewhere"}
	report.Inventory.Version++
	f.refused("node.site", report)
	if now := f.s.Node("n1").Site; now != n.Site {
		t.Errorf("it stands at %q now", now)
	}
	report.Site = n.Site
	f.ok(report)
}

// A node's later word does not give it the host of another, for which a serving
// certificate would then be due.
func TestANodeCannotMoveToTheHostOfAnother(t *testing.T) {
	f := newFixture(t)
	report := func(id placement.NodeID, api string) ReportInventory {
		r := ReportInventory{Node: id, Inventory: f.s.Node(id).Inventory, API: api}
		r.Inventory.Version++
		return r
	}
	f.ok(report("n1", "https://one.example:7443"))
	f.node("n2")
	f.ok(report("n2", "https://10.0.0.2:7443"))
	for _, api := range []string{"https://one.example:9", "https://ONE.example.:9", "https://x@one.example", "nonsense", "https://"} {
		f.refused("node.address", report("n2", api))
	}
	f.refused("node.address", report("n1", "https://[::ffff:10.0.0.2]:7443"))
	f.ok(report("n2", "https://10.0.0.2:9")) // another port of its own host
	f.ok(report("n2", "https://two.example:9"))
	f.ok(report("n1", "https://10.0.0.2:7443")) // which is nobody's by now
}

// A drain set is one step: a set with a name that nobody has, or with one twice,
// drains nothing.
func TestADrainSetIsAllOrNothing(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	set := func(ids ...placement.NodeID) DrainNodes { return DrainNodes{Nodes: ids} }
	f.refused("drain.set", set())
	f.refused("drain.set", set(make([]placement.NodeID, maxDrainSet+1)...))
	f.refused("drain.set", set("n2", "n1", "n2"))
	f.refused("node.unknown", set("n1", "n9", "n2"))
	f.refused("drain.rule", DrainNodes{Nodes: []placement.NodeID{"n1"}, Drain: placement.Drain{OnDeadline: "explode"}})
	for _, id := range []placement.NodeID{"n1", "n2"} {
		if n := f.s.Node(id); n.State != placement.NodeReady || n.Drain != nil {
			t.Fatalf("%s is %s after refusals", id, n.State)
		}
	}
	f.ok(set("n2", "n1"))
	for _, id := range []placement.NodeID{"n1", "n2"} {
		if n := f.s.Node(id); n.State != placement.NodeDraining || n.Drain == nil || n.Drain.OnDeadline != placement.DrainWait {
			t.Errorf("%s is %s, %+v", id, n.State, n.Drain)
		}
	}
}
