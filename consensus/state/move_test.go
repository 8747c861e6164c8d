package state

import (
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// begin gives a running task on n1 and the one on n2 that is to take over.
func (f *fixture) move(change ...func(*placement.Job)) (id placement.JobID, from, to placement.TaskID) {
	f.t.Helper()
	f.node("n2")
	id = f.submit(1, "EU", append([]func(*placement.Job){service}, change...)...)
	from = f.assign(id, "n1")
	f.report(from, placement.TaskRunning)
	a := f.moveOf(id, from, "n2")
	f.ok(Assign{Assignments: []placement.Assignment{a}})
	return id, from, a.Task
}

func (f *fixture) moveOf(id placement.JobID, from placement.TaskID, node string) placement.Assignment {
	a := f.assignment(id, node)
	a.Replaces, a.Move = from, placement.MoveLive
	return a
}

func commit(from, to placement.TaskID) MoveTask {
	return MoveTask{Node: "n1", Task: from, To: to, Step: MoveCommit}
}

func abort(node placement.NodeID, from, to placement.TaskID) MoveTask {
	return MoveTask{Node: node, Task: from, To: to, Step: MoveAbort, Reason: "somebody tripped over a cable"}
}

func TestOnlyTheCommitMakesAMovedTaskRunElsewhere(t *testing.T) {
	for name, kind := range map[string]func(*placement.Job){"service": func(*placement.Job) {}, "singleton": singleton} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			id, from, to := f.move(kind)
			f.report(to, placement.TaskStarting)
			f.report(to, placement.TaskRunning) // a node's word is not the ledger's
			f.wantTask(to, placement.TaskStarting)
			f.wantTask(from, placement.TaskRunning)
			if f.s.Task(from).Stop || f.s.Job(id).Node != "n1" || !f.s.Task(to).LeaseUntil.IsZero() {
				t.Fatalf("before the commit: %+v, %+v", f.s.Task(from), f.s.Task(to))
			}
			if got := f.s.MoveOf(from); got == nil || got.ID != to || f.s.MovesFrom(to).ID != from {
				t.Errorf("the move is between %v and %v", got, f.s.MovesFrom(to))
			}
			f.now = f.now.Add(10 * time.Second)
			leaf := f.applyAs("node:n1", commit(from, to))
			if got := leaf.Get(ledger.ShownMove); !strings.HasPrefix(got, string(id)+" commit live h:") || strings.Contains(got, "n1") || len(leaf.Judged) == 0 {
				t.Errorf("the leaf shows %q, judged %+v", got, leaf.Judged)
			}
			f.wantTask(from, placement.TaskStopped)
			f.wantTask(to, placement.TaskRunning)
			if now := f.s.Task(to); !now.StartedAt.Equal(f.now) || now.LeaseUntil.IsZero() != (name == "service") {
				t.Errorf("after the commit: %+v", now)
			}
			if j := f.s.Job(id); j.Node != "n2" || j.Restarts != 0 || j.Status != placement.JobRunning {
				t.Errorf("job %+v", j)
			}
			f.refused(CodeMoveTaken, commit(from, to))
			f.refused(CodeMoveTaken, abort("n1", from, to))
			f.report(to, placement.TaskFailed)
			f.refused(CodeMoveTaken, abort("n2", from, to)) // though it has ended since
		})
	}
}

func TestAMoveThatComesToNothingLeavesTheTaskWhereItIs(t *testing.T) {
	for name, end := range map[string]func(*fixture, placement.TaskID, placement.TaskID){
		"given up here": func(f *fixture, from, to placement.TaskID) { f.ok(abort("n1", from, to)) },
		"given up here by nobody's fault": func(f *fixture, from, to placement.TaskID) {
			cmd := abort("n1", from, to)
			cmd.Blameless = true
			f.ok(cmd)
		},
		"given up there": func(f *fixture, from, to placement.TaskID) { f.ok(abort("n2", from, to)) },
		"it cannot be received": func(f *fixture, from, to placement.TaskID) {
			f.ok(ReportTasks{Node: "n2", Reports: []placement.TaskReport{{Task: to, Status: placement.TaskFailed, Refused: true, Reason: "no room on the disk"}}})
		},
		"it is said to be complete": func(f *fixture, from, to placement.TaskID) {
			f.report(to, placement.TaskComplete)
			if !f.s.Task(to).StartedAt.IsZero() {
				f.t.Fatalf("what never ran was started")
			}
		},
		"its new node is removed": func(f *fixture, from, to placement.TaskID) { f.ok(RemoveNode{Node: "n2"}) },
		"it is told to end": func(f *fixture, from, to placement.TaskID) {
			f.ok(StopTasks{Tasks: []placement.TaskID{to}, Reason: "silence"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			id, from, to := f.move()
			end(f, from, to)
			if f.s.Task(to).Status.Live() {
				t.Errorf("the new task is %s", f.s.Task(to).Status)
			}
			f.wantTask(from, placement.TaskRunning)
			counted := 1
			if name == "it is told to end" || name == "given up here by nobody's fault" {
				counted = 0 // that was no fault of the move
			}
			if old := f.s.Task(from); old.MoveFails != counted || old.MoveTrouble == "" || old.Stop {
				t.Errorf("the old task is %+v", old)
			}
			if j := f.s.Job(id); j.Status != placement.JobRunning || j.Node != "n1" || j.Restarts != 0 {
				t.Errorf("job %+v", j)
			}
			f.refused("move.over", commit(from, to))
		})
	}
}

func TestWhatIsMovedEndsWithItsMove(t *testing.T) {
	for name, end := range map[string]func(*fixture, placement.JobID, placement.TaskID){
		"its job is stopped": func(f *fixture, id placement.JobID, _ placement.TaskID) { f.ok(StopJob{Job: id}) },
		"it ends by itself":  func(f *fixture, _ placement.JobID, from placement.TaskID) { f.report(from, placement.TaskFailed) },
		"its node is removed": func(f *fixture, _ placement.JobID, _ placement.TaskID) {
			f.node("n3")
			f.ok(RemoveNode{Node: "n1"})
		},
		"a drain stops it": func(f *fixture, _ placement.JobID, from placement.TaskID) {
			f.ok(StopTasks{Tasks: []placement.TaskID{from}, Reason: "deadline", Again: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			id, from, to := f.move()
			end(f, id, from)
			f.wantTask(to, placement.TaskStopped)
			if f.refused("move.over", commit(from, to)); f.s.MoveOf(from) != nil {
				t.Error("the move goes on")
			}
			if f.s.Task(from).Status.Live() {
				f.report(from, placement.TaskStopped)
			}
			want := placement.JobPending
			if name == "its job is stopped" {
				want = placement.JobStopped
			}
			f.wantJob(id, want)
		})
	}
}

// Whoever proposes: what may not be moved is not, and the law of the moment of the
// commit counts.
func TestMovesAreJudged(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	f.node("n3")
	id := f.submit(1, "EU", service)
	from := f.assign(id, "n1")
	move := func(node string, change func(*placement.Assignment)) Assign {
		a := f.moveOf(id, from, node)
		if change != nil {
			change(&a)
		}
		return Assign{Assignments: []placement.Assignment{a}}
	}
	f.refused("move.state", move("n2", nil))
	f.report(from, placement.TaskRunning)
	f.refused("move.same", move("n1", nil))
	f.refused("move.mode", move("n2", func(a *placement.Assignment) { a.Move = "by mail" }))
	f.refused("move.unknown", move("n2", func(a *placement.Assignment) { a.Replaces = id.Task(0, 7) }))
	f.refused("move.devices", move("n2", func(a *placement.Assignment) { a.Devices = []string{"n2-gpu0"} }))
	other := aNode("n3").Inventory
	other.Version, other.Moves = 2, map[string]string{"process": "another"}
	f.ok(ReportInventory{Node: "n3", Inventory: other})
	f.refused("move.key", move("n3", nil))
	to := f.assignment(id, "n2").Task
	f.ok(move("n2", nil))
	f.refused("task.replaced", move("n3", nil))
	f.refused("task.foreign", MoveTask{Node: "n2", Task: from, To: to, Step: MoveCommit})
	f.refused("task.foreign", MoveTask{Node: "n3", Task: from, To: to, Step: MoveAbort})
	f.refused("move.step", MoveTask{Node: "n1", Task: from, To: to, Step: "perhaps"})
	f.refused("move.unknown", MoveTask{Node: "n1", Task: to, To: from, Step: MoveAbort})
	f.refused("move.reason", MoveTask{Node: "n1", Task: from, To: to, Step: MoveAbort, Reason: strings.Repeat("x", maxMoveReason+1)})
	f.ok(SetContact{Nodes: []placement.NodeID{"n2"}, Contact: placement.ContactUnknown})
	f.refused("move.silent", commit(from, to))
	f.ok(SetContact{Nodes: []placement.NodeID{"n2"}, Contact: placement.ContactAlive})
	f.ok(SetContact{Nodes: []placement.NodeID{"n1"}, Contact: placement.ContactUnknown})
	f.refused("move.state", commit(from, to))
	f.ok(SetContact{Nodes: []placement.NodeID{"n1"}, Contact: placement.ContactAlive})
	f.ok(commit(from, to))
}

func TestAnAssignmentNamesNoMoveForAGang(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	id := f.submit(1, "EU", service, func(j *placement.Job) { j.Spec.Members = 2 })
	a := f.moveOf(id, id.Task(0, 1), "n2")
	if r := f.apply(Assign{Assignments: []placement.Assignment{a}}); r.Refused == nil {
		t.Error("a member of a gang is moved alone")
	}
}

// A node without a replica is told of the other end of a move, and of no more.
func TestFactsTellBothEndsOfAMove(t *testing.T) {
	f := newFixture(t)
	_, from, to := f.move()
	for node, other := range map[placement.NodeID]placement.TaskID{"n1": to, "n2": from} {
		tables := map[string][]byte{}
		view := f.s.Freeze()
		for _, table := range append(view.SharedFacts(nil), view.FactsOf(node)...) {
			tables[table.Name] = table.Data
		}
		told, err := RestoreFacts(tables, 7, f.now)
		if err != nil {
			t.Fatal(err)
		}
		if told.Task(other) == nil || len(told.TasksOn(node)) != 1 {
			t.Errorf("%s knows %v of the other end, %d tasks of its own", node, told.Task(other), len(told.TasksOn(node)))
		}
		if m := told.MoveOf(from); m == nil || m.ID != to {
			t.Errorf("%s sees the move to %v", node, m)
		}
	}
}
