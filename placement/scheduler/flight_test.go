package scheduler

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sovmesh/sovmesh/placement"
)

// A plan that counts assignments as in flight is the plan that follows once they
// are committed: it gives nothing twice, and is the same when they are.
func TestWhatIsInFlightCountsAsCommitted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyWorld(t)
		anyBounds(t, &s)
		var taken Decisions
		var flying []Flying
		for _, a := range Plan(s).Assign {
			if a.Replaces != "" {
				continue
			}
			member, _, _ := a.Task.Member()
			if member > 0 && slices.ContainsFunc(taken.Assign, func(o placement.Assignment) bool { return o.Job == a.Job }) ||
				member == 0 && rapid.Bool().Draw(t, "in flight "+string(a.Task)) {
				taken.Assign = append(taken.Assign, a)
				flying = append(flying, Flying{Assignment: a, Spec: s.Jobs[a.Job]})
			}
		}
		committed := apply(s, taken)
		committed.Tasks = s.Tasks // a view shows no tasks of nodes that are well
		if len(flying) > 0 {
			committed.Share = shareWith(s, flying) // as the next test has it
		}
		if got, want := Plan(Assume(s, flying)), Plan(committed); !reflect.DeepEqual(got, want) {
			t.Fatalf("in flight: %+v\nplanned   %+v\nwant      %+v", taken.Assign, got, want)
		}
	})
}

// anyBounds limits the tenants, or not.
func anyBounds(t *rapid.T, s *placement.Snapshot) {
	limit := rapid.IntRange(0, 6).Draw(t, "limit")
	if limit == 0 {
		return
	}
	s.Share = func(id placement.TenantID) placement.TenantShare {
		return placement.TenantShare{Weight: 1, Bounds: []placement.Bound{
			{Tenant: id, Class: placement.ClassGPUs, Limit: limit}, {Tenant: id, Class: "H100", Limit: limit}, {Tenant: id, Class: placement.ClassCPUs, Limit: 2 * limit}}}
	}
}

// What is in flight counts for the bounds of its tenant, of all tenants of its
// region, and of nobody else.
func TestWhatIsInFlightCountsForItsBounds(t *testing.T) {
	n := node("n1", gpus(8, h100, 80*placement.GiB))
	s := world([]*placement.Node{n})
	s.Share = func(id placement.TenantID) placement.TenantShare {
		return placement.TenantShare{Weight: 2, GPUs: 1000, Bounds: []placement.Bound{
			{Tenant: id, Class: "H100", Limit: 4, Held: 1000}, {Tenant: "par-1/*", Class: placement.ClassCPUs, Limit: 9}, {Tenant: id, Class: "L4", Limit: 1}}}
	}
	of := func(tenant placement.TenantID, devices ...string) Flying {
		j := job("j-"+string(tenant), asks(placement.Resources{CPU: 2000, GPUs: len(devices)}), func(j *placement.Job) { j.Tenant = tenant })
		return Flying{Spec: j, Assignment: placement.Assignment{Job: j.ID, Task: j.ID.Task(0, 1), Node: "n1", Devices: devices}}
	}
	share := Assume(s, []Flying{of("par-1/acme", "n1-gpu-0", "n1-gpu-1"), of("par-1/bank", "n1-gpu-2"), of("acme", "n1-gpu-3")}).Share("par-1/acme")
	var held []int64
	for _, b := range share.Bounds {
		held = append(held, b.Held)
	}
	if share.Weight != 2 || share.GPUs != 3000 || share.CPU != 2000 || !slices.Equal(held, []int64{3000, 4000, 0}) {
		t.Errorf("%+v", share)
	}
}

// Room that was kept for a job is counted once, and a node that holds what a job
// avoids is closed to it as soon as that is on its way.
func TestWhatIsInFlightIsNotCountedTwiceNorStoodBeside(t *testing.T) {
	n1, n2 := node("n1", used(3000, 0)), node("n2")
	s := world([]*placement.Node{n1, n2})
	kept := job("kept", asks(placement.Resources{CPU: 3000}))
	noisy := job("noisy", func(j *placement.Job) { j.Name = "noisy" })
	quiet := job("quiet", func(j *placement.Job) { j.Spec.Avoid = []string{"noisy"} })
	to := func(j *placement.Job, node placement.NodeID, kept bool) Flying {
		return Flying{Spec: j, Kept: kept, Assignment: placement.Assignment{Job: j.ID, Task: j.ID.Task(0, 1), Node: node}}
	}
	after := Assume(s, []Flying{to(kept, "n1", true), to(noisy, "n2", false), to(kept, "gone", false)})
	if u := after.Nodes[0].Used; u.CPU != 3000 || u.Tasks != n1.Used.Tasks+1 {
		t.Errorf("n1 holds %+v", u)
	}
	if n2.Used.Tasks != 0 {
		t.Error("the snapshot's own record was changed")
	}
	after.Wanted, after.Jobs = []*placement.Job{quiet}, map[placement.JobID]*placement.Job{quiet.ID: quiet}
	for _, first := range []Flying{to(noisy, "n1", false), to(noisy, "n2", false)} {
		empty := world([]*placement.Node{node("n1"), node("n2")}, quiet)
		empty.Apart = func(*placement.Job) []placement.NodeID { return nil }
		if a := only(t, Plan(Assume(empty, []Flying{first}))); a.Node == first.Node {
			t.Errorf("%s stands beside what it avoids, on %s", quiet.ID, a.Node)
		}
	}
	// The other way round: nobody that waits avoids anybody.
	loud := world([]*placement.Node{node("n1"), node("n2")}, noisy)
	if a := only(t, Plan(Assume(loud, []Flying{to(quiet, "n1", false)}))); a.Node != "n2" {
		t.Errorf("%s stands beside who avoids it", fmt.Sprint(a))
	}
}
