package mesh

import (
	"fmt"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// The leader is killed while gangs are being placed, and with it the machine's
// program on which some members run: at no moment of any replica is half a gang
// placed, and in the end every gang has run as a whole.
func TestALeaderDiesWhileGangsArePlaced(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3))
		leader := m.Leader("fra-1")
		var other placement.NodeID
		for _, h := range m.region("fra-1").hosts {
			if h.name != leader {
				other = h.name
			}
		}
		var jobs []*Job
		halves := func() {
			for _, h := range m.region("fra-1").hosts {
				if h.node == nil {
					continue
				}
				view := h.node.View()
				for _, j := range jobs {
					members := map[int]int{}
					for _, task := range view.TasksOf(j.ID) {
						_, attempt, _ := task.ID.Member()
						members[attempt]++
					}
					for attempt, n := range members {
						if n != 5 {
							t.Fatalf("%s has %d members of attempt %d of %s, which has 5", h.name, n, attempt, j.ID)
						}
					}
				}
			}
		}
		c := m.AtNode("fra-1", other)
		for i := range 12 {
			jobs = append(jobs, c.Submit(fmt.Sprintf(`{"kind":"fake","name":"gang-%d","residency":"FR","gang":5,"command":["run","3s"]}`, i)))
			if i == 8 {
				m.Kill("fra-1", leader) // placements of these gangs are under way
			}
			halves()
		}
		for range 200 {
			halves()
			time.Sleep(20 * time.Millisecond)
		}
		m.Restart("fra-1", leader)
		m.host("fra-1", leader).waitReady()
		m.Within(60*time.Second, "all gangs have run", func() bool {
			halves()
			for _, j := range jobs {
				if now := j.Now(); now == nil || now.Status != placement.JobComplete {
					return false
				}
			}
			return true
		})
		for _, j := range jobs {
			if n := m.starts("fra-1", j.ID); n != 5 {
				t.Errorf("the members of %s were started %d times", j.ID, n)
			}
		}
		m.CheckInvariants()
	})
}
