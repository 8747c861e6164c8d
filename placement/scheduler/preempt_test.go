package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

func yields(j *placement.Job) { j.Spec.Preemptible = true }

// seen lets a plan look at who runs, as a region's view does.
func seen(s placement.Snapshot) placement.Snapshot {
	of := func(keep func(*placement.Task) bool) (out []*placement.Task) {
		for _, t := range s.Tasks {
			if keep(t) {
				out = append(out, t)
			}
		}
		return out
	}
	s.TasksOn = func(n placement.NodeID) []*placement.Task {
		return of(func(t *placement.Task) bool { return t.Node == n && t.Status.Live() })
	}
	s.TasksOf = func(j placement.JobID) []*placement.Task {
		return of(func(t *placement.Task) bool { return t.Job == j })
	}
	s.JobOf = func(j placement.JobID) *placement.Job { return s.Jobs[j] }
	return s
}

// holds lets a job run on devices of a node since some time.
func holds(s *placement.Snapshot, j *placement.Job, on string, since time.Duration, devices ...int) {
	for i := range max(1, j.Spec.Members) {
		runs(s, j, on, func(t *placement.Task) {
			t.ID = j.ID.Task(i, 1)
			t.StartedAt, t.AssignedAt = noon.Add(-since), noon.Add(-since)
			for d := range j.Spec.Resources.GPUs {
				t.Devices = append(t.Devices, fmt.Sprintf("%s-gpu-%d", on, devices[i*j.Spec.Resources.GPUs+d]))
			}
		})
	}
	for k, n := range s.Nodes { // runs charged it without its devices
		if string(n.ID) == on {
			n = new(*n)
			n.Used = placement.Usage{}
			for _, t := range s.Tasks {
				if t.Node == n.ID {
					n.Used = n.Used.With(t.Resources, t.Devices, 1)
					n.Used.Tasks++
				}
			}
			s.Nodes[k] = n
		}
	}
}

func ended(d Decisions) string {
	out := ""
	for _, p := range d.Preempt {
		out += fmt.Sprint(p.For, p.Tasks)
	}
	return out
}

func TestWhoIsEndedForWhom(t *testing.T) {
	three := asks(placement.Resources{CPU: 100, GPUs: 3})
	build := func(now *placement.Job) placement.Snapshot {
		s := world([]*placement.Node{node("n1", gpus(4, h100, 80)), node("n2", gpus(4, h100, 80))}, now)
		holds(&s, job("firm", oneGPU, by("bank")), "n1", time.Hour, 0)
		holds(&s, job("soft", oneGPU, by("bank"), yields, urgent(3)), "n1", time.Hour, 1)
		holds(&s, job("short", oneGPU, by("bank"), yields, urgent(3)), "n1", 2*time.Minute, 2)
		holds(&s, job("fresh", oneGPU, by("bank"), yields), "n1", 30*time.Second, 3)
		holds(&s, job("gang", oneGPU, by("bank"), yields, gang(4)), "n2", 2*time.Minute, 0, 1, 2, 3)
		return seen(s)
	}
	for name, c := range map[string]struct {
		job  *placement.Job
		want string
	}{
		"the one that lost less":                      {job("a", oneGPU, urgent(9)), "fra-1.a[fra-1.short/0.1]"},
		"none of the same priority, but the gang":     {job("a", oneGPU, urgent(3)), "fra-1.a[fra-1.gang/0.1]"},
		"nobody of a higher one":                      {job("a", oneGPU), ""},
		"a gang is broken when nothing else does":     {job("a", three, urgent(9)), "fra-1.a[fra-1.gang/0.1]"},
		"nothing, as it would not fit all the same":   {job("a", gang(3), three, urgent(9)), ""},
		"a gang's members find room where it is made": {job("a", gang(4), oneGPU, urgent(9)), "fra-1.a[fra-1.gang/0.1]"},
	} {
		if got := ended(Plan(build(c.job))); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if d := Plan(build(job("a", oneGPU, urgent(9)))); d.Wake.IsZero() || d.Wake.After(noon.Add(placement.MinimumRun)) {
		t.Errorf("it is looked at again at %s, when a victim has run long enough", d.Wake)
	}
}

// What is being made free is waited for, and kept: nobody else is ended for the
// same job, and nobody behind it takes the room.
func TestRoomThatIsMadeIsWaitedFor(t *testing.T) {
	first, second := job("a", oneGPU, urgent(9)), job("b", oneGPU, urgent(5))
	s := world([]*placement.Node{node("n1", gpus(2, h100, 80))}, first, second)
	holds(&s, job("x", oneGPU, yields), "n1", time.Hour, 0)
	holds(&s, job("y", oneGPU, yields), "n1", time.Hour, 1)
	d := Plan(seen(s))
	if len(d.Preempt) != 1 || len(d.Preempt[0].Tasks) != 1 {
		t.Fatalf("ended: %+v", d.Preempt)
	}
	for _, task := range s.Tasks {
		if task.ID == d.Preempt[0].Tasks[0] {
			task.Stop = true
		}
	}
	if d = Plan(seen(s)); len(d.Preempt) != 0 || len(d.Assign) != 0 {
		t.Fatalf("while it ends: %+v %+v", d.Preempt, d.Assign)
	}
}

// While room is made for one job, that of the next is kept elsewhere: who was ended
// for the first does not start there, to be safe for its first minute, and the next
// has it as soon as the first has started.
func TestRoomOfTheNextIsKeptMeanwhile(t *testing.T) {
	eight, four := asks(placement.Resources{CPU: 100, GPUs: 8}), asks(placement.Resources{CPU: 100, GPUs: 4})
	first, second, back := job("a", eight, urgent(9)), job("b", eight, urgent(8)), job("back", four, yields)
	s := world([]*placement.Node{node("n1", gpus(8, h100, 80)), node("n2", gpus(8, h100, 80))}, first, second, back)
	holds(&s, job("x1", four, yields), "n1", time.Hour, 0, 1, 2, 3)
	holds(&s, job("x2", four, yields), "n1", time.Hour, 4, 5, 6, 7)
	holds(&s, job("y", four, yields, urgent(1)), "n2", time.Hour, 0, 1, 2, 3)
	now := seen(s)
	check := func(d Decisions) {
		t.Helper()
		if len(d.Assign) != 0 || len(d.Refused) != 3 {
			t.Fatalf("%+v, refused %+v", d.Assign, d.Refused)
		}
		if e := d.Refused[1].Explanation; !strings.HasSuffix(e.Reason, "; room may be made for it: it is being made for a job that comes before it") || e.Reserved == nil || e.Reserved.Job != second.ID {
			t.Errorf("the next is told %+v", e)
		}
		if e := d.Refused[2].Explanation; e.Code != QueueReserved || !strings.Contains(e.Reason, "kept for jobs that come before it") {
			t.Errorf("who was ended is told %+v", e)
		}
	}
	d := Plan(now)
	if got := ended(d); got != "fra-1.a[fra-1.x1/0.1 fra-1.x2/0.1]" {
		t.Fatalf("ended %q", got)
	}
	check(d)
	for _, task := range s.Tasks[:2] {
		task.Stop = true
	}
	if d = Plan(now); len(d.Preempt) != 0 {
		t.Fatalf("ended while room is made: %q", ended(d))
	}
	check(d)
	s.Tasks, s.Nodes[0] = s.Tasks[2:], node("n1", gpus(8, h100, 80))
	if d = Plan(seen(s)); ended(d) != "fra-1.b[fra-1.y/0.1]" || where(t, d) != "n1" {
		t.Errorf("ended %q, placed %+v", ended(d), d.Assign)
	}
}

// Borrowed room is taken back by a tenant below its guarantee, whatever the
// priority of who has it; what is guaranteed to the other stays.
func TestBorrowedRoomIsTakenBack(t *testing.T) {
	for held, want := range map[int64]string{3000: "fra-1.a[fra-1.x/0.1]", 2000: ""} {
		s := world([]*placement.Node{node("n1", gpus(1, h100, 80))}, job("a", oneGPU))
		holds(&s, job("x", oneGPU, by("bank"), urgent(100)), "n1", time.Hour, 0)
		s = tenantsHold(seen(s), map[placement.TenantID]placement.TenantShare{
			"acme": {Bounds: []placement.Bound{{Tenant: "acme", Class: "gpus", Guarantee: 1}}},
			"bank": {Bounds: []placement.Bound{{Tenant: "bank", Class: "gpus", Guarantee: 2, Held: held}}},
		})
		if got := ended(Plan(s)); got != want {
			t.Errorf("bank holds %d: %q, want %q", held, got, want)
		}
	}
}

// A higher priority alone cuts no guarantee: in the queue what is guaranteed comes
// first, so the victim would have its room back at once, to be ended again.
func TestPriorityCutsNoGuarantee(t *testing.T) {
	for name, c := range map[string]struct {
		held, mine int64 // of bank's guarantee of 2, and of acme's of 1
		by         string
		want       string
	}{
		"what is guaranteed stays":             {2000, 1000, "bank", ""},
		"what is borrowed goes":                {3000, 1000, "bank", "fra-1.a[fra-1.x/0.1]"},
		"guaranteed work is ended for such":    {2000, 0, "bank", "fra-1.a[fra-1.x/0.1]"},
		"a tenant's own job goes by priority":  {2000, 1000, "acme", "fra-1.a[fra-1.x/0.1]"},
		"who is guaranteed nothing has no say": {0, 1000, "other", "fra-1.a[fra-1.x/0.1]"},
	} {
		s := world([]*placement.Node{node("n1", gpus(1, h100, 80))}, job("a", oneGPU, by("acme"), urgent(90)))
		holds(&s, job("x", oneGPU, by(c.by), yields), "n1", time.Hour, 0)
		s = tenantsHold(seen(s), map[placement.TenantID]placement.TenantShare{
			"acme": {Bounds: []placement.Bound{{Tenant: "acme", Class: "gpus", Guarantee: 1, Held: c.mine}}},
			"bank": {Bounds: []placement.Bound{{Tenant: "bank", Class: "gpus", Guarantee: 2, Held: c.held}}},
		})
		if got := ended(Plan(s)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// More victims than one command may name are ended by several.
func TestManyVictimsAreEndedInSeveralCommands(t *testing.T) {
	var nodes []*placement.Node
	for i := range 64 {
		nodes = append(nodes, node(fmt.Sprintf("n%02d", i), gpus(8, h100, 80)))
	}
	s := world(nodes, job("big", gang(64), asks(placement.Resources{CPU: 100, GPUs: 8}), urgent(9)))
	of := map[placement.NodeID][]*placement.Task{}
	for i, n := range s.Nodes {
		n = new(*n)
		for d := range 8 {
			j := job(fmt.Sprintf("v%02d-%d", i, d), oneGPU, yields)
			began := noon.Add(-time.Hour)
			task := &placement.Task{ID: j.ID.Task(0, 1), Job: j.ID, Tenant: j.Tenant, Node: n.ID, Resources: j.Spec.Resources,
				Devices: []string{fmt.Sprintf("%s-gpu-%d", n.ID, d)}, Status: placement.TaskRunning, AssignedAt: began, StartedAt: began}
			s.Jobs[j.ID], of[n.ID] = j, append(of[n.ID], task)
			n.Used = n.Used.With(task.Resources, task.Devices, 1)
			n.Used.Tasks++
		}
		s.Nodes[i] = n
		s.Tasks = append(s.Tasks, of[n.ID]...)
	}
	s = seen(s)
	total := 0
	for _, p := range Plan(s).Preempt {
		if len(p.Tasks) > placement.MaxPreempted {
			t.Errorf("%d tasks in one command", len(p.Tasks))
		}
		total += len(p.Tasks)
	}
	if total != 512 {
		t.Errorf("%d tasks are ended, want 512", total)
	}
}

// What is borrowed is judged by the devices that are held: a job that asked for any
// GPU and was given an H100 holds none of the L4s that its tenant is guaranteed.
func TestBorrowedIsWhatIsHeld(t *testing.T) {
	s := world([]*placement.Node{node("n1", gpus(1, h100, 80), gpus(2, "NVIDIA L4", 24))}, job("a", asks(placement.Resources{CPU: 100, GPUs: 1, GPUModel: "H100"})))
	holds(&s, job("x", oneGPU, by("bank")), "n1", time.Hour, 0)
	holds(&s, job("y", asks(placement.Resources{CPU: 100, GPUs: 2}), by("bank")), "n1", time.Hour, 1, 2)
	s = tenantsHold(seen(s), map[placement.TenantID]placement.TenantShare{
		"acme": {Bounds: []placement.Bound{{Tenant: "acme", Class: "H100", Guarantee: 1}}},
		"bank": {Bounds: []placement.Bound{{Tenant: "bank", Class: "L4", Guarantee: 2, Held: 2000}}},
	})
	if got := ended(Plan(s)); got != "fra-1.a[fra-1.x/0.1]" {
		t.Errorf("ended %q", got)
	}
}

// Who waits only for the first minute of those who would be ended for it is told
// so, and when.
func TestTheFirstMinuteIsAReason(t *testing.T) {
	a := job("a", oneGPU, urgent(9))
	s := world([]*placement.Node{node("n1", gpus(2, h100, 80))}, a)
	holds(&s, job("x", oneGPU, yields), "n1", 20*time.Second, 0)
	holds(&s, job("y", oneGPU, yields), "n1", 40*time.Second, 1)
	s = seen(s)
	d := Plan(s)
	at := noon.Add(20 * time.Second)
	if len(d.Preempt) != 0 || len(d.Refused) != 1 || !d.Wake.Equal(at) {
		t.Fatalf("%+v", d)
	}
	for _, e := range []Explanation{d.Refused[0].Explanation, Explain(s, a)} {
		if !e.NextTry.Equal(at) || !strings.Contains(e.Reason, "room may be made for it at 12:00:20: nobody is ended for another in the first minute") {
			t.Errorf("%+v", e)
		}
	}
	s.Now = noon.Add(20 * time.Second)
	if got := ended(Plan(s)); got != "fra-1.a[fra-1.y/0.1]" {
		t.Errorf("ended %q", got)
	}
	s.Now = noon
	big := job("b", asks(placement.Resources{CPU: 100, GPUs: 3}), urgent(9))
	s.Wanted, s.Jobs[big.ID] = []*placement.Job{big}, big
	if e := Plan(s).Refused[0].Explanation; !e.NextTry.IsZero() {
		t.Errorf("it would not fit all the same: %+v", e)
	}
}

// What an hour allows is not exceeded, by no part of what a job needs: who waits for
// it is told.
func TestHowManyAreEndedInAnHour(t *testing.T) {
	a := job("a", asks(placement.Resources{CPU: 100, GPUs: 2}), urgent(9))
	s := world([]*placement.Node{node("n1", gpus(2, h100, 80))}, a)
	holds(&s, job("x", oneGPU, yields), "n1", time.Hour, 0)
	holds(&s, job("y", oneGPU, yields), "n1", time.Hour, 1)
	s = seen(s)
	again := noon.Add(40 * time.Minute)
	for left, want := range map[int]int{2: 2, 1: 0} {
		s.MayEnd = func(placement.TenantID) (int, time.Time) { return left, again }
		d, ends := Plan(s), 0
		for _, p := range d.Preempt {
			ends += len(p.Tasks)
		}
		if ends != want {
			t.Errorf("%d may be ended, %d are", left, ends)
		}
		if want > 0 {
			continue
		}
		for _, e := range []Explanation{d.Refused[0].Explanation, Explain(s, a)} {
			if !e.NextTry.Equal(again) || !d.Wake.Equal(again) || !strings.Contains(e.Reason, "at 12:40:00: 2 tasks would be ended for it, and within an hour 1 more may be for its tenant's jobs") {
				t.Errorf("%+v", e)
			}
		}
	}
}

// What all tenants of another region are guaranteed together is one count, in the
// order of the queue and among victims.
func TestTheTenantsOfARegionShareItsGuarantee(t *testing.T) {
	together := func(held int64) placement.TenantShare {
		return placement.TenantShare{GPUs: held, Bounds: []placement.Bound{{Tenant: "ber-1/*", Class: "gpus", Guarantee: 1, Held: held}}}
	}
	jobs := []*placement.Job{job("home", oneGPU, urgent(9)), job("a", oneGPU, by("ber-1/a")), job("b", oneGPU, by("ber-1/b"))}
	s := tenantsHold(world([]*placement.Node{node("n1", gpus(3, h100, 80))}, jobs...), map[placement.TenantID]placement.TenantShare{"ber-1/a": together(0), "ber-1/b": together(0)})
	if got := served(Plan(s)); got != "a home b" {
		t.Errorf("served %s: one of theirs is guaranteed", got)
	}
	for devices, want := range map[int]int{1: 1, 2: 0} {
		waits := job("waits", asks(placement.Resources{CPU: 100, GPUs: devices}), by("bank"))
		s := world([]*placement.Node{node("n1", gpus(2, h100, 80))}, waits)
		holds(&s, job("a", oneGPU, by("ber-1/a")), "n1", time.Hour, 0)
		holds(&s, job("b", oneGPU, by("ber-1/b")), "n1", time.Hour, 1)
		bank := placement.TenantShare{Bounds: []placement.Bound{{Tenant: "bank", Class: "gpus", Guarantee: 2}}}
		s = tenantsHold(seen(s), map[placement.TenantID]placement.TenantShare{"ber-1/a": together(2000), "ber-1/b": together(2000), "bank": bank})
		if d := Plan(s); len(d.Preempt) != want {
			t.Errorf("%d devices: ended %+v, one of the two is guaranteed", devices, d.Preempt)
		}
	}
}

// A limit of all tenants of another region binds them together within one plan.
func TestTheTenantsOfARegionShareItsLimit(t *testing.T) {
	together := placement.TenantShare{Bounds: []placement.Bound{{Tenant: "ber-1/*", Class: "gpus", Limit: 1}}}
	s := tenantsHold(world([]*placement.Node{node("n1", gpus(2, h100, 80))}, job("a", oneGPU, by("ber-1/a")), job("b", oneGPU, by("ber-1/b"))),
		map[placement.TenantID]placement.TenantShare{"ber-1/a": together, "ber-1/b": together})
	d := Plan(s)
	if a := only(t, d); len(d.Refused) != 1 || d.Refused[0].Explanation.Code != QuotaLimit || a.Job == d.Refused[0].Job {
		t.Errorf("assigned %s, refused %+v", a.Job, d.Refused)
	}
}
