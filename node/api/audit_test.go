package api

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// logKeys are the secrets of a region's log and of its witness.
func (r *region) logKeys() (*ledger.Signer, *ledger.Cosigner) {
	r.t.Helper()
	signer, err := ledger.NewSigner(state.LogOrigin(r.id, testMesh, 0), sha256.Sum256([]byte(r.id+" log")))
	if err != nil {
		r.t.Fatal(err)
	}
	cosigner, err := ledger.NewCosigner(state.WitnessName(r.id, testMesh), ledger.CosignatureEd25519, sha256.Sum256([]byte(r.id+" witness")))
	if err != nil {
		r.t.Fatal(err)
	}
	return signer, cosigner
}

// sealed signs the region's log as it is, has another region cosign it, and
// keeps its files as a replica would.
func (r *region) sealed(witness *region) {
	t := r.t
	t.Helper()
	_, cosigner := witness.logKeys()
	if len(r.ledger.View().Witnesses()) == 0 {
		r.ledger.must(t, state.PutWitness{Key: cosigner.Verifier().String(), URL: "https://w.example/"})
	}
	r.ledger.must(t, state.MarkLog{})
	marks := r.ledger.View().LogMarks()
	mark := marks[len(marks)-1]
	signer, _ := r.logKeys()
	c := ledger.Checkpoint{Origin: r.ledger.View().LogOrigin(), Size: mark.Size, Root: mark.Root}
	sig, err := signer.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	line, err := cosigner.Cosign(c, r.server.now().Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	note, err := ledger.NewSignedCheckpoint(c, sig)
	if err != nil {
		t.Fatal(err)
	}
	r.ledger.must(t, state.SignLog{Size: mark.Size, Note: string(note.Encode())})
	lines := strings.Split(strings.TrimSuffix(string(ledger.EncodeSignatures([]ledger.Signature{line})), "\n"), "\n")
	r.ledger.must(t, state.CosignLog{Size: mark.Size, Lines: lines})
	files := r.files()
	r.server.cfg.LedgerFiles = func() LedgerFiles { return files }
}

// files is what a replica's store holds after all commands so far.
func (r *region) files() *store.Store {
	r.t.Helper()
	files, err := store.Open(store.Memory())
	if err != nil {
		r.t.Fatal(err)
	}
	r.ledger.mu.Lock()
	raws := r.ledger.raws
	r.ledger.mu.Unlock()
	again := state.New()
	for i, raw := range raws {
		res := again.Apply(uint64(i+1), raw)
		if res.Entry == nil {
			continue
		}
		if err := files.Append(res.Leaf, []store.Record{{Entry: res.Entry, Opening: &store.Opening{Salt: res.Salt, Command: raw}}}); err != nil {
			r.t.Fatal(err)
		}
	}
	return files
}

// auditorsPolicy names the logs and witnesses of regions, and their roots.
func auditorsPolicy(t *testing.T, all ...*region) *ledger.Policy {
	t.Helper()
	spec := ledger.PolicySpec{Quorum: "all", Groups: []ledger.PolicyGroup{{Name: "all", Need: 1}}}
	for _, r := range all {
		signer, cosigner := r.logKeys()
		spec.Logs = append(spec.Logs, ledger.PolicyLog{Key: signer.Verifier()})
		spec.Witnesses = append(spec.Witnesses, ledger.PolicyWitness{Name: string(r.id), Key: cosigner.Verifier()})
		spec.Groups[0].Members = append(spec.Groups[0].Members, string(r.id))
		for _, root := range r.ca.Bundle().Roots {
			spec.Roots = append(spec.Roots, ledger.PolicyRoot{Region: string(r.id), DER: root.Raw})
		}
	}
	policy, err := ledger.NewPolicy(spec)
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

// An auditor's token gets a pack that holds offline, under a policy; nobody
// else's does.
func TestAnAuditorExportsEvidence(t *testing.T) {
	_, fra, ber, iad := mesh3(t)
	submitter := fra.client(fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}}))
	jobs := map[string]placement.Job{}
	for _, name := range []string{"mine", "other"} {
		out, err := submitter.Submit(t.Context(), readJob(t, strings.Replace(jobText("EU"), `{"kind"`, `{"name":"`+name+`-job","kind"`, 1)), SubmitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		jobs[name] = out.Job
	}
	secret := fra.token(state.Token{ID: "aud", Roles: []state.Role{state.RoleAuditor}})
	path := Prefix + "/audit/export"
	if status, p, _ := fra.do(t, http.MethodGet, path, bearer(secret), ""); status != http.StatusServiceUnavailable {
		t.Errorf("before anything was signed: %d %+v", status, p)
	}
	fra.sealed(ber)
	others := fra.token(state.Token{ID: "all", Roles: []state.Role{state.RoleViewer, state.RoleSubmitter, state.RoleOperator, state.RoleAdmin}})
	for _, c := range []struct {
		path, token string
		want        int
	}{
		{path, "", http.StatusUnauthorized},
		{path, others, http.StatusForbidden},
		{path + "?from=yesterday", secret, http.StatusBadRequest},
		{path + "?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", secret, http.StatusBadRequest},
		{path + "?job=none", secret, http.StatusBadRequest},
		{path + "?regime=astrology", secret, http.StatusBadRequest},
	} {
		h := http.Header{}
		if c.token != "" {
			h = bearer(c.token)
		}
		if status, p, _ := fra.do(t, http.MethodGet, c.path, h, ""); status != c.want {
			t.Errorf("%s: %d %+v, want %d", c.path, status, p, c.want)
		}
	}
	policy := auditorsPolicy(t, fra, ber, iad)
	export := func(f evidence.Filter) ([]byte, *evidence.Report) {
		t.Helper()
		body, err := fra.client(secret).Export(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		data, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := evidence.Verify(policy, bytes.NewReader(data), evidence.Options{Now: fra.server.now()})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range rep.Verdicts {
			if v.State != evidence.Holds {
				t.Errorf("%s is %s: %q", v.Name, v.State, v.Findings)
			}
		}
		return data, rep
	}
	data, rep := export(evidence.Filter{})
	if bytes.Contains(data, []byte("mine-job")) || rep.Regions[0].Openings != 0 {
		t.Error("what nobody asked for is in the pack")
	}
	if data, rep = export(evidence.Filter{Job: string(jobs["mine"].ID)}); rep.Regions[0].Openings == 0 || !bytes.Contains(data, []byte("mine-job")) || bytes.Contains(data, []byte("other-job")) {
		t.Errorf("openings of one job: %+v", rep.Regions[0])
	}
	if data, _ = export(evidence.Filter{Tenant: "default"}); !bytes.Contains(data, []byte("mine-job")) || !bytes.Contains(data, []byte("other-job")) {
		t.Error("openings of a tenant are missing")
	}
	if rep, err := evidence.Verify(auditorsPolicy(t, ber, iad), bytes.NewReader(data), evidence.Options{Now: fra.server.now()}); err != nil || rep.OK() || rep.Verdict(evidence.Origin).State != evidence.Fails {
		t.Errorf("a policy without the region: %v %+v", err, rep)
	}
}
