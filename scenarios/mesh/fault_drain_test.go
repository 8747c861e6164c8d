package mesh

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// on submits a job while only one node takes tasks, and waits until it runs
// there: it is not pinned, so it may move.
func (m *Mesh) on(id placement.RegionID, name placement.NodeID, file string) *Job {
	m.t.Helper()
	c := m.At(id)
	for _, h := range m.region(id).hosts {
		if h.name != name {
			_, err := c.Cordon(m.t.Context(), h.name)
			m.must(err)
		}
	}
	job := c.Submit(file)
	m.Within(15*time.Second, "it runs on "+string(name), func() bool {
		doc := job.Now()
		return doc != nil && doc.Status == placement.JobRunning && doc.Node == name
	})
	for _, h := range m.region(id).hosts {
		_, err := c.Resume(m.t.Context(), h.name)
		m.must(err)
	}
	return job
}

func (m *Mesh) drained(id placement.RegionID, name placement.NodeID) func() bool {
	return func() bool { return m.region(id).newest().Node(name).State == placement.NodeDrained }
}

// A service has its replacement before its stop: at no hundredth of a second
// does none run. A singleton never has two.
func TestADrainMovesServicesWithoutAGap(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3))
		var services []*Job
		for range 5 {
			services = append(services, m.on("fra-1", "n2", `{"kind":"fake","residency":"FR","type":"service","command":["sleep"]}`))
		}
		single := m.on("fra-1", "n2", `{"kind":"fake","residency":"FR","type":"service","singleton":true,"command":["sleep"]}`)
		plan, err := m.At("fra-1").PlanDrain(t.Context(), "n2", api.DrainRequest{})
		m.must(err)
		fates := map[string]int{}
		for _, task := range plan.Tasks {
			fates[task.Fate]++
		}
		if fates["move"] != 5 || fates["stop-first"] != 1 || plan.Blockers != 0 {
			t.Errorf("the plan: %v, %d blockers", fates, plan.Blockers)
		}
		_, err = m.At("fra-1").Drain(t.Context(), "n2", api.DrainRequest{})
		m.must(err)
		gap, longest := time.Duration(0), time.Duration(0)
		m.watch(20*time.Second, 10*time.Millisecond, "every service runs and the singleton not twice", func() bool {
			for _, s := range services {
				if n := m.copies("fra-1", s.ID); n < 1 || n > 2 {
					t.Errorf("%d copies of %s", n, s)
					return false
				}
			}
			n := m.copies("fra-1", single.ID)
			if n == 0 {
				gap += 10 * time.Millisecond
				longest = max(longest, gap)
			} else {
				gap = 0
			}
			return n <= 1
		})
		if !m.drained("fra-1", "n2")() {
			t.Errorf("n2 is %s", m.region("fra-1").newest().Node("n2").State)
		}
		if n := len(m.host("fra-1", "n2").world.Running()); n != 0 {
			t.Errorf("%d tasks run on the drained node", n)
		}
		if longest > 10*time.Second || m.copies("fra-1", single.ID) != 1 {
			t.Errorf("the singleton was away for %s", longest)
		}
		m.CheckInvariants()
	})
}

// A batch task follows its own rule, and the operator's where it has none.
func TestADrainsRulesForBatchTasks(t *testing.T) {
	for _, tc := range []struct {
		name, job string
		drain     api.DrainRequest
		early     placement.JobStatus // after ten seconds
		late      func(*Job) bool     // after the deadline of thirty
		drained   bool
	}{
		{"it may finish", `"command":["run","20s","4"]`, api.DrainRequest{}, placement.JobRunning, ended(placement.JobFailed), true},
		{"it waits for ever", `"command":["sleep"]`, api.DrainRequest{}, placement.JobRunning, isRunning("n2"), false},
		{"its word wins over the operator's", `"command":["sleep"],"on_drain":"wait"`, api.DrainRequest{OnDeadline: placement.DrainStop}, placement.JobRunning, isRunning("n2"), false},
		{"the operator stops it at the deadline", `"command":["sleep"]`, api.DrainRequest{OnDeadline: placement.DrainStop}, placement.JobRunning, ended(placement.JobStopped), true},
		{"its own stop, at the deadline", `"command":["sleep"],"on_drain":"stop"`, api.DrainRequest{}, placement.JobRunning, ended(placement.JobStopped), true},
		{"the operator's checkpoint, at the deadline", `"command":["sleep"]`, api.DrainRequest{OnDeadline: placement.DrainCheckpoint}, placement.JobRunning, runsElsewhere("n2"), true},
		{"it moves at once", `"command":["sleep"],"on_drain":"move"`, api.DrainRequest{}, placement.JobRunning, runsElsewhere("n2"), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			Run(t, func(t *testing.T) {
				m := New(t, Region("fra-1", "FR", 3))
				job := m.on("fra-1", "n2", fmt.Sprintf(`{"kind":"fake","residency":"FR",%s}`, tc.job))
				tc.drain.Deadline = placement.Duration(30 * time.Second)
				_, err := m.At("fra-1").Drain(t.Context(), "n2", tc.drain)
				m.must(err)
				time.Sleep(10 * time.Second)
				if !job.Is(tc.early)() {
					t.Errorf("early: %s", job)
				}
				time.Sleep(40 * time.Second)
				if !tc.late(job) {
					t.Errorf("late: %s", job)
				}
				if m.drained("fra-1", "n2")() != tc.drained {
					t.Errorf("the node is %s", m.region("fra-1").newest().Node("n2").State)
				}
				m.CheckInvariants()
			})
		})
	}
}

func ended(s placement.JobStatus) func(*Job) bool {
	return func(j *Job) bool { doc := j.Now(); return doc.Status == s && doc.Status.Terminal() }
}

func isRunning(on placement.NodeID) func(*Job) bool {
	return func(j *Job) bool { doc := j.Now(); return doc.Status == placement.JobRunning && doc.Node == on }
}

func runsElsewhere(than placement.NodeID) func(*Job) bool {
	return func(j *Job) bool { doc := j.Now(); return doc.Status == placement.JobRunning && doc.Node != than }
}

// A drain never widens a tag: the task that has no other lawful place stays and
// is named with its reason; the others go.
func TestADrainNamesItsBlocker(t *testing.T) {
	Run(t, func(t *testing.T) {
		fra := Region("fra-1", "FR", 3)
		fra.Sites = []string{"par-a", "par-b", "par-a"}
		m := New(t, fra)
		bound := m.on("fra-1", "n2", `{"kind":"fake","name":"bound","residency":"FR,!site:par-a","type":"service","command":["sleep"]}`)
		free := m.on("fra-1", "n2", `{"kind":"fake","residency":"FR","type":"service","command":["sleep"]}`)
		for _, report := range []func() (*api.DrainReport, error){
			func() (*api.DrainReport, error) {
				return m.At("fra-1").PlanDrain(t.Context(), "n2", api.DrainRequest{})
			},
			func() (*api.DrainReport, error) { return m.At("fra-1").Drain(t.Context(), "n2", api.DrainRequest{}) },
		} {
			r, err := report()
			m.must(err)
			if r.Blockers != 1 {
				t.Fatalf("%d blockers: %+v", r.Blockers, r.Tasks)
			}
		}
		m.Within(20*time.Second, "the free one has gone", func() bool { return free.Is(placement.JobRunning)() && free.Now().Node != "n2" })
		time.Sleep(20 * time.Second)
		r, err := m.At("fra-1").DrainStatus(t.Context(), "n2", api.ListOptions{})
		m.must(err)
		if len(r.Tasks) != 1 || r.Tasks[0].Name != "bound" || r.Tasks[0].Fate != "blocked" || r.Tasks[0].Reason == "" || r.Done {
			t.Errorf("what is left: %+v", r)
		} else if !strings.Contains(r.Tasks[0].Reason+r.Tasks[0].Code, "residency") && !strings.Contains(r.Tasks[0].Reason, "par-a") && r.Tasks[0].Code == "" {
			t.Errorf("its reason: %q (%s)", r.Tasks[0].Reason, r.Tasks[0].Code)
		}
		if !isRunning("n2")(bound) {
			t.Errorf("%s", bound)
		}
		_, err = m.At("fra-1").Resume(t.Context(), "n2")
		m.must(err)
		if n := m.region("fra-1").newest().Node("n2"); n.State != placement.NodeReady {
			t.Errorf("resumed, it is %s", n.State)
		}
		m.CheckInvariants()
	})
}

// A leader that is drained hands its leadership over, and does not get it back.
func TestADrainedLeaderHandsOver(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3))
		leader := m.Leader("fra-1")
		service := m.on("fra-1", leader, `{"kind":"fake","residency":"FR","type":"service","command":["sleep"]}`)
		_, err := m.At("fra-1").Drain(t.Context(), leader, api.DrainRequest{})
		m.must(err)
		m.Within(10*time.Second, "another leads", func() bool { return m.Leader("fra-1") != leader })
		m.Within(20*time.Second, "it is empty", m.drained("fra-1", leader))
		m.watch(20*time.Second, 100*time.Millisecond, "it leads no more", func() bool { return m.Leader("fra-1") != leader })
		if !runsElsewhere(leader)(service) || m.copies("fra-1", service.ID) != 1 {
			t.Errorf("%s", service)
		}
		m.CheckInvariants()
	})
}
