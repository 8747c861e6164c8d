package identity

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync"
)

// Bundle is what a region gives its peers to believe its nodes by: the roots of
// its one trust domain, and the serving roots of its app listeners. It holds no
// secret. Treat it as immutable.
type Bundle struct {
	TrustDomain  string
	Sequence     uint64
	Roots        []*x509.Certificate
	ServingRoots []*x509.Certificate
}

const maxRoots = 8

// Bundles finds the bundle that was accepted for a trust domain.
type Bundles interface {
	Bundle(trustDomain string) (Bundle, bool)
}

// MapBundles is a set of accepted bundles, by trust domain. The zero value is
// ready to use.
type MapBundles struct {
	mu       sync.RWMutex
	accepted map[string]Bundle // guarded by mu
}

// Set accepts b in the place of any earlier bundle of its trust domain. Whether
// it may is the caller's: a peer's bundle changes only with a new approval.
func (m *MapBundles) Set(b Bundle) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.accepted == nil {
		m.accepted = make(map[string]Bundle)
	}
	m.accepted[b.TrustDomain] = b
}

// Remove stops believing a trust domain.
func (m *MapBundles) Remove(trustDomain string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.accepted, trustDomain)
}

// Bundle implements [Bundles].
func (m *MapBundles) Bundle(trustDomain string) (Bundle, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	b, ok := m.accepted[trustDomain]
	return b, ok
}

// All are the accepted bundles, in the order of their trust domains.
func (m *MapBundles) All() []Bundle {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := slices.Collect(maps.Values(m.accepted))
	slices.SortFunc(out, func(a, b Bundle) int { return cmp.Compare(a.TrustDomain, b.TrustDomain) })
	return out
}

// Validate reports whether the bundle is complete and every certificate in it
// belongs to its one trust domain.
func (b Bundle) Validate() error {
	if _, _, err := SplitTrustDomain(b.TrustDomain); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	if len(b.Roots) == 0 || len(b.Roots) > maxRoots || len(b.ServingRoots) > maxRoots {
		return fmt.Errorf("bundle of %s: needs 1 to %d roots and at most as many serving roots", b.TrustDomain, maxRoots)
	}
	for _, c := range b.Roots {
		td, err := rootTrustDomain(c)
		if err != nil {
			return fmt.Errorf("bundle of %s: %w", b.TrustDomain, err)
		}
		if td != b.TrustDomain {
			return fmt.Errorf("bundle of %s: holds a root of %s", b.TrustDomain, td)
		}
	}
	for _, c := range b.ServingRoots {
		if err := checkServingRoot(c, b.TrustDomain); err != nil {
			return fmt.Errorf("bundle of %s: %w", b.TrustDomain, err)
		}
	}
	return nil
}

// rootTrustDomain is the trust domain that a root names in its URI SAN and is
// constrained to. A root that could speak for anything else is refused.
func rootTrustDomain(c *x509.Certificate) (string, error) {
	if err := checkSelfSigned(c); err != nil {
		return "", err
	}
	u, err := onlyURI(c)
	if err != nil {
		return "", fmt.Errorf("root: %w", err)
	}
	if *u != (url.URL{Scheme: "spiffe", Host: u.Host}) {
		return "", fmt.Errorf("root: its URI %q is no trust domain", u)
	}
	if _, _, err := SplitTrustDomain(u.Host); err != nil {
		return "", fmt.Errorf("root: %w", err)
	}
	if !c.PermittedDNSDomainsCritical || !slices.Equal(c.PermittedURIDomains, []string{u.Host}) {
		return "", fmt.Errorf("root of %s: it must be constrained to that trust domain, critically", u.Host)
	}
	return u.Host, nil
}

func checkServingRoot(c *x509.Certificate, td string) error {
	if err := checkSelfSigned(c); err != nil {
		return err
	}
	if len(c.URIs) != 0 || c.Subject.CommonName != servingName || !slices.Equal(c.Subject.Organization, []string{td}) {
		return fmt.Errorf("serving root: it is not one of %s", td)
	}
	if !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		return errors.New("serving root: it must be for server authentication only")
	}
	return nil
}

func checkSelfSigned(c *x509.Certificate) error {
	if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("root: the certificate is not a CA")
	}
	if pub, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		return errors.New("root: the key is not ECDSA P-256")
	}
	if err := c.CheckSignatureFrom(c); err != nil {
		return fmt.Errorf("root: not self-signed: %w", err)
	}
	return nil
}

// Pin is the SHA-256 of a certificate's public key (SubjectPublicKeyInfo).
type Pin [sha256.Size]byte

// PinOf is the pin of a certificate.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

func pinned(certs []*x509.Certificate, pin Pin) bool {
	return slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return PinOf(c) == pin })
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}
