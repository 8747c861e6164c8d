package consensus

import (
	"slices"
	"testing"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// A region of three loses two for good. What one node has on its real disk goes
// on as a region of one, under a new log whose first leaf shows the break; a
// node that joins then takes the new log from it.
func TestARegionIsRecoveredFromOneNode(t *testing.T) {
	r := newRegion(t, 3, nil)
	for range 20 {
		if _, err := r.leader().Propose(timeout(t), r.job(), "tok"); err != nil {
			t.Fatal(err)
		}
	}
	r.within("all have it", func() bool {
		for _, s := range r.nodes {
			if s.View().JobCount() != 20 {
				return false
			}
		}
		return true
	})
	before := r.at("n1").View()
	cfg := r.at("n1").cfg
	for _, id := range []placement.NodeID{"n1", "n2", "n3"} {
		r.kill(id)
	}
	out, err := Recover(timeout(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if out.Origin != "fra-1.mesh.example/ledger/2" || out.Leaves < before.LedgerSize() || len(out.Removed) != 2 || out.Restarts != 1 {
		t.Errorf("recovered: %+v", out)
	}
	s := r.restart("n1")
	r.within("it leads", func() bool { leader, ok := s.Leader(); return ok && leader == "n1" })
	v := s.View()
	if v.JobCount() != 20 || v.LogOrigin() != out.Origin || len(s.Peers()) != 1 {
		t.Errorf("%d jobs, log %s, members %v", v.JobCount(), v.LogOrigin(), s.Peers())
	}
	entry, err := s.Ledger().Entry(0)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ledger.Decode(entry)
	if err != nil || leaf.Kind != "ledger.restart" || !slices.ContainsFunc(leaf.Shown, func(s ledger.Shown) bool { return s.Name == ledger.ShownOrigin && s.Value == out.Origin }) {
		t.Errorf("the first leaf of the new log is %+v, %v", leaf, err)
	}
	if _, err := s.Propose(timeout(t), r.job(), "tok"); err != nil {
		t.Fatal(err)
	}
	root, size := s.Ledger().Root()
	if v := s.View(); root != v.LedgerRoot() || size != v.LedgerSize() {
		t.Errorf("the ledger has %d leaves, the state %d", size, v.LedgerSize())
	}
	// Once more from disk: the old log is not read into the new one.
	r.kill("n1")
	s = r.restart("n1")
	r.within("it is back", func() bool { return s.View().JobCount() == 21 })
	if root, _ := s.Ledger().Root(); root != s.View().LedgerRoot() {
		t.Error("after a restart ledger and state differ")
	}
	r.join("n4")
	r.within("a new node has the new log", func() bool {
		n := r.at("n4")
		return n.View().LogOrigin() == out.Origin && n.View().LedgerRoot() == s.View().LedgerRoot()
	})
	if err := s.Health(); err != nil {
		t.Error(err)
	}
}

func TestNothingIsRecoveredFromAnEmptyDisk(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Self, cfg.Region, cfg.Advertise, cfg.Storage = "n1", "fra-1", address("n1"), Dir(t.TempDir())
	if _, err := Recover(timeout(t), cfg); err == nil {
		t.Error("an empty disk became a region")
	}
}
