package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// allowed is the contract of the roles, written a second time on purpose.
func allowed(v Verb, r state.Role) bool {
	switch v {
	case VerbPublic, VerbAny, VerbRead:
		return true
	case VerbSubmit:
		return r == state.RoleSubmitter || r == state.RoleAdmin
	case VerbStop, VerbReach:
		return r == state.RoleSubmitter || r == state.RoleOperator || r == state.RoleAdmin
	case VerbOperate:
		return r == state.RoleOperator || r == state.RoleAdmin
	case VerbAdmin:
		return r == state.RoleAdmin
	case VerbAudit:
		return r == state.RoleAuditor
	}
	return false
}

func TestEveryRoleAndOperation(t *testing.T) {
	for _, op := range operations() {
		if op.ID == "" || op.Summary == "" || op.Verb == "" || op.Handler == nil {
			t.Errorf("%s %s: the row is not complete", op.Method, op.Path)
		}
		if (op.Method == http.MethodPost || op.Method == http.MethodPut) && op.Verb == VerbRead && !slices.Contains([]string{"checkJob", "resolve", "createGrant"}, op.ID) {
			t.Errorf("%s changes something, and everybody may", op.ID)
		}
		for _, r := range everyRole() {
			err := authorize(&op, &Caller{Kind: CallerToken, Token: &state.Token{ID: "t", Roles: []state.Role{r}}})
			if (err == nil) != allowed(op.Verb, r) {
				t.Errorf("%s: role %s: %v", op.ID, r, err)
			}
		}
		if err := authorize(&op, &Caller{Kind: CallerAnonymous}); (err == nil) != (op.Verb == VerbPublic) {
			t.Errorf("%s: anonymous: %v", op.ID, err)
		}
		for _, role := range []placement.NodeRole{placement.RoleWorker, placement.RoleStandby, placement.RoleVoter} {
			err := authorize(&op, &Caller{Kind: CallerNode, Role: role})
			want := op.Verb == VerbPublic || op.Verb == VerbNode || op.Verb == VerbVoter && role == placement.RoleVoter
			if (err == nil) != want {
				t.Errorf("%s: node, a %s: %v", op.ID, role, err)
			}
		}
	}
}

// A foreign certificate reserves, submits, and reads, logs, fetches what is left by, stops and reaches
// into jobs of its own region, connects jobs to their tenants' services, reads checkpoints and tiles of hashes, and asks for cosignatures: the list is
// closed, whatever the table says.
func TestAForeignCertificateHasNoAdministratorsVerb(t *testing.T) {
	may := []string{"summary", "reserve", "release", "forward", "foreignJob", "foreignJobs", "stopForeign", "foreignLogs", "foreignOutputs", "foreignOutput", "reachForeign", "foreignService", "ledgerCheckpoint", "ledgerTile", "witnessAdd", "witnessSeen"}
	_, fra, ber, _ := mesh3(t)
	as := identity.ID{Region: "ber-1", Mesh: testMesh, Node: "ber-1-n1"}
	token := fra.token(state.Token{Roles: everyRole()})
	_ = ber
	for _, op := range operations() {
		foreign := &Caller{Kind: CallerForeign, Region: "ber-1"}
		if err := authorize(&op, foreign); (err == nil) != slices.Contains(may, op.ID) {
			t.Errorf("%s: %v", op.ID, err)
		}
		if slices.Contains(may, op.ID) {
			continue
		}
		// Not even with an administrator's token in the header, or as if relayed.
		path := strings.NewReplacer("{id}", "x", "{name}", "fra-1-n1", "{hash}", "x", "{tenant}", "x", "{job}", "x", "{rest}", "x", "{key}", "x", "{path...}", "000", "{sum}", "00", "{digest}", "00").Replace(op.Path)
		h := bearer(token)
		h.Set(HeaderRelayed, "fra-1-n9")
		status, p, _ := fra.mesh(t, as, op.Method, path, h, "")
		if status != http.StatusForbidden || p.Code != CodeForeignVerb {
			t.Errorf("%s %s by a foreign certificate: %d %s", op.Method, path, status, p.Code)
		}
	}
}

func TestAStrangersCertificateGetsNothing(t *testing.T) {
	w, fra, _, _ := mesh3(t)
	_ = w
	for _, id := range []identity.ID{{Region: "xxx-1", Mesh: testMesh, Node: "n1"}, {Region: "fra-1", Mesh: "other.example", Node: "fra-1-n1"}, {Region: "fra-1", Mesh: testMesh, Node: "removed"}} {
		for _, path := range []string{"/mesh/v1/keyring", "/mesh/v1/summary", "/mesh/v1/authority", "/mesh/v1/jobs/x"} {
			if status, p, _ := fra.mesh(t, id, http.MethodGet, path, nil, ""); status != http.StatusForbidden {
				t.Errorf("%s asks %s: %d %s", id, path, status, p.Code)
			}
		}
	}
}

func TestATokenOpensNothingElsewhere(t *testing.T) {
	w, fra, ber, _ := mesh3(t)
	token := ber.token(state.Token{Roles: everyRole()})
	for _, path := range []string{"/api/v1/whoami", "/api/v1/jobs", "/api/v1/tokens"} {
		if status, p, _ := fra.do(t, http.MethodGet, path, bearer(token), ""); status != http.StatusUnauthorized || p.Code != CodeForeignToken {
			t.Errorf("%s: %d %s", path, status, p.Code)
		}
	}
	// Revoked and expired tokens end at once.
	short := fra.token(state.Token{ID: "short", Roles: everyRole(), Expires: fra.server.now().Add(time.Minute)})
	gone := fra.token(state.Token{ID: "gone", Roles: everyRole()})
	fra.ledger.must(t, state.RevokeToken{ID: "gone"})
	w.clock.add(2 * time.Minute)
	if _, p, _ := fra.do(t, http.MethodGet, "/api/v1/whoami", bearer(short), ""); p.Code != CodeExpiredToken {
		t.Errorf("expired: %s", p.Code)
	}
	if _, p, _ := fra.do(t, http.MethodGet, "/api/v1/whoami", bearer(gone), ""); p.Status != http.StatusUnauthorized {
		t.Errorf("revoked: %s", p.Code)
	}
}

// Our client shows its token to its home alone.
func TestTheClientSendsNoTokenToAnotherRegion(t *testing.T) {
	w, _, ber, iad := mesh3(t)
	_ = w
	seen := make(chan string, 16)
	inner := ber.web.Handler
	ber.web.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Authorization")
		inner.ServeHTTP(w, r)
	})
	if _, err := iad.admin().Submit(t.Context(), readJob(t, jobText("DE")), SubmitOptions{}); err != nil {
		t.Fatal(err)
	}
	close(seen)
	n := 0
	for header := range seen {
		n++
		if !strings.HasPrefix(header, GrantScheme+" ") {
			t.Errorf("the other region was shown %.12q", header)
		}
	}
	if n == 0 {
		t.Error("the other region was not asked")
	}
}

func TestGrants(t *testing.T) {
	w, fra, ber, iad := mesh3(t)
	c := iad.client(iad.token(state.Token{Roles: []state.Role{state.RoleSubmitter}}))
	ask := func(audience placement.RegionID, wire, key string) *Grant {
		t.Helper()
		g, err := c.Grant(t.Context(), GrantRequest{Audience: audience, PolicyHash: policyHash(wire), IdempotencyKey: key})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	submitWith := func(at *region, grant, wire, key string) (int, Problem) {
		t.Helper()
		h := http.Header{"Authorization": {GrantScheme + " " + grant}, HeaderResidency: {wire}, HeaderIdempotency: {key}}
		status, p, _ := at.do(t, http.MethodPost, "/api/v1/jobs", h, jobText(wire))
		return status, p
	}
	refused := func(name string, status int, p Problem, codes ...string) {
		t.Helper()
		if status != http.StatusUnauthorized || !slices.Contains(codes, p.Code) {
			t.Errorf("%s: %d %s %s", name, status, p.Code, p.Detail)
		}
	}

	g := ask("ber-1", "DE", "k1")
	status, p := submitWith(ber, g.Grant, "EU", "k1")
	refused("another policy", status, p, CodeGrant)
	status, p = submitWith(ber, g.Grant, "DE", "k2")
	refused("another key", status, p, CodeGrant)
	status, p = submitWith(fra, g.Grant, "DE", "k1")
	refused("wrong audience", status, p, CodeGrant)
	status, p = submitWith(iad, g.Grant, "DE", "k1")
	refused("at its own home", status, p, CodeGrant)
	status, p = submitWith(ber, g.Grant[:len(g.Grant)-2]+"xx", "DE", "k1")
	refused("forged", status, p, CodeGrant)
	if status, p = submitWith(ber, g.Grant, "DE", "k1"); status != http.StatusCreated {
		t.Fatalf("the grant is good, and yet: %d %s", status, p.Detail)
	}
	// The same key again is a repetition; under a fresh key the grant is spent.
	if status, _ = submitWith(ber, g.Grant, "DE", "k1"); status != http.StatusOK {
		t.Errorf("a repetition: %d", status)
	}
	if n := ber.ledger.View().JobCount(); n != 1 {
		t.Errorf("%d jobs of one grant", n)
	}
	cmd := state.SubmitJob{Job: placement.Job{ID: placement.NewJobID("ber-1", ber.server.now()), Kind: "process", Tenant: "iad-1/default", Residency: "DE", Origin: "iad-1", Spec: placement.JobSpec{Type: placement.TypeBatch}}, Grant: grantID(t, ber, g.Grant), GrantExpires: g.ExpiresAt, LawPack: ber.ledger.View().Pack().Hash(), IdempotencyKey: "k9"}
	if res, err := ber.ledger.Propose(t.Context(), cmd, "x"); err != nil || res.Refused == nil || res.Refused.Code != "grant.spent" {
		t.Errorf("a spent grant was accepted by Apply: %+v %v", res, err)
	}

	// A grant signed by a node of another region in home's name.
	claims, _ := json.Marshal(GrantClaims{ID: "x", Home: "iad-1", Tenant: "default", Audience: "ber-1", PolicyHash: policyHash("DE"), IdempotencyKey: "k3", Verbs: []string{"submit"}, Expires: w.clock.now().Add(GrantLife)})
	forged, err := identity.Sign(fra.cred, ContextGrant, claims, w.clock.now())
	if err != nil {
		t.Fatal(err)
	}
	status, p = submitWith(ber, forged, "DE", "k3")
	refused("signed by another region", status, p, CodeGrant)
	// A statement made for another purpose.
	other, err := identity.Sign(iad.cred, ContextSummary, claims, w.clock.now())
	if err != nil {
		t.Fatal(err)
	}
	status, p = submitWith(ber, other, "DE", "k3")
	refused("another purpose", status, p, CodeGrant)

	g = ask("ber-1", "DE", "k4")
	w.clock.add(GrantLife + time.Second)
	status, p = submitWith(ber, g.Grant, "DE", "k4")
	refused("expired", status, p, CodeGrant)

	// Of a region that is no peer any more.
	g = ask("ber-1", "DE", "k5")
	ber.ledger.must(t, state.LeavePeer{Region: "iad-1"})
	status, p = submitWith(ber, g.Grant, "DE", "k5")
	refused("no peer", status, p, CodeGrant)
}

func grantID(t *testing.T, at *region, statement string) string {
	t.Helper()
	payload, _, _, err := identity.Open(statement, ContextGrant, at.server.cfg.Verifier, at.server.now())
	if err != nil {
		t.Fatal(err)
	}
	var claims GrantClaims
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims.ID
}

func TestAGrantCoversItsJobAlone(t *testing.T) {
	_, fra, ber, iad := mesh3(t)
	c := iad.admin()
	out, err := c.Submit(t.Context(), readJob(t, jobText("DE")), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	own, err := ber.admin().Submit(t.Context(), readJob(t, jobText("DE")), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.Grant(t.Context(), GrantRequest{Audience: "ber-1", Job: out.Job.ID})
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{"Authorization": {GrantScheme + " " + g.Grant}}
	for path, want := range map[string]int{
		"/api/v1/jobs/" + string(out.Job.ID): 200, "/api/v1/jobs/" + string(own.Job.ID): 404,
		"/api/v1/jobs": 403, "/api/v1/nodes": 403, "/api/v1/status": 403, "/api/v1/tokens": 403, "/api/v1/events": 403,
	} {
		if status, p, _ := ber.do(t, http.MethodGet, path, h, ""); status != want {
			t.Errorf("%s: %d %s", path, status, p.Detail)
		}
	}
	_ = fra
}

// A grant that one submit was made with reaches the job of that submit, and no
// other job of its tenant.
func TestAGrantDoesNotReachAnotherJobOfItsTenant(t *testing.T) {
	_, _, ber, iad := mesh3(t)
	c := iad.client(iad.token(state.Token{Roles: []state.Role{state.RoleSubmitter}, Tenant: "acme"}))
	land := func(key string) (http.Header, placement.JobID) {
		t.Helper()
		g, err := c.Grant(t.Context(), GrantRequest{Audience: "ber-1", PolicyHash: policyHash("DE"), IdempotencyKey: key})
		if err != nil {
			t.Fatal(err)
		}
		auth := http.Header{"Authorization": {GrantScheme + " " + g.Grant}}
		h := auth.Clone()
		h[HeaderResidency], h[HeaderIdempotency] = []string{"DE"}, []string{key}
		before := ber.ledger.View().JobCount()
		if status, p, _ := ber.do(t, http.MethodPost, "/api/v1/jobs", h, jobText("DE")); status != http.StatusCreated {
			t.Fatalf("%d %s", status, p.Detail)
		}
		id := grantID(t, ber, g.Grant)
		found := ber.ledger.View().Jobs("", before+1, func(j *placement.Job) bool { return j.Grant == id })
		if len(found) != 1 {
			t.Fatalf("grant %s admitted %d jobs", id, len(found))
		}
		return auth, found[0].ID
	}
	mine, own := land("k1")
	theirs, other := land("k2")
	for _, try := range []struct{ method, path string }{
		{http.MethodGet, ""}, {http.MethodGet, "/explain"}, {http.MethodGet, "/logs"}, {http.MethodGet, "/receipt"}, {http.MethodDelete, ""},
	} {
		if status, p, _ := ber.do(t, try.method, "/api/v1/jobs/"+string(other)+try.path, mine, ""); status != http.StatusNotFound || p.Code != CodeNotFound {
			t.Errorf("%s %s with another job's grant: %d %s", try.method, try.path, status, p.Code)
		}
	}
	if j := ber.ledger.View().Job(other); j.StopRequested || j.Status.Terminal() {
		t.Errorf("the other job was stopped: %+v", j)
	}
	for _, ok := range []struct {
		auth http.Header
		id   placement.JobID
	}{{mine, own}, {theirs, other}} {
		if status, p, _ := ber.do(t, http.MethodDelete, "/api/v1/jobs/"+string(ok.id), ok.auth, ""); status != http.StatusOK {
			t.Errorf("its own grant: %d %s", status, p.Detail)
		}
	}
}

// A grant names the law pack of its home; one that this region does not hold
// refuses, before the body is read.
func TestAGrantOfAnotherLawPack(t *testing.T) {
	w, _, ber, iad := mesh3(t)
	claims := GrantClaims{ID: "g1", Home: "iad-1", Tenant: "acme", Audience: "ber-1", PolicyHash: policyHash("DE"), IdempotencyKey: "k1", Verbs: []string{grantSubmit}, Expires: w.clock.now().Add(GrantLife)}
	submitAs := func(pack string) (int, Problem, int) {
		t.Helper()
		claims.LawPack = pack
		payload, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		statement, err := identity.Sign(iad.cred, ContextGrant, payload, w.clock.now())
		if err != nil {
			t.Fatal(err)
		}
		body := &countingBody{}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/jobs", nil)
		req.Body, req.ContentLength = body, 100
		req.Header = http.Header{"Authorization": {GrantScheme + " " + statement}, HeaderResidency: {"DE"}, HeaderIdempotency: {"k1"}}
		rec := httptest.NewRecorder()
		ber.server.App().ServeHTTP(rec, req)
		var p Problem
		_ = json.Unmarshal(rec.Body.Bytes(), &p)
		return rec.Code, p, body.reads
	}
	if status, p, _ := submitAs(""); status != http.StatusUnauthorized || p.Code != CodeGrant {
		t.Errorf("without a pack: %d %s", status, p.Code)
	}
	if status, p, reads := submitAs("sha256:" + strings.Repeat("0", 64)); status != http.StatusServiceUnavailable || p.Code != "law.not-held" || reads != 0 {
		t.Errorf("a pack not held: %d %s, %d reads", status, p.Code, reads)
	}
	if _, _, reads := submitAs(ber.ledger.View().Pack().Hash()); reads == 0 {
		t.Error("the pack is held, and the body was not read")
	}
	// Home gives no grant to a region whose pack it does not hold, and the grants
	// that it gives name its own.
	c := iad.admin()
	g, err := c.Grant(t.Context(), GrantRequest{Audience: "ber-1", PolicyHash: policyHash("DE"), IdempotencyKey: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if issued := iad.ledger.View().Grant(grantID(t, ber, g.Grant)); issued == nil || issued.LawPack != iad.ledger.View().Pack().Hash() {
		t.Errorf("issued %+v", issued)
	}
	iad.ledger.must(t, state.UpdatePeer{Region: "ber-1", LawPack: "sha256:next"})
	if _, err := c.Grant(t.Context(), GrantRequest{Audience: "ber-1", PolicyHash: policyHash("DE"), IdempotencyKey: "k"}); CodeOf(err) != "law.not-held" {
		t.Errorf("a grant for a region of an unknown pack: %v", err)
	}
}

func TestHomeGrantsNothingOutsideTheTenantsTag(t *testing.T) {
	_, _, _, iad := mesh3(t)
	iad.ledger.must(t, state.SetTenant{Tenant: state.Tenant{ID: "french", Residency: "FR"}})
	c := iad.client(iad.token(state.Token{Roles: []state.Role{state.RoleSubmitter}, Tenant: "french"}))
	_, err := c.Grant(t.Context(), GrantRequest{Audience: "ber-1", PolicyHash: policyHash("DE"), IdempotencyKey: "k"})
	if CodeOf(err) != CodeNotLawful {
		t.Errorf("%v", err)
	}
}
