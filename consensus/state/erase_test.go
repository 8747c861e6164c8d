package state

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// A job's record loses what people typed, its leaves are named for ever, and a
// snapshot carries both.
func TestAJobIsForgotten(t *testing.T) {
	f := newFixture(t)
	id := f.submit(1, "EU", func(j *placement.Job) { j.Name, j.Spec.Command = "marker", []string{"marker"} })
	leaves := f.s.JobLeaves(id)
	f.refused("job.alive", EraseOpenings{Job: id, Leaves: leaves})
	f.ok(StopJob{Job: id, Reason: "marker"})
	leaves = f.s.JobLeaves(id)
	f.refused("audit.leaves", EraseOpenings{Job: id})
	f.refused("audit.leaves", EraseOpenings{Job: id, Leaves: []uint64{3, 3}})
	f.refused("audit.leaves", EraseOpenings{Job: id, Leaves: []uint64{1 << 40}})
	f.refused("job.unknown", EraseOpenings{Job: "x", Leaves: leaves})
	res := f.ok(EraseOpenings{Job: id, Leaves: leaves})
	leaf, err := ledger.Decode(res.Entry)
	if err != nil || leaf.Subject != string(id) || leaf.Get(ledger.ShownErased) != leavesText(leaves) {
		t.Errorf("%+v %v", leaf, err)
	}
	if all := f.s.Erasures(0); len(all) != 1 || len(all[0].Leaves) != len(leaves) || len(f.s.Erasures(1)) != 0 {
		t.Errorf("%+v", all)
	}
	record, _ := json.Marshal(f.s.Job(id))
	if strings.Contains(string(record), "marker") {
		t.Errorf("the record says %s", record)
	}
	var b strings.Builder
	if err := f.s.Freeze().Write(&b); err != nil || strings.Contains(b.String(), "marker") {
		t.Errorf("the snapshot has it: %v", err)
	}
	again, err := Restore(strings.NewReader(b.String()))
	if err != nil || again.Digest() != f.s.Digest() || len(again.Erasures(0)) != 1 {
		t.Errorf("after a restore: %v", err)
	}
}

// What auditors read is recorded with their role, and no more.
func TestAnAuditorsReadIsALeaf(t *testing.T) {
	f := newFixture(t)
	f.refused("audit.read", RecordRead{What: "everything", Count: 1})
	f.refused("audit.read", RecordRead{What: "export"})
	leaf, err := ledger.Decode(f.ok(RecordRead{What: "export", Count: 3}).Entry)
	if err != nil || leaf.Get(ledger.ShownRead) != "export" || leaf.Get(ledger.ShownCount) != "3" {
		t.Errorf("%+v %v", leaf, err)
	}
}
