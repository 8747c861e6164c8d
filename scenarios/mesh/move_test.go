package mesh

import (
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/placement"
)

// movable makes the machines of a region ones between which running tasks move.
func movable(fleet *fake.Fleet, key string) func(*host) {
	return func(h *host) { h.world.Join(fleet, key) }
}

const (
	service = `{"kind":"fake","residency":"FR","type":"service","command":["sleep"]}`
	single  = `{"kind":"fake","residency":"FR","type":"service","singleton":true,"command":["sleep"]}`
)

// A drain moves what runs: its work goes on where it was, nothing of it is started
// anew, and at no time do two copies run.
func TestADrainMovesWhatRuns(t *testing.T) {
	for name, c := range map[string]struct {
		job      string
		from, to placement.NodeID
		nodes    int
	}{
		"a service": {service, "n2", "", 3}, "a singleton": {single, "n2", "", 3},
		"a worker gives": {service, "n8", "", 8}, "a worker takes": {single, "n2", "n8", 8},
	} {
		t.Run(name, func(t *testing.T) {
			Run(t, func(t *testing.T) {
				fleet := fake.NewFleet()
				m := New(t, Spec{ID: "fra-1", Country: "FR", Nodes: c.nodes, Machine: movable(fleet, "7.2")})
				job := m.on("fra-1", c.from, c.job)
				time.Sleep(time.Minute)
				if c.to != "" {
					for _, h := range m.region("fra-1").hosts {
						if h.name != c.to && h.name != c.from {
							_, err := m.At("fra-1").Cordon(t.Context(), h.name)
							m.must(err)
						}
					}
				}
				old := m.taskOf("fra-1", job.ID)
				plan, err := m.At("fra-1").PlanDrain(t.Context(), c.from, api.DrainRequest{})
				m.must(err)
				if len(plan.Tasks) != 1 || plan.Tasks[0].Mode != "live" || plan.Tasks[0].Fate != "move" {
					t.Errorf("the plan: %+v", plan.Tasks)
				}
				_, err = m.At("fra-1").Drain(t.Context(), c.from, api.DrainRequest{})
				m.must(err)
				m.Within(30*time.Second, "it is drained", m.drained("fra-1", c.from))
				now := m.taskOf("fra-1", job.ID)
				if now.Node == c.from || c.to != "" && now.Node != c.to || now.Replaces != old.ID || now.Status != placement.TaskRunning {
					t.Fatalf("the task is %+v", now)
				}
				m.Within(5*time.Second, "it runs on", func() bool { return len(fleet.Running(job.ID)) == 1 })
				count := m.host("fra-1", now.Node).world.Count(now.ID)
				if starts := m.host("fra-1", now.Node).world.Starts()[now.ID]; starts != 0 || count < time.Minute {
					t.Errorf("started %d times, its counter is at %s", starts, count)
				}
				if twice := fleet.Twice(); len(twice) > 0 {
					t.Error(twice)
				}
				if doc := job.Now(); doc.Status != placement.JobRunning || doc.Restarts != 0 {
					t.Errorf("the job: %s, %d restarts", doc.Status, doc.Restarts)
				}
				m.CheckInvariants()
			})
		})
	}
}
