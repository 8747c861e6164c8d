package mesh

import (
	"net/netip"
	"os"
	"path/filepath"

	"github.com/sovmesh/sovmesh/placement"
)

// Isolate cuts a region off from all others, in both directions.
func (m *Mesh) Isolate(id placement.RegionID) {
	m.log.add("fault", "isolate "+string(id))
	for _, a := range m.region(id).hosts {
		for _, r := range m.regions {
			if r.spec.ID != id {
				for _, b := range r.hosts {
					m.cut(a.addr, b.addr, true)
				}
			}
		}
	}
}

// CutOff cuts one node off from every other, of its own region too.
func (m *Mesh) CutOff(id placement.RegionID, name placement.NodeID) {
	m.log.add("fault", "cut off "+string(id)+"/"+string(name))
	a := m.host(id, name)
	for _, r := range m.regions {
		for _, b := range r.hosts {
			if a != b {
				m.cut(a.addr, b.addr, true)
			}
		}
	}
}

// Heal mends every cut and ends all loss.
func (m *Mesh) Heal() {
	m.log.add("fault", "heal")
	m.wan.mu.Lock()
	defer m.wan.mu.Unlock()
	clear(m.wan.cut)
	m.wan.loss = 0
}

// Lose drops the given share of all packets.
func (m *Mesh) Lose(share float64) {
	m.log.add("fault", "lose packets")
	m.wan.setLoss(share)
}

func (m *Mesh) cut(a, b netip.Addr, cut bool) {
	m.wan.setCut(a, b, cut)
	m.wan.setCut(b, a, cut)
}

// Kill ends a node's program without a goodbye; its machine and tasks go on.
func (m *Mesh) Kill(id placement.RegionID, name placement.NodeID) {
	m.log.add("fault", "kill "+string(id)+"/"+string(name))
	m.host(id, name).end(true)
}

// Restart starts a node's program again on its directory.
func (m *Mesh) Restart(id placement.RegionID, name placement.NodeID) {
	m.log.add("fault", "restart "+string(id)+"/"+string(name))
	h := m.host(id, name)
	if h.node == nil {
		h.start()
	}
}

// Leader is the node that leads a region, waiting for one.
func (m *Mesh) Leader(id placement.RegionID) placement.NodeID {
	m.t.Helper()
	var leader placement.NodeID
	m.Within(waitLeader, "a leader of "+string(id), func() bool {
		for _, h := range m.region(id).hosts {
			if h.node == nil {
				continue
			}
			if l, ok := h.node.Leader(); ok && l == h.name {
				leader = l
				return true
			}
		}
		return false
	})
	return leader
}

func (m *Mesh) region(id placement.RegionID) *region {
	for _, r := range m.regions {
		if r.spec.ID == id {
			return r
		}
	}
	m.t.Fatalf("no region %s in this mesh", id)
	return nil
}

func (m *Mesh) host(id placement.RegionID, name placement.NodeID) *host {
	for _, h := range m.region(id).hosts {
		if h.name == name {
			return h
		}
	}
	m.t.Fatalf("no node %s in region %s", name, id)
	return nil
}

// has reports whether the machine's disk holds a file of its node.
func (h *host) has(file string) bool {
	_, err := os.Stat(filepath.Join(h.dir, file))
	return err == nil
}
