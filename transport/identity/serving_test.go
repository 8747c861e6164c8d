package identity

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
)

func servingConfig(s *Serving) *tls.Config {
	var src ServingSource
	src.Swap(s)
	return ServingConfig(&src)
}

func TestAppListenerServesOrdinaryClients(t *testing.T) {
	m := newMesh(t)
	server := servingConfig(serving(t, m.fra, "app.example", "127.0.0.1"))
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(m.fra.ServingRootPEM()) {
		t.Fatal("the file called ca holds no certificate")
	}
	for _, name := range []string{"app.example", "127.0.0.1"} {
		client := &tls.Config{RootCAs: roots, ServerName: name, Time: m.verifier.Clock}
		if _, _, err := shake(t, server, client); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	held := &tls.Config{RootCAs: pool(m.fra.Bundle().ServingRoots), ServerName: "app.example", Time: m.verifier.Clock}
	if _, _, err := shake(t, server, held); err != nil {
		t.Errorf("with the bundle: %v", err)
	}
	foreign := &tls.Config{RootCAs: pool(m.ber.Bundle().ServingRoots), ServerName: "app.example", Time: m.verifier.Clock}
	if _, _, err := shake(t, server, foreign); err == nil {
		t.Error("the listener of fra-1 was taken for one of ber-1")
	}
	var none ServingSource
	if _, serverErr, _ := shake(t, ServingConfig(&none), held); ReasonOf(serverErr) != NoCredential {
		t.Errorf("no certificate: %v", serverErr)
	}
}

func TestJoinerKnowsTheServerByItsPin(t *testing.T) {
	m := newMesh(t)
	pin := PinOf(m.fra.serving.cert)
	server := servingConfig(serving(t, m.fra, "10.1.2.3"))
	if _, _, err := shake(t, server, ClientConfigPinned(pin, "fra-1.mesh.example", m.verifier.Clock)); err != nil {
		t.Fatal(err)
	}
	// Somebody in between shows the public serving root behind a leaf of its own.
	hostile := unbound(t)
	leaf := forge(t, hostile, "", func(c *x509.Certificate) { c.DNSNames = []string{"10.1.2.3"} })
	grafted := &Serving{Key: leaf.Key, Leaf: leaf.Leaf, Chain: [][]byte{leaf.Chain[0], m.fra.serving.cert.Raw}}
	bare := *serving(t, m.fra, "h")
	bare.Chain = bare.Chain[:1]
	n1 := node(t, m.fra, "n1")
	tests := []struct {
		name string
		s    *Serving
		pin  Pin
		td   string
		want Reason
	}{
		{"another region", serving(t, m.ber, "h"), pin, "fra-1.mesh.example", WrongPeer},
		{"the root of a region under another name", serving(t, m.fra, "h"), pin, "ber-1.mesh.example", BadCertificate},
		{"a leaf of somebody else before the pinned root", grafted, pin, "fra-1.mesh.example", BadCertificate},
		{"no root in the chain", &bare, pin, "fra-1.mesh.example", BadCertificate},
		{"a node certificate", &Serving{Key: n1.Key, Leaf: n1.Leaf, Chain: append(n1.Chain[:2:2], m.fra.root.cert.Raw)}, PinOf(m.fra.root.cert), "fra-1.mesh.example", BadCertificate},
		{"the pin of nothing", serving(t, m.fra, "h"), Pin{}, "fra-1.mesh.example", WrongPeer},
	}
	for _, tt := range tests {
		_, _, err := shake(t, servingConfig(tt.s), ClientConfigPinned(tt.pin, tt.td, m.verifier.Clock))
		if ReasonOf(err) != tt.want {
			t.Errorf("%s: %v, want reason %q", tt.name, err, tt.want)
		}
	}
	m.at(t0.Add(2 * ServingTTL))
	if _, _, err := shake(t, server, ClientConfigPinned(pin, "fra-1.mesh.example", m.verifier.Clock)); ReasonOf(err) != BadCertificate {
		t.Errorf("expired: %v", err)
	}
}
