package api

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// told is all that one tenant is told of its waiting job and of a dry run, on a
// region of which another has taken five GPUs of eight, with so many jobs.
func told(t *testing.T, other placement.TenantID, quota int, sizes ...int) (explained, checked *Explanation, text string) {
	t.Helper()
	w := newWorld(t)
	fra := w.add("fra-1", "FR", 8)
	ask := func(gpus int) *JobFile {
		return readJob(t, fmt.Sprintf(`{"kind":"process","command":["x"],"residency":"FR","resources":{"cpu":0.1,"gpus":%d,"gpu_model":"H100"}}`, gpus))
	}
	fra.ledger.must(t, state.SetTenant{Tenant: state.Tenant{ID: other, Quota: state.Quota{GPUs: quota, Jobs: 77}}})
	fra.ledger.must(t, state.SetTenant{Tenant: state.Tenant{ID: "beta", Quota: state.Quota{GPUs: 40}}})
	one := fra.client(fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}, Tenant: other}))
	for i, n := range sizes {
		sub, err := one.Submit(t.Context(), ask(n), SubmitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var devices []string
		for k := range n {
			devices = append(devices, fmt.Sprintf("GPU-fra-1-%d", i+k))
		}
		fra.ledger.must(t, state.Assign{Assignments: []placement.Assignment{{Task: sub.Job.ID.Task(0, 1), Job: sub.Job.ID, Node: fra.node, Devices: devices}}})
	}
	beta := fra.client(fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}, Tenant: "beta"}))
	mine, err := beta.Submit(t.Context(), ask(4), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if explained, err = beta.Explain(t.Context(), mine.Job.ID); err != nil {
		t.Fatal(err)
	}
	report, err := beta.Check(t.Context(), ask(4))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal([]any{explained, report})
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`fra-1\.[0-9a-z]{26}`).ReplaceAllString(string(raw), "JOB")
	return explained, report.Local, regexp.MustCompile(`\d{4}-\d\d-\d\dT[^"]*`).ReplaceAllString(text, "TIME")
}

// A submitter learns counts of nodes, and of the load of another tenant nothing:
// whose it is, in how many jobs, under which quota. What two regions are said to
// be, in which only that differs, is the same to the letter.
func TestExplainTellsNothingOfAnotherTenant(t *testing.T) {
	e, local, first := told(t, "acme", 23, 1, 1, 1, 1, 1)
	_, _, second := told(t, "globex", 55, 1, 1, 1, 1, 1)
	if first != second {
		t.Errorf("the other tenant shows:\n%s\n%s", first, second)
	}
	for _, secret := range []string{"acme", "globex", `"limit":23`, `"limit":77`, "GPU-fra-1"} {
		if strings.Contains(first, secret) {
			t.Errorf("%s stands in what another tenant is told: %s", secret, first)
		}
	}
	want := "1 node: 1 gpu-free<4 (largest hole 3); quota ok (4 of 40)"
	if e.Summary != want || e.LargestHole != 3 || e.Code != string(scheduler.GPUFree) || len(e.Quota) != 1 || e.Quota[0] != (QuotaLine{Name: "gpus", Used: 4, Limit: 40, OK: true}) {
		t.Errorf("%q, %+v; want %q", e.Summary, e, want)
	}
	if local.Quota[0] != (QuotaLine{Name: "gpus", Used: 4, Asked: 4, Limit: 40, OK: true}) || len(local.Relax) != 1 || local.Relax[0] != "ask for 3 GPUs: 1 more node" {
		t.Errorf("checked: %+v", local)
	}
}

// How many jobs make up a load shows no more than who has them: one of five GPUs
// is five of one.
func TestExplainTellsNodesNotTasks(t *testing.T) {
	_, _, five := told(t, "acme", 40, 1, 1, 1, 1, 1)
	_, _, whole := told(t, "acme", 40, 5)
	// The cpu that they ask for beside it is not what is short.
	if five != whole {
		t.Errorf("five jobs and one differ:\n%s\n%s", five, whole)
	}
}

func TestCheckWarnsOfTheOwnQuota(t *testing.T) {
	w := newWorld(t)
	fra := w.add("fra-1", "FR", 8)
	fra.ledger.must(t, state.SetTenant{Tenant: state.Tenant{ID: "beta", Quota: state.Quota{GPUs: 3}}})
	beta := fra.client(fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}, Tenant: "beta"}))
	out, err := beta.Check(t.Context(), readJob(t, `{"kind":"process","command":["x"],"residency":"FR","resources":{"gpus":4}}`))
	if err != nil || len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "quota of gpus is 3") || !strings.Contains(out.Local.Summary, "quota of gpus exceeded by this job (0 of 3 in use, 4 more asked for)") {
		t.Errorf("%+v %v", out, err)
	}
}

// A job that has its room is told of no waiting, and of nothing that would help.
func TestExplainOfARunningJobAsksForNothing(t *testing.T) {
	w := newWorld(t)
	fra := w.add("fra-1", "FR", 8)
	c := fra.admin()
	sub, err := c.Submit(t.Context(), readJob(t, `{"kind":"process","command":["x"],"residency":"FR","resources":{"gpus":8}}`), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var devices []string
	for i := range 8 {
		devices = append(devices, fmt.Sprintf("GPU-fra-1-%d", i))
	}
	fra.ledger.must(t, state.Assign{Assignments: []placement.Assignment{{Task: sub.Job.ID.Task(0, 1), Job: sub.Job.ID, Node: fra.node, Devices: devices}}})
	e, err := c.Explain(t.Context(), sub.Job.ID)
	if err != nil || e.Status == placement.JobPending || e.Fit != 0 || len(e.Failed) != 1 {
		t.Fatalf("%+v %v; want a job that fills its node", e, err)
	}
	if e.Hint != "" || len(e.Relax) > 0 || e.Summary != "" || e.Reserved != nil || !e.NextTry.IsZero() {
		t.Errorf("%+v; want no way in: it is in", e)
	}
}

// What never can be and what is not now have different exits.
func TestCheckKeepsNeverAndNotNowApart(t *testing.T) {
	w := newWorld(t)
	fra := w.add("fra-1", "FR", 8)
	c := fra.admin()
	sick := fra.ledger.View().Node(fra.node).Inventory
	// What GPUs can be cut into is named; into what they cannot is never.
	cut := sick
	cut.Version++
	cut.Devices = slices.Clone(sick.Devices)
	cut.Devices[0].Profiles = []string{"1g.10gb", "3g.40gb"}
	sick.Version = cut.Version
	fra.ledger.must(t, state.ReportInventory{Node: fra.node, Inventory: cut})
	for _, tt := range []struct {
		resources, answer, words string
	}{
		{`"gpus":8`, CheckPlaceable, ""},
		{`"gpus":9`, CheckNoHardware, "none has 9 GPUs"},
		{`"gpus":1,"gpu_model":"B200"`, CheckNoHardware, "none has 1 GPU of model B200"},
		{`"gpus":1,"gpu_model":"B200|H100"`, CheckPlaceable, ""},
		{`"gpus":1,"gpu_memory":"100GiB"`, CheckNoHardware, "100GiB"},
		{`"gpus":1,"gpu_profile":"7g.80gb"`, CheckNoHardware, "none has 1 MIG instance of the profile 7g.80gb; no GPU can be cut into it, those here into 1g.10gb, 3g.40gb"},
		{`"gpus":1,"gpu_profile":"3g.40gb"`, CheckNoHardware, "none has 1 MIG instance of the profile 3g.40gb; an operator could cut a GPU into it"},
		{`"gpus":1,"confidential":true`, CheckNoHardware, "confidential-computing mode"},
		{`"gpus":1,"gpu_share":"300m"`, CheckPlaceable, ""},
	} {
		out, err := c.Check(t.Context(), readJob(t, `{"kind":"process","command":["x"],"residency":"FR","resources":{`+tt.resources+`}}`))
		if err != nil || out.Answer != tt.answer || !strings.Contains(out.Reason, tt.words) {
			t.Errorf("%s: %s (%s) %v, want %s", tt.resources, out.Answer, out.Reason, err, tt.answer)
		}
	}
	// A gang is asked about as a whole: two of four fit on the eight, two of eight never do.
	for gpus, answer := range map[int]string{4: CheckPlaceable, 8: CheckNoHardware} {
		out, err := c.Check(t.Context(), readJob(t, fmt.Sprintf(`{"kind":"process","command":["x"],"residency":"FR","gang":2,"resources":{"gpus":%d}}`, gpus)))
		if err != nil || out.Answer != answer {
			t.Errorf("a gang of two with %d GPUs each: %+v %v, want %s", gpus, out, err, answer)
		}
	}
	// The hardware is there and the tenant may not hold so much of it: another word.
	fra.ledger.must(t, state.SetTenant{Tenant: state.Tenant{ID: "default", Quota: state.Quota{Limit: map[string]int{"gpus": 4}}}})
	for gpus, want := range map[int][2]string{4: {CheckPlaceable}, 8: {CheckOverLimit, CodeOverLimit}, 9: {CheckNoHardware, CodeNoHardware}} {
		out, err := c.Check(t.Context(), readJob(t, fmt.Sprintf(`{"kind":"process","command":["x"],"residency":"FR","resources":{"gpus":%d}}`, gpus)))
		if err != nil || [2]string{out.Answer, out.Code} != want || gpus == 8 && !strings.Contains(out.Reason, "tenant default may hold 4 of gpus") {
			t.Errorf("%d GPUs under a limit of 4: %+v %v, want %s", gpus, out, err, want)
		}
	}
	// Another region's room does not count: it would not be asked.
	w.add("ber-1", "DE", 8)
	w.federate()
	out, err := c.Check(t.Context(), readJob(t, `{"kind":"process","command":["x"],"residency":"EU","resources":{"gpus":8}}`))
	if err != nil || out.Answer != CheckOverLimit || len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "region ber-1 has room for it, but it would stay here") {
		t.Errorf("a limit is gone around: %+v %v", out, err)
	}
	fra.ledger.must(t, state.SetTenant{Tenant: state.Tenant{ID: "default"}})
	// Every GPU is lost: the hardware is there, and does not do now.
	sick.Version++
	for i := range sick.Devices {
		sick.Devices[i].Health = placement.DeviceLost
	}
	fra.ledger.must(t, state.ReportInventory{Node: fra.node, Inventory: sick})
	out, err = c.Check(t.Context(), readJob(t, `{"kind":"process","command":["x"],"residency":"FR","resources":{"gpus":1}}`))
	if err != nil || out.Answer != CheckNoCapacity || out.Local.Code != string(scheduler.GPUHealth) {
		t.Errorf("all lost: %+v %v", out, err)
	}
}

func TestTheSummaryEndsWithWhatBlocksAndWhenItIsTriedAgain(t *testing.T) {
	at := time.Date(2026, 11, 22, 14, 3, 0, 0, time.UTC)
	e := &Explanation{Summary: "9 nodes: 9 cpu", Quota: []QuotaLine{{Name: "gpus", Used: 12, Limit: 40, OK: true}, {Name: "jobs", Used: 5, Limit: 5, OK: true}}, Reserved: &scheduler.Reserved{Nodes: 2, Job: "fra-1.x", Until: at}}
	e.history(&placement.Job{Status: placement.JobPending, Forward: &placement.Forward{ExpiresAt: at, Refusals: []placement.RegionAnswer{{Region: "ber-1"}}}}, at.Add(-time.Minute))
	e.summarise()
	if want := "9 nodes: 9 cpu; quota ok (12 of 40); 2 nodes kept for the first of the queue until 14:03; 1 other region had no place; next try 14:03"; e.Summary != want {
		t.Errorf("%q, want %q", e.Summary, want)
	}
	w := newWorld(t)
	fra := w.add("fra-1", "FR", 0)
	e.mayKnow(&Caller{Kind: CallerToken, Tenant: "beta"}, fra.ledger.View())
	if e.Reserved.Job != "" || e.Reserved.Nodes != 2 {
		t.Errorf("for whom room is kept: %+v", e.Reserved)
	}
}

func TestDefragIsForOperators(t *testing.T) {
	w := newWorld(t)
	fra := w.add("fra-1", "FR", 8)
	out, err := fra.admin().PlanDefrag(t.Context(), 3)
	if err != nil || out.Region != "fra-1" || out.Before.Free != 8 || out.Before.Empty != 1 || out.Moves == nil {
		t.Errorf("%+v %v", out, err)
	}
	for _, role := range []state.Role{state.RoleViewer, state.RoleSubmitter, state.RoleAuditor} {
		c := fra.client(fra.token(state.Token{Roles: []state.Role{role}}))
		if _, err := c.PlanDefrag(t.Context(), 3); ExitOf(err) != ExitPermission {
			t.Errorf("a %s plans moves of everybody's tasks: %v", role, err)
		}
	}
	if _, err := fra.admin().PlanDefrag(t.Context(), scheduler.DefragMovesMax+1); ExitOf(err) != ExitUsage {
		t.Errorf("too many moves: %v", err)
	}
}

// Who shares a device with another tenant is not shown what it does: that is the
// other's load too, whichever of the two holds it last.
func TestWhatASharedDeviceDoesIsHiddenFromTheNeighbour(t *testing.T) {
	w := newWorld(t)
	fra := w.add("fra-1", "FR", 2)
	last := map[placement.TenantID]*Client{}
	for _, tenant := range []placement.TenantID{"acme", "beta", "acme"} {
		c := fra.client(fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter, state.RoleViewer}, Tenant: tenant}))
		sub, err := c.Submit(t.Context(), readJob(t, `{"kind":"process","command":["x"],"residency":"FR","resources":{"gpus":1,"gpu_share":0.3}}`), SubmitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		device := "GPU-fra-1-0"
		if last[tenant] != nil {
			device = "GPU-fra-1-1" // its own alone
		}
		last[tenant] = c
		fra.ledger.must(t, state.Assign{Assignments: []placement.Assignment{{Task: sub.Job.ID.Task(0, 1), Job: sub.Job.ID, Node: fra.node, Devices: []string{device}}}})
	}
	for tenant, want := range map[placement.TenantID][]bool{"acme": {true, false}, "beta": {true, true}} {
		got, err := last[tenant].LiveGPUs(t.Context(), fra.node)
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range got.Items {
			if d.Hidden != want[i] {
				t.Errorf("%s: of %s hidden is %v, want %v", tenant, d.UUID, d.Hidden, want[i])
			}
		}
	}
}
