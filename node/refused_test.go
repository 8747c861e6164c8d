package node

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// A forged chain is kept once and over a restart; strangers and floods leave
// nothing, and take no more than a bounded part of the node.
func TestForgedChainsAreKeptWithinBounds(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	authority := func(region placement.RegionID) *identity.CA {
		ca, err := identity.NewCA(region, "mesh.test", now)
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	fra, ber, stranger := authority("fra-1"), authority("ber-1"), authority("ber-1")
	dir := filepath.Join(t.TempDir(), "refused")
	var said strings.Builder
	open := func() *refusals {
		return newRefusals(dir, func() []identity.Bundle { return []identity.Bundle{fra.Bundle(), ber.Bundle()} },
			func() time.Time { return now }, slog.New(slog.NewTextHandler(&said, nil)))
	}
	r := open()
	show := func(by *identity.CA, serial int64, pad int) {
		r.take(chainBy(t, by, "fra-1", serial, pad), &identity.RefusedError{})
	}
	show(ber, 1, 0)
	show(ber, 1, 0)
	show(stranger, 2, 0)
	show(fra, 3, 0)
	if n := len(r.all()); n != 2 {
		// Each showing has a key of its own, so the two of ber-1 differ.
		t.Fatalf("%d chains are kept", n)
	}
	if text := said.String(); strings.Count(text, "FORGED") != 2 || !strings.Contains(text, "by=ber-1") || !strings.Contains(text, "claims=spiffe://fra-1.mesh.test/node/n1") {
		t.Errorf("it says %s", text)
	}
	for i := range int64(20) {
		show(ber, 10+i, 0)
	}
	if n := len(r.all()); n != 6 {
		t.Errorf("within one second %d chains are kept: 8 are looked at, and 2 of those were no forgery", n)
	}
	now = now.Add(time.Second)
	show(ber, 50, refusedBytes)
	if n := len(r.all()); n != 6 || !strings.Contains(said.String(), "no more of them are kept") {
		t.Errorf("with a large one %d chains are kept", n)
	}
	for i := range int64(10 * refusedKept) {
		now = now.Add(200 * time.Millisecond)
		show(ber, 100+i, 0)
	}
	if n := len(r.all()); n != refusedKept {
		t.Errorf("%d chains are kept, want %d", n, refusedKept)
	}
	before := r.all()
	if err := os.WriteFile(filepath.Join(dir, strings.Repeat("0", 64)+".pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = open()
	if fmt.Sprint(r.all()) != fmt.Sprint(before) {
		t.Errorf("after a restart %d chains are there", len(r.all()))
	}
}

// chainBy is a chain in which an authority names node n1 of a region.
func chainBy(t *testing.T, ca *identity.CA, region placement.RegionID, serial int64, pad int) []*x509.Certificate {
	t.Helper()
	data, err := ca.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var blocks []*pem.Block
	for len(data) > 0 {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			break
		}
		blocks = append(blocks, b)
	}
	issuing, err := x509.ParseCertificate(blocks[3].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := x509.ParsePKCS8PrivateKey(blocks[4].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), URIs: []*url.URL{identity.ID{Region: region, Mesh: "mesh.test", Node: "n1"}.URI()},
		NotBefore: issuing.NotBefore, NotAfter: issuing.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	tmpl.Subject.CommonName = strings.Repeat("x", pad)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuing, &key.PublicKey, signer.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return []*x509.Certificate{leaf, issuing}
}
