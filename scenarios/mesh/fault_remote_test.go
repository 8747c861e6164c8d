package mesh

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// remote is a mesh whose GPUs are all in a German region of three nodes.
func remote(t *testing.T) *Mesh {
	de := Region("ber-1", "DE", 3)
	de.GPUs = []placement.Device{h200, h200, h200, h200, h200, h200, h200, h200}
	return New(t, Region("fra-1", "FR", 1), de)
}

// One of three nodes of the remote region is dead, whichever: no submit that
// has to go there fails, whether the client lands it or home forwards it.
func TestADeadRemoteNodeFailsNoSubmit(t *testing.T) {
	for _, which := range []string{"n1", "leader", "follower"} {
		t.Run(which, func(t *testing.T) {
			Run(t, func(t *testing.T) {
				m := remote(t)
				time.Sleep(5 * time.Second) // every node knows the federation
				dead := placement.NodeID("n1")
				switch which {
				case "leader":
					dead = m.Leader("ber-1")
				case "follower":
					dead = m.follower("ber-1")
				}
				m.Kill("ber-1", dead)
				// A batch task that is assigned in the second before anybody can know
				// of the death waits for its node: it is never started twice.
				time.Sleep(time.Second)
				var jobs []*Job
				slowest := time.Duration(0)
				for i := range 20 {
					tag := `"residency":"EU","resources":{"gpus":1}`
					if i%2 == 1 {
						tag = `"residency":"DE"`
					}
					began := time.Now()
					job, err := m.At("fra-1").TrySubmit(`{"kind":"fake",` + tag + `,"command":["run","1s"]}`)
					if err != nil {
						t.Errorf("submit %d, %s after the loss: %v", i, time.Since(began), err)
						continue
					}
					slowest = max(slowest, time.Since(began))
					jobs = append(jobs, job)
				}
				t.Logf("the slowest submit took %s", slowest)
				t.Cleanup(func() {
					if t.Failed() {
						for _, job := range jobs {
							t.Logf("%s; there: %+v", job, m.region("ber-1").newest().TasksOf(job.ID))
						}
					}
				})
				for i, job := range jobs {
					m.Within(30*time.Second, fmt.Sprintf("job %d ends well", i), func() bool { doc := job.Now(); return doc != nil && doc.Status == placement.JobComplete })
					if n := m.starts("ber-1", job.ID); n != 1 {
						t.Errorf("job %d was started %d times", i, n)
					}
				}
				m.CheckInvariants()
			})
		})
	}
}

// The remote region is gone. Whoever asks hears so in under a second, and its
// own region works as before; jobs over there are unknown, never gone, and when
// it is back nothing runs twice.
func TestARemoteRegionIsGone(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := remote(t)
		away := m.At("fra-1").Submit(`{"kind":"fake","residency":"EU","resources":{"gpus":1},"command":["run","2m"]}`)
		m.Within(20*time.Second, "it runs in Germany", func() bool { return m.copies("ber-1", away.ID) == 1 && away.Is(placement.JobRunning)() })
		m.Isolate("ber-1")
		soon := func(what string, f func() error) {
			began := time.Now()
			err := f()
			if took := time.Since(began); took >= time.Second {
				t.Errorf("%s: an answer (%v) after %s", what, err, took)
			}
		}
		// At once, before anybody has noticed, and again when all know.
		for _, when := range []string{"at once", "later"} {
			soon(when+", the list", func() error { _, err := m.At("fra-1").Regions(t.Context(), api.ListOptions{}); return err })
			soon(when+", a job that needs Germany", func() error {
				_, err := m.At("fra-1").TrySubmit(`{"kind":"fake","residency":"EU","resources":{"gpus":1},"command":["run","1s"]}`)
				return err
			})
			soon(when+", a job of its own", func() error {
				_, err := m.At("fra-1").TrySubmit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
				return err
			})
			if when == "at once" {
				m.Within(4*time.Second, "Germany is unknown", func() bool {
					s, err := m.At("fra-1").Region(t.Context(), "ber-1")
					return err == nil && s.Link == api.LinkUnknown
				})
				m.Within(15*time.Second, "and so is what runs there", away.Is(placement.JobUnknown))
			}
		}
		soon("a job for Germany alone", func() error {
			_, err := m.At("fra-1").TrySubmit(`{"kind":"fake","residency":"DE","command":["run","1s"]}`)
			if Code(err) != api.CodePeerUnknown || !strings.Contains(err.Error(), "ber-1") {
				t.Errorf("for Germany alone: %v (code %q)", err, Code(err))
			}
			return err
		})
		time.Sleep(30 * time.Second)
		m.Heal()
		m.Within(30*time.Second, "it is known again", away.Is(placement.JobRunning))
		m.Within(3*time.Minute, "and ends", away.Is(placement.JobComplete))
		if n := m.starts("ber-1", away.ID); n != 1 {
			t.Errorf("it was started %d times", n)
		}
		m.Within(time.Minute, "what waited has run", func() bool {
			all := true
			view := m.host("fra-1", "n1").node.View()
			view.Jobs("", view.JobCount(), func(j *placement.Job) bool { all = all && j.Status == placement.JobComplete; return false })
			return all
		})
		m.CheckInvariants()
	})
}

// What the remote region does not know, home does not know either, for as long
// as that lasts.
func TestAJobOnASilentNodeAbroadIsUnknownAtHome(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := remote(t)
		away := m.At("fra-1").Submit(`{"kind":"fake","residency":"EU","resources":{"gpus":1},"command":["run","3m"]}`)
		m.Within(20*time.Second, "it runs in Germany", away.Is(placement.JobRunning))
		m.CutOff("ber-1", m.region("ber-1").newest().Job(away.ID).Node)
		time.Sleep(15 * time.Second) // until its own region has noticed, and said so
		m.watch(20*time.Second, 100*time.Millisecond, "home knows that nobody knows", away.Is(placement.JobUnknown))
		m.Heal()
		m.Within(30*time.Second, "it is known again", away.Is(placement.JobRunning))
		if n := m.starts("ber-1", away.ID); n != 1 {
			t.Errorf("it was started %d times", n)
		}
		m.CheckInvariants()
	})
}
