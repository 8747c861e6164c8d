package scheduler

import (
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// One look at the queue serves all who ask within a moment, also from a snapshot in
// which some of what it gave away is committed: nothing of it is given twice, and
// what is kept stays kept.
func TestAheadServesManyWhoAsk(t *testing.T) {
	big := job("big", asks(placement.Resources{CPU: 100, GPUs: 4}), waits(2*time.Minute))
	fits := job("fits", asks(placement.Resources{CPU: 100, GPUs: 2}), waits(2*time.Minute), func(j *placement.Job) { j.Spec.NodeName = "n2" })
	nodes := []*placement.Node{node("n1", gpus(4, h100, 80), used(0, 0, "n1-gpu-0", "n1-gpu-1")), node("n2", gpus(3, h100, 80))}
	s := world(nodes, big, fits)
	ahead := AheadOf(s)
	asked := func(gpus int) *placement.Job { return job("foreign", asks(placement.Resources{CPU: 100, GPUs: gpus})) }
	plan := Plan(s)
	if got := served(plan); got != "fits" {
		t.Fatalf("served %q", got)
	}
	for name, now := range map[string]placement.Snapshot{"as it was": s, "committed": apply(s, plan)} {
		if a, e := ahead.Place(now, asked(2)); a != nil {
			t.Errorf("%s: two devices at %s, the queue leaves one: %+v", name, a.Node, e)
		}
		if a, e := ahead.Place(now, asked(1)); a == nil || a.Node != "n2" {
			t.Errorf("%s: nothing for one device, n2 has one: %+v", name, e)
		}
	}
	if !ahead.Serves(noon.Add(aheadFor/2)) || ahead.Serves(noon.Add(aheadFor)) || ahead.Serves(noon.Add(-time.Second)) {
		t.Error("it serves for a moment alone")
	}
}
