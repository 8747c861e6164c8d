package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

func gangOf(n int) func(*placement.Job) {
	return func(j *placement.Job) { j.Spec.Members = n }
}

// wholeGang are the assignments of all members, on the nodes in turn.
func (f *fixture) gang(id placement.JobID, nodes ...string) Assign {
	f.t.Helper()
	j := f.s.Job(id)
	var out Assign
	for i := range j.Spec.Size() {
		out.Assignments = append(out.Assignments, placement.Assignment{Task: id.Task(i, j.Attempts+1), Job: id, Node: placement.NodeID(nodes[i%len(nodes)])})
	}
	return out
}

// No leader can place a part of a gang, or its members twice, or out of order:
// nothing of such a command is done.
func TestNoPartOfAGangIsEverPlaced(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	id, single := f.submit(1, "EU", gangOf(3)), f.submit(2, "EU")
	whole := f.gang(id, "n1", "n2").Assignments
	twice := []placement.Assignment{whole[0], whole[1], whole[1]}
	other := whole[2]
	other.Task = id.Task(2, 2)
	replacing := whole[2]
	replacing.Replaces = id.Task(0, 1)
	fourth := whole[2]
	fourth.Task = id.Task(3, 1)
	for name, all := range map[string][]placement.Assignment{
		"the first two": whole[:2], "the last two": whole[1:], "one": whole[:1], "one twice": twice, "out of order": {whole[1], whole[0], whole[2]},
		"with another between": {whole[0], f.assignment(single, "n1"), whole[1], whole[2]}, "of two attempts": {whole[0], whole[1], other},
		"one replacing": {whole[0], whole[1], replacing}, "a fourth": append(whole[:3:3], fourth), "another number": {whole[0], whole[1], fourth},
	} {
		before := f.s.Freeze()
		r := f.apply(Assign{Assignments: all})
		if r.Refused == nil || len(f.s.TasksOf(id)) != 0 || f.s.Job(id).Attempts != 0 || f.s.Node("n1").Used.Tasks != before.Node("n1").Used.Tasks {
			t.Errorf("%s: %+v", name, r.Refused)
		}
	}
	// One member outside the tag, or without room, and none is placed.
	us := whole[2]
	us.Node = "n9"
	f.refused("node.unknown", Assign{Assignments: []placement.Assignment{whole[0], whole[1], us}})
	big := f.submit(3, "EU", gangOf(3), func(j *placement.Job) { j.Spec.Resources.CPU = 40000 })
	f.refused("capacity.cpu", f.gang(big, "n1", "n2"))
	if n := f.s.LiveTasks(); n != 0 {
		t.Fatalf("%d tasks are alive", n)
	}
	f.ok(Assign{Assignments: append([]placement.Assignment{f.assignment(single, "n1")}, whole...)})
	if f.s.Job(id).Attempts != 1 || f.s.LiveTasks() != 4 {
		t.Errorf("attempts %d, alive %d", f.s.Job(id).Attempts, f.s.LiveTasks())
	}
	f.refused("gang.part", StripTo(f.gang(id, "n1"), 2))
	f.refused("task.exists", f.gang(id, "n1"))
}

// StripTo keeps the first assignments.
func StripTo(a Assign, n int) Assign { return Assign{Assignments: a.Assignments[:n]} }

func TestAGangRunsWhenAllItsMembersDo(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	id := f.submit(1, "EU", gangOf(3))
	f.ok(f.gang(id, "n1", "n2"))
	f.wantJob(id, placement.JobStarting)
	f.report(id.Task(0, 1), placement.TaskRunning)
	f.report(id.Task(1, 1), placement.TaskRunning)
	f.wantJob(id, placement.JobStarting)
	f.report(id.Task(2, 1), placement.TaskRunning)
	f.wantJob(id, placement.JobRunning)
	f.ok(SetContact{Nodes: []placement.NodeID{"n2"}, Contact: placement.ContactUnknown})
	f.wantJob(id, placement.JobUnknown)
	f.ok(SetContact{Nodes: []placement.NodeID{"n2"}, Contact: placement.ContactAlive})
	f.wantJob(id, placement.JobRunning)
	for i, want := range []placement.JobStatus{placement.JobRunning, placement.JobRunning, placement.JobComplete} {
		f.report(id.Task(i, 1), placement.TaskComplete)
		f.wantJob(id, want)
	}
	if code := f.s.Job(id).ExitCode; code == nil || *code != 0 {
		t.Errorf("exit code %v", code)
	}
}

// One member fails: the others are told to end, and only then does the restart
// policy speak, for the gang as a whole. Its size does not count as attempts.
func TestAGangEndsAndRestartsAsAWhole(t *testing.T) {
	f := newFixture(t)
	id := f.submit(1, "EU", gangOf(12), func(j *placement.Job) {
		j.Spec.Restart = placement.Restart{Policy: "on-failure", Attempts: 1}
	})
	for attempt := 1; attempt <= 2; attempt++ {
		f.ok(f.gang(id, "n1"))
		for i := range 12 {
			f.report(id.Task(i, attempt), placement.TaskRunning)
		}
		f.report(id.Task(3, attempt), placement.TaskComplete) // early, and well
		f.wantJob(id, placement.JobRunning)
		f.report(id.Task(7, attempt), placement.TaskFailed)
		for i := range 12 {
			task := f.s.Task(id.Task(i, attempt))
			if task == nil || task.Status.Live() && !task.Stop {
				t.Fatalf("member %d is %+v after another failed", i, task)
			}
		}
		for i := range 12 {
			if i == 3 || i == 7 {
				continue
			}
			if j := f.s.Job(id); j.Status == placement.JobPending || j.Status.Terminal() {
				t.Fatalf("it is %s while members live", j.Status)
			}
			f.report(id.Task(i, attempt), placement.TaskStopped)
		}
		if attempt == 1 {
			j := f.s.Job(id)
			if f.wantJob(id, placement.JobPending); j.Attempts != 1 || j.Restarts != 1 || !strings.HasPrefix(j.Reason, "restarts") {
				t.Fatalf("%+v", j)
			}
			f.now = f.now.Add(time.Minute)
		}
	}
	f.wantJob(id, placement.JobFailed)
	if code := f.s.Job(id).ExitCode; code == nil || *code != 1 {
		t.Errorf("exit code %v: that of the member that failed counts", code)
	}
}

func TestWhatHappensToOneMemberHappensToTheGang(t *testing.T) {
	cases := map[string]struct {
		do   func(f *fixture, id placement.JobID)
		want placement.JobStatus
	}{
		"a drain stops one, to start it elsewhere": {func(f *fixture, id placement.JobID) {
			f.ok(StopTasks{Tasks: []placement.TaskID{id.Task(1, 1)}, Reason: "its node is drained", Again: true})
		}, placement.JobPending},
		"one is stopped for good": {func(f *fixture, id placement.JobID) { f.ok(StopTasks{Tasks: []placement.TaskID{id.Task(1, 1)}}) }, placement.JobStopped},
		"its owner stops it":      {func(f *fixture, id placement.JobID) { f.ok(StopJob{Job: id}) }, placement.JobStopped},
		"the node of one is lost": {func(f *fixture, id placement.JobID) { f.ok(RemoveNode{Node: "n2"}) }, placement.JobLost},
		"one was refused by a node": {func(f *fixture, id placement.JobID) {
			f.ok(ReportTasks{Node: "n2", Reports: []placement.TaskReport{{Task: id.Task(1, 1), Status: placement.TaskFailed, Refused: true, At: f.now}}})
		}, placement.JobPending},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.node("n2")
			id := f.submit(1, "EU", gangOf(3))
			f.ok(f.gang(id, "n1", "n2"))
			c.do(f, id)
			for _, live := range f.s.liveTasks(id) {
				if !live.Stop {
					t.Fatalf("%s goes on", live.ID)
				}
				f.report(live.ID, placement.TaskStopped)
			}
			f.wantJob(id, c.want)
			checkInvariants(t, f.s)
		})
	}
}

func TestImpossibleGangsAreRefused(t *testing.T) {
	f := newFixture(t)
	for name, change := range map[string]func(*placement.Job){
		"of less than none": gangOf(-1), "of too many": gangOf(placement.MaxMembers + 1),
		"of one copy": func(j *placement.Job) { j.Spec.Members, j.Spec.Singleton = 2, true },
		"of replicas": func(j *placement.Job) { j.Spec.Members, j.Kind = 2, placement.KindInference },
		"whose record fits no leaf": func(j *placement.Job) {
			j.Spec.Members, j.Residency = placement.MaxMembers, "FR,DE"+strings.Repeat(",ES,IT,PT,NL,BE,AT,FI,SE", 30)
		},
	} {
		j := aJob(1, "EU")
		change(&j)
		if r := f.apply(SubmitJob{Job: j}); r.Refused == nil || r.Refused.Code != "job.gang" {
			t.Errorf("a gang %s: %+v", name, r.Refused)
		}
	}
	f.ok(SetTenant{Tenant: Tenant{ID: "default", Quota: Quota{GPUs: 7}}})
	j := aJob(1, "EU")
	j.Spec.Members, j.Spec.Resources.GPUs = 4, 2
	f.refused("quota.gpus", SubmitJob{Job: j}) // 8 in all
	for i := range placement.MaxMembers {
		if n, a, ok := j.ID.Task(i, 3).Member(); !ok || n != i || a != 3 {
			t.Errorf("member %d reads as %d.%d", i, n, a)
		}
	}
	for _, bad := range []string{"", "x", "x/1", "x/1.", "x/+1.1", "x/01.1", "x/1.1.1", fmt.Sprint(j.ID, "/-1.1")} {
		if _, _, ok := placement.TaskID(bad).Member(); ok {
			t.Errorf("%q is read as a member", bad)
		}
	}
}
