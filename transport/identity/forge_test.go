package identity

import (
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"testing"
	"time"
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
