package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// weakTag allows EU where the location is attested, which no region here is.
const weakTag = "json:eyJhc3N1cmFuY2UiOnsibG9jYXRpb24iOiJhdHRlc3RlZCJ9LCJyZXNpZGVuY3kiOnsiYWxsb3ciOlsiRVUiXX19"

func fraNode() identity.ID {
	return identity.ID{Region: "fra-1", Mesh: testMesh, Node: "fra-1-n1"}
}

// A region whose import rule forbids reads no byte of what is forwarded to it.
func TestAnImportRuleIsAskedBeforeTheBody(t *testing.T) {
	_, _, ber, _ := mesh3(t)
	send := func() (int, int) {
		body := &countingBody{}
		req := httptest.NewRequest(http.MethodPost, MeshPrefix+"/jobs", nil).WithContext(transport.WithPeer(t.Context(), fraNode()))
		req.Body, req.ProtoMajor, req.ContentLength = body, 3, 10
		req.Header.Set(HeaderResidency, "EU")
		req.Header.Set(HeaderIdempotency, "k")
		rec := httptest.NewRecorder()
		ber.server.Mesh().ServeHTTP(rec, req)
		return rec.Code, body.reads
	}
	if status, reads := send(); reads == 0 {
		t.Fatalf("without a rule the body is read: %d", status)
	}
	rule := "FR"
	ber.ledger.must(t, state.SetRegionPolicy{Import: &rule})
	if status, reads := send(); reads != 0 || status != http.StatusMisdirectedRequest && status != http.StatusForbidden {
		t.Errorf("answered %d after %d reads of the body", status, reads)
	}
}

// forwarded is a job of Paris that Berlin runs.
func forwarded(t *testing.T, w *world, fra, ber *region, tag string) (*MeshClient, transport.Peer, placement.JobID) {
	t.Helper()
	m := NewMeshClient(speaker{w.net, fraNode(), fra.ledger})
	peer := transport.Peer{ID: identity.ID{Region: "ber-1", Mesh: testMesh}, Addr: "127.0.0.1:1"}
	id := placement.NewJobID("fra-1", w.clock.now())
	policy := []placement.Layer{{Origin: residency.OriginJob, Tag: tag}}
	ask := ReserveRequest{Job: id, Attempt: 1, Kind: "process", Resources: placement.Resources{CPU: 100, Memory: placement.MiB}, Policy: policy, LawPack: ber.ledger.View().Pack().Hash(), Expires: w.clock.now().Add(time.Minute)}
	held, err := m.Reserve(t.Context(), peer, ask)
	if err != nil || !held.Held {
		t.Fatalf("%+v %v", held, err)
	}
	_, err = m.Forward(t.Context(), peer, residencyPolicy(t, tag), ForwardedJob{
		Job: id, Tenant: "acme", Residency: tag, Policy: policy, Reservation: held.Key, SubmittedAt: w.clock.now(), Hops: 1,
		Spec: placement.JobSpec{Kind: "process", Type: placement.TypeBatch, Command: []string{"x"}, Resources: ask.Resources},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, peer, id
}

// What the ledger says of a refusal may name whom it concerns: a peer gets the
// code, and words of a closed list. Its answer names no node of this region.
func TestAPeerIsRefusedInClosedWords(t *testing.T) {
	w, fra, ber, _ := mesh3(t)
	ber.ledger.must(t, state.SetTenant{Tenant: state.Tenant{ID: "fra-1/acme", Quota: state.Quota{Jobs: 1}}})
	m, peer, _ := forwarded(t, w, fra, ber, "EU")
	policy := []placement.Layer{{Origin: residency.OriginJob, Tag: "EU"}}
	id := placement.NewJobID("fra-1", w.clock.now())
	ask := ReserveRequest{Job: id, Attempt: 1, Kind: "process", Resources: placement.Resources{CPU: 100, Memory: placement.MiB}, Policy: policy, LawPack: ber.ledger.View().Pack().Hash(), Expires: w.clock.now().Add(time.Minute)}
	held, err := m.Reserve(t.Context(), peer, ask)
	if err != nil || !held.Held {
		t.Fatalf("%+v %v", held, err)
	}
	_, err = m.Forward(t.Context(), peer, residencyPolicy(t, "EU"), ForwardedJob{
		Job: id, Tenant: "acme", Residency: "EU", Policy: policy, Reservation: held.Key, SubmittedAt: w.clock.now(), Hops: 1,
		Spec: placement.JobSpec{Kind: "process", Type: placement.TypeBatch, Command: []string{"x"}, Resources: ask.Resources},
	})
	if err == nil || !strings.HasPrefix(CodeOf(err), "quota.") || strings.Contains(err.Error()+HintOf(err), "acme") || !strings.Contains(err.Error(), "region ber-1 holds as much") {
		t.Errorf("refused as %s: %v (%s)", CodeOf(err), err, HintOf(err))
	}
	rec := httptest.NewRecorder()
	ber.server.Mesh().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, MeshPrefix+"/summary", nil).WithContext(transport.WithPeer(t.Context(), fraNode())))
	if name := rec.Header().Get(HeaderRequestID); name == "" || strings.Contains(name, "ber-1") {
		t.Errorf("the request is called %q", name)
	}
}

// Output is bytes like any other: the export rule of the region where it came
// to be counts, also one set after the job had arrived.
func TestOutputLeavesUnderTheExportRule(t *testing.T) {
	w, fra, ber, _ := mesh3(t)
	m, peer, id := forwarded(t, w, fra, ber, "EU")
	if _, err := m.JobLogs(t.Context(), peer, id, 0, false); CodeOf(err) != "job.no-output" {
		t.Fatalf("without a rule: %v", err)
	}
	rule := "DE"
	ber.ledger.must(t, state.SetRegionPolicy{Export: &rule})
	if _, err := m.JobLogs(t.Context(), peer, id, 0, false); CodeOf(err) != CodeNotLawful || !strings.Contains(err.Error(), "output") {
		t.Errorf("under a stricter export rule: %v", err)
	}
}

// Nor does it leave while the two regions decide by different law and one of
// the packs is not held.
func TestOutputLeavesUnderBothPacks(t *testing.T) {
	w, fra, ber, _ := mesh3(t)
	m, peer, id := forwarded(t, w, fra, ber, "EU")
	ber.ledger.must(t, state.UpdatePeer{Region: "fra-1", LawPack: "newer"})
	if _, err := m.JobLogs(t.Context(), peer, id, 0, false); CodeOf(err) != residency.RuleNotHeld || ExitOf(err) != ExitUnknown {
		t.Errorf("its pack is not held: %v", err)
	}
}

// What is not known has one answer at every door: its cause as the code, 503,
// exit 30. It is never told as forbidden.
func TestUnknownIsTheSameAtEveryDoor(t *testing.T) {
	_, fra, ber, _ := mesh3(t)
	token := fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter, state.RoleViewer}})
	c := fra.client(token)
	for _, tt := range []struct {
		tag, code string
		exit      int
	}{
		{weakTag, "claim.weak", ExitUnknown},
		{"FR-IDF", "claim.unknown", ExitUnknown},
		{"JP", CodeNotLawful, ExitNotLawful},
		{"FR,!FR", CodeNever, ExitNotLawful},
	} {
		report, err := c.Check(t.Context(), readJob(t, jobText(tt.tag)))
		if err != nil || report.Code != tt.code || (report.Answer == CheckUnknown) != (tt.exit == ExitUnknown) {
			t.Errorf("%s: job check: %+v %v", tt.tag, report, err)
		}
		doors := map[string]error{}
		_, doors["job run"] = c.Submit(t.Context(), readJob(t, jobText(tt.tag)), SubmitOptions{})
		h := bearer(token)
		h.Set(HeaderResidency, tt.tag)
		status, p, answer := fra.do(t, http.MethodPost, "/api/v1/jobs", h, jobText(tt.tag))
		doors["POST /jobs"] = &p
		if want := map[bool]int{true: 503, false: 403}[tt.exit == ExitUnknown]; status != want || answer.Get(HeaderShouldRetry) != "false" || (answer.Get("Retry-After") != "") != (want == 503) {
			t.Errorf("%s: %d %v", tt.tag, status, answer)
		}
		_, resolved, _ := fra.do(t, http.MethodPost, "/api/v1/resolve", bearer(token), `{"residency":"`+tt.tag+`"}`)
		doors["resolve"] = &resolved
		_, forward, _ := ber.mesh(t, fraNode(), http.MethodPost, MeshPrefix+"/jobs", http.Header{HeaderResidency: {tt.tag}, HeaderIdempotency: {"k"}}, "{}")
		doors["forward"] = &forward
		for door, err := range doors {
			if CodeOf(err) != tt.code || ExitOf(err) != tt.exit {
				t.Errorf("%s: %s says %s, exit %d (%v), want %s, %d", tt.tag, door, CodeOf(err), ExitOf(err), err, tt.code, tt.exit)
			}
		}
	}
}
