package mesh

import (
	"fmt"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// copies counts the tasks of a job that run now, on all machines of its region.
func (m *Mesh) copies(id placement.RegionID, job placement.JobID) (n int) {
	for _, j := range running(m, id) {
		if j == job {
			n++
		}
	}
	return n
}

// starts counts how often tasks of a job were started in a region.
func (m *Mesh) starts(id placement.RegionID, job placement.JobID) (n int) {
	for _, h := range m.region(id).hosts {
		for task, times := range h.world.Starts() {
			if task.Job() == job {
				n += times
			}
		}
	}
	return n
}

// watch looks at a condition at every step of virtual time for d.
func (m *Mesh) watch(d, step time.Duration, what string, cond func() bool) {
	m.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(step) {
		if !cond() {
			m.t.Fatalf("it did not hold all the time that %s", what)
		}
	}
}

// follower is a node of the region that does not lead.
func (m *Mesh) follower(id placement.RegionID) placement.NodeID {
	leader := m.Leader(id)
	for _, h := range m.region(id).hosts {
		if h.name != leader && h.node != nil {
			return h.name
		}
	}
	m.t.Fatalf("%s has no follower", id)
	return ""
}

func (m *Mesh) contact(id placement.RegionID, name placement.NodeID) placement.Contact {
	return m.region(id).newest().Node(name).Contact
}

// A node that was cut off for a minute is whole again soon after: memberlist
// alone never mends that.
func TestGossipHealsAfterAMinute(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3))
		lost := m.follower("fra-1")
		m.CutOff("fra-1", lost)
		m.Within(20*time.Second, "it counts as unknown", func() bool { return m.contact("fra-1", lost) == placement.ContactUnknown })
		time.Sleep(60 * time.Second)
		m.Heal()
		m.Within(30*time.Second, "it counts as alive", func() bool { return m.contact("fra-1", lost) == placement.ContactAlive })
		job := m.AtNode("fra-1", m.Leader("fra-1")).Submit(fmt.Sprintf(`{"kind":"fake","residency":"FR","node":%q,"command":["run","1s"]}`, lost))
		m.Within(20*time.Second, "it works again", job.Exited(0))
		m.CheckInvariants()
	})
}

// A node that is cut off from its leader keeps its work, whichever kind, and
// whether it followed or led; back in the region it goes on with it.
func TestACutOffNodeKeepsItsWork(t *testing.T) {
	for _, who := range []string{"follower", "leader"} {
		t.Run(who, func(t *testing.T) {
			Run(t, func(t *testing.T) {
				m := New(t, Region("fra-1", "FR", 3))
				node := m.Leader("fra-1")
				if who == "follower" {
					node = m.follower("fra-1")
				}
				submit := func(more string) *Job {
					return m.At("fra-1").Submit(fmt.Sprintf(`{"kind":"fake","residency":"FR","node":%q,%s}`, node, more))
				}
				service := submit(`"type":"service","command":["sleep"]`)
				batch := submit(`"command":["run","10m"]`)
				short := submit(`"command":["run","20s","7"]`)
				for _, j := range []*Job{service, batch, short} {
					m.Within(10*time.Second, "all run", j.Is(placement.JobRunning))
				}
				m.CutOff("fra-1", node)
				m.Within(15*time.Second, "its jobs are unknown, not gone", func() bool {
					return service.Is(placement.JobUnknown)() && batch.Is(placement.JobUnknown)() && short.Is(placement.JobUnknown)()
				})
				m.watch(45*time.Second, 100*time.Millisecond, "the node was cut off", func() bool {
					return m.copies("fra-1", service.ID) == 1 && m.copies("fra-1", batch.ID) == 1
				})
				m.Heal()
				m.Within(30*time.Second, "they run as before", func() bool {
					return service.Is(placement.JobRunning)() && batch.Is(placement.JobRunning)()
				})
				m.Within(10*time.Second, "an end that came meanwhile is known", short.Exited(7))
				for _, j := range []*Job{service, batch, short} {
					if n := m.starts("fra-1", j.ID); n != 1 {
						t.Errorf("%s was started %d times", j, n)
					}
				}
				m.CheckInvariants()
			})
		})
	}
}

// A service whose node is silent for longer than its patience gets a second
// copy; when the node is back, one of the two goes. A batch task never gets one.
func TestASilentServiceGetsASecondCopyABatchTaskNone(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3))
		c := m.At("fra-1")
		service := c.Submit(`{"kind":"fake","residency":"FR","type":"service","command":["sleep"]}`)
		m.Within(10*time.Second, "it runs", service.Is(placement.JobRunning))
		node := service.Now().Node
		batch := c.Submit(fmt.Sprintf(`{"kind":"fake","residency":"FR","node":%q,"command":["run","10m"]}`, node))
		m.Within(10*time.Second, "it runs", batch.Is(placement.JobRunning))
		m.CutOff("fra-1", node)
		m.watch(55*time.Second, 100*time.Millisecond, "patience lasts", func() bool { return m.copies("fra-1", service.ID) == 1 })
		m.Within(30*time.Second, "a second copy runs", func() bool { return m.copies("fra-1", service.ID) == 2 })
		m.Heal()
		m.Within(60*time.Second, "one copy is left, and known", func() bool {
			return m.copies("fra-1", service.ID) == 1 && service.Is(placement.JobRunning)()
		})
		m.Within(30*time.Second, "the batch task is known", batch.Is(placement.JobRunning))
		if n := m.starts("fra-1", batch.ID); n != 1 {
			t.Errorf("the batch task was started %d times", n)
		}
		m.CheckInvariants()
	})
}

// A singleton's node ends it when its lease does; only then does it run
// elsewhere. There are never two, not for a tenth of a second.
func TestASingletonIsFencedByItsLease(t *testing.T) {
	for _, who := range []string{"cut off", "cut off as leader"} {
		t.Run(who, func(t *testing.T) {
			Run(t, func(t *testing.T) {
				m := New(t, Region("fra-1", "FR", 3))
				c := m.At("fra-1")
				target := m.follower("fra-1")
				if who == "cut off as leader" {
					target = m.Leader("fra-1")
				}
				for _, h := range m.region("fra-1").hosts {
					if h.name != target {
						_, err := c.Cordon(t.Context(), h.name)
						m.must(err)
					}
				}
				job := c.Submit(`{"kind":"fake","residency":"FR","type":"service","singleton":true,"command":["sleep"]}`)
				m.Within(10*time.Second, "it runs", job.Is(placement.JobRunning))
				for _, h := range m.region("fra-1").hosts {
					_, err := c.Resume(t.Context(), h.name)
					m.must(err)
				}
				m.watch(40*time.Second, 100*time.Millisecond, "its leader renews its lease", func() bool { return m.copies("fra-1", job.ID) == 1 && m.starts("fra-1", job.ID) == 1 })
				first := job.Now().Node
				if first != target {
					t.Fatalf("it runs on %s", first)
				}
				m.CutOff("fra-1", first)
				began, ended, again := time.Now(), time.Duration(0), time.Duration(0)
				m.watch(2*time.Minute, 100*time.Millisecond, "it may run once", func() bool {
					n := m.copies("fra-1", job.ID)
					if n == 0 && ended == 0 {
						ended = time.Since(began)
					}
					if n == 1 && ended != 0 && again == 0 {
						again = time.Since(began)
					}
					return n <= 1
				})
				if ended == 0 || again == 0 {
					t.Fatalf("it ended after %s and began again after %s", ended, again)
				}
				t.Logf("its node ended it after %s, another began after %s", ended, again)
				m.Heal()
				m.watch(time.Minute, 100*time.Millisecond, "its first node is back", func() bool { return m.copies("fra-1", job.ID) == 1 })
				if doc := job.Now(); doc.Status != placement.JobRunning || doc.Node == first {
					t.Errorf("%s", job)
				}
				m.CheckInvariants()
			})
		})
	}
}
