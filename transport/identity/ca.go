package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/url"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Lifetimes. A certificate begins Backdate before it was asked for, so that a
// peer whose clock is a little behind accepts it.
const (
	RootLife    = 5 * 365 * 24 * time.Hour
	IssuingLife = 30 * 24 * time.Hour
	NodeTTL     = 24 * time.Hour
	ServingTTL  = 24 * time.Hour
	MaxTTL      = 7 * 24 * time.Hour
	Backdate    = 5 * time.Minute
)

// CA is the certificate authority of one region: a name-constrained root, an
// issuing CA below it that signs node certificates, and a serving root of its
// own for the listener that ordinary HTTPS clients use. It holds private keys,
// so it exists on voters only and never enters a command, a snapshot or a leaf.
//
// A CA does not change; the Rotate methods return a new one. Serial numbers are
// random, so voters that hold the same CA need not coordinate.
type CA struct {
	region   placement.RegionID
	mesh     string
	sequence uint64
	root     authority
	issuing  authority
	serving  authority
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewKey makes a P-256 key, the only kind that this mesh certifies.
func NewKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// NewCA makes the CA of a new region.
func NewCA(region placement.RegionID, mesh string, now time.Time) (*CA, error) {
	if !placement.ValidName(string(region)) {
		return nil, fmt.Errorf("region name %.80q: use lower-case letters, digits and inner hyphens, at most 63", region)
	}
	if !ValidMesh(mesh) {
		return nil, fmt.Errorf("mesh name %.80q: use labels of lower-case letters, digits and inner hyphens, joined by dots", mesh)
	}
	ca := &CA{region: region, mesh: mesh, sequence: 1}
	var err error
	if ca.root, err = newRoot(ca.TrustDomain(), now); err != nil {
		return nil, fmt.Errorf("make root of %s: %w", ca.TrustDomain(), err)
	}
	if ca.issuing, err = newIssuing(ca.root, ca.TrustDomain(), now); err != nil {
		return nil, fmt.Errorf("make issuing CA of %s: %w", ca.TrustDomain(), err)
	}
	if ca.serving, err = newServingRoot(ca.TrustDomain(), now); err != nil {
		return nil, fmt.Errorf("make serving root of %s: %w", ca.TrustDomain(), err)
	}
	return ca, nil
}

// newRoot makes a self-signed root that names its trust domain twice: as its
// own URI SAN (X509-SVID section 3.1, a signing certificate's SPIFFE ID has no
// path) and as a critical name constraint on everything below it.
func newRoot(td string, now time.Time) (authority, error) {
	key, err := NewKey()
	if err != nil {
		return authority{}, err
	}
	tmpl := caTemplate(td, "root", now, RootLife)
	tmpl.MaxPathLen = 1
	cert, err := sign(tmpl, tmpl, &key.PublicKey, key)
	return authority{cert, key}, err
}

func newIssuing(root authority, td string, now time.Time) (authority, error) {
	key, err := NewKey()
	if err != nil {
		return authority{}, err
	}
	tmpl := caTemplate(td, "issuing", now, IssuingLife)
	tmpl.MaxPathLenZero = true
	clampEnd(tmpl, root.cert)
	cert, err := sign(tmpl, root.cert, &key.PublicKey, root.key)
	return authority{cert, key}, err
}

func caTemplate(td, what string, now time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		Subject:                     pkix.Name{Organization: []string{td}, CommonName: "sovmesh " + what},
		NotBefore:                   now.Add(-Backdate),
		NotAfter:                    now.Add(life),
		URIs:                        []*url.URL{{Scheme: "spiffe", Host: td}},
		BasicConstraintsValid:       true,
		IsCA:                        true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		PermittedDNSDomainsCritical: true, // makes the whole name-constraints extension critical
		PermittedURIDomains:         []string{td},
	}
}

// newServingRoot makes the root that ordinary HTTPS clients trust. It carries
// no URI and stands in no bundle's Roots, so nothing below it is ever a node.
func newServingRoot(td string, now time.Time) (authority, error) {
	key, err := NewKey()
	if err != nil {
		return authority{}, err
	}
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{td}, CommonName: servingName},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(RootLife),
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := sign(tmpl, tmpl, &key.PublicKey, key)
	return authority{cert, key}, err
}

const servingName = "sovmesh serving root"

func sign(tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// clampEnd keeps a certificate from outliving the one that signs it.
func clampEnd(tmpl, parent *x509.Certificate) {
	if tmpl.NotAfter.After(parent.NotAfter) {
		tmpl.NotAfter = parent.NotAfter
	}
}

// TrustDomain is the trust domain this CA speaks for.
func (ca *CA) TrustDomain() string { return TrustDomain(ca.region, ca.mesh) }

// ServingRootPEM is the file called "ca": what an HTTPS client of the app
// listener trusts.
func (ca *CA) ServingRootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.serving.cert.Raw})
}

// Bundle is the public half: what this region's peers trust.
func (ca *CA) Bundle() Bundle {
	return Bundle{
		TrustDomain:  ca.TrustDomain(),
		Sequence:     ca.sequence,
		Roots:        []*x509.Certificate{ca.root.cert},
		ServingRoots: []*x509.Certificate{ca.serving.cert},
	}
}

// RotateIssuing returns a CA with a fresh issuing CA when the present one has
// passed half of its life, and ca itself with false otherwise. Certificates
// already issued stay good: they carry the old issuing CA with them.
func (ca *CA) RotateIssuing(now time.Time) (*CA, bool, error) {
	c := ca.issuing.cert
	if now.Before(halfLife(c)) {
		return ca, false, nil
	}
	next := *ca
	var err error
	if next.issuing, err = newIssuing(ca.root, ca.TrustDomain(), now); err != nil {
		return nil, false, fmt.Errorf("rotate issuing CA of %s: %w", ca.TrustDomain(), err)
	}
	return &next, true, nil
}

func halfLife(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
}
