package evidence

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// shownIssue has a certificate issued and shown, as an honest region does.
func shownIssue(t *testing.T, m *aMesh) {
	l := m.logs[0]
	serial := l.issue(t, l.ca, "n1", at(len(l.leaves)))
	l.add(t, "node.certificate", showing(ledger.ShownCertificate, serial+" 2026-11-22T12:00:00Z"))
	for range 40 {
		l.add(t, "job.submit", judging(l.here("EU")))
	}
	l.sign()
}

func TestCertificatesOfARegionHold(t *testing.T) {
	m := newMesh(t, "")
	shownIssue(t, m)
	// A certificate of the other region, as a peer showed it.
	m.logs[0].issue(t, m.logs[1].ca, "n7", at(5))
	mustHold(t, verified(t, m.policy, packed(t, m.files(t))))
}

// forged is a certificate in which a region's authority names another region's
// node: its own CA refuses that, so its keys are used by hand.
func forged(t testing.TB, signer *identity.CA, uri string) [][]byte {
	t.Helper()
	return forgedAs(t, signer, uri, "666")
}

func forgedAs(t testing.TB, signer *identity.CA, uri, number string) [][]byte {
	t.Helper()
	serial, ok := new(big.Int).SetString(number, 10)
	if !ok {
		t.Fatal(number)
	}
	data, err := signer.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	issuer, key := issuingOf(t, data)
	leafKey, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: serial, NotBefore: noon.Add(-identity.Backdate), NotAfter: noon.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, URIs: []*url.URL{id}, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, &leafKey.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{der, issuer.Raw}
}

func TestAttacksOnCertificates(t *testing.T) {
	tests := []struct {
		name    string
		change  func(t *testing.T, m *aMesh)
		verdict string
		says    string
	}{
		{"another region's authority names this one's node", func(t *testing.T, m *aMesh) {
			m.logs[0].keep(t, forged(t, m.logs[1].ca, "spiffe://fra-1.mesh.example/node/n1"))
		}, Origin, "FORGED certificate: serial 666 claims to be node n1 of region fra-1"},
		{"this region's authority names another's node", func(t *testing.T, m *aMesh) {
			m.logs[0].keep(t, forged(t, m.logs[0].ca, "spiffe://ber-1.mesh.example/node/n1"))
		}, Origin, "FORGED"},
		{"shown to this region, and refused", func(t *testing.T, m *aMesh) {
			m.logs[0].refuse(t, forged(t, m.logs[1].ca, "spiffe://fra-1.mesh.example/node/n1"))
		}, Origin, "whose authority did not issue it; the authority of region ber-1 signed it"},
		{"refused with the serial number of a good one", func(t *testing.T, m *aMesh) {
			for serial := range m.logs[0].certificates {
				kept := m.logs[0].certificates[serial]
				m.logs[0].refuse(t, forgedAs(t, m.logs[1].ca, "spiffe://fra-1.mesh.example/node/n1", serial))
				m.logs[0].certificates[serial] = kept
			}
		}, Origin, "the authority of region ber-1 signed it"},
		{"a good one, filed as refused", func(t *testing.T, m *aMesh) {
			for serial, text := range m.logs[0].certificates {
				chain, err := readChain(text)
				if err != nil {
					t.Fatal(err)
				}
				var der [][]byte
				for _, c := range chain {
					der = append(der, c.Raw)
				}
				delete(m.logs[0].certificates, serial)
				m.logs[0].refuse(t, der)
			}
		}, Origin, "is good, and is filed as refused"},
		{"a refused one under another name", func(t *testing.T, m *aMesh) {
			m.logs[0].refuse(t, forged(t, m.logs[1].ca, "spiffe://fra-1.mesh.example/node/n1"))
			for digest, text := range m.logs[0].refused {
				delete(m.logs[0].refused, digest)
				m.logs[0].refused[strings.Repeat("0", 64)] = text
			}
		}, Integrity, "another hash"},
		{"of another mesh", func(t *testing.T, m *aMesh) {
			m.logs[0].keep(t, forged(t, m.logs[0].ca, "spiffe://fra-1.other.example/node/n1"))
		}, Origin, "no node of this mesh"},
		{"issued and not shown", func(t *testing.T, m *aMesh) {
			m.logs[0].issue(t, m.logs[0].ca, "ghost", at(8))
		}, Origin, "no leaf shows it"},
		{"a re-made authority", func(t *testing.T, m *aMesh) {
			policy := m.policy
			*m = *newMesh(t, "")
			m.policy = policy
		}, Origin, "none of their roots is one that the policy has"},
		{"another region's bundle as its own", func(t *testing.T, m *aMesh) {
			other := newMesh(t, "").logs[1]
			m.logs[0].bundle = other.bundle
		}, Completeness, "which are not here"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			m := newMesh(t, "")
			shownIssue(t, m)
			tc.change(t, m)
			rep := verified(t, m.policy, packed(t, m.files(t)))
			v := rep.Verdict(tc.verdict)
			if rep.OK() || v.State != Fails || !strings.Contains(strings.Join(v.Findings, "\n"), tc.says) {
				t.Errorf("%s is %s: %q, want %q; all: %+v", tc.verdict, v.State, v.Findings, tc.says, rep.Verdicts)
			}
		})
	}
}

// A policy without roots leaves the question open, and says so.
func TestWithoutRootsNobodyKnowsWhoseNodes(t *testing.T) {
	m := newMesh(t, "")
	shownIssue(t, m)
	var text []string
	for line := range strings.Lines(m.policy.Text()) {
		if !strings.HasPrefix(line, "# sovmesh-root") {
			text = append(text, line)
		}
	}
	policy, err := ledger.ParsePolicy([]byte(strings.Join(text, "")))
	if err != nil {
		t.Fatal(err)
	}
	rep := verified(t, policy, packed(t, m.files(t)))
	mustHold(t, rep)
	if all := strings.Join(rep.NotShownHere, "\n"); !strings.Contains(all, "no root certificate") || !strings.Contains(all, "who issued 1 certificates") {
		t.Errorf("%s", all)
	}
}

// issuingOf finds the issuing CA and its key in an authority's file.
func issuingOf(t testing.TB, data []byte) (*x509.Certificate, any) {
	t.Helper()
	var blocks []*pem.Block
	for len(blocks) < 5 {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			t.Fatal("an authority's file is other than it was")
		}
		blocks = append(blocks, b)
	}
	cert, err := x509.ParseCertificate(blocks[3].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(blocks[4].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// Whoever exports is not fooled by a chain of its own make: see node.
func TestAnExportHoldsWhatWasRefused(t *testing.T) {
	m := newMesh(t, "")
	m.logs[0].refuse(t, forged(t, m.logs[1].ca, "spiffe://fra-1.mesh.example/node/n1"))
	e := m.logs[0].exporter(t)
	mustHold(t, verified(t, m.policy, exported(t, e)))
	e.Refused = m.logs[0].refused
	rep := verified(t, m.policy, exported(t, e))
	if v := rep.Verdict(Origin); v.State != Fails || !strings.Contains(strings.Join(v.Findings, "\n"), "FORGED certificate") {
		t.Errorf("%s: %q", v.State, v.Findings)
	}
}

// A chain that is read is written again as the same bytes.
func FuzzChain(f *testing.F) {
	m := newMesh(f, "")
	m.logs[0].refuse(f, forged(f, m.logs[1].ca, "spiffe://fra-1.mesh.example/node/n1"))
	for _, text := range m.logs[0].refused {
		f.Add(text)
		f.Add(append([]byte("\n"), text...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		chain, err := readChain(data)
		if err != nil {
			return
		}
		var again []byte
		for _, c := range chain {
			again = append(again, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		if !bytes.Equal(again, data) || len(data) > maxPEM || len(chain) > 5 {
			t.Errorf("%d certificates of %d bytes", len(chain), len(data))
		}
	})
}

// Every byte of a chain counts, of a refused one too: what is read there is
// another forgery, or none.
func TestEveryByteOfACertificateCounts(t *testing.T) {
	m := newMesh(t, "")
	shownIssue(t, m)
	files := m.files(t)
	i := slices.IndexFunc(files, func(f file) bool { return strings.HasSuffix(f.name, ".pem") })
	for at := 0; at < len(files[i].data); at += 5 {
		changed := slices.Clone(files)
		changed[i].data = bytes.Clone(files[i].data)
		changed[i].data[at] ^= 1
		if rep := verified(t, m.policy, packed(t, changed)); rep.OK() {
			t.Fatalf("byte %d of %s changed, and all holds", at, files[i].name)
		}
	}
}

// A leaf says which certificate was issued, not only its number: a second one of
// the same number is found out.
func TestACertificateOfTheSameNumberIsFoundOut(t *testing.T) {
	for _, same := range []bool{true, false} {
		m := newMesh(t, "")
		l := m.logs[0]
		serial := l.issue(t, l.ca, "n1", at(len(l.leaves)))
		chain, err := readChain(l.certificates[serial])
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(chain[0].Raw)
		if !same {
			digest[0] ^= 1
		}
		l.add(t, "node.certificate", showing(ledger.ShownCertificate, fmt.Sprintf("%s 2026-11-22T12:00:00Z %x", serial, digest)))
		for range 40 {
			l.add(t, "job.submit", judging(l.here("EU")))
		}
		l.sign()
		rep := verified(t, m.policy, packed(t, m.files(t)))
		if v := rep.Verdict(Origin); (v.State == Holds) != same || !same && !strings.Contains(v.Says, "the number twice") {
			t.Errorf("the recorded one %v: origin is %s: %s", same, v.State, v.Says)
		}
	}
}

// A region of many nodes shows more certificates in a year than are remembered:
// those whose chains are here are found all the same.
func TestManyCertificatesAreOnRecord(t *testing.T) {
	r := newRegionReader(&verifier{}, Region{Name: "fra-1"})
	r.chained = []chainHeld{{serial: "last"}}
	for i := range maxCertificates + 10 {
		r.showSerial(fmt.Sprintf("%d 2026-12-01T00:00:00Z ab", i))
	}
	r.showSerial("last 2026-12-01T00:00:00Z cd")
	if digest, ok := r.serials["last"]; !ok || digest != "cd" {
		t.Error("the certificate whose chain is here is not on record")
	}
	if n := r.chainless(); n != maxCertificates+10 || len(r.serials) > maxCertificates+1 {
		t.Errorf("%d certificates without a chain, %d remembered", n, len(r.serials))
	}
}
