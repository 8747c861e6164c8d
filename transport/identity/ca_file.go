package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
)

const (
	blockCA   = "SOVMESH REGION CA"
	blockCert = "CERTIFICATE"
	blockKey  = "PRIVATE KEY"
	maxFile   = 64 << 10
)

// Marshal writes the CA, private keys included, as PEM: a head with version and
// sequence, then certificate and key of root, issuing CA and serving root.
func (ca *CA) Marshal() ([]byte, error) {
	var out bytes.Buffer
	head := &pem.Block{Type: blockCA, Headers: map[string]string{"Version": "1", "Sequence": strconv.FormatUint(ca.sequence, 10)}}
	if err := pem.Encode(&out, head); err != nil {
		return nil, err
	}
	for _, a := range []authority{ca.root, ca.issuing, ca.serving} {
		if err := encodeKeyPair(&out, a.key, a.cert.Raw); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// ParseCA reads what Marshal wrote and checks that the parts belong together.
func ParseCA(data []byte) (*CA, error) {
	blocks, err := pemBlocks(data, 7)
	if err != nil {
		return nil, fmt.Errorf("read region CA: %w", err)
	}
	if len(blocks) != 7 || blocks[0].Type != blockCA || blocks[0].Headers["Version"] != "1" {
		return nil, errors.New("read region CA: not a CA file of version 1")
	}
	ca := &CA{}
	if ca.sequence, err = strconv.ParseUint(blocks[0].Headers["Sequence"], 10, 64); err != nil {
		return nil, fmt.Errorf("read region CA: sequence: %w", err)
	}
	for i, a := range []*authority{&ca.root, &ca.issuing, &ca.serving} {
		if *a, err = parseAuthority(blocks[1+2*i], blocks[2+2*i]); err != nil {
			return nil, fmt.Errorf("read region CA: %w", err)
		}
	}
	td, err := rootTrustDomain(ca.root.cert)
	if err != nil {
		return nil, fmt.Errorf("read region CA: %w", err)
	}
	if err := checkServingRoot(ca.serving.cert, td); err != nil {
		return nil, fmt.Errorf("read region CA: %w", err)
	}
	if err := ca.issuing.cert.CheckSignatureFrom(ca.root.cert); err != nil {
		return nil, fmt.Errorf("read region CA: the issuing CA is not of this root: %w", err)
	}
	ca.region, ca.mesh, err = SplitTrustDomain(td)
	return ca, err
}

func parseAuthority(cert, key *pem.Block) (authority, error) {
	var a authority
	if cert.Type != blockCert || key.Type != blockKey {
		return a, fmt.Errorf("a %s and a %s block stand where a certificate and its key belong", cert.Type, key.Type)
	}
	var err error
	if a.cert, err = x509.ParseCertificate(cert.Bytes); err != nil {
		return a, err
	}
	if a.key, err = parseKey(key.Bytes); err != nil {
		return a, err
	}
	if !a.key.PublicKey.Equal(a.cert.PublicKey) {
		return a, fmt.Errorf("certificate %q and the key beside it do not belong together", a.cert.Subject.CommonName)
	}
	return a, nil
}

func parseKey(der []byte) (*ecdsa.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, errors.New("the private key is not ECDSA P-256")
	}
	return k, nil
}

// encodeKeyPair writes a chain, leaf first, with the key after the leaf.
func encodeKeyPair(out *bytes.Buffer, key any, chain ...[]byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write private key: %w", err)
	}
	for i, c := range chain {
		if err := pem.Encode(out, &pem.Block{Type: blockCert, Bytes: c}); err != nil {
			return err
		}
		if i == 0 {
			if err := pem.Encode(out, &pem.Block{Type: blockKey, Bytes: der}); err != nil {
				return err
			}
		}
	}
	return nil
}

// pemBlocks splits a file into at most limit blocks, with nothing around them.
func pemBlocks(data []byte, limit int) ([]*pem.Block, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("%d bytes are more than %d", len(data), maxFile)
	}
	var blocks []*pem.Block
	for len(bytes.TrimSpace(data)) > 0 {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			return nil, errors.New("not PEM")
		}
		if len(blocks) == limit {
			return nil, fmt.Errorf("more than %d PEM blocks", limit)
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}
