package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"strings"
	"testing"
)

func TestBundleRoundTrips(t *testing.T) {
	b := newCA(t, "fra-1").Bundle()
	data, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseBundle(data, MaxBundle)
	if err != nil {
		t.Fatal(err)
	}
	if again.TrustDomain != b.TrustDomain || again.Sequence != 1 || again.Fingerprint() != b.Fingerprint() || len(again.ServingRoots) != 1 {
		t.Fatalf("%+v", again)
	}
	if back, err := again.Marshal(); err != nil || !bytes.Equal(back, data) {
		t.Errorf("second form differs: %v", err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, data, "", "  "); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseBundle(indented.Bytes(), MaxBundle); err != nil {
		t.Errorf("white space: %v", err)
	}
}

func TestBadBundlesAreRefused(t *testing.T) {
	fra, ber := newCA(t, "fra-1").Bundle(), newCA(t, "ber-1").Bundle()
	hostile := unbound(t)
	good, err := fra.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	marshal := func(b Bundle) string {
		t.Helper()
		data, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	loose, err := newRoot("fra-1.mesh.example", t0)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := caTemplate("fra-1.mesh.example", "root", t0, RootLife)
	tmpl.PermittedURIDomains = []string{"mesh.example"} // the host of every region
	if loose.cert, err = sign(tmpl, tmpl, &loose.key.PublicKey, loose.key); err != nil {
		t.Fatal(err)
	}
	one := func(certs ...*x509.Certificate) Bundle {
		return Bundle{TrustDomain: "fra-1.mesh.example", Roots: certs}
	}
	tests := map[string]string{
		"a root of another domain":       marshal(Bundle{Roots: append(fra.Roots[:1:1], ber.Roots...)}),
		"a serving root of another":      marshal(Bundle{Roots: fra.Roots, ServingRoots: ber.ServingRoots}),
		"a root without constraint":      marshal(one(hostile.cert)),
		"a root constrained too wide":    marshal(one(loose.cert)),
		"an issuing CA as a root":        marshal(one(newCA(t, "fra-1").issuing.cert)),
		"a serving root as a root":       marshal(one(fra.ServingRoots...)),
		"a root as a serving root":       marshal(Bundle{Roots: fra.Roots, ServingRoots: fra.Roots}),
		"a node certificate as a root":   marshal(one(node(t, newCA(t, "fra-1"), "n1").Leaf)),
		"no root":                        marshal(Bundle{ServingRoots: fra.ServingRoots}),
		"too many roots":                 marshal(one(manyRoots(fra.Roots[0], maxRoots+1)...)),
		"another key beside the root":    strings.Replace(string(good), `"x":"`, `"x":"A`, 1),
		"an unknown use":                 strings.Replace(string(good), useServing, "jwt-svid", 1),
		"an unknown field":               strings.Replace(string(good), `{"keys"`, `{"more":1,"keys"`, 1),
		"a sequence twice":               strings.Replace(string(good), `"spiffe_sequence":1`, `"spiffe_sequence":9,"spiffe_sequence":1`, 1),
		"a field in another case":        strings.Replace(string(good), `"spiffe_sequence"`, `"SPIFFE_sequence"`, 1),
		"a negative sequence":            strings.Replace(string(good), `"spiffe_sequence":1`, `"spiffe_sequence":-1`, 1),
		"something after it":             string(good) + "{}",
		"larger than the caller allowed": string(good) + strings.Repeat(" ", MaxBundle),
		"empty":                          "", "null": "null", "a list": "[]",
	}
	for name, data := range tests {
		if b, err := ParseBundle([]byte(data), MaxBundle); err == nil {
			t.Errorf("%s: accepted as %s", name, b.TrustDomain)
		}
	}
}

func manyRoots(c *x509.Certificate, n int) (list []*x509.Certificate) {
	for range n {
		list = append(list, c)
	}
	return list
}

func TestFingerprintIsComparedWhole(t *testing.T) {
	b := newCA(t, "fra-1").Bundle()
	f := b.Fingerprint()
	if len(f) != 39 || strings.Count(f, "-") != 7 {
		t.Fatalf("fingerprint %q is not eight groups of four", f)
	}
	bare := strings.ReplaceAll(f, "-", "")
	for _, typed := range []string{f, bare, strings.ToUpper(f), strings.ReplaceAll(f, "-", " "), " " + f + "\n",
		strings.NewReplacer("0", "O", "1", "l").Replace(f)} {
		if !FingerprintEqual(typed, f) {
			t.Errorf("%q was not taken for %q", typed, f)
		}
	}
	other := newCA(t, "fra-1").Bundle().Fingerprint()
	for _, typed := range []string{"", "-", f[:4], f[:38], bare[:31], f + "0", bare + bare, other, strings.Replace(f, f[:1], "u", 1)} {
		if FingerprintEqual(typed, f) || FingerprintEqual(f, typed) {
			t.Errorf("%q was taken for %q", typed, f)
		}
	}
	if FingerprintEqual("", "") || FingerprintEqual(f[:4], f[:4]) {
		t.Error("two prefixes are no fingerprints")
	}
}

func TestFingerprintCoversEveryKey(t *testing.T) {
	a, b := newCA(t, "fra-1").Bundle(), newCA(t, "fra-1").Bundle()
	f := a.Fingerprint()
	changed := map[string]Bundle{
		"root":            {TrustDomain: a.TrustDomain, Roots: b.Roots, ServingRoots: a.ServingRoots},
		"serving root":    {TrustDomain: a.TrustDomain, Roots: a.Roots, ServingRoots: b.ServingRoots},
		"no serving root": {TrustDomain: a.TrustDomain, Roots: a.Roots},
		"one more root":   {TrustDomain: a.TrustDomain, Roots: append(a.Roots[:1:1], b.Roots...), ServingRoots: a.ServingRoots},
		"swapped sets":    {TrustDomain: a.TrustDomain, Roots: a.ServingRoots, ServingRoots: a.Roots},
		"trust domain":    {TrustDomain: "ber-1.mesh.example", Roots: a.Roots, ServingRoots: a.ServingRoots},
	}
	for name, c := range changed {
		if c.Fingerprint() == f {
			t.Errorf("another %s has the same fingerprint", name)
		}
	}
	both := Bundle{TrustDomain: a.TrustDomain, Roots: append(a.Roots[:1:1], b.Roots...)}
	swapped := Bundle{TrustDomain: a.TrustDomain, Sequence: 9, Roots: append(b.Roots[:1:1], a.Roots...)}
	if both.Fingerprint() != swapped.Fingerprint() {
		t.Error("the order of roots or the sequence changes the fingerprint")
	}
}

func FuzzParseBundle(f *testing.F) {
	data, err := newCA(f, "fra-1").Bundle().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"keys":[],"spiffe_sequence":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBundle(data, MaxBundle)
		if err != nil {
			return
		}
		if err := b.Validate(); err != nil {
			t.Fatalf("parsed, but %v", err)
		}
		again, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseBundle(again, MaxBundle); err != nil || back.Fingerprint() != b.Fingerprint() {
			t.Fatalf("does not round-trip: %v", err)
		}
	})
}
