package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// IssueNode certifies the key in a CSR as the given node and returns the leaf
// and the issuing CA. The CSR proves possession of its key and says nothing
// else: whatever names it asks for, the one URI SAN is set here. A ttl of zero
// means [NodeTTL]; the result never outlives the issuing CA.
func (ca *CA) IssueNode(csrDER []byte, node placement.NodeID, now time.Time, ttl time.Duration) ([][]byte, error) {
	id := ID{Region: ca.region, Mesh: ca.mesh, Node: node}
	if err := id.Validate(); err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		URIs:        []*url.URL{id.URI()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leaf, err := issue(ca.issuing, tmpl, csrDER, now, ttl, NodeTTL)
	if err != nil {
		return nil, fmt.Errorf("certify %s: %w", id, err)
	}
	return [][]byte{leaf.Raw, ca.issuing.cert.Raw}, nil
}

// IssueServing certifies the key in a CSR for the app listener at the given
// DNS names and IP addresses, and returns the leaf and the serving root. The
// root is part of the chain because a joiner knows only the root's pin.
func (ca *CA) IssueServing(csrDER []byte, hosts []string, now time.Time, ttl time.Duration) ([][]byte, error) {
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{Organization: []string{ca.TrustDomain()}, CommonName: "sovmesh app listener"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if len(hosts) == 0 || len(hosts) > 64 {
		return nil, fmt.Errorf("a serving certificate needs 1 to 64 host names or IP addresses, not %d", len(hosts))
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else if validHost(h) {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		} else {
			return nil, fmt.Errorf("%.80q is neither a DNS name nor an IP address", h)
		}
	}
	leaf, err := issue(ca.serving, tmpl, csrDER, now, ttl, ServingTTL)
	if err != nil {
		return nil, fmt.Errorf("certify the app listener %s: %w", strings.Join(hosts, ","), err)
	}
	return [][]byte{leaf.Raw, ca.serving.cert.Raw}, nil
}

func validHost(h string) bool {
	if len(h) > 253 {
		return false
	}
	for _, l := range strings.Split(strings.ToLower(h), ".") {
		if !placement.ValidName(l) {
			return false
		}
	}
	return true
}

func issue(by authority, tmpl *x509.Certificate, csrDER []byte, now time.Time, ttl, ttlDefault time.Duration) (*x509.Certificate, error) {
	pub, err := provenKey(csrDER)
	if err != nil {
		return nil, err
	}
	if ttl == 0 {
		ttl = ttlDefault
	}
	if ttl < 0 || ttl > MaxTTL {
		return nil, fmt.Errorf("a lifetime of %s is outside 0 to %s", ttl, MaxTTL)
	}
	if now.Before(by.cert.NotBefore) || !now.Before(by.cert.NotAfter) {
		return nil, fmt.Errorf("the signing CA is valid from %s to %s only; rotate it, or set the clock right",
			by.cert.NotBefore.Format(time.RFC3339), by.cert.NotAfter.Format(time.RFC3339))
	}
	tmpl.NotBefore, tmpl.NotAfter = now.Add(-Backdate), now.Add(ttl)
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.BasicConstraintsValid = true
	clampEnd(tmpl, by.cert)
	return sign(tmpl, by.cert, pub, by.key)
}

// MaxCSR bounds the bytes of a certificate request.
const MaxCSR = 8 << 10

// provenKey returns the public key of a CSR whose sender holds the private key.
func provenKey(csrDER []byte) (*ecdsa.PublicKey, error) {
	if len(csrDER) > MaxCSR {
		return nil, fmt.Errorf("a certificate request of %d bytes is larger than %d", len(csrDER), MaxCSR)
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("read certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request does not prove possession of its key: %w", err)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("certificate request holds a key that is not ECDSA P-256")
	}
	return pub, nil
}

// NewCSR asks for a certificate for the key. It names nobody: the CA decides.
func NewCSR(key crypto.Signer) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}
