package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/url"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Class is a traffic class: the ALPN of one kind of QUIC connection.
type Class string

const (
	ClassRaft   Class = "sovmesh-raft/1"
	ClassGossip Class = "sovmesh-gossip/1"
	ClassHTTP   Class = "h3"
	ClassInfer  Class = "sovmesh-infer/1"
)

// Classes lists every class.
func Classes() []Class { return []Class{ClassRaft, ClassGossip, ClassHTTP, ClassInfer} }

// HomeOnly reports whether the class takes certificates of the home region only.
func (c Class) HomeOnly() bool { return c == ClassRaft || c == ClassGossip }

// Verifier decides whether a peer is believed. Its fields are set once and its
// functions are safe for concurrent use when theirs are. What is missing
// refuses: without Bundles nobody is known, without RaftPeer nobody speaks raft.
type Verifier struct {
	Home    placement.RegionID
	Mesh    string
	Bundles Bundles

	// Revoked reports whether a certificate was withdrawn; nil means none was.
	Revoked func(id ID, serial *big.Int) bool

	// Since is the beginning before which a certificate of the node does not
	// count: a name that was given again does not revive what its former holder
	// has. The zero time refuses none; nil means that no node has one.
	Since func(id ID, serial *big.Int) time.Time

	// RaftPeer reports whether a node of the home region is a voter or standby
	// now, or may become one: it is asked for both ends of a raft connection,
	// so a node that just joined answers yes for the voters it joined by.
	RaftPeer func(id ID) bool

	// Refused, if set, is given every chain that was not acceptable, leaf first,
	// and why, while its handshake waits. Whoever reaches the port can have it
	// called: it has to bound what it does.
	Refused func(chain []*x509.Certificate, why *RefusedError)

	// Clock is the time of a handshake; nil means time.Now.
	Clock func() time.Time
}

func (v *Verifier) now() time.Time {
	if v.Clock != nil {
		return v.Clock()
	}
	return time.Now()
}

// VerifyConnection makes the check for one side of a connection. The listening
// side passes nil. The dialing side passes whom it expects; an empty Node there
// means any node of that region, an empty Mesh the verifier's own.
//
// The function may be called again on the state of an open connection, to learn
// whether its peer is still believed.
func (v *Verifier) VerifyConnection(expect *ID) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		if err := v.verify(cs, expect); err != nil {
			return err
		}
		return nil
	}
}

func (v *Verifier) verify(cs tls.ConnectionState, expect *ID) *RefusedError {
	usage := x509.ExtKeyUsageClientAuth
	if expect != nil {
		usage = x509.ExtKeyUsageServerAuth
	}
	id, err := v.verifyChain(cs.PeerCertificates, usage, v.now())
	if err != nil {
		if v.Refused != nil && err.Reason == BadCertificate && len(cs.PeerCertificates) > 0 {
			v.Refused(cs.PeerCertificates, err)
		}
		return err
	}
	class := Class(cs.NegotiatedProtocol)
	if !slices.Contains(Classes(), class) {
		return refuse(UnknownClass, id.String(), "negotiated %.40q", cs.NegotiatedProtocol)
	}
	if class.HomeOnly() && id.Region != v.Home {
		return refuse(ForeignRegion, id.String(), "%s is for nodes of %s", class, v.Home)
	}
	if class == ClassRaft && (v.RaftPeer == nil || !v.RaftPeer(id)) {
		return refuse(NotRaftPeer, id.String(), "it may not use %s", class)
	}
	if expect != nil && !v.expected(*expect, id) {
		return refuse(WrongPeer, id.String(), "expected %s", describe(*expect))
	}
	return nil
}

func (v *Verifier) expected(want, got ID) bool {
	if want.Mesh == "" {
		want.Mesh = v.Mesh
	}
	return want.Region == got.Region && want.Mesh == got.Mesh && (want.Node == "" || want.Node == got.Node)
}

func describe(id ID) string {
	if id.Node == "" {
		return "any node of region " + string(id.Region)
	}
	return "node " + string(id.Node) + " of region " + string(id.Region)
}

// verifyChain believes a chain, leaf first, only through the bundle of the
// trust domain that its leaf claims.
func (v *Verifier) verifyChain(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (ID, *RefusedError) {
	if len(chain) == 0 || len(chain) > maxChain {
		return ID{}, refuse(BadCertificate, "", "a chain has 1 to %d certificates, not %d", maxChain, len(chain))
	}
	leaf := chain[0]
	id, err := leafID(leaf)
	if err != nil {
		return ID{}, &RefusedError{Reason: BadCertificate, Err: err}
	}
	td := id.TrustDomain()
	if id.Mesh != v.Mesh || v.Bundles == nil {
		return ID{}, refuse(UnknownTrustDomain, id.String(), "%s is not of mesh %s", td, v.Mesh)
	}
	bundle, ok := v.Bundles.Bundle(td)
	if !ok || bundle.TrustDomain != td {
		return ID{}, refuse(UnknownTrustDomain, id.String(), "no bundle of %s is held", td)
	}
	if now.Before(leaf.NotBefore) {
		return ID{}, refuse(NotYetValid, id.String(), "valid from %s, and it is %s", stamp(leaf.NotBefore), stamp(now))
	}
	if now.After(leaf.NotAfter) {
		return ID{}, refuse(Expired, id.String(), "valid until %s, and it is %s", stamp(leaf.NotAfter), stamp(now))
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots:         pool(bundle.Roots),
		Intermediates: pool(chain[1:]),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return ID{}, &RefusedError{Reason: BadCertificate, Peer: id.String(), Err: err}
	}
	if v.Revoked != nil && v.Revoked(id, leaf.SerialNumber) {
		return ID{}, refuse(Revoked, id.String(), "serial %x", leaf.SerialNumber)
	}
	if v.Since != nil {
		if since := v.Since(id, leaf.SerialNumber); leaf.NotBefore.Before(since) {
			return ID{}, refuse(Revoked, id.String(), "it was issued before %s, when the node joined", stamp(since))
		}
	}
	return id, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// leafID is the ID in a node certificate, with everything that can be checked
// of the certificate alone (X509-SVID section 5.2, and no SAN but the one URI).
func leafID(leaf *x509.Certificate) (ID, error) {
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return ID{}, errors.New("the certificate is that of a CA, not of a node")
	}
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return ID{}, errors.New("the certificate is not for digital signatures")
	}
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		return ID{}, errors.New("the certificate's key is not ECDSA P-256")
	}
	u, err := onlyURI(leaf)
	if err != nil {
		return ID{}, err
	}
	return ParseIDURI(u)
}

// onlyURI returns the one URI SAN of a certificate that has no other SAN of any
// kind. The raw extension is counted, because crypto/x509 passes over the kinds
// it does not know, and a certificate without SANs passes every name constraint.
func onlyURI(c *x509.Certificate) (*url.URL, error) {
	oidSAN := asn1.ObjectIdentifier{2, 5, 29, 17}
	names := 0
	for _, ext := range c.Extensions {
		if !ext.Id.Equal(oidSAN) {
			continue
		}
		var raw []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &raw); err != nil || len(rest) != 0 {
			return nil, errors.New("its subject alternative names cannot be read")
		}
		names += len(raw)
	}
	if names != 1 || len(c.URIs) != 1 {
		return nil, errors.New("it must carry exactly one subject alternative name, a SPIFFE ID")
	}
	return c.URIs[0], nil
}

// PeerID is who is at the other end of a connection that VerifyConnection let
// through. It reads the certificate and does not verify it again.
func PeerID(cs tls.ConnectionState) (ID, error) {
	if len(cs.PeerCertificates) == 0 {
		return ID{}, errors.New("the peer showed no certificate")
	}
	return leafID(cs.PeerCertificates[0])
}
