package identity

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"
)

// ServerConfig is the listening side of the mesh's own port: TLS 1.3, a
// certificate asked of everybody, no session tickets (a resumed session would
// outlive a renewed or revoked certificate), and [Verifier.VerifyConnection] as
// the one check. Give it to a listener without changes.
func (v *Verifier) ServerConfig(src *Source, classes ...Class) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The chain is judged in VerifyConnection, through the one bundle that
		// the peer claims; ClientCAs would be a pool of all regions.
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		NextProtos:             protocols(classes),
		Time:                   v.Clock,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return src.certificate() },
		VerifyConnection:       v.VerifyConnection(nil),
	}
}

// ClientConfig is the dialing side for one class. The server's identity is a
// SPIFFE ID, not a host name, so the usual check is replaced by ours, which also
// compares with whom the caller expects: see [Verifier.VerifyConnection].
//
// A TLS 1.3 or QUIC dial returns before the server has judged our certificate:
// send nothing before its first byte.
func (v *Verifier) ClientConfig(src *Source, class Class, expect ID) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		InsecureSkipVerify:   true, // VerifyConnection decides
		NextProtos:           []string{string(class)},
		Time:                 v.Clock,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return src.certificate() },
		VerifyConnection:     v.VerifyConnection(&expect),
	}
}

func protocols(classes []Class) []string {
	names := make([]string, len(classes))
	for i, c := range classes {
		names[i] = string(c)
	}
	return names
}

// ClientConfigPinned is for a joiner that dials the app listener and holds
// nothing but a join token or an invite: the server's chain must end in the
// serving root whose key has the pin, and that root must be of the trust domain.
// Addresses in codes may be translated on the way, so no host name is compared:
// the pin is the stronger statement. Nil clock means time.Now.
func ClientConfigPinned(pin Pin, trustDomain string, clock func() time.Time) *tls.Config {
	if clock == nil {
		clock = time.Now
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection decides
		Time:               clock,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verifyPinned(cs.PeerCertificates, pin, trustDomain, clock())
		},
	}
}

func verifyPinned(chain []*x509.Certificate, pin Pin, trustDomain string, now time.Time) error {
	if len(chain) < 2 || len(chain) > maxChain {
		return refuse(BadCertificate, "", "the server shows %d certificates, not its chain up to the serving root", len(chain))
	}
	root := chain[len(chain)-1]
	if PinOf(root) != pin {
		return refuse(WrongPeer, "", "the server's serving root is not the one that the code pins; "+
			"the code is of another region, or something stands in between")
	}
	if err := checkServingRoot(root, trustDomain); err != nil {
		return &RefusedError{Reason: BadCertificate, Detail: fmt.Sprintf("pinned root of %s", trustDomain), Err: err}
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         pool([]*x509.Certificate{root}),
		Intermediates: pool(chain[1 : len(chain)-1]),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return &RefusedError{Reason: BadCertificate, Detail: "app listener of " + trustDomain, Err: err}
	}
	return nil
}
