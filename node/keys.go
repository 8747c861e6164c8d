package node

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"

	"github.com/sovmesh/sovmesh/transport/identity"
)

// keys are a node's two fresh keys and the requests to certify them: one for
// the mesh, one for the app listener.
type keys struct {
	node, serving       *ecdsa.PrivateKey
	nodeCSR, servingCSR []byte
}

func newKeys() (k keys, err error) {
	if k.node, err = identity.NewKey(); err != nil {
		return k, err
	}
	if k.serving, err = identity.NewKey(); err != nil {
		return k, err
	}
	if k.nodeCSR, err = identity.NewCSR(k.node); err != nil {
		return k, err
	}
	k.servingCSR, err = identity.NewCSR(k.serving)
	return k, err
}

// certified joins the keys with the chains issued for them.
func (k keys) certified(chain, serving [][]byte) (*identity.Credential, *identity.Serving, error) {
	c, err := identity.NewCredential(k.node, chain)
	if err != nil {
		return nil, nil, err
	}
	s, err := identity.NewServing(k.serving, serving)
	return c, s, err
}

// store certifies the keys and writes both into the data directory.
func (k keys) store(dir dataDir, chain, serving [][]byte) (*identity.Credential, error) {
	c, s, err := k.certified(chain, serving)
	if err != nil {
		return nil, err
	}
	return c, storeCertificates(dir, c, s)
}

func storeCertificates(dir dataDir, c *identity.Credential, s *identity.Serving) error {
	node, err := c.Marshal()
	if err != nil {
		return err
	}
	serving, err := s.Marshal()
	if err != nil {
		return err
	}
	return firstError(dir.write(fileServing, serving), dir.write(fileCredential, node))
}

// loadCertificates reads what store wrote.
func loadCertificates(dir dataDir) (*identity.Credential, *identity.Serving, error) {
	raw, err := dir.read(fileCredential)
	if err != nil {
		return nil, nil, err
	}
	c, err := identity.ParseCredential(raw)
	if err != nil {
		return nil, nil, err
	}
	if raw, err = dir.read(fileServing); err != nil {
		return nil, nil, err
	}
	s, err := identity.ParseServing(raw)
	return c, s, err
}

// parseLeaf reads the first certificate of a chain.
func parseLeaf(chain [][]byte) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("an empty certificate chain")
	}
	return x509.ParseCertificate(chain[0])
}
