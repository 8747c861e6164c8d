package state

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

func TestAJobRunsToItsEnd(t *testing.T) {
	f := newFixture(t)
	id := f.submit(1, "EU")
	f.wantJob(id, placement.JobPending)
	if w := f.s.Snapshot(f.now).Wanted; len(w) != 1 || w[0].ID != id {
		t.Fatalf("wanted: %v", w)
	}
	task := f.assign(id, "n1")
	f.wantJob(id, placement.JobStarting)
	if n := f.s.Node("n1"); n.Used.CPU != 100 || n.Used.Tasks != 1 {
		t.Errorf("usage %+v", n.Used)
	}
	f.report(task, placement.TaskRunning)
	f.wantJob(id, placement.JobRunning)
	f.report(task, placement.TaskComplete)
	f.wantJob(id, placement.JobComplete)
	if n := f.s.Node("n1"); n.Used.CPU != 0 || n.Used.Tasks != 0 {
		t.Errorf("usage after the end %+v", n.Used)
	}
	if j := f.s.Job(id); j.ExitCode == nil || *j.ExitCode != 0 || j.Receipt == "" || j.EndedAt.IsZero() {
		t.Errorf("job %+v", j)
	}
	f.refused("job.over", Assign{Assignments: []placement.Assignment{f.assignment(id, "n1")}})
}

// A leader made to propose a placement outside the tag is refused by Apply, on
// the facts of the ledger, and the refusal is recorded with what it was judged on.
func TestALeaderCannotPlaceOutsideTheTag(t *testing.T) {
	f := newFixture(t)
	f.peer("ber-1", "DE")
	j := aJob(1, "FR")
	f.ok(SubmitJob{Job: j})
	// The region's facts change for the worse: it turns out to be elsewhere.
	moved := *f.s.self
	moved.Facts = facts("US")
	f.s.putSelf(&moved)
	r := f.refused("residency.refused", Assign{Assignments: []placement.Assignment{f.assignment(j.ID, "n1")}})
	leaf, err := ledger.Decode(r.Entry)
	if err != nil || leaf.Accepted() || len(leaf.Judged) != 1 {
		t.Fatalf("leaf %+v, %v", leaf, err)
	}
	got := leaf.Judged[0]
	if got.Rule != "tag.allow" || got.Tag != "FR" || got.Facts == nil || got.Facts.Country != "US" || got.On != "2026-11-21" || got.LawPack == "" || got.Subject != string(j.ID) {
		t.Errorf("judgement %+v", got)
	}
	if len(f.s.TasksOf(j.ID)) != 0 || f.s.Node("n1").Used.Tasks != 0 {
		t.Error("the refused placement left a task behind")
	}
	f.refused("residency.refused", SetForward{Job: j.ID, Forward: placement.Forward{Region: "ber-1", Attempt: 1, State: placement.ForwardAsking}})
}

func TestSubmitIsJudged(t *testing.T) {
	f := newFixture(t)
	f.ok(SetTenant{Tenant{ID: "strict", Residency: "DE"}})
	for _, tc := range []struct {
		name, tag, code string
		change          func(*placement.Job)
	}{
		{"no tag", "", "tag.empty", nil},
		{"not a place", "Europe", "tag.unknown-place", nil},
		{"any without permission", "ANY,!US", "residency.any", nil},
		{"excludes itself", "FR,!FR", "residency.never", nil},
		{"two layers exclude each other", "FR", "residency.never", func(j *placement.Job) { j.Tenant = "strict" }},
		{"unknown region", "EU,region:nowhere", "tag.unknown-place", nil},
		{"unknown site", "EU,site:nowhere", "tag.unknown-place", nil},
		{"no transit either", "US", "residency.refused", nil},
		{"id of another region", "EU", "job.home", func(j *placement.Job) { j.ID = jobID("ber-1", 9) }},
		{"no id", "EU", "job.id", func(j *placement.Job) { j.ID = "x" }},
		{"foreign tenant", "EU", "job.home", func(j *placement.Job) { j.Tenant = "ber-1/acme" }},
		{"negative", "EU", "job.resources", func(j *placement.Job) { j.Spec.Resources.GPUs = -1 }},
		{"unknown layer", "EU", "tag.layer", func(j *placement.Job) { j.Policy = []placement.Layer{{Origin: "friend", Tag: "ANY"}} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.t = t
			j := aJob(1, tc.tag)
			if tc.change != nil {
				tc.change(&j)
			}
			f.refused(tc.code, SubmitJob{Job: j})
		})
	}
	f.t = t
	r := f.apply(SubmitJob{Job: func() placement.Job { j := aJob(1, "FR"); j.Tenant = "strict"; return j }()})
	if m := r.Refused.Message; !strings.Contains(m, "job") || !strings.Contains(m, "tenant") {
		t.Errorf("residency.never names not both layers: %s", m)
	}
	f.ok(SubmitJob{Job: aJob(2, "ANY,!US"), AllowAny: true})
}

func TestACommandProposedTwiceCountsOnce(t *testing.T) {
	f := newFixture(t)
	raw := f.encode(SubmitJob{Job: aJob(1, "EU")})
	first := f.applyRaw(raw)
	size, digest := f.s.LedgerSize(), ""
	digest = f.s.Freeze().Digest()
	again := f.applyRaw(raw)
	if !again.Repeated || again.ID != first.ID || again.Leaf != first.Leaf || f.s.LedgerSize() != size {
		t.Errorf("first %+v, again %+v", first, again)
	}
	_ = digest
	f.refused("job.exists", SubmitJob{Job: aJob(1, "EU")})
}

func TestIdempotencyKeys(t *testing.T) {
	f := newFixture(t)
	first := f.ok(SubmitJob{Job: aJob(1, "EU"), IdempotencyKey: "k", BodyHash: "a"})
	again := f.ok(SubmitJob{Job: aJob(2, "EU"), IdempotencyKey: "k", BodyHash: "a"})
	if again.ID != first.ID || !again.Repeated || f.s.JobCount() != 1 {
		t.Errorf("again %+v", again)
	}
	f.refused("idempotency.conflict", SubmitJob{Job: aJob(2, "EU"), IdempotencyKey: "k", BodyHash: "b"})
	f.now = f.now.Add(25 * time.Hour)
	if r := f.ok(SubmitJob{Job: aJob(3, "EU"), IdempotencyKey: "k", BodyHash: "b"}); r.Repeated {
		t.Error("a key was remembered for more than a day")
	}
}

func TestQueueAndQuota(t *testing.T) {
	f := &fixture{t: t, s: New(), now: day}
	k := firstCommand()
	k.Limits = Limits{Pending: 3, Terminal: 2}
	f.ok(k)
	f.ok(SetTenant{Tenant{ID: "small", Quota: Quota{Jobs: 2, GPUs: 4}}})
	small := func(n, gpus int) SubmitJob {
		j := aJob(n, "EU")
		j.Tenant, j.Spec.Resources.GPUs = "small", gpus
		return SubmitJob{Job: j}
	}
	f.ok(small(1, 3))
	f.refused("quota.gpus", small(2, 2))
	f.ok(small(2, 1))
	f.refused("quota.jobs", small(3, 0))
	f.submit(4, "EU")
	f.refused("queue.full", SubmitJob{Job: aJob(5, "EU")})
	for i := 1; i <= 2; i++ {
		f.ok(StopJob{Job: jobID("fra-1", i)})
	}
	f.ok(StopJob{Job: jobID("fra-1", 4)})
	if f.s.PendingCount() != 0 || f.s.JobCount() != 2 || f.s.Job(jobID("fra-1", 1)) != nil {
		t.Errorf("%d wait, %d kept: the oldest ended job is dropped beyond the bound", f.s.PendingCount(), f.s.JobCount())
	}
}

func TestQueueOrder(t *testing.T) {
	f := newFixture(t)
	low := f.submit(1, "EU")
	high := f.submit(2, "EU", func(j *placement.Job) { j.Spec.Priority = 90 })
	late := f.submit(3, "EU")
	var got []placement.JobID
	for _, j := range f.s.Snapshot(f.now).Wanted {
		got = append(got, j.ID)
	}
	if len(got) != 3 || got[0] != high || got[1] != low || got[2] != late {
		t.Errorf("queue %v", got)
	}
}

func TestBytesThatAreNoCommand(t *testing.T) {
	f := newFixture(t)
	for _, raw := range [][]byte{nil, {0}, {1}, []byte("\x01\x00garbage"), append(f.encode(StopJob{Job: "x"}), "}"...), bytes.Replace(f.encode(StopJob{Job: "x"}), []byte(`"job"`), []byte(`"jab"`), 1)} {
		size := f.s.LedgerSize()
		r := f.applyRaw(raw)
		if r.Refused == nil || r.Refused.Code != "command.malformed" || f.s.LedgerSize() != size+1 {
			t.Errorf("%q: %+v", raw, r)
		}
	}
	for _, raw := range [][]byte{{MaxVersion + 1, 1, 'x', 26: 0, 28: 0}, func() []byte { r := f.encode(StopJob{Job: "x"}); r[2] = 'z'; return r }()} {
		func() {
			defer func() {
				if p, _ := recover().(string); !strings.Contains(p, "upgrade this node") {
					t.Errorf("%q: panic %q", raw, p)
				}
			}()
			f.s.Apply(99, raw)
			t.Errorf("%q was applied", raw)
		}()
	}
}

// Nothing personal in a leaf: names, commands and environments are commitments.
func TestLeavesHoldNothingPersonal(t *testing.T) {
	f := newFixture(t)
	h := hashOf("j")
	var entries []byte
	for _, c := range []Command{
		SubmitJob{Job: aJob(1, "EU"), IdempotencyKey: "secret-key"},
		CreateJoinToken{Hash: h, Expires: f.now.Add(time.Minute)},
		JoinNode{TokenHash: h, Node: func() placement.Node { n := aNode("n9"); n.ID = "secret-node"; return n }()},
		Assign{Assignments: []placement.Assignment{{Task: jobID("fra-1", 1).Task(0, 0), Job: jobID("fra-1", 1), Node: "secret-node"}}},
		DrainNode{Node: "secret-node", Drain: placement.Drain{Deadline: f.now.Add(time.Hour), Reason: "secret-reason"}},
		SetTenant{Tenant{ID: "secret-tenant"}},
		StopJob{Job: jobID("fra-1", 1), Reason: "secret-reason"},
	} {
		entries = append(entries, f.ok(c).Entry...)
	}
	if i := bytes.Index(entries, []byte("secret")); i >= 0 {
		t.Errorf("a leaf says %q", entries[i:min(i+20, len(entries))])
	}
}

func TestLedgerTimeDoesNotStayPoisoned(t *testing.T) {
	f := newFixture(t)
	f.now = day.Add(30 * 24 * time.Hour) // a leader whose clock is a month ahead
	f.submit(1, "EU")
	f.now = day.Add(time.Second)
	f.submit(2, "EU")
	if got := f.s.Time(); !got.Equal(day.Add(time.Second)) {
		t.Errorf("ledger time stays at %s", got)
	}
	f.now = day // within a minute it does not run back
	f.submit(3, "EU")
	if got := f.s.Time(); !got.Equal(day.Add(time.Second)) {
		t.Errorf("ledger time ran back to %s", got)
	}
}

func TestRaiseVersionNeedsEveryVoter(t *testing.T) {
	f := newFixture(t)
	f.refused("version.order", RaiseVersion{Version: 1})
	f.refused("version.order", RaiseVersion{Version: MaxVersion + 1})
}
