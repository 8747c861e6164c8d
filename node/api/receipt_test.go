package api

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// keeps makes the region serve its leaves.
func (r *region) keeps() *region {
	r.server.cfg.LedgerFiles = func() LedgerFiles { return r.ledger.files }
	return r
}

// signs commits a signed checkpoint of the log as it is, with cosignatures.
func (r *region) signs(by ...*ledger.Cosigner) {
	r.t.Helper()
	r.ledger.must(r.t, state.MarkLog{})
	marks := r.ledger.View().LogMarks()
	mark := marks[len(marks)-1]
	c := ledger.Checkpoint{Origin: r.ledger.View().LogOrigin(), Size: mark.Size, Root: mark.Root}
	signer, _ := r.logKeys()
	sig, err := signer.Sign(c)
	if err != nil {
		r.t.Fatal(err)
	}
	signed, err := ledger.NewSignedCheckpoint(c, sig)
	if err != nil {
		r.t.Fatal(err)
	}
	r.ledger.must(r.t, state.SignLog{Size: mark.Size, Note: string(signed.Encode())})
	for _, w := range by {
		line, err := w.Cosign(c, r.server.now())
		if err != nil {
			r.t.Fatal(err)
		}
		text := strings.TrimSuffix(string(ledger.EncodeSignatures([]ledger.Signature{line})), "\n")
		r.ledger.must(r.t, state.CosignLog{Size: mark.Size, Lines: []string{text}})
	}
}

func (r *region) get(t testing.TB, path string, header http.Header, into any) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	res, err := insecure().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatalf("%s: %v: %s", path, err, data)
		}
	}
	return res.StatusCode, data
}

// A job's receipt goes from committed to witnessed, and as a file it is verified
// with nothing but a policy.
func TestAReceiptOfAJob(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	fra.keeps()
	as := bearer(fra.token(state.Token{Roles: everyRole()}))
	h := as.Clone()
	h[HeaderResidency] = []string{"EU"}
	status, p, head := fra.do(t, http.MethodPost, Prefix+"/jobs", h, jobText("EU"))
	if status != http.StatusCreated {
		t.Fatalf("%d %s", status, p.Detail)
	}
	job := fra.ledger.View().Jobs("", 1, func(*placement.Job) bool { return true })[0]
	leaf := fra.ledger.View().JobLeaves(job.ID)[0]
	id := fmt.Sprintf("fra-1.%s/ledger#%d", testMesh, leaf)
	if got := head[HeaderReceipt]; len(got) != 1 || got[0] != id || job.Receipt != id {
		t.Fatalf("the submit was answered with %q, the job has %q, want %s", got, job.Receipt, id)
	}
	path := Prefix + "/jobs/" + string(job.ID)
	var out Receipt
	if status, _ := fra.get(t, path+"/receipt", as, &out); status != http.StatusOK || out.State != "committed" || out.Checkpoint != 0 || len(out.Leaves) != 1 {
		t.Fatalf("%d %+v", status, out)
	}
	if l := out.Leaves[0]; l.Index != leaf || l.Kind != string(state.KindSubmitJob) || len(l.Judged) == 0 || l.Judged[0].Verdict != "permitted" || l.Hash == "" {
		t.Errorf("%+v", l)
	}
	if status, data := fra.get(t, path+"/receipt?format=proof", as, nil); status != http.StatusServiceUnavailable || !bytes.Contains(data, []byte("no signed checkpoint covers it yet")) {
		t.Errorf("newer than every checkpoint: %d %s", status, data)
	}
	w, err := ledger.NewCosigner("watch.example/witness", ledger.CosignatureEd25519, [ledger.SeedSize]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	fra.ledger.must(t, state.PutWitness{Key: w.Verifier().String(), URL: "https://watch.example"})
	fra.signs(w)
	witnessed := fmt.Sprintf("witnessed 1 of %d", fra.ledger.View().Standing(leaf).Asked)
	var doc placement.JobDocument
	if _, _ = fra.get(t, path, as, &doc); doc.Receipt != id+" "+witnessed {
		t.Errorf("the job says %q", doc.Receipt)
	}
	if _, _ = fra.get(t, path+"/receipt", as, &out); out.State != witnessed || out.Checkpoint == 0 || len(out.Witnesses) != 1 {
		t.Errorf("%+v", out)
	}
	text := as.Clone()
	text.Set("Accept", "text/plain")
	status, data := fra.get(t, path+"/receipt", text, nil)
	signer, _ := fra.logKeys()
	policy, err := ledger.NewPolicy(ledger.PolicySpec{
		Logs:      []ledger.PolicyLog{{Key: signer.Verifier()}},
		Witnesses: []ledger.PolicyWitness{{Name: "watch", Key: w.Verifier()}}, Quorum: "watch",
	})
	if err != nil || status != http.StatusOK {
		t.Fatalf("%d %v", status, err)
	}
	rep, err := evidence.Verify(policy, bytes.NewReader(data), evidence.Options{})
	if err != nil || !rep.OK() {
		t.Fatalf("%v %+v", err, rep)
	}
	data[len(data)/3] ^= 1
	if rep, err := evidence.Verify(policy, bytes.NewReader(data), evidence.Options{}); err == nil && rep.OK() {
		t.Error("an altered receipt holds")
	}
}

// A refused write has its leaf too.
func TestARefusalNamesItsLeaf(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	as := bearer(fra.token(state.Token{Roles: everyRole()}))
	size := fra.ledger.View().LedgerSize()
	status, _, head := fra.do(t, http.MethodDelete, Prefix+"/tokens/nobody", as, "")
	if status < 400 || head.Get(HeaderReceipt) != fmt.Sprintf("fra-1.%s/ledger#%d", testMesh, size) {
		t.Errorf("%d, receipt %q of a ledger of %d leaves", status, head.Get(HeaderReceipt), size)
	}
}

// Whatever the header of a write names has a receipt of its own, for those who
// may see all tenants.
func TestAReceiptOfALeaf(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	fra.keeps()
	as := bearer(fra.token(state.Token{Roles: everyRole()}))
	_, _, head := fra.do(t, http.MethodPut, Prefix+"/tenants/acme", as, `{"residency":"FR"}`)
	origin, leaf, _ := strings.Cut(head.Get(HeaderReceipt), "#")
	path := Prefix + "/ledger/receipts/" + leaf
	var out Receipt
	if status, data := fra.get(t, path, as, &out); status != http.StatusOK || out.State != "committed" || len(out.Leaves) != 1 || out.Leaves[0].Kind != string(state.KindSetTenant) || out.Job != "" {
		t.Fatalf("%d %s", status, data)
	}
	fra.signs()
	status, data := fra.get(t, path+"?format=proof&origin="+url.QueryEscape(origin), as, nil)
	signer, _ := fra.logKeys()
	policy, err := ledger.NewPolicy(ledger.PolicySpec{Logs: []ledger.PolicyLog{{Key: signer.Verifier()}}, Quorum: "none"})
	if err != nil || status != http.StatusOK {
		t.Fatalf("%d %v %s", status, err, data)
	}
	if rep, err := evidence.Verify(policy, bytes.NewReader(data), evidence.Options{}); err != nil || rep.Regions[0].Leaves != 1 {
		t.Errorf("%v %+v", err, rep)
	}
	for _, tt := range []struct {
		path   string
		as     http.Header
		status int
	}{
		{path, bearer(fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}, Tenant: "acme"})), http.StatusForbidden},
		{path, http.Header{}, http.StatusUnauthorized},
		{path + "?origin=ber-1.elsewhere/ledger", as, http.StatusNotFound},
		{Prefix + "/ledger/receipts/1000000", as, http.StatusNotFound},
		{Prefix + "/ledger/receipts/-1", as, http.StatusBadRequest},
	} {
		if status, data := fra.get(t, tt.path, tt.as, nil); status != tt.status {
			t.Errorf("%s: %d, want %d: %s", tt.path, status, tt.status, data)
		}
	}
}

// Callers of other regions learn that there are leaves, not what stands in them.
func TestAGrantReadsNoLeaves(t *testing.T) {
	_, fra, ber, iad := mesh3(t)
	ber.keeps()
	iad.keeps()
	c := iad.admin()
	out, err := c.Submit(t.Context(), readJob(t, jobText("DE")), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.Grant(t.Context(), GrantRequest{Audience: "ber-1", Job: out.Job.ID})
	if err != nil {
		t.Fatal(err)
	}
	auth := http.Header{"Authorization": {GrantScheme + " " + g.Grant}}
	var rec Receipt
	status, data := ber.get(t, Prefix+"/jobs/"+string(out.Job.ID)+"/receipt", auth, &rec)
	if status != http.StatusOK || len(rec.Leaves) != 1 || rec.Leaves[0].Hash == "" || rec.Leaves[0].Kind != "" || bytes.Contains(data, []byte("judgements")) {
		t.Errorf("%d %s", status, data)
	}
	if status, _ := ber.get(t, Prefix+"/jobs/"+string(out.Job.ID)+"/receipt?format=proof", auth, nil); status != http.StatusForbidden {
		t.Errorf("the leaves themselves: %d", status)
	}
	// The leaf that admitted it quotes the one that let it go.
	entry, err := ber.ledger.files.Entry(rec.Leaves[0].Index)
	if err != nil {
		t.Fatal(err)
	}
	quotes(t, entry, "iad-1", iad, string(state.KindIssueGrant))

	// Home is told which leaf that was, and nobody else; quoted, both ledgers have
	// the other's half.
	there := transport.Peer{ID: identity.ID{Region: "ber-1", Mesh: testMesh}, Addr: "x"}
	told, err := iad.server.mesh.JobChanges(t.Context(), there, 0, 0)
	if err != nil || len(told.Jobs) != 0 || len(told.Landed) != 1 {
		t.Fatalf("home is told %+v: %v", told, err)
	}
	l := told.Landed[0]
	if l.Job != out.Job.ID || l.Leaf.Index != rec.Leaves[0].Index || l.Grant != ber.ledger.View().Job(l.Job).Grant {
		t.Errorf("home is told %+v of %+v", l, rec.Leaves)
	}
	if told, err := iad.server.mesh.JobChanges(t.Context(), there, told.Index, 0); err != nil || len(told.Landed) != 0 {
		t.Errorf("told again: %+v %v", told, err)
	}
	if told, err := fra.server.mesh.JobChanges(t.Context(), there, 0, 0); err != nil || len(told.Landed) != 0 {
		t.Errorf("a third region is told %+v: %v", told, err)
	}
	res := iad.ledger.must(t, state.UseGrant{ID: l.Grant, Region: "ber-1", Job: l.Job, PeerLeaf: l.Leaf})
	if entry, err = iad.ledger.files.Entry(res.Leaf); err != nil {
		t.Fatal(err)
	}
	quotes(t, entry, "ber-1", ber, string(state.KindSubmitJob))
}

// quotes checks that a leaf quotes a leaf of another region, hash for hash.
func quotes(t testing.TB, entry []byte, region string, other *region, kind string) {
	t.Helper()
	leaf, err := ledger.Decode(entry)
	if err != nil {
		t.Fatal(err)
	}
	var index uint64
	var hash, name string
	if _, err := fmt.Sscanf(leaf.Get(ledger.ShownPeerLeaf), "%s %d %s", &name, &index, &hash); err != nil || name != region {
		t.Fatalf("%s quotes %q: %v", leaf.Kind, leaf.Get(ledger.ShownPeerLeaf), err)
	}
	theirs, err := other.ledger.files.Entry(index)
	if err != nil {
		t.Fatal(err)
	}
	if h := ledger.HashLeaf(theirs); hex.EncodeToString(h[:]) != hash {
		t.Errorf("%s quotes leaf %d of %s as %s, and it is %x", leaf.Kind, index, region, hash, h)
	}
	if l, err := ledger.Decode(theirs); err != nil || l.Kind != kind {
		t.Errorf("it quotes a %s, want %s: %v", l.Kind, kind, err)
	}
}

// Both ledgers hold their half of a crossing and quote the other's; a question
// asked again is answered with the same half.
func TestBothHalvesOfACrossingQuoteEachOther(t *testing.T) {
	w, fra, ber, _ := mesh3(t)
	fra.keeps()
	ber.keeps()
	out, err := fra.admin().Submit(t.Context(), readJob(t, jobText("EU")), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	job := out.Job
	away := placement.Forward{Region: "ber-1", Attempt: 1, State: placement.ForwardAsking, ExpiresAt: w.clock.now().Add(30 * time.Second)}
	asking := fra.ledger.must(t, state.SetForward{Job: job.ID, Forward: away})
	half := state.LeafRef{Index: asking.Leaf, Hash: asking.LeafHash}
	there := transport.Peer{ID: identity.ID{Region: "ber-1", Mesh: testMesh}, Addr: "x"}
	ask := ReserveRequest{Job: job.ID, Attempt: 1, Kind: job.Kind, Policy: job.Policy, LawPack: fra.ledger.View().Pack().Hash(), HomeLeaf: half}
	held, err := fra.server.mesh.Reserve(t.Context(), there, ask)
	if err != nil || !held.Held || held.Leaf.IsZero() {
		t.Fatalf("%+v %v", held, err)
	}
	again, err := fra.server.mesh.Reserve(t.Context(), there, ask)
	if err != nil || again.Leaf != held.Leaf {
		t.Errorf("asked again it names %+v, first %+v: %v", again.Leaf, held.Leaf, err)
	}
	policy, err := fra.ledger.View().PolicyOf(fra.ledger.View().Job(job.ID))
	if err != nil {
		t.Fatal(err)
	}
	body := ForwardedJob{Job: job.ID, Tenant: string(job.Tenant), Residency: job.Residency, Policy: job.Policy, Spec: job.Spec, AllowAny: true,
		Reservation: state.ReservationKey("fra-1", job.ID, 1), SubmittedAt: job.SubmittedAt, Hops: 1, HomeLeaf: half}
	send := func(ctx context.Context) state.LeafRef {
		taken, err := fra.server.mesh.Forward(ctx, there, policy, body)
		if err != nil {
			t.Fatal(err)
		}
		return taken.Leaf
	}
	taken := send(t.Context())
	if repeated := send(t.Context()); taken.IsZero() || repeated != taken {
		t.Errorf("sent again the job has leaf %+v, first %+v", repeated, taken)
	}
	away.State = placement.ForwardPlaced
	placed := fra.ledger.must(t, state.SetForward{Job: job.ID, Forward: away, PeerLeaf: taken})
	for _, index := range []uint64{held.Leaf.Index, taken.Index} {
		entry, err := ber.ledger.files.Entry(index)
		if err != nil {
			t.Fatal(err)
		}
		quotes(t, entry, "fra-1", fra, string(state.KindSetForward))
	}
	entry, err := fra.ledger.files.Entry(placed.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	quotes(t, entry, "ber-1", ber, string(state.KindSubmitJob))
}

// Why there is no room is told to a peer in words of a closed list.
func TestARegionTellsAPeerNothingOfItsNodes(t *testing.T) {
	_, fra, ber, _ := mesh3(t)
	there := transport.Peer{ID: identity.ID{Region: "ber-1", Mesh: testMesh}, Addr: "x"}
	ask := ReserveRequest{Job: placement.NewJobID("fra-1", fra.server.now()), Attempt: 1, Kind: placement.KindProcess,
		Policy: []placement.Layer{{Origin: "job", Tag: "EU"}}, LawPack: ber.ledger.View().Pack().Hash(), Resources: placement.Resources{GPUs: 64}}
	for _, dry := range []bool{true, false} {
		ask.DryRun = dry
		answer, err := fra.server.mesh.Reserve(t.Context(), there, ask)
		if err != nil || answer.Held {
			t.Fatalf("%+v %v", answer, err)
		}
		if answer.Reason != "no node of region ber-1 could ever hold it, even empty" || strings.Contains(answer.Hint, "64") {
			t.Errorf("dry %v: %q, %q", dry, answer.Reason, answer.Hint)
		}
	}
}

// A dry run asks another region for all members of a gang, and tells that it stays
// where it is taken; no room is held for one.
func TestAGangIsAskedAboutAsAWholeElsewhere(t *testing.T) {
	_, fra, ber, _ := mesh3(t)
	there := transport.Peer{ID: identity.ID{Region: "ber-1", Mesh: testMesh}, Addr: "x"}
	ask := ReserveRequest{Job: placement.NewJobID("fra-1", fra.server.now()), Attempt: 1, Kind: placement.KindProcess, DryRun: true,
		Policy: []placement.Layer{{Origin: "job", Tag: "EU"}}, LawPack: ber.ledger.View().Pack().Hash(), Resources: placement.Resources{GPUs: 2}}
	for gang, want := range map[int]scheduler.Outcome{0: scheduler.Fits, 2: scheduler.Impossible} {
		ask.Gang = gang
		if answer, err := fra.server.mesh.Reserve(t.Context(), there, ask); err != nil || answer.Outcome != string(want) {
			t.Errorf("a gang of %d: %+v %v, want %s", gang, answer, err, want)
		}
	}
	ask.DryRun, ask.Gang = false, 2
	if answer, err := fra.server.mesh.Reserve(t.Context(), there, ask); err == nil {
		t.Errorf("room is held for a gang: %+v", answer)
	}
	// Two of one GPU fit in either region; three of two in none, though one member would.
	for resources, want := range map[string]string{`"gang":2,"resources":{"gpus":1}`: CheckPlaceable, `"gang":3,"resources":{"gpus":2}`: CheckNoHardware} {
		out, err := fra.admin().Check(t.Context(), readJob(t, `{"kind":"process","command":["x"],"residency":"EU",`+resources+`}`))
		if err != nil || out.Answer != want || want == CheckPlaceable && out.Region != "fra-1" {
			t.Errorf("%s: %+v %v, want %s", resources, out, err, want)
		}
	}
	fra.ledger.must(t, state.CordonNode{Node: fra.node})
	out, err := fra.admin().Check(t.Context(), readJob(t, `{"kind":"process","command":["x"],"residency":"EU","gang":2,"resources":{"gpus":1}}`))
	if err != nil || out.Answer != CheckNoCapacity || len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "region ber-1 has room for the whole gang") || !strings.Contains(out.Hint, "a gang stays in the region that took it") {
		t.Errorf("%+v %v", out, err)
	}
}

// What a person asks to be forgotten is erased once the job is over, by an
// administrator alone; and that is a leaf.
func TestErasingIsForAdministratorsAndLeavesALeaf(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	fra.keeps()
	out, err := fra.admin().Submit(t.Context(), readJob(t, jobText("EU")), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id := out.Job.ID
	path := Prefix + "/audit/openings?job=" + string(id)
	others := bearer(fra.token(state.Token{ID: "aud", Roles: []state.Role{state.RoleViewer, state.RoleSubmitter, state.RoleOperator, state.RoleAuditor}}))
	admin := bearer(fra.token(state.Token{ID: "adm", Roles: []state.Role{state.RoleAdmin}}))
	if status, p, _ := fra.do(t, http.MethodDelete, path, others, ""); status != http.StatusForbidden {
		t.Errorf("without the role: %d %s", status, p.Code)
	}
	if _, err := fra.admin().EraseOpenings(t.Context(), id); CodeOf(err) != "job.alive" {
		t.Errorf("of a job that lives: %v", err)
	}
	fra.ledger.must(t, state.StopJob{Job: id})
	leaves := fra.ledger.View().JobLeaves(id)
	status, p, head := fra.do(t, http.MethodDelete, path, admin, "")
	if status != http.StatusOK || head.Get(HeaderReceipt) == "" {
		t.Fatalf("%d %s", status, p.Detail)
	}
	if all := fra.ledger.View().Erasures(0); len(all) != 1 || len(all[0].Leaves) != len(leaves) {
		t.Errorf("erased: %+v, want %v", all, leaves)
	}
	if j := fra.ledger.View().Job(id); j.Name != "" || len(j.Spec.Command) > 0 {
		t.Errorf("the record keeps %+v", j)
	}
}

// Reads of auditors are recorded before they are answered, and not each of many.
func TestAuditorsReadsAreRecorded(t *testing.T) {
	w, fra, _, _ := mesh3(t)
	fra.keeps()
	auditor := bearer(fra.token(state.Token{ID: "aud", Roles: []state.Role{state.RoleAuditor}, Expires: w.clock.now().Add(24 * time.Hour)}))
	read := func() uint64 {
		t.Helper()
		if status, p, _ := fra.do(t, http.MethodGet, Prefix+"/ledger/tile/entries/000.p/3", auditor, ""); status != http.StatusOK {
			t.Fatalf("%d %s", status, p.Detail)
		}
		return fra.ledger.View().LedgerSize()
	}
	first := read()
	for range 2 {
		if read() != first {
			t.Error("each read of many has a leaf")
		}
	}
	w.clock.add(readsEvery)
	if read() != first+1 {
		t.Fatal("the reads since the last record are not recorded")
	}
	entry, err := fra.ledger.files.Entry(first)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ledger.Decode(entry)
	if err != nil || leaf.Kind != string(state.KindRecordRead) || leaf.Get(ledger.ShownCount) != "3" || leaf.Get(ledger.ShownRole) != "auditor" {
		t.Errorf("%+v %v", leaf, err)
	}
}
