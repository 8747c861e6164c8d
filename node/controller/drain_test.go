package controller

import (
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// A service's replacement runs before the old copy is told to stop, and the
// node counts as drained only when it holds nothing.
func TestADrainReplacesAServiceBeforeItStops(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 1)
		w.lead()
		job := w.submit(1, "EU", service)
		w.pass(time.Second)
		w.obey()
		w.node("n3", 1)
		w.ok(state.DrainNode{Node: "n2"})
		w.pass(time.Minute)
		w.wantLive(job, "n2", "n3")
		if old := w.View().TasksOn("n2")[0]; old.Stop || old.Status != placement.TaskRunning {
			t.Fatalf("the old copy is %s, stop %v, while the new one has not started", old.Status, old.Stop)
		}
		w.obey() // the replacement runs
		if old := w.View().TasksOn("n2")[0]; !old.Stop {
			t.Fatal("the replacement runs, and nobody stops the old copy")
		}
		if got := w.View().Node("n2").State; got != placement.NodeDraining {
			t.Fatalf("n2 is %s and still holds a task", got)
		}
		w.obey() // the old copy has ended
		w.pass(time.Second)
		w.wantLive(job, "n3")
		if got := w.View().Node("n2").State; got != placement.NodeDrained {
			t.Errorf("n2 holds nothing and is %s", got)
		}
	})
}

// Nodes that are drained as one set give each other nothing: drained one after
// another they do, and the work moves twice.
func TestNothingMovesOntoAMemberOfTheSet(t *testing.T) {
	for _, together := range []bool{false, true} {
		inWorld(t, func(t *testing.T, w *world) {
			w.node("n2", 1)
			w.lead()
			job := w.submit(1, "EU", service)
			w.pass(time.Second)
			w.obey()
			w.node("n3", 1) // the better place: it would be full
			w.node("n4", 8)
			if together {
				w.ok(state.DrainNodes{Nodes: []placement.NodeID{"n3", "n2"}})
			} else {
				w.ok(state.DrainNode{Node: "n2"})
				w.pass(time.Minute)
				w.ok(state.DrainNode{Node: "n3"})
			}
			w.pass(time.Minute)
			touched := len(w.View().TasksOn("n3")) > 0
			if touched == together {
				t.Fatalf("as a set: %v; n3, which is to be emptied as well, was given work: %v", together, touched)
			}
			if !together {
				return
			}
			w.obey()
			w.obey()
			w.pass(time.Second)
			w.wantLive(job, "n4")
			for _, id := range []placement.NodeID{"n2", "n3"} {
				if got := w.View().Node(id).State; got != placement.NodeDrained {
					t.Errorf("%s is %s", id, got)
				}
			}
		})
	}
}

// Of a singleton one copy runs at most: it stops first.
func TestADrainStopsASingletonFirst(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 1)
		w.lead()
		job := w.submit(1, "EU", singleton)
		w.pass(time.Second)
		w.obey()
		w.node("n3", 1)
		w.ok(state.DrainNode{Node: "n2"})
		w.pass(time.Minute)
		w.wantLive(job, "n2")
		if old := w.View().TasksOn("n2")[0]; !old.Stop {
			t.Fatal("it was not told to stop")
		}
		w.obey()
		w.pass(time.Second)
		w.wantLive(job, "n3")
		if stops := heard[state.StopTasks](w); len(stops) != 1 || !stops[0].cmd.(state.StopTasks).Again {
			t.Errorf("stops: %+v", stops)
		}
	})
}

// A batch task may finish until the deadline; then the operator's rule counts.
// Nothing changes in the ledger meanwhile: time alone wakes the plan.
func TestADrainsDeadlineIsKept(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 1)
		w.lead()
		job := w.submit(1, "EU")
		w.pass(time.Second)
		w.obey()
		w.node("n3", 1)
		w.ok(state.DrainNode{Node: "n2", Drain: placement.Drain{Deadline: w.now().Add(20 * time.Minute), OnDeadline: placement.DrainStop}})
		w.pass(20*time.Minute - time.Second)
		if n := len(heard[state.StopTasks](w)); n != 0 {
			t.Fatal("a batch task was stopped before the deadline")
		}
		w.pass(2 * time.Second)
		if n := len(heard[state.StopTasks](w)); n != 1 {
			t.Fatalf("%d stops at the deadline", n)
		}
		w.obey()
		w.pass(time.Second)
		w.wantLive(job)
		if got := w.View().Job(job).Status; got != placement.JobStopped {
			t.Errorf("the job is %s", got)
		}
	})
}

// What has no other lawful place stays, however long the drain lasts, and the
// node is never called drained.
func TestABlockerHoldsADrainUp(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 1)
		w.lead()
		job := w.submit(1, "EU", service, func(j *placement.Job) { j.Spec.NodeName = "n2" })
		w.pass(time.Second)
		w.obey()
		w.node("n3", 4)
		w.ok(state.DrainNode{Node: "n2", Drain: placement.Drain{Deadline: w.now().Add(time.Minute), OnDeadline: placement.DrainWait}})
		w.pass(3 * time.Hour)
		w.wantLive(job, "n2")
		if n := w.View().Node("n2"); n.State != placement.NodeDraining || w.View().TasksOn("n2")[0].Stop {
			t.Errorf("n2 is %s", n.State)
		}
		if n := len(heard[state.FinishDrain](w)) + len(heard[state.StopTasks](w)); n != 0 {
			t.Errorf("%d proposals about a drain that cannot go on", n)
		}
	})
}
