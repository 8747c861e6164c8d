package controller

import (
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// A node that is silent for a moment is left as it is; one that stays silent is
// unknown, once, and the first answer brings it back.
func TestASilentNodeBecomesUnknown(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 1)
		w.lead()
		w.set(func() { w.silent["n2"] = true })
		w.pass(w.cfg.SilentAfter - w.cfg.ContactEvery)
		w.set(func() { w.silent["n2"] = false })
		w.pass(time.Minute)
		if n := len(heard[state.SetContact](w)); n != 0 {
			t.Fatal("a short silence was recorded")
		}
		w.set(func() { w.silent["n2"] = true })
		w.pass(w.cfg.SilentAfter + 2*w.cfg.ContactEvery)
		if got := w.View().Node("n2").Contact; got != placement.ContactUnknown {
			t.Fatalf("after %s of silence contact is %s", w.cfg.SilentAfter, got)
		}
		w.pass(time.Hour)
		w.set(func() { w.silent["n2"] = false })
		w.pass(2 * w.cfg.ContactEvery)
		if got := w.View().Node("n2").Contact; got != placement.ContactAlive {
			t.Errorf("it answers, and contact is %s", got)
		}
		if n := len(heard[state.SetContact](w)); n != 2 {
			t.Errorf("%d proposals for one loss and one return", n)
		}
	})
}

// The leader's own node is never silent to itself, whatever gossip says.
func TestTheLeaderHearsItself(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lead()
		w.set(func() { w.silent["n1"] = true })
		w.pass(time.Minute)
		if got := w.View().Node("n1").Contact; got != placement.ContactAlive {
			t.Errorf("contact with itself is %s", got)
		}
	})
}

// A batch task on a silent node may still run: no second copy, ever, until an
// operator says that the node is gone.
func TestABatchTaskIsNeverStartedTwice(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 1)
		w.lead()
		job := w.submit(1, "EU")
		w.pass(time.Second)
		w.obey()
		w.node("n3", 4)
		w.set(func() { w.silent["n2"] = true })
		w.pass(24 * time.Hour)
		w.wantLive(job, "n2")
		if got := w.View().Job(job).Status; got != placement.JobUnknown {
			t.Errorf("the job is %s", got)
		}
	})
}

// A second copy of a service starts when its patience is over, not before; a
// tag may ask for more patience. The wait is for time alone.
func TestAServiceGetsASecondCopyAfterPartitionMax(t *testing.T) {
	long, err := residency.ValueFromJSON([]byte(`{"on_change":{"partition":{"action":"finish","max":"2h"}},"residency":{"allow":["EU"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	tag, _, err := residency.ParseLong(long, residency.Embedded(), residency.DateOf(day))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		tag string
		max time.Duration
	}{"by default a minute": {"EU", time.Minute}, "as its tag says": {tag.Wire(), 2 * time.Hour}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.node("n2", 1)
				w.lead()
				job := w.submit(1, test.tag, service)
				w.pass(time.Second)
				w.obey()
				w.node("n3", 1)
				w.set(func() { w.silent["n2"] = true })
				w.pass(w.cfg.SilentAfter + 2*w.cfg.ContactEvery)
				lost := w.View().Node("n2").ContactAt
				w.pass(lost.Add(test.max - time.Second).Sub(w.now()))
				w.wantLive(job, "n2")
				w.pass(2 * time.Second)
				w.wantLive(job, "n2", "n3")
				w.pass(time.Hour)
				w.wantLive(job, "n2", "n3") // and no third
			})
		})
	}
}

// While its node answers, a singleton's lease never runs out; once it does not,
// the lease ends, and only then does the next copy start.
func TestASingletonsLease(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 1)
		w.lead()
		job := w.submit(1, "EU", singleton)
		w.pass(time.Second)
		w.obey()
		w.node("n3", 1)
		task := w.View().TasksOn("n2")[0].ID
		for range 60 {
			w.pass(5 * time.Second)
			if left := w.View().Task(task).LeaseUntil.Sub(w.now()); left < w.cfg.LeaseFor/3 {
				t.Fatalf("after %s only %s of the lease are left", w.now().Sub(day), left)
			}
		}
		w.set(func() { w.silent["n2"] = true })
		w.pass(w.cfg.SilentAfter + 2*w.cfg.ContactEvery)
		until := w.View().Task(task).LeaseUntil
		w.pass(until.Sub(w.now()) - time.Millisecond)
		w.wantLive(job, "n2")
		if got := w.View().Task(task).LeaseUntil; !got.Equal(until) {
			t.Fatal("the lease of a node that does not answer was renewed")
		}
		w.pass(2 * time.Second)
		w.wantLive(job, "n3")
	})
}
