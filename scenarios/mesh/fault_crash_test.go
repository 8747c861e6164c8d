package mesh

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// The leader dies under a stream of submits: every job that was acknowledged
// is there, each once, and no client with ten seconds of patience is refused.
func TestALeaderDiesUnderSubmits(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3))
		read, err := api.ReadJob([]byte(`{"kind":"fake","residency":"FR","command":["run","1s"]}`), api.JobOptions{Pack: residency.Embedded(), On: residency.DateOf(time.Now())})
		m.must(err)
		leader := m.Leader("fra-1")
		clients := map[placement.NodeID]*Client{}
		for _, h := range m.region("fra-1").hosts {
			clients[h.name] = m.AtNode("fra-1", h.name)
		}
		var mu sync.Mutex
		acked, slowest := map[placement.JobID]string{}, time.Duration(0)
		submit := func(key string) error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			began := time.Now()
			var err error
			for ctx.Err() == nil {
				for _, n := range []placement.NodeID{"n1", "n2", "n3"} {
					var out *api.Submitted
					once, done := context.WithTimeout(ctx, 4*time.Second)
					out, err = clients[n].Client.Submit(once, read, api.SubmitOptions{IdempotencyKey: key})
					done()
					if err == nil {
						mu.Lock()
						defer mu.Unlock()
						if other, ok := acked[out.Job.ID]; ok {
							return fmt.Errorf("the keys %s and %s were answered with one job", key, other)
						}
						acked[out.Job.ID] = key
						slowest = max(slowest, time.Since(began))
						return nil
					}
				}
				time.Sleep(50 * time.Millisecond)
			}
			return fmt.Errorf("%s was not taken: %w", key, err)
		}
		errs := make(chan error, 200)
		var wg sync.WaitGroup
		for c := range 4 {
			wg.Go(func() {
				for i := range 40 {
					if err := submit(fmt.Sprintf("c%d-%d", c, i)); err != nil {
						errs <- err
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		time.Sleep(1500 * time.Millisecond)
		m.Kill("fra-1", leader)
		wg.Wait()
		close(errs)
		for err := range errs {
			t.Error(err)
		}
		t.Logf("the slowest submit took %s", slowest)
		m.Restart("fra-1", leader)
		m.host("fra-1", leader).waitReady()
		m.Within(60*time.Second, "all jobs have ended", func() bool {
			view := m.region("fra-1").newest()
			for id := range acked {
				if j := view.Job(id); j == nil || !j.Status.Terminal() {
					return false
				}
			}
			return true
		})
		for id, key := range acked {
			if n := m.starts("fra-1", id); n != 1 {
				t.Errorf("job %s of key %s was started %d times: %s", id, key, n, m.region("fra-1").newest().Job(id).Reason)
			}
		}
		if n := m.region("fra-1").newest().JobCount(); n != len(acked) || len(acked) != 160 {
			t.Errorf("%d jobs are there, %d were acknowledged", n, len(acked))
		}
		m.CheckInvariants()
	})
}

// All programs of a region crash and start again from their disks: its jobs
// are there, its tasks ran on, and ends that came meanwhile are known.
func TestARegionRestartsFromItsDisks(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3), Region("ber-1", "DE", 1))
		c := m.At("fra-1")
		service := c.Submit(`{"kind":"fake","residency":"FR","type":"service","command":["sleep"]}`)
		long := c.Submit(`{"kind":"fake","residency":"FR","command":["run","5m"]}`)
		ends := c.Submit(`{"kind":"fake","residency":"FR","command":["run","15s","3"]}`)
		never := c.Submit(`{"kind":"fake","residency":"FR","resources":{"gpus":1},"command":["sleep"]}`)
		for _, j := range []*Job{service, long, ends} {
			m.Within(10*time.Second, "they run", j.Is(placement.JobRunning))
		}
		root := m.region("fra-1").newest().LedgerSize()
		all := []placement.NodeID{"n1", "n2", "n3"}
		for _, n := range all {
			m.Kill("fra-1", n)
		}
		time.Sleep(20 * time.Second)
		for _, n := range all {
			m.Restart("fra-1", n)
		}
		for _, n := range all {
			m.host("fra-1", n).waitReady()
		}
		m.Within(10*time.Second, "an end that came meanwhile is known", ends.Exited(3))
		m.Within(20*time.Second, "the others run", func() bool {
			return service.Is(placement.JobRunning)() && long.Is(placement.JobRunning)() && never.Is(placement.JobPending)()
		})
		for _, j := range []*Job{service, long, ends} {
			if n := m.starts("fra-1", j.ID); n != 1 {
				t.Errorf("%s was started %d times", j, n)
			}
		}
		if m.region("fra-1").newest().LedgerSize() < root {
			t.Error("the ledger is shorter than before")
		}
		// Either side may hear of the other first.
		for here, there := range map[placement.RegionID]placement.RegionID{"ber-1": "fra-1", "fra-1": "ber-1"} {
			m.Within(20*time.Second, string(here)+" hears of "+string(there)+" again", func() bool {
				s, err := m.At(here).Region(t.Context(), there)
				return err == nil && s.Link == api.LinkUp
			})
		}
		abroad := m.At("fra-1").Submit(`{"kind":"fake","residency":"DE","command":["run","1s"]}`)
		m.Within(20*time.Second, "borders work", abroad.Exited(0))
		m.CheckInvariants()
	})
}

// A voter that is gone for good is replaced by a standby, so that the region
// survives the next one.
func TestADeadVoterIsReplaced(t *testing.T) {
	Run(t, func(t *testing.T) {
		fra := Region("fra-1", "FR", 4)
		fra.Tune = func(c *node.Config) { c.Replace = 20 * time.Second }
		m := New(t, fra)
		role := func(n placement.NodeID) placement.NodeRole { return m.region("fra-1").newest().Node(n).Role }
		if role("n4") != placement.RoleStandby {
			t.Fatalf("n4 is %s", role("n4"))
		}
		dead := m.follower("fra-1")
		if dead == "n4" {
			dead = "n3"
		}
		m.Kill("fra-1", dead)
		m.Within(time.Minute, "the standby votes", func() bool { return role("n4") == placement.RoleVoter && role(dead) == placement.RoleStandby })
		time.Sleep(10 * time.Second) // for raft's configuration to follow
		leader := m.Leader("fra-1")
		m.Kill("fra-1", leader)
		var job *Job
		m.Within(20*time.Second, "the region survives a second loss", func() bool {
			var err error
			job, err = m.At("fra-1").TrySubmit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
			return err == nil
		})
		m.Within(20*time.Second, "and works", job.Exited(0))
		m.Within(10*time.Second, "the new voter holds the CA", func() bool { return m.host("fra-1", "n4").has("ca.pem") })
		m.CheckInvariants()
	})
}

// Certificates of seven minutes run out and are renewed twice over; all
// connections go on.
func TestCertificatesAreRenewedWhileRunning(t *testing.T) {
	Run(t, func(t *testing.T) {
		tune := func(c *node.Config) { c.CertificateTTL = 7 * time.Minute }
		fra, ber := Region("fra-1", "FR", 3), Region("ber-1", "DE", 1)
		fra.Tune, ber.Tune = tune, tune
		m := New(t, fra, ber)
		service := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","type":"service","command":["sleep"]}`)
		m.Within(10*time.Second, "it runs", service.Is(placement.JobRunning))
		serials := map[string]bool{}
		terms := m.Leader("fra-1")
		for minute := range 16 {
			time.Sleep(time.Minute)
			serials[m.stolen("fra-1", "n2").Leaf.SerialNumber.String()] = true
			for _, h := range m.region("fra-1").hosts {
				if c := m.contact("fra-1", h.name); c != placement.ContactAlive {
					t.Fatalf("minute %d: %s is %s", minute, h.name, c)
				}
			}
			if s, err := m.At("fra-1").Region(t.Context(), "ber-1"); err != nil || s.Link != api.LinkUp {
				t.Fatalf("minute %d: Germany: %+v, %v", minute, s, err)
			}
			if now := m.Leader("fra-1"); now != terms {
				t.Fatalf("minute %d: %s leads in the place of %s", minute, now, terms)
			}
			if minute%5 == 0 {
				near := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
				far := m.At("fra-1").Submit(`{"kind":"fake","residency":"DE","command":["run","1s"]}`)
				m.Within(10*time.Second, "jobs run near and far", func() bool { return near.Exited(0)() && far.Exited(0)() })
			}
		}
		if len(serials) < 5 {
			t.Errorf("n2 had %d certificates in sixteen minutes", len(serials))
		}
		if n := m.starts("fra-1", service.ID); n != 1 {
			t.Errorf("the service was started %d times", n)
		}
		m.CheckInvariants()
	})
}
