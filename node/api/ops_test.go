package api

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestOpenAPIDocument(t *testing.T) {
	got, err := document(operations())
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "openapi.json")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("the OpenAPI document changed: rewrite it with -update and read the difference")
	}
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]any
	}
	if err := json.Unmarshal(got, &doc); err != nil || doc.OpenAPI != "3.1.0" {
		t.Fatalf("%v %s", err, doc.OpenAPI)
	}
	for _, op := range operations() {
		if !strings.HasPrefix(op.Path, MeshPrefix) && doc.Paths[strings.ReplaceAll(op.Path, "...}", "}")][strings.ToLower(op.Method)] == nil {
			t.Errorf("%s %s is missing", op.Method, op.Path)
		}
	}
	_, fra, _, _ := mesh3(t)
	if status, _, h := fra.do(t, http.MethodGet, "/api/v1/openapi.json", nil, ""); status != 200 || h.Get("Content-Type") != "application/json" {
		t.Errorf("served as %d %s", status, h.Get("Content-Type"))
	}
}

func joinRequest(t *testing.T, token string, node placement.NodeID) JoinRequest {
	t.Helper()
	csr := func() []byte {
		key, err := identity.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		out, err := identity.NewCSR(key)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	return JoinRequest{Token: token, Node: node, CSR: csr(), ServingCSR: csr(), Hosts: []string{"127.0.0.1"}, QUIC: "127.0.0.1:2", API: "https://127.0.0.1:2", Inventory: placement.Inventory{CPU: 1000, Memory: placement.GiB}}
}

func TestAJoinTokenAdmitsOneNodeOnce(t *testing.T) {
	w, fra, ber, _ := mesh3(t)
	admin := fra.admin()
	made, err := admin.CreateNodeToken(t.Context(), NodeTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := identity.ParseJoinToken(made.Token)
	if err != nil {
		t.Fatal(err)
	}
	joiner, err := DialJoin(token, token.Addresses[0], ClientConfig{Now: w.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	defer joiner.Close()
	answer, err := joiner.JoinNode(t.Context(), joinRequest(t, made.Token, "fra-1-n2"))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := identity.ParseBundle(answer.Bundle, identity.MaxBundle)
	if err != nil || token.CheckBundle(bundle) != nil || len(answer.Chain) != 2 || answer.Role != placement.RoleVoter || len(answer.Keyring) != 1 || len(answer.Voters) != 1 {
		t.Errorf("%+v %v", answer, err)
	}
	// Again, under another name: the token is spent, and no certificate is issued.
	if _, err := joiner.JoinNode(t.Context(), joinRequest(t, made.Token, "fra-1-n3")); CodeOf(err) != "token.spent" || ExitOf(err) != ExitPermission {
		t.Errorf("replayed: %v", err)
	}
	if fra.ledger.View().Node("fra-1-n3") != nil {
		t.Error("the replay admitted a node")
	}
	// At another region.
	other := ber.client("")
	if _, err := other.JoinNode(t.Context(), joinRequest(t, made.Token, "x")); CodeOf(err) != "token.foreign" {
		t.Errorf("elsewhere: %v", err)
	}
	named, err := admin.CreateNodeToken(t.Context(), NodeTokenRequest{Node: "fra-1-n4"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := joiner.JoinNode(t.Context(), joinRequest(t, named.Token, "fra-1-n5")); CodeOf(err) != "token.name" || ExitOf(err) != ExitPermission {
		t.Errorf("another name: %v", err)
	}
	w.clock.add(JoinTokenLife)
	if _, err := joiner.JoinNode(t.Context(), joinRequest(t, named.Token, "fra-1-n4")); CodeOf(err) != CodeExpiredToken {
		t.Errorf("expired: %v", err)
	}
	if _, err := joiner.JoinNode(t.Context(), JoinRequest{Token: "smjoin-1garbage"}); CodeOf(err) != "token.invalid" {
		t.Errorf("garbage: %v", err)
	}
}

func TestFederationNeedsBothFingerprints(t *testing.T) {
	w := newWorld(t)
	fra, ber := w.add("fra-1", "FR", 0), w.add("ber-1", "DE", 0)
	a, b := fra.admin(), ber.admin()
	invite, err := a.InviteRegion(t.Context(), "ber-1")
	if err != nil {
		t.Fatal(err)
	}
	wrong := ber.ca.Bundle().Fingerprint()
	if _, err := b.JoinRegion(t.Context(), JoinRegionRequest{Code: invite.Code, Fingerprint: wrong}); CodeOf(err) != CodeFingerprint || ExitOf(err) != ExitUsage {
		t.Errorf("the inviter's fingerprint was not compared: %v", err)
	}
	if _, err := b.JoinRegion(t.Context(), JoinRegionRequest{Code: invite.Code}); CodeOf(err) != "invite.fingerprint" {
		t.Errorf("no fingerprint: %v", err)
	}
	if _, err := a.ApproveRegion(t.Context(), "ber-1", wrong); CodeOf(err) != "peer.state" {
		t.Errorf("approved before it answered: %v", err)
	}
	joined, err := b.JoinRegion(t.Context(), JoinRegionRequest{Code: invite.Code, Fingerprint: invite.Fingerprint})
	if err != nil || joined.Region != "fra-1" || joined.State != placement.PeerActive {
		t.Fatalf("%+v %v", joined, err)
	}
	if r := fra.ledger.View().Region("ber-1"); r == nil || r.State != placement.PeerJoining {
		t.Fatalf("before approval: %+v", r)
	}
	if _, err := a.ApproveRegion(t.Context(), "ber-1", invite.Fingerprint); CodeOf(err) != CodeFingerprint || ExitOf(err) != ExitUsage {
		t.Errorf("the joiner's fingerprint was not compared: %v", err)
	}
	status, err := a.ApproveRegion(t.Context(), "ber-1", joined.Fingerprint)
	if err != nil || status.State != placement.PeerActive || status.Facts.Country != "DE" || status.FrontDoors[0].Node != "" {
		t.Errorf("%+v %v", status, err)
	}
	if _, err := b.JoinRegion(t.Context(), JoinRegionRequest{Code: invite.Code, Fingerprint: invite.Fingerprint}); CodeOf(err) != "invite.spent" || ExitOf(err) != ExitPermission {
		t.Errorf("an invitation used twice: %v", err)
	}
	// Whoever answers is not dead; whoever does not cannot confirm.
	if err := a.LeaveRegion(t.Context(), "ber-1", true); CodeOf(err) != CodePeerAnswers || ExitOf(err) != ExitUsage {
		t.Errorf("declared dead while it answers: %v", err)
	}
	fra.links.set("ber-1", false)
	if err := a.LeaveRegion(t.Context(), "ber-1", false); CodeOf(err) != CodePeerUnknown || ExitOf(err) != ExitUnknown {
		t.Errorf("left while it does not answer: %v", err)
	}
	if r := fra.ledger.View().Region("ber-1"); r.State != placement.PeerActive {
		t.Errorf("after refused leaving: %s", r.State)
	}
	if err := a.LeaveRegion(t.Context(), "ber-1", true); err != nil {
		t.Error(err)
	}
	if r := fra.ledger.View().Region("ber-1"); r.State != placement.PeerDead {
		t.Errorf("after leaving: %s", r.State)
	}
}

// place runs a job's task on the region's node, as its controller would.
func (r *region) place(t testing.TB, id placement.JobID) placement.TaskID {
	t.Helper()
	task := id.Task(0, 1)
	r.ledger.must(t, state.Assign{Assignments: []placement.Assignment{{Task: task, Job: id, Node: r.node, Why: placement.Why{Rule: "tag.allow"}}}})
	r.ledger.must(t, state.ReportTasks{Node: r.node, Reports: []placement.TaskReport{{Task: task, Status: placement.TaskRunning, At: r.server.now()}}})
	return task
}

func TestJobsAreReadWaitedForAndFollowed(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	c := fra.admin()
	out, err := c.Submit(t.Context(), readJob(t, jobText("EU")), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id := out.Job.ID
	waited := make(chan *placement.Job, 1)
	go func() {
		j, _ := c.WaitJob(context.WithoutCancel(t.Context()), id, out.Job.Index, 10*time.Second)
		waited <- j
	}()
	stream, err := fra.web0(t, "/api/v1/events?index=0", c.cfg.Token)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	task := fra.place(t, id)
	fra.tasks[task] = "hello, world\n"
	if j := <-waited; j == nil || j.Index <= out.Job.Index {
		t.Errorf("the wait ended with %+v", j)
	}
	if j, err := c.Job(t.Context(), id[:12]); err != nil || j.ID != id || j.Status != placement.JobRunning {
		t.Errorf("by prefix: %+v %v", j, err)
	}
	logs, err := c.Logs(t.Context(), id, LogOptions{From: 7, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(logs)
	_ = logs.Close()
	if string(text) != "world\n" {
		t.Errorf("logs: %q", text)
	}
	if e, err := c.Explain(t.Context(), id); err != nil || len(e.Tasks) != 1 || len(e.Regions) != 3 {
		t.Errorf("explain: %+v %v", e, err)
	}
	lines := bufio.NewScanner(stream)
	found := false
	for !found && lines.Scan() {
		found = strings.Contains(lines.Text(), string(id)) && strings.Contains(lines.Text(), `"running"`)
	}
	if !found {
		t.Errorf("the events do not tell that the job runs: %v", lines.Err())
	}
	if _, err := c.Job(t.Context(), "fra-1.zzzz"); CodeOf(err) != CodeNotFound || ExitOf(err) != ExitUsage {
		t.Errorf("unknown: %v", err)
	}
}

// web0 opens a stream as a plain client.
func (r *region) web0(t testing.TB, path, token string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header = bearer(token)
	res, err := insecure().Do(req)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

func TestListsArePagedAndNarrowed(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	c := fra.admin()
	for range 5 {
		if _, err := c.Submit(t.Context(), readJob(t, jobText("EU")), SubmitOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	seen, cursor := map[placement.JobID]bool{}, ""
	for range 3 {
		page, err := c.Jobs(t.Context(), ListOptions{Limit: 2, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range page.Items {
			seen[j.ID] = true
		}
		cursor = page.Next
	}
	if len(seen) != 5 || cursor != "" {
		t.Errorf("%d jobs on three pages, next %q", len(seen), cursor)
	}
	other := fra.client(fra.token(state.Token{Roles: []state.Role{state.RoleViewer}, Tenant: "other"}))
	if page, err := other.Jobs(t.Context(), ListOptions{}); err != nil || len(page.Items) != 0 {
		t.Errorf("another tenant sees %d jobs, %v", len(page.Items), err)
	}
	for _, q := range []string{"limit=0", "limit=x", "wait=forever", "index=-1", "stale=maybe"} {
		if status, p, _ := fra.do(t, http.MethodGet, "/api/v1/jobs?"+q, bearer(c.cfg.Token), ""); status != 400 || p.Code != CodeUsage {
			t.Errorf("%s: %d %s", q, status, p.Code)
		}
	}
}

func TestCheckAsksEveryLawfulRegion(t *testing.T) {
	w := newWorld(t)
	fra := w.add("fra-1", "FR", 0)
	w.add("ber-1", "DE", 2)
	w.federate()
	c := fra.admin()
	check := func(tag, resources string) *CheckReport {
		t.Helper()
		out, err := c.Check(t.Context(), readJob(t, `{"kind":"process","command":["x"],"residency":"`+tag+`","resources":{`+resources+`}}`))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := check("EU", `"cpu":1`); out.Answer != CheckPlaceable || out.Region != "fra-1" || out.Node == "" {
		t.Errorf("here: %+v", out)
	}
	if out := check("EU", `"gpus":1`); out.Answer != CheckPlaceable || out.Region != "ber-1" || out.Node != "" {
		t.Errorf("there: %+v", out)
	}
	if out := check("EU", `"gpus":1,"gpu_model":"B200"`); out.Answer != CheckNoHardware || out.Code != CodeNoHardware {
		t.Errorf("nowhere: %+v", out)
	}
	if out := check("JP", `"cpu":1`); out.Answer != CheckUnlawful || out.Code != CodeNotLawful {
		t.Errorf("unlawful: %+v", out)
	}
	if out := check("EU,!EU", `"cpu":1`); out.Answer != CheckUnlawful || out.Code != CodeNever {
		t.Errorf("never: %+v", out)
	}
	w.net.mu.Lock()
	w.net.cut["ber-1"] = true
	w.net.mu.Unlock()
	if out := check("DE", `"cpu":1`); out.Answer != CheckUnknown || out.Code != CodePeerUnknown {
		t.Errorf("cut off: %+v", out)
	}
}

func TestDrainShowsFatesFirst(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	c := fra.admin()
	out, err := c.Submit(t.Context(), readJob(t, `{"kind":"process","type":"service","command":["x"],"residency":"FR"}`), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fra.place(t, out.Job.ID)
	plan, err := c.PlanDrain(t.Context(), fra.node, DrainRequest{})
	if err != nil || len(plan.Tasks) != 1 || plan.Blockers != 1 || !plan.Planned {
		t.Fatalf("%+v %v", plan, err)
	}
	if n := fra.ledger.View().Node(fra.node); n.State != placement.NodeReady {
		t.Fatalf("the plan changed the node to %s", n.State)
	}
	report, err := c.Drain(t.Context(), fra.node, DrainRequest{Reason: "test"})
	if err != nil || report.State != placement.NodeDraining || report.Drain == nil {
		t.Fatalf("%+v %v", report, err)
	}
	if s, err := c.DrainStatus(t.Context(), fra.node, ListOptions{}); err != nil || s.Done || len(s.Tasks) != 1 {
		t.Errorf("%+v %v", s, err)
	}
	set := func(nodes ...placement.NodeID) DrainSetRequest { return DrainSetRequest{Nodes: nodes} }
	if s, err := c.DrainSet(t.Context(), set(fra.node), true); err != nil || !s.Planned || len(s.Nodes) != 1 || len(s.Nodes[0].Tasks) != 1 || s.Blockers != 1 {
		t.Errorf("a set of one: %+v %v", s, err)
	}
	if _, err := c.DrainSet(t.Context(), set(fra.node, "fra-1-n2"), false); CodeOf(err) != CodeNotFound {
		t.Errorf("a set with an unknown node: %v", err)
	}
	if _, err := c.DrainSet(t.Context(), set(fra.node, fra.node), false); ExitOf(err) != ExitUsage {
		t.Errorf("a set that names a node twice: %v", err)
	}
	if n, err := c.Resume(t.Context(), fra.node); err != nil || n.State != placement.NodeReady {
		t.Errorf("%+v %v", n, err)
	}
	if _, err := c.Cordon(t.Context(), "fra-1-n2"); CodeOf(err) != CodeNotFound || !strings.Contains(HintOf(err), "fra-1-n1") {
		t.Errorf("an unknown node: %v (%s)", err, HintOf(err))
	}
	if _, err := c.Drain(t.Context(), fra.node, DrainRequest{OnDeadline: "explode"}); ExitOf(err) != ExitUsage {
		t.Errorf("on_deadline: %v", err)
	}
}

func TestReservationAndForward(t *testing.T) {
	w, fra, ber, _ := mesh3(t)

	m := NewMeshClient(speaker{w.net, identity.ID{Region: "fra-1", Mesh: testMesh, Node: "fra-1-n1"}, fra.ledger})
	peer := transport.Peer{ID: identity.ID{Region: "ber-1", Mesh: testMesh}, Addr: "127.0.0.1:1"}
	id := placement.NewJobID("fra-1", w.clock.now())
	policy := []placement.Layer{{Origin: "job", Tag: "EU"}}
	ask := ReserveRequest{Job: id, Attempt: 1, Kind: "process", Resources: placement.Resources{CPU: 100, Memory: placement.MiB}, Policy: policy, LawPack: ber.ledger.View().Pack().Hash(), Expires: w.clock.now().Add(time.Minute)}
	held, err := m.Reserve(t.Context(), peer, ask)
	if err != nil || !held.Held {
		t.Fatalf("%+v %v", held, err)
	}
	if again, err := m.Reserve(t.Context(), peer, ask); err != nil || !again.Held || again.Key != held.Key {
		t.Errorf("a repetition: %+v %v", again, err)
	}
	full := ask
	full.Attempt, full.Resources.CPU = 2, 64_000
	if no, err := m.Reserve(t.Context(), peer, full); err != nil || no.Held || no.Reason == "" || no.Summary == nil {
		t.Errorf("no room: %+v %v", no, err)
	}
	foreign := ask
	foreign.Job = placement.NewJobID("iad-1", w.clock.now())
	if _, err := m.Reserve(t.Context(), peer, foreign); CodeOf(err) != CodeBody {
		t.Errorf("for another region's job: %v", err)
	}
	j := ForwardedJob{Job: id, Tenant: "acme", Residency: "EU", Policy: policy, Reservation: held.Key, SubmittedAt: w.clock.now(), Hops: 1,
		Spec: placement.JobSpec{Kind: "process", Type: placement.TypeBatch, Command: []string{"x"}, Resources: ask.Resources}}
	status, err := m.Forward(t.Context(), peer, residencyPolicy(t, "EU"), j)
	if err != nil || status.Region != "ber-1" || status.Status != placement.JobPending {
		t.Fatalf("%+v %v", status, err)
	}
	if got := ber.ledger.View().Job(id); got.Tenant != "fra-1/acme" || got.Origin != "fra-1" || got.EntryRegion != "fra-1" || got.Hops != 1 {
		t.Errorf("%+v", got)
	}
	if again, err := m.Forward(t.Context(), peer, residencyPolicy(t, "EU"), j); err != nil || again.Job != id {
		t.Errorf("a repetition: %v", err)
	}
	// A replayed reservation admits no second job.
	second := j
	second.Job = placement.NewJobID("fra-1", w.clock.now())
	if _, err := m.Forward(t.Context(), peer, residencyPolicy(t, "EU"), second); err == nil {
		t.Error("a spent reservation admitted a second job")
	}
	// Outside the tag the body is refused from its header.
	out := j
	out.Residency = "US"
	if _, err := m.Forward(t.Context(), peer, residencyPolicy(t, "US"), out); CodeOf(err) != CodeMisdirected {
		t.Errorf("outside: %v", err)
	}
	// What would become a path on a node is read as its author's own words are.
	up := j
	up.Job, up.Spec.Setup = placement.NewJobID("fra-1", w.clock.now()), &placement.Setup{Volumes: []placement.Volume{{Name: "../../etc", Path: "/x"}}}
	up.Spec.Restart, up.Spec.Evidence = placement.Restart{Policy: "never"}, placement.EvidenceRequired
	if _, err := m.Forward(t.Context(), peer, residencyPolicy(t, "EU"), up); CodeOf(err) != "input.job" {
		t.Errorf("a volume outside of its place: %v", err)
	}
	if s, err := m.JobStatus(t.Context(), peer, id, 0, 0); err != nil || s.Job != id {
		t.Errorf("status: %v", err)
	}
	// Another region sees nothing of it.
	iad := NewMeshClient(speaker{w.net, identity.ID{Region: "iad-1", Mesh: testMesh, Node: "iad-1-n1"}, fra.ledger})
	if _, err := iad.JobStatus(t.Context(), peer, id, 0, 0); CodeOf(err) != CodeNotFound {
		t.Errorf("another region: %v", err)
	}
	if _, err := iad.Stop(t.Context(), peer, id); CodeOf(err) != CodeNotFound {
		t.Errorf("another region stops: %v", err)
	}
	if s, err := m.Stop(t.Context(), peer, id); err != nil || s.Status != placement.JobStopped {
		t.Errorf("stop: %+v %v", s, err)
	}
}

func TestBadBodiesAtEveryDoor(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	h := bearer(fra.token(state.Token{Roles: everyRole(), AllowAny: true}))
	before := fra.ledger.View().Index()
	for _, op := range operations() {
		if op.In == nil || strings.HasPrefix(op.Path, MeshPrefix) || op.ID == "submitJob" {
			continue
		}
		path := strings.NewReplacer("{id}", "x", "{name}", "fra-1-n1", "{hash}", "x", "{tenant}", "x").Replace(op.Path)
		for _, body := range []string{"{", "[]", `"x"`, `{"no_such_field":1}`, `{} {}`, "\x00", strings.Repeat("[", 100_000)} {
			status, p, _ := fra.do(t, op.Method, path, h, body)
			if status != http.StatusBadRequest || p.Advice == "" {
				t.Errorf("%s with %.20q: %d %s", op.ID, body, status, p.Code)
			}
		}
		if op.ID == "importLaw" {
			continue
		}
		if status, p, _ := fra.do(t, op.Method, path, h, `{"x":"`+strings.Repeat("y", MaxBodyBytes)+`"}`); status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s with 1 MiB: %d %s", op.ID, status, p.Code)
		}
	}
	if after := fra.ledger.View().Index(); after != before {
		t.Errorf("%d commands were proposed", after-before)
	}
}

func TestUnknownRoutes(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	if status, p, _ := fra.do(t, http.MethodGet, "/nowhere", nil, ""); status != 404 || p.Code != CodeUsage {
		t.Errorf("%d %s", status, p.Code)
	}
	if status, _, _ := fra.do(t, http.MethodPatch, "/api/v1/jobs", nil, "x"); status != 405 {
		t.Errorf("a wrong method: %d", status)
	}
	// The mesh's own operations are not on the app listener.
	if status, _, _ := fra.do(t, http.MethodGet, "/mesh/v1/keyring", bearer(fra.token(state.Token{Roles: everyRole()})), ""); status != 404 {
		t.Errorf("a mesh operation on the app listener: %d", status)
	}
}
