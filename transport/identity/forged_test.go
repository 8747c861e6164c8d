package identity

import (
	"crypto/x509"
	"testing"
)

// Whose authority forged is known by its signature; what anybody could have
// made, and what only looks wrong, is no forgery.
func TestWhoForgedIsKnown(t *testing.T) {
	m := newMesh(t)
	const self = "spiffe://fra-1.mesh.example/node/n1"
	all := []Bundle{m.fra.Bundle(), m.ber.Bundle()}
	own := node(t, m.fra, "n1")
	sub := forge(t, m.ber.root, self, nil)
	tests := []struct {
		name string
		cred *Credential
		by   string
	}{
		{"the issuing CA of ber-1", forge(t, m.ber.issuing, self, nil), "ber-1"},
		{"the root of ber-1", sub, "ber-1"},
		{"an own node", own, ""},
		{"an own certificate with a wrong name", forge(t, m.fra.issuing, self, func(c *x509.Certificate) { c.DNSNames = []string{"x"} }), ""},
		{"a CA that nobody knows", forge(t, unbound(t), self, nil), ""},
		{"another mesh", forge(t, m.ber.issuing, "spiffe://fra-1.other.example/node/n1", nil), ""},
		{"no node", forge(t, m.ber.issuing, "spiffe://fra-1.mesh.example/user/n1", nil), ""},
		{"a chain longer than any of ours", longChain(forge(t, m.ber.issuing, self, nil)), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			chain := parsed(t, tt.cred)
			f, ok := ForgeryOf(chain, all)
			if ok != (tt.by != "") || ok && (string(f.By) != tt.by || f.Claimed.String() != self) {
				t.Errorf("%+v, %v; want it by %q", f, ok, tt.by)
			}
			if f, ok := ForgeryOf(chain, nil); ok {
				t.Errorf("without bundles: %+v", f)
			}
		})
	}
	if _, ok := ForgeryOf(nil, all); ok {
		t.Error("no chain at all is a forgery")
	}
}

// What was refused for its certificate is handed on, and nothing else.
func TestRefusedChainsAreHandedOn(t *testing.T) {
	m := newMesh(t)
	own := node(t, m.fra, "n1")
	var got []*x509.Certificate
	m.verifier.Refused = func(chain []*x509.Certificate, why *RefusedError) { got = chain }
	show := func(c *Credential) []*x509.Certificate {
		got = nil
		_, _, _ = shake(t, m.verifier.ServerConfig(NewSource(own), Classes()...), m.verifier.ClientConfig(NewSource(c), ClassHTTP, own.ID))
		return got
	}
	forged := forge(t, m.ber.issuing, own.ID.String(), nil)
	if chain := show(forged); len(chain) == 0 || !chain[0].Equal(forged.Leaf) {
		t.Errorf("of a forged one came %d certificates", len(chain))
	}
	if chain := show(node(t, m.fra, "n2")); chain != nil {
		t.Error("a good one was handed on")
	}
	if chain := show(node(t, newCA(t, "par-1"), "n1")); chain != nil {
		t.Error("one of a region that nobody knows was handed on")
	}
}
