package identity

import (
	"crypto/tls"
	"math/big"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

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

// A name that was given again does not revive the certificates that its former
// holder has.
func TestACertificateOlderThanItsNodeIsRefused(t *testing.T) {
	m := newMesh(t)
	n1, n2 := node(t, m.fra, "n1"), node(t, m.fra, "n2")
	server, client := m.verifier.ServerConfig(NewSource(n1), Classes()...), m.verifier.ClientConfig(NewSource(n2), ClassHTTP, n1.ID)
	for _, tc := range []struct {
		joined time.Time
		reason Reason
	}{{n2.Leaf.NotBefore, ""}, {n2.Leaf.NotBefore.Add(time.Second), Revoked}, {time.Time{}, ""}} {
		m.verifier.Since = func(id ID, _ *big.Int) time.Time {
			if id == n2.ID {
				return tc.joined
			}
			return time.Time{}
		}
		if _, err, _ := shake(t, server, client); ReasonOf(err) != tc.reason {
			t.Errorf("joined at %s: %v", tc.joined, err)
		}
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
