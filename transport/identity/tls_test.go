package identity

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

func TestPeersOfBothRegionsAreBelieved(t *testing.T) {
	m := newMesh(t)
	n1, n2, far := node(t, m.fra, "n1"), node(t, m.fra, "n2"), node(t, m.ber, "n1")
	for _, class := range Classes() {
		cs, serverErr, clientErr := shake(t, m.verifier.ServerConfig(NewSource(n1), Classes()...),
			m.verifier.ClientConfig(NewSource(n2), class, ID{Region: "fra-1", Node: "n1"}))
		if serverErr != nil || clientErr != nil {
			t.Fatalf("%s at home: server %v, client %v", class, serverErr, clientErr)
		}
		if id, err := PeerID(cs); err != nil || id != n1.ID {
			t.Fatalf("PeerID = %v, %v", id, err)
		}
	}
	for _, class := range []Class{ClassHTTP, ClassInfer} {
		_, serverErr, clientErr := shake(t, m.verifier.ServerConfig(NewSource(n1), Classes()...),
			m.verifier.ClientConfig(NewSource(far), class, ID{Region: "fra-1"}))
		if serverErr != nil || clientErr != nil {
			t.Fatalf("%s from afar: server %v, client %v", class, serverErr, clientErr)
		}
	}
}

// Each attack shows a certificate that must be refused, for its own reason, by
// the listening side and, shown by a server, by the dialing side.
func TestForgedCertificatesAreRefused(t *testing.T) {
	m := newMesh(t)
	const self = "spiffe://fra-1.mesh.example/node/n1"
	hostile := unbound(t)
	own := node(t, m.fra, "n1")
	tests := []struct {
		name string
		cred *Credential
		want Reason
	}{
		{"region ber-1 names a node of fra-1", forge(t, m.ber.issuing, self, nil), BadCertificate},
		{"a CA that nobody knows names a node of fra-1", forge(t, hostile, self, nil), BadCertificate},
		{"no SAN at all", forge(t, m.fra.issuing, "", func(c *x509.Certificate) { c.Subject.CommonName = self }), BadCertificate},
		{"two URI SANs", forge(t, m.fra.issuing, self, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0].JoinPath("x")) }), BadCertificate},
		{"an extra DNS SAN", forge(t, m.fra.issuing, self, func(c *x509.Certificate) { c.DNSNames = []string{"fra-1.mesh.example"} }), BadCertificate},
		{"an extra IP SAN", forge(t, m.fra.issuing, self, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }), BadCertificate},
		{"an extra SAN of a kind that crypto/x509 ignores", forge(t, m.fra.issuing, "", otherNameSAN(self)), BadCertificate},
		{"a nested domain", forge(t, m.fra.issuing, "spiffe://x.fra-1.mesh.example/node/n1", nil), UnknownTrustDomain},
		{"another mesh", forge(t, hostile, "spiffe://fra-1.other.example/node/n1", nil), UnknownTrustDomain},
		{"a region without a bundle", node(t, newCA(t, "par-1"), "n1"), UnknownTrustDomain},
		{"a port in the URI", forge(t, m.fra.issuing, "spiffe://fra-1.mesh.example:443/node/n1", nil), BadCertificate},
		{"a path that is no node", forge(t, m.fra.issuing, "spiffe://fra-1.mesh.example/user/n1", nil), BadCertificate},
		{"a CA as a leaf", forge(t, m.fra.root, self, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign }), BadCertificate},
		{"not for signatures", forge(t, m.fra.issuing, self, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), BadCertificate},
		{"for e-mail only", forge(t, m.fra.issuing, self, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }), BadCertificate},
		{"expired", forge(t, m.fra.issuing, self, func(c *x509.Certificate) { c.NotAfter = t0.Add(-time.Second) }), Expired},
		{"not yet valid", forge(t, m.fra.issuing, self, func(c *x509.Certificate) { c.NotBefore = t0.Add(time.Minute) }), NotYetValid},
		{"a node certificate used as a CA", forge(t, authority{own.Leaf, mustKey(t, own)}, self, nil), BadCertificate},
		{"a serving certificate", servingAsNode(serving(t, m.fra, "127.0.0.1")), BadCertificate},
		{"the serving root names a node", forge(t, m.fra.serving, self, nil), BadCertificate},
		{"a chain longer than any of ours", longChain(own), BadCertificate},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, serverErr, _ := shake(t, m.verifier.ServerConfig(NewSource(own), Classes()...),
				m.verifier.ClientConfig(NewSource(tt.cred), ClassHTTP, own.ID))
			if got := ReasonOf(serverErr); got != tt.want {
				t.Errorf("listening: %v, want reason %q", serverErr, tt.want)
			}
			_, _, clientErr := shake(t, m.verifier.ServerConfig(NewSource(tt.cred), Classes()...),
				m.verifier.ClientConfig(NewSource(own), ClassHTTP, ID{Region: "fra-1"}))
			if got := ReasonOf(clientErr); got != tt.want {
				t.Errorf("dialing: %v, want reason %q", clientErr, tt.want)
			}
		})
	}
}

func mustKey(t *testing.T, c *Credential) (k *ecdsa.PrivateKey) {
	t.Helper()
	k, ok := c.Key.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("not an ECDSA key")
	}
	return k
}

func servingAsNode(s *Serving) *Credential {
	return &Credential{Key: s.Key, Chain: s.Chain, Leaf: s.Leaf}
}

func longChain(c *Credential) *Credential {
	long := *c
	for range maxChain {
		long.Chain = append(long.Chain[:len(long.Chain):len(long.Chain)], c.Chain[1])
	}
	return &long
}

// otherNameSAN writes a URI and an otherName, which crypto/x509 passes over.
func otherNameSAN(uri string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		value, err := asn1.Marshal([]asn1.RawValue{
			{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)},
			{Class: asn1.ClassContextSpecific, Tag: 8, Bytes: []byte{0x2a, 0x03}}, // registeredID 1.2.3
		})
		if err != nil {
			panic(err)
		}
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: value}}
	}
}

// Were all roots in one pool, a region whose root is not constrained could name
// everybody's nodes. Here such a bundle has already slipped in.
func TestRootsOfRegionsAreNeverPooled(t *testing.T) {
	m := newMesh(t)
	hostile := unbound(t)
	m.bundles.Set(Bundle{TrustDomain: "ber-1.mesh.example", Sequence: 2, Roots: []*x509.Certificate{hostile.cert}})
	forged := forge(t, hostile, "spiffe://fra-1.mesh.example/node/n1", nil)
	own := NewSource(node(t, m.fra, "n1"))
	_, err, _ := shake(t, m.verifier.ServerConfig(own, ClassHTTP), m.verifier.ClientConfig(NewSource(forged), ClassHTTP, own.Current().ID))
	if ReasonOf(err) != BadCertificate {
		t.Fatalf("a forged node of fra-1 got %v", err)
	}
}

// misfiled answers every question with the bundle of one region.
type misfiled struct{ one Bundle }

func (m misfiled) Bundle(string) (Bundle, bool) { return m.one, true }

func TestBundleSpeaksForItsOneTrustDomainOnly(t *testing.T) {
	m := newMesh(t)
	hostile := unbound(t)
	m.verifier.Bundles = misfiled{Bundle{TrustDomain: "ber-1.mesh.example", Roots: []*x509.Certificate{hostile.cert}}}
	forged := forge(t, hostile, "spiffe://fra-1.mesh.example/node/n1", nil)
	if _, err := m.verifier.verifyChain(parsed(t, forged), x509.ExtKeyUsageClientAuth, t0); err == nil || err.Reason != UnknownTrustDomain {
		t.Fatalf("got %v", err)
	}
}

func parsed(t *testing.T, c *Credential) (chain []*x509.Certificate) {
	t.Helper()
	for _, der := range c.Chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, cert)
	}
	return chain
}

// A mesh is closed: even a bundle that was filed lets nobody of another mesh in.
func TestAnotherMeshIsUnknown(t *testing.T) {
	m := newMesh(t)
	other, err := NewCA("fra-1", "other.example", t0)
	if err != nil {
		t.Fatal(err)
	}
	m.bundles.Set(other.Bundle())
	if _, err := m.verifier.verifyChain(parsed(t, node(t, other, "n1")), x509.ExtKeyUsageClientAuth, t0); err == nil || err.Reason != UnknownTrustDomain {
		t.Fatalf("got %v", err)
	}
	m.bundles.Remove("ber-1.mesh.example")
	if _, err := m.verifier.verifyChain(parsed(t, node(t, m.ber, "n1")), x509.ExtKeyUsageClientAuth, t0); err == nil || err.Reason != UnknownTrustDomain {
		t.Fatalf("a region that left: %v", err)
	}
}

// The name constraint is the second lock: even in one pool, the root of ber-1
// cannot name a node of fra-1, nor can an issuing CA below it be widened.
func TestRootIsConstrainedToItsTrustDomain(t *testing.T) {
	m := newMesh(t)
	forged := parsed(t, forge(t, m.ber.issuing, "spiffe://fra-1.mesh.example/node/n1", nil))
	opts := x509.VerifyOptions{Roots: pool([]*x509.Certificate{m.fra.root.cert, m.ber.root.cert}),
		Intermediates: pool(forged[1:]), CurrentTime: t0, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := forged[0].Verify(opts); err == nil {
		t.Fatal("the root of ber-1 named a node of fra-1")
	}
	below, err := newIssuing(m.ber.issuing, m.ber.TrustDomain(), t0)
	if err != nil {
		t.Fatal(err)
	}
	deep := parsed(t, forge(t, below, "spiffe://ber-1.mesh.example/node/n1", nil))
	opts.Intermediates = pool([]*x509.Certificate{below.cert, m.ber.issuing.cert})
	if _, err := deep[0].Verify(opts); err == nil {
		t.Fatal("an issuing CA made a CA below itself")
	}
}

func TestClassesOfTheHomeRegion(t *testing.T) {
	m := newMesh(t)
	n1, worker, far := node(t, m.fra, "n1"), node(t, m.fra, "worker"), node(t, m.ber, "n1")
	home := func(n placement.NodeID) ID { return ID{Region: "fra-1", Node: n} }
	tests := []struct {
		name           string
		server, client *Credential
		class          Class
		expect         ID
		listening      Reason // what the server says; empty when it believes
		dialing        Reason // what the client says
	}{
		{"raft from afar", n1, far, ClassRaft, home("n1"), ForeignRegion, ""},
		{"gossip from afar", n1, far, ClassGossip, home("n1"), ForeignRegion, ""},
		{"raft to afar", far, n1, ClassRaft, ID{Region: "ber-1"}, "", ForeignRegion},
		{"a worker speaks raft", n1, worker, ClassRaft, home("n1"), NotRaftPeer, ""},
		{"raft to a worker", worker, n1, ClassRaft, home("worker"), "", NotRaftPeer},
		{"a worker gossips", n1, worker, ClassGossip, home("n1"), "", ""},
		{"another node answers", worker, n1, ClassHTTP, home("n1"), "", WrongPeer},
		{"another region answers", far, n1, ClassHTTP, home("n1"), "", WrongPeer},
		{"another region answers, any node expected", far, n1, ClassHTTP, home(""), "", WrongPeer},
		{"nobody is expected", n1, worker, ClassHTTP, ID{}, "", WrongPeer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, serverErr, clientErr := shake(t, m.verifier.ServerConfig(NewSource(tt.server), Classes()...),
				m.verifier.ClientConfig(NewSource(tt.client), tt.class, tt.expect))
			if ReasonOf(clientErr) != tt.dialing || (tt.dialing == "" && ReasonOf(serverErr) != tt.listening) {
				t.Errorf("listening %v, want %q; dialing %v, want %q", serverErr, tt.listening, clientErr, tt.dialing)
			}
			if (tt.listening != "" || tt.dialing != "") && clientErr == nil {
				t.Error("the client was served")
			}
		})
	}
	m.verifier.RaftPeer = nil
	_, err, _ := shake(t, m.verifier.ServerConfig(NewSource(n1), ClassRaft), m.verifier.ClientConfig(NewSource(n1), ClassRaft, n1.ID))
	if err == nil {
		t.Error("raft was spoken though nobody says who may")
	}
}

// Without an ALPN, crypto/tls over TCP goes on; the classes would be void.
func TestConnectionWithoutClassIsRefused(t *testing.T) {
	m := newMesh(t)
	n1 := NewSource(node(t, m.fra, "n1"))
	for _, protos := range [][]string{nil, {"h2"}, {"sovmesh-raft/1"}} {
		client := m.verifier.ClientConfig(n1, ClassHTTP, n1.Current().ID)
		client.NextProtos, client.VerifyConnection = protos, nil
		if _, serverErr, clientErr := shake(t, m.verifier.ServerConfig(n1, ClassHTTP, ClassInfer), client); serverErr == nil || clientErr == nil {
			t.Errorf("ALPN %v: served", protos)
		}
	}
	cs := tls.ConnectionState{PeerCertificates: parsed(t, n1.Current())}
	if err := m.verifier.VerifyConnection(nil)(cs); ReasonOf(err) != UnknownClass {
		t.Errorf("no class: %v", err)
	}
}

func TestOlderTLSAndNoCertificateAreRefused(t *testing.T) {
	m := newMesh(t)
	n1 := NewSource(node(t, m.fra, "n1"))
	old := m.verifier.ClientConfig(n1, ClassHTTP, n1.Current().ID)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	anonymous := m.verifier.ClientConfig(n1, ClassHTTP, n1.Current().ID)
	anonymous.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	for name, client := range map[string]*tls.Config{"TLS 1.2": old, "no certificate": anonymous} {
		if _, serverErr, clientErr := shake(t, m.verifier.ServerConfig(n1, ClassHTTP), client); serverErr == nil || clientErr == nil {
			t.Errorf("%s: served", name)
		}
	}
	_, _, err := shake(t, m.verifier.ServerConfig(n1, ClassHTTP), m.verifier.ClientConfig(NewSource(nil), ClassHTTP, n1.Current().ID))
	if ReasonOf(err) != NoCredential {
		t.Errorf("a node that has not joined: %v", err)
	}
}

func TestRevokedPeerIsRefused(t *testing.T) {
	m := newMesh(t)
	n1, n2 := node(t, m.fra, "n1"), node(t, m.fra, "n2")
	server, client := m.verifier.ServerConfig(NewSource(n1), Classes()...), m.verifier.ClientConfig(NewSource(n2), ClassHTTP, n1.ID)
	cs, _, err := shake(t, server, client)
	if err != nil {
		t.Fatal(err)
	}
	m.revoked.Store(&n2.ID)
	if _, serverErr, clientErr := shake(t, server, client); ReasonOf(serverErr) != Revoked || clientErr == nil {
		t.Errorf("revoked client: server %v, client %v", serverErr, clientErr)
	}
	m.revoked.Store(&n1.ID)
	if _, _, clientErr := shake(t, server, client); ReasonOf(clientErr) != Revoked {
		t.Errorf("revoked server: %v", clientErr)
	}
	if err := m.verifier.VerifyConnection(&n1.ID)(cs); ReasonOf(err) != Revoked {
		t.Errorf("open connection, checked again: %v", err)
	}
}

// A resumed session skips VerifyPeerCertificate. If somebody turns tickets on,
// the check still happens; as delivered, no session is resumed at all.
func TestResumedSessionIsVerified(t *testing.T) {
	m := newMesh(t)
	n1, n2 := node(t, m.fra, "n1"), node(t, m.fra, "n2")
	server := m.verifier.ServerConfig(NewSource(n1), Classes()...)
	client := m.verifier.ClientConfig(NewSource(n2), ClassHTTP, n1.ID)
	client.ClientSessionCache, client.ServerName = tls.NewLRUClientSessionCache(4), "n1"
	for range 2 {
		cs, _, err := shake(t, server, client)
		if err != nil || cs.DidResume {
			t.Fatalf("as delivered: resumed %v, %v", cs.DidResume, err)
		}
	}
	server.SessionTicketsDisabled = false
	var cs tls.ConnectionState
	for range 2 {
		var err error
		if cs, _, err = shake(t, server, client); err != nil {
			t.Fatal(err)
		}
	}
	if !cs.DidResume {
		t.Fatal("the session was not resumed, so this test shows nothing")
	}
	m.revoked.Store(&n2.ID)
	if _, serverErr, clientErr := shake(t, server, client); ReasonOf(serverErr) != Revoked || clientErr == nil {
		t.Errorf("resumed by a revoked client: server %v, client %v", serverErr, clientErr)
	}
}

func TestCredentialIsSwappedWhileRunning(t *testing.T) {
	m := newMesh(t)
	first := node(t, m.fra, "n1")
	src := NewSource(first)
	server := m.verifier.ServerConfig(src, Classes()...)
	client := m.verifier.ClientConfig(NewSource(node(t, m.fra, "n2")), ClassHTTP, first.ID)
	serial := func() *big.Int {
		cs, _, err := shake(t, server, client)
		if err != nil {
			t.Fatal(err)
		}
		return cs.PeerCertificates[0].SerialNumber
	}
	before := serial()
	if err := src.Swap(node(t, m.fra, "n1")); err != nil {
		t.Fatal(err)
	}
	if serial().Cmp(before) == 0 {
		t.Error("the old certificate is still shown")
	}
	if err := src.Swap(node(t, m.fra, "n2")); err == nil {
		t.Error("a node became another")
	}
}
