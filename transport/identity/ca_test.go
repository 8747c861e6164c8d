package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func TestCertificateAuthorityFollowsTheProfile(t *testing.T) {
	ca := newCA(t, "fra-1")
	root, issuing := ca.root.cert, ca.issuing.cert
	if root.MaxPathLen != 1 || !root.PermittedDNSDomainsCritical || root.PermittedURIDomains[0] != "fra-1.mesh.example" {
		t.Errorf("root: path %d, constraint %v", root.MaxPathLen, root.PermittedURIDomains)
	}
	if !issuing.MaxPathLenZero || issuing.NotAfter.Sub(t0) != IssuingLife {
		t.Errorf("issuing: path zero %v, until %s", issuing.MaxPathLenZero, issuing.NotAfter)
	}
	c := node(t, ca, "n1")
	if c.Leaf.NotBefore != t0.Add(-Backdate) || c.Leaf.NotAfter != t0.Add(NodeTTL) || c.ID.String() != "spiffe://fra-1.mesh.example/node/n1" {
		t.Errorf("node: %s to %s, %s", c.Leaf.NotBefore, c.Leaf.NotAfter, c.ID)
	}
	if c.Leaf.SerialNumber.BitLen() < 64 {
		t.Errorf("serial of %d bits", c.Leaf.SerialNumber.BitLen())
	}
	early, late := c.RenewAt(0), c.RenewAt(1)
	if want := t0.Add(-Backdate + (NodeTTL+Backdate)/2); early != want || late.Sub(early) != (NodeTTL+Backdate)/10 {
		t.Errorf("renew from %s (want %s) to %s", early, want, late)
	}
}

// Another program's verifier of X509-SVIDs must agree with ours.
func TestNodeCertificateIsAnX509SVID(t *testing.T) {
	now := time.Now() // the other verifier has no clock to set
	ca, err := NewCA("fra-1", testMesh, now)
	if err != nil {
		t.Fatal(err)
	}
	csr, _ := newCSR(t)
	chain, err := ca.IssueNode(csr, "n1", now, 0)
	if err != nil {
		t.Fatal(err)
	}
	td := spiffeid.RequireTrustDomainFromString("fra-1.mesh.example")
	set := x509bundle.NewSet(x509bundle.FromX509Authorities(td, ca.Bundle().Roots))
	id, _, err := x509svid.ParseAndVerify(chain, set)
	if err != nil || id.String() != "spiffe://fra-1.mesh.example/node/n1" {
		t.Fatalf("%s, %v", id, err)
	}
}

// The CSR asks to be somebody else; the certificate names whom the CA was told.
func TestRequestDoesNotChooseItsName(t *testing.T) {
	ca := newCA(t, "fra-1")
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := url.Parse("spiffe://fra-1.mesh.example/node/leader")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs: []*url.URL{other}, DNSNames: []string{"leader"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.IssueNode(csr, "n1", t0, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCredential(key, chain)
	if err != nil || c.ID.Node != "n1" || len(c.Leaf.URIs) != 1 || len(c.Leaf.DNSNames) != 0 {
		t.Fatalf("%+v, %v", c, err)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	ca := newCA(t, "fra-1")
	good, _ := newCSR(t)
	parsedCSR, err := x509.ParseCertificateRequest(good)
	if err != nil {
		t.Fatal(err)
	}
	stolen := bytes.Clone(good) // somebody else's public key under our signature
	at := bytes.Index(stolen, parsedCSR.RawSubjectPublicKeyInfo)
	mine, _ := newCSR(t)
	parsedMine, err := x509.ParseCertificateRequest(mine)
	if err != nil {
		t.Fatal(err)
	}
	copy(stolen[at:], parsedMine.RawSubjectPublicKeyInfo)
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weakCSR, err := NewCSR(weak)
	if err != nil {
		t.Fatal(err)
	}
	for name, csr := range map[string][]byte{
		"a stolen public key": stolen, "another curve": weakCSR, "garbage": []byte("hello"), "nothing": nil, "too large": make([]byte, MaxCSR+1),
	} {
		if _, err := ca.IssueNode(csr, "n1", t0, 0); err == nil {
			t.Errorf("%s: certified as a node", name)
		}
		if _, err := ca.IssueServing(csr, []string{"localhost"}, t0, 0); err == nil {
			t.Errorf("%s: certified as a listener", name)
		}
	}
	for _, name := range []placement.NodeID{"", "N1", "a/b", "..", "n1.x", "n1?x"} {
		if _, err := ca.IssueNode(good, name, t0, 0); err == nil {
			t.Errorf("%q was certified", name)
		}
	}
	if _, err := ca.IssueNode(good, "n1", t0, -time.Second); err == nil {
		t.Error("a negative lifetime was certified")
	}
	if _, err := ca.IssueNode(good, "n1", t0.Add(IssuingLife), 0); err == nil {
		t.Error("an expired issuing CA certified")
	}
	for _, hosts := range [][]string{nil, {"spiffe://fra-1.mesh.example/node/n1"}, {"*.example"}, {"a b"}, {""}} {
		if _, err := ca.IssueServing(good, hosts, t0, 0); err == nil {
			t.Errorf("listener certified for %q", hosts)
		}
	}
}

func TestIssuingCertificateRotatesAtHalfLife(t *testing.T) {
	ca := newCA(t, "fra-1")
	if same, rotated, err := ca.RotateIssuing(t0.Add(14 * 24 * time.Hour)); err != nil || rotated || same != ca {
		t.Fatalf("before half-life: %v, %v", rotated, err)
	}
	later := t0.Add(16 * 24 * time.Hour)
	next, rotated, err := ca.RotateIssuing(later)
	if err != nil || !rotated || next.issuing.cert.Equal(ca.issuing.cert) || !next.issuing.cert.NotAfter.Equal(later.Add(IssuingLife)) {
		t.Fatalf("after half-life: %v, %v", rotated, err)
	}
	m := newMesh(t)
	m.bundles.Set(ca.Bundle())
	m.at(later)
	csr, c := newCSR(t)
	for _, by := range []*CA{ca, next} { // both issue what the unchanged bundle proves
		chain, err := by.IssueNode(csr, "n1", later, 0)
		if err != nil {
			t.Fatal(err)
		}
		cred, err := NewCredential(c.Key, chain)
		if err != nil {
			t.Fatal(err)
		}
		if _, refused := m.verifier.verifyChain(parsed(t, cred), x509.ExtKeyUsageClientAuth, later); refused != nil {
			t.Error(refused)
		}
	}
	if chain, err := ca.IssueNode(csr, "n1", t0.Add(IssuingLife-time.Hour), 0); err != nil {
		t.Error(err)
	} else if leaf, err := x509.ParseCertificate(chain[0]); err != nil || leaf.NotAfter.After(ca.issuing.cert.NotAfter) {
		t.Errorf("a node certificate outlives its CA: %v", err)
	}
}

func TestFilesRoundTrip(t *testing.T) {
	ca := newCA(t, "fra-1")
	data, err := ca.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseCA(data)
	if err != nil || again.TrustDomain() != ca.TrustDomain() || again.Bundle().Fingerprint() != ca.Bundle().Fingerprint() {
		t.Fatalf("CA: %v", err)
	}
	node(t, again, "n1")
	cred := node(t, ca, "n1")
	if data, err = cred.Marshal(); err != nil {
		t.Fatal(err)
	}
	if c, err := ParseCredential(data); err != nil || c.ID != cred.ID || len(c.Chain) != 2 {
		t.Fatalf("credential: %v", err)
	}
	s := serving(t, ca, "localhost", "127.0.0.1")
	if data, err = s.Marshal(); err != nil {
		t.Fatal(err)
	}
	if back, err := ParseServing(data); err != nil || len(back.Chain) != 2 {
		t.Fatalf("serving: %v", err)
	}
	if _, err := ParseCredential(data); err == nil {
		t.Error("a serving certificate was read as a node's")
	}
}

func TestDamagedFilesAreRefused(t *testing.T) {
	fra, ber := newCA(t, "fra-1"), newCA(t, "ber-1")
	a, err := fra.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	mixed := *fra
	mixed.issuing = ber.issuing
	b, err := mixed.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	mixed = *fra
	mixed.serving = ber.serving
	c, err := mixed.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	mixed = *fra
	mixed.root.key = ber.root.key
	d, err := mixed.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty": nil, "cut short": a[:len(a)-40], "another issuing CA": b, "another serving root": c, "another key": d,
		"too large": bytes.Repeat([]byte("\n"), maxFile+1), "text": []byte("hello"),
		"another version": bytes.Replace(a, []byte("Version: 1"), []byte("Version: 2"), 1),
		"doubled":         append(bytes.Clone(a), a...),
	} {
		if _, err := ParseCA(data); err == nil || !strings.Contains(err.Error(), "region CA") {
			t.Errorf("%s: %v", name, err)
		}
	}
	cred := node(t, fra, "n1")
	if _, err := NewCredential(node(t, fra, "n2").Key, cred.Chain); err == nil {
		t.Error("a credential with another key was accepted")
	}
}
