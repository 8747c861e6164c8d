package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxBundle is a good bound to give to [ParseBundle].
const MaxBundle = 64 << 10

// The wire form is a SPIFFE bundle: a JWK Set with x5c
// (https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md
// section 4). Serving roots travel as keys of a use of our own, which other
// SPIFFE programs ignore, as section 4.2.2 asks of them.
const (
	useX509SVID = "x509-svid"
	useServing  = "sovmesh-serving"
	refreshHint = 300 // seconds
)

type wireBundle struct {
	Keys        []wireKey `json:"keys"`
	Sequence    uint64    `json:"spiffe_sequence"`
	RefreshHint int64     `json:"spiffe_refresh_hint,omitempty"`
}

type wireKey struct {
	Use string   `json:"use"`
	Kty string   `json:"kty"`
	Crv string   `json:"crv"`
	X   string   `json:"x"`
	Y   string   `json:"y"`
	X5c []string `json:"x5c"`
}

// Marshal writes the bundle; one bundle has one byte form.
func (b Bundle) Marshal() ([]byte, error) {
	w := wireBundle{Sequence: b.Sequence, RefreshHint: refreshHint}
	for _, set := range []struct {
		use   string
		certs []*x509.Certificate
	}{{useX509SVID, b.Roots}, {useServing, b.ServingRoots}} {
		for _, c := range set.certs {
			k, err := encodeJWK(set.use, c)
			if err != nil {
				return nil, fmt.Errorf("write bundle of %s: %w", b.TrustDomain, err)
			}
			w.Keys = append(w.Keys, k)
		}
	}
	return json.Marshal(w)
}

func encodeJWK(use string, c *x509.Certificate) (wireKey, error) {
	pub, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return wireKey{}, errors.New("a root key is not ECDSA P-256")
	}
	point, err := pub.Bytes() // 4 || X || Y (SEC 1, uncompressed)
	if err != nil || len(point) != 65 {
		return wireKey{}, errors.New("a root key is not ECDSA P-256")
	}
	return wireKey{
		Use: use, Kty: "EC", Crv: "P-256",
		X:   base64.RawURLEncoding.EncodeToString(point[1:33]),
		Y:   base64.RawURLEncoding.EncodeToString(point[33:]),
		X5c: []string{base64.StdEncoding.EncodeToString(c.Raw)},
	}, nil
}

// ParseBundle reads a bundle of at most maxBytes. It is strict: every field is
// known, each key is that of its certificate, and all roots name one trust
// domain, which becomes the bundle's.
func ParseBundle(data []byte, maxBytes int) (Bundle, error) {
	if len(data) > maxBytes {
		return Bundle{}, fmt.Errorf("read bundle: %d bytes are more than %d", len(data), maxBytes)
	}
	var w wireBundle
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		return Bundle{}, fmt.Errorf("read bundle: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Bundle{}, errors.New("read bundle: something follows it")
	}
	// encoding/json takes a key twice and in any case; our form has one spelling.
	var compact bytes.Buffer
	again, err := json.Marshal(w)
	if err != nil || json.Compact(&compact, data) != nil || !bytes.Equal(compact.Bytes(), again) {
		return Bundle{}, errors.New("read bundle: not in its canonical form")
	}
	if len(w.Keys) > 2*maxRoots {
		return Bundle{}, fmt.Errorf("read bundle: %d keys are more than %d", len(w.Keys), 2*maxRoots)
	}
	b := Bundle{Sequence: w.Sequence}
	for i, k := range w.Keys {
		c, err := decodeJWK(k)
		if err != nil {
			return Bundle{}, fmt.Errorf("read bundle: key %d: %w", i, err)
		}
		switch k.Use {
		case useX509SVID:
			b.Roots = append(b.Roots, c)
		case useServing:
			b.ServingRoots = append(b.ServingRoots, c)
		default:
			return Bundle{}, fmt.Errorf("read bundle: key %d: unknown use %.40q", i, k.Use)
		}
	}
	if len(b.Roots) == 0 {
		return Bundle{}, errors.New("read bundle: no root in it")
	}
	if b.TrustDomain, err = rootTrustDomain(b.Roots[0]); err != nil {
		return Bundle{}, fmt.Errorf("read bundle: %w", err)
	}
	return b, b.Validate()
}

func decodeJWK(k wireKey) (*x509.Certificate, error) {
	if len(k.X5c) != 1 {
		return nil, fmt.Errorf("x5c holds %d certificates, not one", len(k.X5c))
	}
	der, err := base64.StdEncoding.Strict().DecodeString(k.X5c[0])
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	want, err := encodeJWK(k.Use, c)
	if err != nil {
		return nil, err
	}
	if k.Kty != want.Kty || k.Crv != want.Crv || k.X != want.X || k.Y != want.Y || k.X5c[0] != want.X5c[0] {
		return nil, errors.New("the key is not that of its certificate")
	}
	return c, nil
}
