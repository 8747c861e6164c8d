package identity

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

var t0 = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

const testMesh = "mesh.example"

func newCA(t testing.TB, region placement.RegionID) *CA {
	t.Helper()
	ca, err := NewCA(region, testMesh, t0)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newCSR(t testing.TB) (csr []byte, cred *Credential) {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if csr, err = NewCSR(key); err != nil {
		t.Fatal(err)
	}
	return csr, &Credential{Key: key}
}

// node is a proper credential of the region of ca, issued at t0.
func node(t testing.TB, ca *CA, name placement.NodeID) *Credential {
	t.Helper()
	csr, c := newCSR(t)
	chain, err := ca.IssueNode(csr, name, t0, 0)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := NewCredential(c.Key, chain)
	if err != nil {
		t.Fatal(err)
	}
	return cred
}

func serving(t testing.TB, ca *CA, hosts ...string) *Serving {
	t.Helper()
	csr, c := newCSR(t)
	chain, err := ca.IssueServing(csr, hosts, t0, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServing(c.Key, chain)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// forge signs whatever change makes of a proper node certificate for uri. It is
// the CA of a region that does not follow the rules.
func forge(t testing.TB, by authority, uri string, change func(*x509.Certificate)) *Credential {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		NotBefore:             t0.Add(-Backdate),
		NotAfter:              t0.Add(NodeTTL),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.URIs = []*url.URL{u}
	}
	if change != nil {
		change(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Credential{Key: key, Leaf: leaf, Chain: [][]byte{der, by.cert.Raw}}
}

// unbound is a root without any name constraint, such as a hostile region would
// like to have.
func unbound(t testing.TB) authority {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := caTemplate("hostile", "root", t0, RootLife)
	tmpl.PermittedURIDomains, tmpl.PermittedDNSDomainsCritical, tmpl.URIs = nil, false, nil
	cert, err := sign(tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

// mesh is two federated regions, seen by the verifier of the first.
type mesh struct {
	fra, ber *CA
	bundles  MapBundles
	verifier *Verifier
	clock    atomic.Int64
	revoked  atomic.Pointer[ID]
}

func newMesh(t testing.TB) *mesh {
	t.Helper()
	m := &mesh{fra: newCA(t, "fra-1"), ber: newCA(t, "ber-1")}
	m.bundles.Set(m.fra.Bundle())
	m.bundles.Set(m.ber.Bundle())
	m.at(t0)
	m.verifier = &Verifier{
		Home: "fra-1", Mesh: testMesh, Bundles: &m.bundles,
		Revoked: func(id ID, serial *big.Int) bool {
			r := m.revoked.Load()
			return r != nil && *r == id && serial != nil
		},
		RaftPeer: func(id ID) bool { return id.Region == "fra-1" && id.Node != "worker" },
		Clock:    func() time.Time { return time.Unix(m.clock.Load(), 0) },
	}
	return m
}

func (m *mesh) at(now time.Time) { m.clock.Store(now.Unix()) }

// connected is a pair of ends with buffers between them: over net.Pipe, two
// sides that write at once, as on a resumed session, wait for each other.
func connected(t testing.TB) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return server, client
}

// shake makes a TLS connection and exchanges one byte of answer, so
// that the server's verdict reaches the client.
func shake(t testing.TB, server, client *tls.Config) (cs tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	a, b := connected(t)
	_ = a.SetDeadline(time.Now().Add(20 * time.Second))
	_ = b.SetDeadline(time.Now().Add(20 * time.Second))
	s, c := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() {
		defer a.Close()
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		done <- err
	}()
	if clientErr = c.Handshake(); clientErr == nil {
		_, clientErr = io.ReadFull(c, make([]byte, 1))
	}
	cs = c.ConnectionState()
	_ = b.Close()
	return cs, <-done, clientErr
}
