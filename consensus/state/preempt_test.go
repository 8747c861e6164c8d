package state

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

func yields(j *placement.Job) { j.Spec.Preemptible = true }
func urgent(n int) func(*placement.Job) {
	return func(j *placement.Job) { j.Spec.Priority = n }
}

// Whoever leads: only a task that may be ended for that job is, a gang as a
// whole, none before its time, and all of them or none.
func TestNobodyIsEndedWithoutGround(t *testing.T) {
	f := newFixture(t)
	soft, firm := f.submit(1, "EU", yields, urgent(5)), f.submit(2, "EU")
	whole := f.submit(3, "EU", yields, gangOf(2))
	for _, id := range []placement.JobID{soft, firm} {
		f.report(f.assign(id, "n1"), placement.TaskRunning)
	}
	f.ok(f.gang(whole, "n1"))
	high, equal := f.submit(4, "EU", urgent(9)), f.submit(5, "EU", urgent(5))
	tasks := func(ids ...placement.JobID) (out []placement.TaskID) {
		for _, id := range ids {
			out = append(out, id.Task(0, 1))
		}
		return out
	}
	f.refused("preempt.early", Preempt{For: high, Tasks: tasks(soft)})
	f.now = f.now.Add(2 * placement.MinimumRun)
	f.refused("preempt.ground", Preempt{For: high, Tasks: tasks(firm)})
	f.refused("preempt.ground", Preempt{For: high, Tasks: tasks(soft, firm)})
	f.refused("preempt.ground", Preempt{For: equal, Tasks: tasks(soft)})
	f.refused("preempt.job", Preempt{For: soft, Tasks: tasks(whole)})
	f.refused("preempt.task", Preempt{For: high, Tasks: tasks(equal)})
	f.refused("preempt.count", Preempt{For: high})
	for _, live := range f.s.onNode.values() {
		if live.Stop {
			t.Fatalf("%s is to stop", live.ID)
		}
	}
	r := f.ok(Preempt{For: high, Tasks: tasks(soft, whole)})
	if !strings.Contains(string(r.Entry), "preempted priority") {
		t.Error("the leaf does not say why")
	}
	for _, id := range []placement.TaskID{soft.Task(0, 1), whole.Task(0, 1), whole.Task(1, 1)} {
		if task := f.s.Task(id); !task.Stop || !strings.HasPrefix(task.StopReason, "preempted") {
			t.Errorf("%+v goes on", task)
		}
		f.report(id, placement.TaskStopped)
	}
	if leaves := f.s.JobLeaves(soft); len(leaves) < 2 {
		t.Errorf("leaves of the victim: %v", leaves)
	}
	checkInvariants(t, f.s)
}

// A victim waits again, as old as before, and begins again inside its own tag
// alone, whatever the leader proposes.
func TestAVictimBeginsAgainInsideItsTag(t *testing.T) {
	f := newFixture(t)
	for id, site := range map[string]string{"n2": "par", "n3": "lyon"} {
		n := aNode(id)
		n.Site = site
		f.ok(CreateJoinToken{Hash: hashOf("join " + id), Expires: f.now.Add(time.Minute)})
		f.ok(JoinNode{TokenHash: hashOf("join " + id), Node: n})
	}
	id := f.submit(1, "site:par", yields)
	f.report(f.assign(id, "n2"), placement.TaskRunning)
	before := f.s.Job(id).SubmittedAt
	f.now = f.now.Add(2 * placement.MinimumRun)
	high := f.submit(2, "EU", urgent(9))
	f.ok(Preempt{For: high, Tasks: []placement.TaskID{id.Task(0, 1)}})
	f.report(id.Task(0, 1), placement.TaskStopped)
	f.wantJob(id, placement.JobPending)
	if j := f.s.Job(id); !j.SubmittedAt.Equal(before) || j.Restarts != 0 || !strings.HasPrefix(j.Reason, "preempted") {
		t.Errorf("it waits as %+v", j)
	}
	if r := f.apply(Assign{Assignments: []placement.Assignment{f.assignment(id, "n3")}}); r.Refused == nil || !strings.HasPrefix(r.Refused.Code, "residency") {
		t.Fatalf("outside its tag: %+v", r.Refused)
	}
	f.assign(id, "n2")
}

// A higher priority alone cuts no guarantee, whatever the leader proposes: the
// victim would be the first to have its room back.
func TestAPriorityCutsNoGuarantee(t *testing.T) {
	f := newFixture(t)
	f.ok(SetTenant{Tenant: Tenant{ID: "bank", Quota: Quota{Guarantee: map[string]int{"gpus": 1}}}})
	id := f.submit(1, "EU", of("bank"), withGPUs(1), yields)
	a := f.assignment(id, "n1")
	a.Devices = []string{"n1-gpu0"}
	f.ok(Assign{Assignments: []placement.Assignment{a}})
	f.report(a.Task, placement.TaskRunning)
	f.now = f.now.Add(2 * placement.MinimumRun)
	high := f.submit(2, "EU", of("acme"), withGPUs(1), urgent(90))
	f.refused("preempt.ground", Preempt{For: high, Tasks: []placement.TaskID{a.Task}})
	f.ok(SetTenant{Tenant: Tenant{ID: "bank"}})
	f.ok(Preempt{For: high, Tasks: []placement.TaskID{a.Task}})
	checkInvariants(t, f.s)
}

// What is leaving already is not borrowed any more: two jobs that take back at
// once do not cut what the other tenant is guaranteed.
func TestWhatIsLeavingIsNotTakenBackAgain(t *testing.T) {
	f := newFixture(t)
	f.ok(SetTenant{Tenant: Tenant{ID: "acme", Quota: Quota{Guarantee: map[string]int{"gpus": 2}}}})
	f.ok(SetTenant{Tenant: Tenant{ID: "bank", Quota: Quota{Guarantee: map[string]int{"gpus": 1}}}})
	var theirs []placement.TaskID
	for i := range 2 {
		id := f.submit(i+1, "EU", of("bank"), withGPUs(1))
		a := f.assignment(id, "n1")
		a.Devices = []string{fmt.Sprintf("n1-gpu%d", i)}
		f.ok(Assign{Assignments: []placement.Assignment{a}})
		theirs = append(theirs, a.Task)
		f.report(a.Task, placement.TaskRunning)
	}
	f.now = f.now.Add(2 * placement.MinimumRun)
	first, second := f.submit(3, "EU", of("acme"), withGPUs(1)), f.submit(4, "EU", of("acme"), withGPUs(1))
	f.ok(Preempt{For: first, Tasks: theirs[:1]})
	f.refused("preempt.ground", Preempt{For: second, Tasks: theirs[1:]})
	again := reopened(t, f.s)
	if b := again.Share("bank").Bounds[0]; b.Held != 2000 || b.Leaving != 1000 {
		t.Errorf("restored: %+v", b)
	}
	f.report(theirs[0], placement.TaskStopped)
	if b := f.s.Share("bank").Bounds[0]; b.Held != 1000 || b.Leaving != 0 {
		t.Errorf("after it left: %+v", b)
	}
	checkInvariants(t, f.s)
}

// Within an hour only so many tasks are ended for a tenant's jobs; what was counted
// is in the snapshot.
func TestPreemptionsOfAnHourAreBounded(t *testing.T) {
	f := newFixture(t)
	f.ok(SetTenant{Tenant: Tenant{ID: "default", Quota: Quota{Preempts: 2}}})
	var soft []placement.JobID
	for i := range 4 {
		id := f.submit(i+1, "EU", yields)
		f.report(f.assign(id, "n1"), placement.TaskRunning)
		soft = append(soft, id)
	}
	high := f.submit(9, "EU", urgent(9))
	end := func(n int) Preempt { return Preempt{For: high, Tasks: []placement.TaskID{soft[n].Task(0, 1)}} }
	f.now = f.now.Add(2 * placement.MinimumRun)
	f.ok(end(0))
	f.now = f.now.Add(placement.PreemptWindow / 2)
	f.refused("preempt.budget", Preempt{For: high, Tasks: []placement.TaskID{soft[1].Task(0, 1), soft[2].Task(0, 1)}})
	f.ok(end(1))
	f.refused("preempt.budget", end(2))
	if left, again := f.s.mayEnd("default", f.s.Clock); left != 0 || !again.Equal(f.s.Preempted[1].Since.Add(placement.PreemptWindow)) {
		t.Errorf("%d left until %s", left, again)
	}
	if left, _ := f.s.mayEnd("bank", f.s.Clock); left != placement.PreemptsOfTenant {
		t.Errorf("another tenant has %d left", left)
	}
	var b bytes.Buffer
	if err := f.s.Freeze().Write(&b); err != nil {
		t.Fatal(err)
	}
	again, err := Restore(&b)
	if err != nil || again.Digest() != f.s.Digest() {
		t.Fatalf("%v", err)
	}
	if left, _ := again.mayEnd("default", again.Clock); left != 0 {
		t.Errorf("a restored replica has %d left", left)
	}
	f.now = f.now.Add(placement.PreemptWindow / 2)
	f.ok(end(2))
	if len(f.s.Preempted) != 2 || f.s.Preempted[0].Tasks != 1 {
		t.Errorf("%+v", f.s.Preempted)
	}
	f.refused("tenant.quota", SetTenant{Tenant: Tenant{ID: "default", Quota: Quota{Preempts: -1}}})
}

// What all tenants of another region are guaranteed together is one count: two
// victims of two tenants are not both taken from it.
func TestTheVictimsOfARegionShareItsGuarantee(t *testing.T) {
	f := limited(t, Limits{})
	f.ok(SetTenant{Tenant: Tenant{ID: "ber-1/*", Quota: Quota{Guarantee: map[string]int{"gpus": 1}}}})
	f.ok(SetTenant{Tenant: Tenant{ID: "bank", Quota: Quota{Guarantee: map[string]int{"gpus": 2}}}})
	var theirs []placement.TaskID
	for i, tenant := range []placement.TenantID{"ber-1/acme", "ber-1/other"} {
		k := f.granted(i+1, "ber-1", "EU")
		k.Job.Tenant, k.Job.Spec.Resources.GPUs = tenant, 1
		f.ok(k)
		a := f.assignment(k.Job.ID, "n1")
		a.Devices = []string{fmt.Sprintf("n1-gpu%d", i)}
		f.ok(Assign{Assignments: []placement.Assignment{a}})
		f.report(a.Task, placement.TaskRunning)
		theirs = append(theirs, a.Task)
	}
	f.now = f.now.Add(2 * placement.MinimumRun)
	waits := f.submit(3, "EU", of("bank"), withGPUs(2))
	f.refused("preempt.ground", Preempt{For: waits, Tasks: theirs})
	f.ok(Preempt{For: waits, Tasks: theirs[1:]})
	f.refused("preempt.ground", Preempt{For: waits, Tasks: theirs[:1]})
	checkInvariants(t, f.s)
}
