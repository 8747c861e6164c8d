package mesh

import (
	"bytes"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// CheckInvariants checks what must hold whatever happened: the replicas of a
// region agree, nothing was placed outside its policy, no machine runs what no
// ledger assigned, no job runs twice, and no device is held twice.
func (m *Mesh) CheckInvariants() {
	m.t.Helper()
	for _, r := range m.regions {
		m.checkReplicas(r)
		if view := r.newest(); view != nil {
			m.checkPlacements(r, view)
			m.checkMachines(r, view)
		}
	}
}

func (r *region) newest() *state.View {
	var newest *state.View
	for _, h := range r.hosts {
		if h.node == nil || h.knowsPart() {
			continue
		}
		if v := h.node.View(); newest == nil || v.Index() > newest.Index() {
			newest = v
		}
	}
	return newest
}

// knowsPart reports that the machine is a worker: its view is no replica.
func (h *host) knowsPart() bool {
	n := h.node.View().Node(h.name)
	return n != nil && n.Role == placement.RoleWorker && h.node.View().LedgerSize() == 0
}

// checkReplicas compares the ledgers of replicas that are equally long.
func (m *Mesh) checkReplicas(r *region) {
	m.t.Helper()
	seen := map[uint64]*state.View{}
	for _, h := range r.hosts {
		if h.node == nil || h.knowsPart() {
			continue
		}
		v := h.node.View()
		root := v.LedgerRoot()
		if other := seen[v.Index()]; other != nil {
			if theirs := other.LedgerRoot(); !bytes.Equal(root[:], theirs[:]) || v.LedgerSize() != other.LedgerSize() {
				m.t.Errorf("%s: two replicas at index %d have different ledgers", r.spec.ID, v.Index())
			}
		}
		seen[v.Index()] = v
	}
}

// checkPlacements judges every live task again, by an evaluation of its own.
func (m *Mesh) checkPlacements(r *region, view *state.View) {
	m.t.Helper()
	held := map[string]placement.TaskID{}
	for _, n := range view.Nodes() {
		for _, t := range view.TasksOn(n.ID) {
			job := view.Job(t.Job)
			policy, err := view.PolicyOf(job)
			if err != nil {
				m.t.Errorf("%s: policy of %s: %v", r.spec.ID, job.ID, err)
				continue
			}
			if err := residency.Check(policy, view.Facts(n), view.Pack(), residency.Options{On: residency.DateOf(time.Now())}); err != nil {
				m.t.Errorf("%s: task %s runs outside its policy: %v", r.spec.ID, t.ID, err)
			}
			for _, d := range t.Devices {
				if other, taken := held[d]; taken {
					m.t.Errorf("%s: device %s is held by %s and %s", r.spec.ID, d, other, t.ID)
				}
				held[d] = t.ID
			}
		}
	}
}

// checkMachines looks at what really runs.
func (m *Mesh) checkMachines(r *region, view *state.View) {
	m.t.Helper()
	for _, h := range r.hosts {
		for id, starts := range h.world.Starts() {
			if starts > 1 {
				m.t.Errorf("%s/%s: task %s was started %d times", r.spec.ID, h.name, id, starts)
			}
		}
		for _, id := range h.world.Running() {
			t := view.Task(id)
			if t == nil {
				if job := view.Job(id.Job()); job == nil || !job.Status.Terminal() {
					m.t.Errorf("%s/%s: task %s runs, and the ledger never assigned it", r.spec.ID, h.name, id)
				}
				continue
			}
			if t.Node != h.name {
				m.t.Errorf("%s/%s: task %s runs here, and is assigned to %s", r.spec.ID, h.name, id, t.Node)
			}
		}
	}
}
