package mesh

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// What region:NAME in a task's list means are the front doors of that region, as
// the ledger has them, on voters and workers alike.
func TestARegionInAListMeansItsFrontDoors(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Spec{ID: "fra-1", Country: "FR", Nodes: 8}, Spec{ID: "ber-1", Country: "DE", Nodes: 1})
		var mu sync.Mutex
		got := map[string]string{}
		for _, h := range m.region("fra-1").hosts {
			h.world.FailStart(func(s runner.Spec) error {
				mu.Lock()
				defer mu.Unlock()
				for _, name := range []string{"region:fra-1", "region:ber-1", "region:nowhere"} {
					all, err := s.Resolve(name)
					text := fmt.Sprint(len(all))
					if err != nil {
						text = err.Error()
					}
					if name == "region:ber-1" {
						text = fmt.Sprint(all)
					}
					got[string(h.name)+" "+name] = text
				}
				return nil
			})
		}
		worker := placement.NodeID("")
		for _, n := range m.region("fra-1").newest().Nodes() {
			if n.Role == placement.RoleWorker {
				worker = n.ID
			}
		}
		voters := 0
		for _, n := range m.region("fra-1").newest().Nodes() {
			if n.Role != placement.RoleWorker {
				voters++
			}
		}
		m.on("fra-1", "n1", `{"kind":"fake","residency":"EU","type":"service","command":["sleep"]}`)
		if worker != "" {
			m.on("fra-1", worker, `{"kind":"fake","residency":"EU","type":"service","command":["sleep"]}`)
		}
		time.Sleep(30 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		ber := "[" + strings.TrimPrefix(m.region("ber-1").hosts[0].config().API, "https://") + "]"
		for _, on := range []placement.NodeID{"n1", worker} {
			for name, want := range map[string]string{
				"region:fra-1": fmt.Sprint(voters), "region:ber-1": ber, "region:nowhere": "region nowhere is not known here",
			} {
				if text := got[string(on)+" "+name]; on != "" && text != want {
					t.Errorf("on %s %s is %q, want %q", on, name, text, want)
				}
			}
		}
		if worker == "" {
			t.Error("the region has no worker")
		}
	})
}
