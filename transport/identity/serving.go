package identity

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
)

// Serving is the certificate of the app listener: DNS names and IP addresses,
// server authentication only. It names no node and is refused on the mesh port.
type Serving struct {
	Key   crypto.Signer
	Chain [][]byte // leaf first, the serving root last
	Leaf  *x509.Certificate
}

// NewServing joins a key with the chain that [CA.IssueServing] gave for it.
func NewServing(key crypto.Signer, chain [][]byte) (*Serving, error) {
	leaf, err := leafFor(key, chain)
	if err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	if len(leaf.URIs) != 0 || leaf.IsCA {
		return nil, errors.New("serving certificate: it is of another kind (a node's, or a CA's)")
	}
	return &Serving{Key: key, Chain: chain, Leaf: leaf}, nil
}

// Marshal writes certificate, private key and chain as PEM. The file is secret.
func (s *Serving) Marshal() ([]byte, error) {
	var out bytes.Buffer
	if err := encodeKeyPair(&out, s.Key, s.Chain...); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// ParseServing reads what Marshal wrote.
func ParseServing(data []byte) (*Serving, error) {
	key, chain, err := parseKeyPair(data)
	if err != nil {
		return nil, fmt.Errorf("read serving certificate: %w", err)
	}
	return NewServing(key, chain)
}

// ServingSource holds the app listener's certificate while it is renewed. The
// zero value holds none and refuses handshakes until Swap.
type ServingSource struct{ current atomic.Pointer[Serving] }

// Current is the certificate in use, or nil.
func (s *ServingSource) Current() *Serving { return s.current.Load() }

// Swap puts a certificate into use for the handshakes to come.
func (s *ServingSource) Swap(next *Serving) { s.current.Store(next) }

// ServingConfig is the app listener's TLS: what ordinary HTTPS clients expect.
func ServingConfig(src *ServingSource) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			s := src.Current()
			if s == nil {
				return nil, &RefusedError{Reason: NoCredential}
			}
			return &tls.Certificate{Certificate: s.Chain, PrivateKey: s.Key, Leaf: s.Leaf}, nil
		},
	}
}
