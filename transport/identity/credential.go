package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Credential is what a node shows to its peers: a key, the certificate chain
// for it (leaf first, without the root), and the ID that the leaf carries. It
// does not change after it was made.
type Credential struct {
	Key   crypto.Signer
	Chain [][]byte
	Leaf  *x509.Certificate
	ID    ID
}

const maxChain = 4

// NewCredential joins a key with the chain issued for it.
func NewCredential(key crypto.Signer, chain [][]byte) (*Credential, error) {
	leaf, err := leafFor(key, chain)
	if err != nil {
		return nil, fmt.Errorf("node credential: %w", err)
	}
	id, err := leafID(leaf)
	if err != nil {
		return nil, fmt.Errorf("node credential: %w", err)
	}
	return &Credential{Key: key, Chain: chain, Leaf: leaf, ID: id}, nil
}

func leafFor(key crypto.Signer, chain [][]byte) (*x509.Certificate, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return nil, fmt.Errorf("a chain has 1 to %d certificates, not %d", maxChain, len(chain))
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || !pub.Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate was issued for another key")
	}
	return leaf, nil
}

// Marshal writes the credential as PEM: leaf, private key, rest of the chain.
// The file is secret.
func (c *Credential) Marshal() ([]byte, error) {
	var out bytes.Buffer
	if err := encodeKeyPair(&out, c.Key, c.Chain...); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// ParseCredential reads what Marshal wrote.
func ParseCredential(data []byte) (*Credential, error) {
	key, chain, err := parseKeyPair(data)
	if err != nil {
		return nil, fmt.Errorf("read node credential: %w", err)
	}
	return NewCredential(key, chain)
}

func parseKeyPair(data []byte) (*ecdsa.PrivateKey, [][]byte, error) {
	blocks, err := pemBlocks(data, maxChain+1)
	if err != nil {
		return nil, nil, err
	}
	var key *ecdsa.PrivateKey
	var chain [][]byte
	for i, b := range blocks {
		switch {
		case i == 1 && b.Type == blockKey:
			if key, err = parseKey(b.Bytes); err != nil {
				return nil, nil, err
			}
		case i != 1 && b.Type == blockCert:
			chain = append(chain, b.Bytes)
		default:
			return nil, nil, fmt.Errorf("block %d is a %.40q; expected certificate, private key, further certificates", i+1, b.Type)
		}
	}
	if key == nil {
		return nil, nil, errors.New("no private key in it")
	}
	return key, chain, nil
}

// RenewAt is when to ask for the next certificate: half-life, plus up to a
// tenth of the life by jitter in [0,1), so that nodes which started together do
// not renew together.
func (c *Credential) RenewAt(jitter float64) time.Time { return renewAt(c.Leaf, jitter) }

func renewAt(leaf *x509.Certificate, jitter float64) time.Time {
	jitter = min(max(jitter, 0), 1)
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return halfLife(leaf).Add(time.Duration(jitter * float64(life) / 10))
}

func (c *Credential) certificate() *tls.Certificate {
	return &tls.Certificate{Certificate: c.Chain, PrivateKey: c.Key, Leaf: c.Leaf}
}

// Source holds the credential of a running node. Handshakes read it while
// renewal swaps it.
type Source struct{ current atomic.Pointer[Credential] }

// NewSource begins with c, which may be nil for a node that has not joined.
func NewSource(c *Credential) *Source {
	s := &Source{}
	if c != nil {
		s.current.Store(c)
	}
	return s
}

// Current is the credential in use, nil before the node has joined.
func (s *Source) Current() *Credential { return s.current.Load() }

// Swap puts a renewed credential into use for the handshakes to come. A node
// keeps its identity: a credential for another ID is refused.
func (s *Source) Swap(c *Credential) error {
	if c == nil {
		return errors.New("swap credential: none given")
	}
	for {
		old := s.current.Load()
		if old != nil && old.ID != c.ID {
			return fmt.Errorf("swap credential: it is for %s, this node is %s", c.ID, old.ID)
		}
		if s.current.CompareAndSwap(old, c) {
			return nil
		}
	}
}

func (s *Source) certificate() (*tls.Certificate, error) {
	c := s.Current()
	if c == nil {
		return nil, &RefusedError{Reason: NoCredential}
	}
	return c.certificate(), nil
}
