package mesh

import (
	"slices"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// A leader made to propose placements outside the tag: Apply refuses each on
// every replica, and the refusal is a leaf of the ledger.
func TestALeaderCannotPlaceOutsideTheTag(t *testing.T) {
	Run(t, func(t *testing.T) {
		fra := Region("fra-1", "FR", 3)
		fra.Sites = []string{"par-a", "par-b", "par-b"}
		m := New(t, fra, Region("iad-1", "US", 1))
		_, err := m.At("fra-1").Cordon(t.Context(), "n1")
		m.must(err)
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR,!site:par-b","command":["run","1s"]}`)
		time.Sleep(2 * time.Second)
		if !job.Is(placement.JobPending)() {
			t.Fatalf("with its one lawful node closed: %s", job)
		}
		leader := m.Leader("fra-1")
		r := m.rogue(m.stolen("fra-1", "n2"), outside(1))
		to := m.peer("fra-1", leader)
		now := time.Now()
		abroad := placement.Job{
			ID: placement.NewJobID("fra-1", now), Kind: placement.KindFake, Tenant: "default", Residency: "US",
			Policy: []placement.Layer{{Origin: residency.OriginJob, Tag: "US"}},
			Spec:   placement.JobSpec{Kind: placement.KindFake, Type: placement.TypeBatch, Restart: placement.Restart{Policy: "never"}},
		}
		for _, tc := range []struct {
			name string
			cmd  state.Command
		}{
			{"on a node of the wrong site", state.Assign{Assignments: []placement.Assignment{{Task: job.ID.Task(0, 0), Job: job.ID, Node: "n2"}}}},
			{"on the other one, among others", state.Assign{Assignments: []placement.Assignment{{Task: job.ID.Task(0, 1), Job: job.ID, Node: "n3"}}}},
			{"in another country", state.SetForward{Job: job.ID, Forward: placement.Forward{Region: "iad-1", Attempt: 1, State: placement.ForwardPlaced}}},
			{"a job that this region may not even hold", state.SubmitJob{Job: abroad}},
		} {
			before := m.host("fra-1", leader).node.View().LedgerSize()
			res, err := r.propose(to, tc.cmd, time.Now())
			if err != nil || res.Refused == nil || res.Refused.Code != "residency.refused" {
				t.Errorf("%s: %+v, %v", tc.name, res.Refused, err)
				continue
			}
			if after := m.host("fra-1", leader).node.View().LedgerSize(); res.Leaf < before || res.Leaf >= after {
				t.Errorf("%s: the refusal is leaf %d; the ledger went from %d to %d", tc.name, res.Leaf, before, after)
			}
		}
		for _, h := range m.region("fra-1").hosts {
			if n := len(h.world.Starts()); n > 0 {
				t.Errorf("%s started %d tasks", h.name, n)
			}
		}
		_, err = m.At("fra-1").Resume(t.Context(), "n1")
		m.must(err)
		m.Within(10*time.Second, "it runs where it may", job.Exited(0))
		if doc := job.Now(); doc.Node != "n1" && doc.Node != "" {
			t.Errorf("it ran on %s", doc.Node)
		}
		m.CheckInvariants()
	})
}

// A leader whose clock is a month ahead: what it stamps runs nowhere, and it
// does not stay the leader. Then everything goes on, on the right day.
func TestALeaderWithAWrongClockDoesNotLead(t *testing.T) {
	for _, off := range []time.Duration{30 * 24 * time.Hour, -30 * 24 * time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			Run(t, func(t *testing.T) {
				m := New(t, Region("fra-1", "FR", 3))
				wrong := m.Leader("fra-1")
				m.host("fra-1", wrong).clock.Store(int64(off))
				c := m.AtNode("fra-1", wrong)
				var during []*Job
				stamped := 0
				led := true
				for range 600 {
					if len(during) < 5 {
						if job, err := c.TrySubmit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`); err == nil {
							during = append(during, job)
						}
					}
					time.Sleep(100 * time.Millisecond)
					for _, h := range m.region("fra-1").hosts {
						for _, id := range h.world.Running() {
							if task := h.node.View().Task(id); task != nil && time.Until(task.AssignedAt).Abs() > time.Minute {
								t.Fatalf("%s runs on %s; it was stamped %s", id, h.name, task.AssignedAt)
							}
						}
					}
					view := m.region("fra-1").newest()
					for _, job := range during {
						stamped += len(slices.DeleteFunc(view.TasksOf(job.ID), func(t *placement.Task) bool { return time.Until(t.AssignedAt).Abs() < time.Minute }))
					}
					if m.Leader("fra-1") != wrong {
						led = false
						break
					}
				}
				if led {
					t.Fatalf("%s leads with a clock that is off by %s", wrong, off)
				}
				t.Logf("%d submits were taken meanwhile; wrong stamps were seen %d times", len(during), stamped)
				after := m.AtNode("fra-1", m.Leader("fra-1")).Submit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
				m.Within(20*time.Second, "the region works under its new leader", after.Exited(0))
				if now := m.region("fra-1").newest().Time(); time.Until(now).Abs() > time.Minute {
					t.Errorf("ledger time stays at %s", now)
				}
				if m.Leader("fra-1") == wrong {
					t.Error("it leads again")
				}
				m.host("fra-1", wrong).clock.Store(0)
				for _, job := range during {
					m.Within(2*time.Minute, "a job that was taken meanwhile is accounted for", func() bool { doc := job.Now(); return doc != nil && doc.Status.Terminal() })
				}
				time.Sleep(20 * time.Second)
				m.CheckInvariants()
			})
		})
	}
}
