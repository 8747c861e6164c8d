package mesh

import (
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/placement"
)

// says makes a node see its devices under another version of their driver. One
// that is too long is what no region takes.
func (m *Mesh) says(name placement.NodeID, driver string) {
	m.t.Helper()
	g := m.host("ber-1", name).gpus()
	g.driver = driver
	r, err := g.Read(m.t.Context())
	m.must(err)
	select {
	case g.told <- gpu.Update{Reading: &r}:
	case <-time.After(10 * time.Second):
		m.t.Fatalf("nobody listens to the devices of %s", name)
	}
}

// reported is the version of the driver that the region has of a node.
func (m *Mesh) reported(name placement.NodeID) string {
	return m.host("ber-1", m.Leader("ber-1")).node.View().Node(name).Inventory.DriverVersion
}

// A region that refuses what a node says of itself is told again, ever more
// rarely, and the operator once; the node goes on, and says that it is refused
// until it is not. A replica hears a refusal as an error, a worker as a result.
func TestARefusedInventoryIsSaidOnceAndMendedAtOnce(t *testing.T) {
	for _, tt := range []struct {
		what  string
		nodes int
		name  placement.NodeID
	}{{"a replica", 1, "n1"}, {"a worker", 8, "n8"}} {
		t.Run(tt.what, func(t *testing.T) {
			Run(t, func(t *testing.T) {
				de := Region("ber-1", "DE", tt.nodes)
				de.GPUs = []placement.Device{h200, h200}
				m := New(t, de)
				const refused = "the region REFUSED what this node says of itself"
				who := "ber-1/" + string(tt.name)
				long := strings.Repeat("9", 300)
				gauge := func() bool {
					_, text := m.scrape("ber-1", tt.name, m.region("ber-1").token)
					return strings.Contains(text, `sovmesh_node_inventory_refused{region="ber-1"} 1`)
				}
				m.says(tt.name, "550.1")
				m.Within(5*time.Second, "a report is taken", func() bool { return m.reported(tt.name) == "550.1" })
				m.says(tt.name, long)
				m.Within(5*time.Second, "a refusal is said", func() bool { return m.log.count(who, refused) == 1 })
				time.Sleep(2 * time.Minute)
				if n := m.log.count(who, refused); n != 1 {
					t.Errorf("one refusal is said %d times", n)
				}
				if m.log.line(who, refused, "node.inventory", "hint") == "" {
					t.Error("what to do is not said")
				}
				live, err := m.At("ber-1").LiveGPUs(t.Context(), tt.name)
				m.must(err)
				if live.Refused == "" || !gauge() || m.reported(tt.name) != "550.1" {
					t.Errorf("two minutes later: refused for %q, in the metrics %v, the region has %q", live.Refused, gauge(), m.reported(tt.name))
				}
				if tt.nodes == 1 {
					s, err := m.At("ber-1").Status(t.Context())
					m.must(err)
					if s.Refused == "" {
						t.Error("the status says nothing of it")
					}
				}
				// Refused from the start, it goes on as well.
				m.Kill("ber-1", tt.name)
				m.Restart("ber-1", tt.name)
				m.host("ber-1", tt.name).waitReady()
				m.Within(5*time.Second, "a refusal is said anew", func() bool { return m.log.count(who, refused) == 2 })
				m.says(tt.name, "560.2")
				m.Within(3*time.Second, "what is mended is reported at once", func() bool { return m.reported(tt.name) == "560.2" })
				m.Within(3*time.Second, "and no longer refused", func() bool { return !gauge() })
				job := m.At("ber-1").Submit(`{"kind":"fake","residency":"DE","command":["run","1s"],"resources":{"gpus":2}}`)
				m.Within(20*time.Second, "work goes on", job.Exited(0))
				m.CheckInvariants()
			})
		})
	}
}

// A version of the inventory that is ahead of the node's own, as one written
// under a wrong clock, is passed and does not silence the node.
func TestAnInventoryFromAWrongClockIsPassed(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := inGermany(t)
		n := *m.host("ber-1", "n1").node.View().Node("n2")
		ahead := uint64(time.Now().AddDate(9, 0, 0).Unix())
		n.Inventory.Version, n.Inventory.DriverVersion = ahead, "of the future"
		r := m.rogue(m.stolen("ber-1", "n2"), outside(1))
		res, err := r.propose(m.peer("ber-1", m.Leader("ber-1")), state.ReportInventory{Node: "n2", Inventory: n.Inventory}, time.Now())
		if m.must(err); res.Refused != nil {
			t.Fatal(res.Refused)
		}
		m.says("n2", "550.1")
		m.Within(10*time.Second, "its next report is newer", func() bool { return m.reported("n2") == "550.1" })
		m.Kill("ber-1", "n2")
		m.Restart("ber-1", "n2")
		m.host("ber-1", "n2").waitReady() // its first report too has to be newer
		if v := m.host("ber-1", "n1").node.View().Node("n2").Inventory.Version; v <= ahead || v > ahead+10 {
			t.Errorf("version %d after %d", v, ahead)
		}
		m.CheckInvariants()
	})
}

// Where a node stands decides what may run on it: one that says that it stands
// elsewhere than it joined does not go on, on a replica no more than on a worker.
func TestANodeThatMovedToAnotherSiteDoesNotGoOn(t *testing.T) {
	Run(t, func(t *testing.T) {
		de := Region("ber-1", "DE", 1)
		de.Sites = []string{"mitte"}
		m := New(t, de)
		h := m.host("ber-1", "n1")
		m.Kill("ber-1", "n1")
		h.region.spec.Sites[0] = "elsewhere"
		m.Restart("ber-1", "n1")
		select {
		case <-h.done:
			if h.err == nil || !strings.Contains(h.err.Error(), `joined at site "mitte"`) {
				t.Errorf("it ended with %v", h.err)
			}
		case <-time.After(30 * time.Second):
			t.Error("it goes on")
		}
	})
}
