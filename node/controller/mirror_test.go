package controller

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// What a region said and the ledger did not take is asked for again: the index
// moves on only with what was recorded.
func TestAMirrorRecordsBeforeItGoesOn(t *testing.T) {
	inMesh(t, func(t *testing.T, w *world, a *abroad) {
		a.held["ber-1"] = true
		w.lead()
		job := w.submit(1, "EU")
		w.pass(time.Second)
		fails := 2
		w.set(func() {
			w.before = func(_ context.Context, cmd state.Command) error {
				if m, ok := cmd.(state.MirrorJob); ok && m.Status == placement.JobComplete && fails > 0 {
					fails--
					return errors.New("no leader")
				}
				return nil
			}
		})
		a.set(func() {
			a.changes = func(_ placement.RegionID, after uint64) ([]Theirs, uint64, error) {
				if after >= 7 {
					return nil, after, nil // told once
				}
				return []Theirs{{Job: placement.Job{ID: job, Status: placement.JobComplete, Index: 7}}}, 7, nil
			}
		})
		w.pass(time.Minute)
		if j := w.View().Job(job); j.Status != placement.JobComplete {
			t.Errorf("the job is %s: its end was told while the ledger took nothing, and is lost", j.Status)
		}
	})
}

// A job whose record was dropped there while there was no contact does not stay
// unknown for ever.
func TestAJobThatItsRegionDroppedIsLost(t *testing.T) {
	inMesh(t, func(t *testing.T, w *world, a *abroad) {
		a.held["ber-1"] = true
		w.lead()
		job, other := w.submit(1, "EU"), w.submit(2, "EU")
		w.pass(time.Second)
		a.set(func() {
			a.changes = func(placement.RegionID, uint64) ([]Theirs, uint64, error) { return nil, 0, ErrNoContact }
		})
		w.pass(15 * time.Second)
		if j := w.View().Job(job); j.Status != placement.JobUnknown {
			t.Fatalf("out of contact the job is %s", j.Status)
		}
		a.set(func() {
			a.dropped = map[placement.JobID]bool{job: true}
			a.changes = func(_ placement.RegionID, after uint64) ([]Theirs, uint64, error) { return nil, after, nil }
		})
		w.pass(15 * time.Second)
		if j := w.View().Job(job); j.Status != placement.JobLost || j.Reason == "" {
			t.Errorf("the dropped job is %s: %q", j.Status, j.Reason)
		}
		if j := w.View().Job(other); j.Status.Terminal() {
			t.Errorf("the other job is %s", j.Status)
		}
	})
}

// A job that a client landed here by grant, and that has no place here, goes on
// to another region: two are asked at most, and it never goes back.
func TestALandedJobIsForwarded(t *testing.T) {
	inMesh(t, func(t *testing.T, w *world, a *abroad) {
		w.lead()
		id := placement.NewJobID(w.cfg.Region, day)
		spec := placement.JobSpec{Kind: placement.KindProcess, Type: placement.TypeBatch, Resources: placement.DefaultResources(), Evidence: placement.EvidenceRequired}
		w.ok(state.SubmitJob{
			Job:   placement.Job{ID: id, Kind: spec.Kind, Spec: spec, Tenant: "vie-1/acme", Origin: "vie-1", Residency: "EU"},
			Grant: "g1", GrantExpires: w.now().Add(time.Minute), LawPack: w.View().Pack().Hash(),
		})
		w.pass(askAgain - time.Second)
		if got := a.questions(); got != "ber-1/1 mad-1/2" {
			t.Fatalf("asked %q", got)
		}
		if j := w.View().Job(id); j.Status != placement.JobPending || j.Reason == "" {
			t.Errorf("it waits as %s: %q", j.Status, j.Reason)
		}
		a.set(func() { a.held["rom-1"], a.order = true, []placement.RegionID{"rom-1"} })
		w.pass(askAgain + 2*time.Second)
		if j := w.View().Job(id); j.Region != "rom-1" || j.Forward.State != placement.ForwardPlaced || j.Hops != 1 {
			t.Errorf("the job is in %q, %s after %d hops", j.Region, j.Status, j.Hops)
		}
	})
}

// Of what a region tells about grants, home takes what it issued to it, once; of
// the rest nothing enters the ledger, not even a refusal. When all is told and
// the grants are over, it does not ask any more.
func TestAHomeQuotesTheLeavesOfItsGrants(t *testing.T) {
	inMesh(t, func(t *testing.T, w *world, a *abroad) {
		issue := func(id string, to placement.RegionID) {
			w.ok(state.IssueGrant{ID: id, Tenant: "default", Audience: to, LawPack: w.View().Pack().Hash(), Expires: w.now().Add(time.Minute)})
		}
		issue("g1", "ber-1")
		issue("g2", "mad-1")
		landed := func(grant, region string, leaf byte) Theirs {
			return Theirs{Job: placement.Job{ID: placement.NewJobID(placement.RegionID(region), day), Grant: grant}, Leaf: state.LeafRef{Index: uint64(leaf), Hash: [32]byte{leaf}}}
		}
		var asked atomic.Int32
		fails := 1
		true1 := landed("g1", "ber-1", 1)
		w.set(func() {
			w.before = func(_ context.Context, cmd state.Command) error {
				if _, ok := cmd.(state.UseGrant); ok && fails > 0 {
					fails--
					return errors.New("no leader")
				}
				return nil
			}
		})
		a.set(func() {
			a.changes = func(region placement.RegionID, after uint64) ([]Theirs, uint64, error) {
				if region != "ber-1" {
					return nil, after, nil
				}
				asked.Add(1)
				if after >= 7 {
					return nil, after, nil
				}
				return []Theirs{landed("g9", "ber-1", 1), landed("g2", "ber-1", 1), landed("g1", "mad-1", 1), landed("g1", "ber-1", 0), true1, landed("g1", "ber-1", 2)}, 7, nil
			}
		})
		w.lead()
		w.pass(10 * time.Second)
		var used []state.UseGrant
		var all []said
		w.set(func() { all = slices.Clone(w.said) })
		for _, s := range all {
			if k, ok := s.cmd.(state.UseGrant); ok && s.refused == nil {
				used = append(used, k)
			} else if ok {
				t.Errorf("%+v is proposed and refused: %s", k, s.refused.Code)
			}
		}
		if len(used) != 1 || used[0].Job != true1.ID || used[0].PeerLeaf != true1.Leaf || w.View().Grant("g2").Job != "" {
			t.Fatalf("%+v", used)
		}
		issue("g3", "ber-1") // and nobody uses it
		w.pass(5 * time.Second)
		asked.Store(0)
		w.pass(5 * time.Second)
		if asked.Load() == 0 {
			t.Error("an open grant is not asked for")
		}
		w.pass(grantsAfter + 2*time.Minute)
		asked.Store(0)
		w.pass(time.Minute)
		if n := asked.Load(); n != 0 {
			t.Errorf("long after its end a grant is asked for %d times a minute", n)
		}
	})
}
