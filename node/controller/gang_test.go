package controller

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// A gang is proposed in one command, and when the newer state refuses it, none
// of its members is placed: the next plan places them all.
func TestAGangIsProposedAsOne(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 2)
		w.node("n3", 2)
		closed := false
		w.before = func(_ context.Context, cmd state.Command) error {
			if _, ok := cmd.(state.Assign); ok && !closed {
				closed = true
				w.ok(state.CordonNode{Node: "n2"})
				w.node("n4", 2)
			}
			return nil
		}
		w.lead()
		job := w.submit(1, "EU", func(j *placement.Job) { j.Spec.Members = 3 })
		w.pass(time.Second)
		if got := fmt.Sprint(w.live(job)); got != "[n3 n3 n4]" {
			t.Fatalf("its members are on %s", got)
		}
		all := heard[state.Assign](w)
		if len(all) != 2 || all[0].refused == nil || all[1].refused != nil || len(all[1].cmd.(state.Assign).Assignments) != 3 {
			t.Errorf("proposed: %+v", all)
		}
	})
}

// A member fails: the others are told to end without anybody's word, and when
// they have, the gang starts again as a whole.
func TestAGangStartsAgainAsAWhole(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 4)
		w.lead()
		job := w.submit(1, "EU", func(j *placement.Job) {
			j.Spec.Members, j.Spec.Restart = 4, placement.Restart{Policy: "on-failure", Attempts: 3}
		})
		w.pass(time.Second)
		w.obey()
		w.ok(state.ReportTasks{Node: "n2", Reports: []placement.TaskReport{{Task: job.Task(2, 1), Status: placement.TaskFailed, At: w.now()}}})
		w.obey()
		if got := w.live(job); len(got) != 0 {
			t.Fatalf("after one member failed %v are alive", got)
		}
		w.pass(10 * time.Second)
		w.obey()
		if j := w.View().Job(job); j.Status != placement.JobRunning || j.Attempts != 2 || len(w.live(job)) != 4 {
			t.Errorf("it is %+v", j)
		}
	})
}
