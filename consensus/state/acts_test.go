package state

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// What an auditor has to read of each act of administration, in clear; who and
// where from are commitments that the region opens, and names nobody reads.
func TestActsShowWhatAnAuditorNeeds(t *testing.T) {
	f := newFixture(t)
	f.ok(CreateToken{Token: Token{ID: "tok-admin", Hash: hashOf("a"), Roles: []Role{RoleAdmin}}})
	f.node("n2")
	f.node("n3")
	peer := placement.Region{ID: "ber-1", Mesh: "mesh.example", Facts: facts("DE"), Bundle: []byte(`{"spiffe_sequence":1}`), Fingerprint: "f-ber"}
	digest := func(data []byte) string {
		sum := sha256.Sum256(data)
		return hex.EncodeToString(sum[:])
	}
	der := digest([]byte("a certificate"))
	pack := residency.Embedded().Hash()
	witness := "w.example/witness+" + "00000000+AAAA"
	if w, err := ledger.NewCosigner("w.example/witness", ledger.CosignatureEd25519, [ledger.SeedSize]byte{1}); err == nil {
		witness = w.Verifier().String()
	}
	eu, text := "EU", f.now.Add(time.Hour).UTC().Format(time.RFC3339)
	for _, act := range []struct {
		cmd  Command
		want map[string]string
	}{
		{IssueCertificate{Node: "n2", Serial: "77", NotAfter: f.now.Add(time.Hour), SHA256: der}, map[string]string{ledger.ShownCertificate: "77 " + text + " " + der}},
		{CordonNode{Node: "n2"}, map[string]string{ledger.ShownState: "cordoned"}},
		{ResumeNode{Node: "n2"}, map[string]string{ledger.ShownState: "ready"}},
		{DrainNode{Node: "n2", Drain: placement.Drain{Reason: "somebody is on holiday"}}, map[string]string{ledger.ShownState: "draining"}},
		{DrainNodes{Nodes: []placement.NodeID{"n2"}, Drain: placement.Drain{Reason: "somebody is on holiday"}}, map[string]string{ledger.ShownState: "draining"}},
		{ClearDevice{Node: "n2", Device: "n2-gpu0", Reason: "somebody reset it"}, map[string]string{ledger.ShownState: "cleared"}},
		{FinishDrain{Node: "n2"}, map[string]string{ledger.ShownState: "drained"}},
		{RemoveNode{Node: "n2"}, map[string]string{ledger.ShownState: "removed", ledger.ShownRevoked: "77"}},
		{SetRegionPolicy{Export: &eu, Import: &eu}, map[string]string{ledger.ShownExport: "EU", ledger.ShownImport: "EU"}},
		{ImportLawPack{Tables: residency.Embedded().Tables()}, map[string]string{ledger.ShownPack: pack}},
		{ActivateLawPack{Hash: pack}, map[string]string{ledger.ShownPack: pack}},
		{PutPeer{Region: peer}, map[string]string{ledger.ShownRegion: "ber-1", ledger.ShownBundle: digest(peer.Bundle), ledger.ShownFingerprint: "f-ber", ledger.ShownOperator: "DE none"}},
		{ApprovePeer{Region: "ber-1", Fingerprint: "f-ber"}, map[string]string{ledger.ShownRegion: "ber-1", ledger.ShownBundle: digest(peer.Bundle), ledger.ShownFingerprint: "f-ber"}},
		{UpdatePeer{Region: "ber-1", LawPack: pack}, map[string]string{ledger.ShownRegion: "ber-1", ledger.ShownPack: pack}},
		{LeavePeer{Region: "ber-1"}, map[string]string{ledger.ShownRegion: "ber-1", ledger.ShownState: "left"}},
		{SetTenant{Tenant: Tenant{ID: "a-name-of-a-tenant", Residency: "EU"}}, map[string]string{ledger.ShownTag: "EU"}},
		{CreateToken{Token: Token{ID: "tok-2", Hash: hashOf("b"), Roles: []Role{RoleAuditor, RoleViewer}, Residency: "EU"}}, map[string]string{ledger.ShownGranted: "auditor+viewer", ledger.ShownTag: "EU"}},
		{RevokeToken{ID: "tok-2"}, map[string]string{ledger.ShownState: "revoked"}},
		{PutWitness{Key: witness, URL: "https://w.example"}, map[string]string{ledger.ShownWitness: witness}},
		{DropWitness{Name: "w.example/witness"}, map[string]string{ledger.ShownWitness: witness, ledger.ShownState: "dropped"}},
		{SetRole{Node: "n3", Role: placement.RoleStandby}, map[string]string{ledger.ShownState: "standby"}},
	} {
		kind := string(act.cmd.Kind())
		leaf := f.applyAs(From("tok-admin", "name-of-a-node", "192.0.2.7"), act.cmd)
		if !leaf.Accepted() {
			t.Errorf("%s is refused: %s", kind, leaf.Code)
			continue
		}
		if leaf.Kind != kind || leaf.Get(ledger.ShownRole) != "admin" || leaf.Get(ledger.ShownWhere) == "" || !strings.HasPrefix(leaf.Actor, "h:") {
			t.Errorf("%s: who and where: %+v", kind, leaf)
		}
		for name, want := range act.want {
			if got := leaf.Get(name); got != want {
				t.Errorf("%s shows %s %q, want %q", kind, name, got, want)
			}
		}
		entry, err := leaf.Encode()
		if err != nil {
			t.Fatal(err)
		}
		for _, hidden := range []string{"name-of-a", "192.0.2.7", "holiday", "tok-admin"} {
			if strings.Contains(string(entry), hidden) {
				t.Errorf("%s: the leaf holds %q", kind, hidden)
			}
		}
	}
	for _, bad := range []string{"x", der[:63], strings.ToUpper(der), der + "00"} {
		f.refused("node.certificate", IssueCertificate{Node: "n3", Serial: "78", SHA256: bad})
	}
}
