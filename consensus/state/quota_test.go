package state

import (
	"fmt"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

func of(tenant string) func(*placement.Job) {
	return func(j *placement.Job) { j.Tenant = placement.TenantID(tenant) }
}

func withGPUs(n int) func(*placement.Job) {
	return func(j *placement.Job) { j.Spec.Resources.GPUs = n }
}

// A limit holds where a task begins, whatever the leader proposes; it counts
// what runs, not what was submitted.
func TestALimitHoldsAtAssignment(t *testing.T) {
	f := newFixture(t)
	f.ok(SetTenant{Tenant: Tenant{ID: "acme", Quota: Quota{Limit: map[string]int{"H100": 3}, Guarantee: map[string]int{"gpus": 2}}}})
	next := 0
	on := func(id placement.JobID, n int) Assign {
		a := f.assignment(id, "n1")
		for range n {
			a.Devices = append(a.Devices, fmt.Sprintf("n1-gpu%d", next))
			next++
		}
		return Assign{Assignments: []placement.Assignment{a}}
	}
	first, second := f.submit(1, "EU", of("acme"), withGPUs(2)), f.submit(2, "EU", of("acme"), withGPUs(2))
	f.ok(on(first, 2))
	f.refused("quota.limit", on(second, 2))
	f.ok(on(f.submit(3, "EU", of("bank"), withGPUs(2)), 2)) // another tenant's is none of it
	f.ok(on(f.submit(4, "EU", of("acme"), withGPUs(1)), 1))
	share := f.s.Share("acme")
	if share.GPUs != 3000 || len(share.Bounds) != 2 || share.Bounds[0].Held != 3000 || share.Bounds[1] != (placement.Bound{Tenant: "acme", Class: "gpus", Guarantee: 2, Held: 3000}) {
		t.Errorf("acme: %+v", share)
	}
	gang := f.submit(5, "EU", of("acme"), gangOf(2), withGPUs(1))
	f.report(f.s.TasksOf(first)[0].ID, placement.TaskComplete)
	f.ok(SetTenant{Tenant: Tenant{ID: "acme", Quota: Quota{Limit: map[string]int{"gpus": 2}}}})
	whole := f.gang(gang, "n1")
	whole.Assignments[0].Devices, whole.Assignments[1].Devices = []string{"n1-gpu0"}, []string{"n1-gpu1"}
	f.refused("quota.limit", whole) // its second member would be the third GPU
	if n := len(f.s.TasksOf(gang)); n != 0 {
		t.Errorf("%d members of a gang over its limit are there", n)
	}
	f.ok(SetTenant{Tenant: Tenant{ID: "acme", Quota: Quota{Limit: map[string]int{"gpus": 3}}}})
	f.ok(whole)
	checkInvariants(t, f.s)
	if again := reopened(t, f.s).Share("acme"); again.GPUs != 3000 {
		t.Errorf("restored: %+v", again)
	}
}

// The replacement of a drained service's task does not count beside it.
func TestALimitLetsATaskBeReplaced(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	f.ok(SetTenant{Tenant: Tenant{ID: "default", Quota: Quota{Limit: map[string]int{"cpu": 1}}}})
	id := f.submit(1, "EU", service, func(j *placement.Job) { j.Spec.Resources.CPU = 1000 })
	old := f.assign(id, "n1")
	f.report(old, placement.TaskRunning)
	a := f.assignment(id, "n2")
	a.Replaces = old
	f.ok(Assign{Assignments: []placement.Assignment{a}})
	f.refused("quota.limit", Assign{Assignments: []placement.Assignment{f.assignment(f.submit(2, "EU"), "n1")}})
}

func TestImpossibleQuotasAreRefused(t *testing.T) {
	f := newFixture(t)
	many := map[string]int{}
	for i := range 17 {
		many[fmt.Sprint("m", i)] = 1
	}
	for name, q := range map[string]Quota{
		"negative": {Limit: map[string]int{"gpus": -1}}, "less than guaranteed": {Guarantee: map[string]int{"gpus": 4}, Limit: map[string]int{"gpus": 3}},
		"no class": {Limit: map[string]int{"": 1}}, "a class of two words": {Limit: map[string]int{"NVIDIA H100": 1}}, "too many": {Limit: many},
		"a heavy tenant": {Weight: 1001}, "a weightless one": {Weight: -1}, "beyond any region": {Guarantee: map[string]int{"gpus": 1 << 40}},
	} {
		if r := f.apply(SetTenant{Tenant: Tenant{ID: "acme", Quota: q}}); r.Refused == nil || r.Refused.Code != "tenant.quota" {
			t.Errorf("%s: %+v", name, r.Refused)
		}
	}
}

// Nobody hides behind a tenant with a long queue, a lower priority comes after
// every higher one, and whoever waited too long is looked at all the same.
func TestTheQueueShowsEveryTenant(t *testing.T) {
	f := newFixture(t)
	old := f.submit(9999, "EU", of("patient"))
	f.now = f.now.Add(placement.AgedAfter)
	for n := range snapshotJobs + 500 {
		f.submit(n+10_000, "EU", of("flood"), func(j *placement.Job) { j.Spec.Priority = 90 })
	}
	one, two := f.submit(1, "EU", of("bank"), func(j *placement.Job) { j.Spec.Priority = 90 }), f.submit(2, "EU", of("zoo"), func(j *placement.Job) { j.Spec.Priority = 90 })
	low := f.submit(3, "EU", of("acme"), func(j *placement.Job) { j.Spec.Priority = 10 })
	s := f.s.Freeze().Snapshot(f.now)
	if len(s.Wanted) != snapshotJobs {
		t.Fatalf("%d jobs are looked at", len(s.Wanted))
	}
	for _, id := range []placement.JobID{one, two, old} {
		if s.Jobs[id] == nil {
			t.Errorf("%s of %s is hidden", id, f.s.Job(id).Tenant)
		}
	}
	if s.Jobs[low] != nil {
		t.Error("a lower priority takes the place of a higher one")
	}
	if f.s.queue.len() != f.s.byAge.len() {
		t.Errorf("%d in the queue, %d by age", f.s.queue.len(), f.s.byAge.len())
	}
	seen := map[placement.JobID]bool{}
	for _, j := range s.Wanted {
		if seen[j.ID] {
			t.Fatalf("%s twice", j.ID)
		}
		seen[j.ID] = true
	}
}

// A job that ran and waits again is as old as before, and has waited since then.
func TestAJobThatWaitsAgainKeepsItsAge(t *testing.T) {
	f := newFixture(t)
	id := f.submit(1, "EU")
	task := f.assign(id, "n1")
	f.report(task, placement.TaskRunning)
	f.now = f.now.Add(2 * time.Hour)
	f.ok(StopTasks{Tasks: []placement.TaskID{task}, Again: true})
	f.report(task, placement.TaskStopped)
	f.submit(2, "EU")
	f.wantJob(id, placement.JobPending)
	if first := f.s.Freeze().Snapshot(f.now).Wanted[0]; first.ID != id || first.Aged(f.now) || !first.Aged(f.now.Add(placement.AgedAfter)) {
		t.Errorf("first is %s, queued at %s", first.ID, first.QueuedAt)
	}
}

// Jobs that ran for long and wait again are old by their submission alone: however
// many there are, they do not hide one that has waited too long.
func TestJobsThatWaitAgainHideNoAgedOne(t *testing.T) {
	f := newFixture(t)
	var again []placement.TaskID
	for n := range 600 {
		id := f.submit(n+20_000, "EU", of("again"))
		again = append(again, f.assign(id, "n1"))
	}
	old := f.submit(1, "EU", of("patient"))
	f.now = f.now.Add(placement.AgedAfter)
	f.ok(StopTasks{Tasks: again, Again: true})
	for _, id := range again {
		f.report(id, placement.TaskStopped)
	}
	for n := range snapshotJobs {
		f.submit(n+30_000, "EU", of("flood"), urgent(90))
	}
	if s := f.s.Freeze().Snapshot(f.now); s.Jobs[old] == nil {
		t.Error("who has waited for an hour is hidden")
	}
	checkInvariants(t, f.s)
}
