package controller

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
)

func TestConfigSaysAllThatIsMissing(t *testing.T) {
	_, err := New(Config{})
	if err == nil {
		t.Fatal("an empty config was taken")
	}
	if all, ok := err.(interface{ Unwrap() []error }); !ok || len(all.Unwrap()) != 3 {
		t.Errorf("not every problem is told: %v", err)
	}
}

// A job is placed once there is room, and while there is none nothing is
// proposed: a waiting job costs no raft entry.
func TestAJobIsPlacedAsSoonAsThereIsRoom(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 1)
		w.lead()
		first, second := w.submit(1, "EU"), w.submit(2, "EU")
		w.pass(time.Minute)
		w.wantLive(first, "n2")
		w.wantLive(second)
		if n := len(heard[state.Assign](w)); n != 1 {
			t.Fatalf("%d assignments were proposed for one place", n)
		}
		w.node("n3", 1)
		w.pass(time.Second)
		w.wantLive(second, "n3")
	})
}

// The state may have moved on since the plan's view: its refusal is final for
// that proposal, and the next plan finds another place.
func TestARefusedAssignmentIsPlannedAnew(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 1)
		closed := false
		w.before = func(_ context.Context, cmd state.Command) error {
			if _, ok := cmd.(state.Assign); ok && !closed {
				closed = true
				w.ok(state.CordonNode{Node: "n2"})
				w.node("n3", 1)
			}
			return nil
		}
		w.lead()
		job := w.submit(1, "EU")
		w.pass(time.Second)
		w.wantLive(job, "n3")
		all := heard[state.Assign](w)
		if len(all) != 2 || all[0].refused == nil || all[0].refused.Code != "node.closed" || all[1].refused != nil {
			t.Errorf("proposed: %+v", all)
		}
	})
}

// A proposal that was not answered leaves the ledger as it was: nothing new
// would ever wake the plan, so it wakes by itself.
func TestAFailedProposalIsTriedAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 1)
		failures := 3
		w.before = func(_ context.Context, cmd state.Command) error {
			if _, ok := cmd.(state.Assign); ok && failures > 0 {
				failures--
				return errors.New("the log is busy")
			}
			return nil
		}
		w.lead()
		job := w.submit(1, "EU")
		w.pass(5 * time.Second)
		w.wantLive(job, "n2")
	})
}

// A node that gossip doubts gets nothing; once it is trusted again it does,
// though the ledger has not changed.
func TestANodeInDoubtGetsNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 1)
		w.set(func() { w.doubted["n2"] = true })
		w.lead()
		job := w.submit(1, "EU")
		w.pass(time.Minute)
		w.wantLive(job)
		if n := len(heard[state.SetContact](w)); n != 0 {
			t.Errorf("doubt was recorded as silence, %d times", n)
		}
		w.set(func() { w.doubted["n2"] = false })
		w.pass(2 * w.cfg.ContactEvery)
		w.wantLive(job, "n2")
	})
}

// A term that ends in the middle of a proposal ends at once, and the next one
// places the job once.
func TestATermEndsInTheMiddleOfAProposal(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 4)
		w.before = func(ctx context.Context, cmd state.Command) error {
			if _, ok := cmd.(state.Assign); ok {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		w.lead()
		job := w.submit(1, "EU")
		w.pass(time.Minute)
		w.wantLive(job)
		began := time.Now()
		w.stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("the term ended %s late", took)
		}
		w.set(func() { w.before = nil })
		w.lead()
		w.pass(time.Second)
		w.wantLive(job, "n2")
		if n := len(heard[state.Assign](w)); n != 1 {
			t.Errorf("%d assignments", n)
		}
	})
}

// An assignment that was committed although its answer was lost is not made a
// second time by the next leader.
func TestANewTermSeesWhatTheOldOneCommitted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 4)
		w.before = func(_ context.Context, cmd state.Command) error {
			if _, ok := cmd.(state.Assign); ok {
				w.apply(cmd, "node:n1")
				return errors.New("leadership lost")
			}
			return nil
		}
		w.lead()
		job := w.submit(1, "EU")
		w.pass(time.Second)
		w.stop()
		w.lead()
		w.pass(time.Minute)
		w.wantLive(job, "n2")
		if a := w.View().Job(job).Attempts; a != 1 {
			t.Errorf("%d tasks were made", a)
		}
	})
}

// A leader that is being emptied gives the leadership away; one that is not
// keeps it.
func TestALeaderBeingDrainedHandsOver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const failures = 2
		var transfers atomic.Int64
		w.cfg.Transfer = func(context.Context) error {
			if transfers.Add(1) <= failures {
				return errors.New("no voter is near enough")
			}
			return nil
		}
		w.node("n2", 4)
		w.lead()
		w.pass(time.Minute)
		if n := transfers.Load(); n != 0 {
			t.Fatalf("the leadership was given away %d times for nothing", n)
		}
		w.ok(state.DrainNode{Node: "n1"})
		synctest.Wait()
		if transfers.Load() == 0 {
			t.Error("the leader stays on a node that somebody is about to switch off")
		}
		w.pass(10 * time.Second)
		if transfers.Load() <= failures {
			t.Errorf("it gave up after %d failures", transfers.Load())
		}
	})
}
