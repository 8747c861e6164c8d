package ledger

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	formatslog "github.com/transparency-dev/formats/log"
	formatsnote "github.com/transparency-dev/formats/note"
	formatsproof "github.com/transparency-dev/formats/proof"
	formatswitness "github.com/transparency-dev/formats/witness"
	"golang.org/x/mod/sumdb/note"
)

// The examples of https://c2sp.org/tlog-cosignature, Introduction, and of
// https://c2sp.org/tlog-witness, add-checkpoint.
const (
	exampleCheckpoint = `example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
`
	exampleRequest = `old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
`
	exampleAnswer = `— witness.example/w1 CMp+6LWBU0anHGH5aNDTJkH/gj79sG+T6+iP2ThYN5krrDJbR1HDnucjL39QsZTSvVjyQLrdk3DXDqI5G2HgLatVs0pWh6Up69HVOw==
— witness.example/w1 I7rEps0pvK2UqkS2gSpVUDhrhVtQV9lgF6pRrWAvjJHjyWpW7VcE3SiOlVlbQNt64vWhO+DlkL0+UfzuOBMh9ChdMkP1vi/lCAsmlw==
— witness.example/w2 AWui8Sk55XjYLOijihBjhqEH6nS1ndDymE0a+6idX7pLcnoB+dhnz0854aLZgrrKbYKA7nC3HNJhm/kWl7oJlqU3rXXvpysAdyP3wQ==
`
	// The key pair of golang.org/x/mod/sumdb/note's documentation.
	exampleSkey = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
	exampleVkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
)

func TestExamplesOfTheSpecifications(t *testing.T) {
	s := must[*SignedCheckpoint](t)(ParseSignedCheckpoint([]byte(exampleCheckpoint)))
	c := s.Unverified()
	if c.Origin != "example.com/behind-the-sofa" || c.Size != 20852163 || c.Root.Text() != "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=" || len(s.Signatures()) != 2 || string(s.Encode()) != exampleCheckpoint {
		t.Errorf("%+v", s)
	}
	// The document prints the signed text of this cosignature, at that time.
	const signedText = "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
	stamp := uint64(0)
	for _, b := range s.Signatures()[1].Bytes[:8] {
		stamp = stamp<<8 | uint64(b)
	}
	if got := string(cosigned(c, stamp)); got != signedText {
		t.Errorf("signed is %q", got)
	}
	a := must[*AddCheckpoint](t)(ParseAddCheckpoint([]byte(exampleRequest)))
	if a.OldSize != 20852014 || len(a.Hashes) != 4 || len(a.Checkpoint.Signatures()) != 2 || string(encode(t, a)) != exampleRequest {
		t.Errorf("%+v", a)
	}
	signatures := must[[]Signature](t)(ParseSignatures([]byte(exampleAnswer)))
	if len(signatures) != 3 || signatures[2].Name != "witness.example/w2" || string(EncodeSignatures(signatures)) != exampleAnswer {
		t.Errorf("%+v", signatures)
	}
	signer := must[*Signer](t)(ParseSigner(exampleSkey))
	if signer.Secret() != exampleSkey || signer.Verifier().String() != exampleVkey {
		t.Errorf("%s", signer.Verifier())
	}
}

// The ones who read our files are other programs: x/mod's note and
// transparency-dev's formats, which also write files for us.
func TestInterop(t *testing.T) {
	m := newMesh(t, 300)
	signed := m.checkpoint(t, 0, 3).Encode()
	logKey := must[note.Verifier](t)(note.NewVerifier(m.log.Verifier().String()))
	ed := must[note.Verifier](t)(formatsnote.NewVerifierForCosignatureV1(m.witnesses[0].Verifier().String()))
	pq := must[note.Verifier](t)(formatsnote.NewVerifierForCosignatureV1(m.witnesses[3].Verifier().String()))
	c, _, n, err := formatslog.ParseCheckpoint(signed, origin, logKey, ed, pq)
	if err != nil || len(n.Sigs) != 3 || c.Size != 300 || !bytes.Equal(c.Hash, m.head().Root.bytes()) {
		t.Fatalf("they read %v of ours: %v", n, err)
	}
	if at, err := formatsnote.CoSigV1Timestamp(n.Sigs[1]); err != nil || !at.Equal(noon) {
		t.Errorf("they read the time %v: %v", at, err)
	}
	foreignLog := must[note.Signer](t)(note.NewSigner(m.log.Secret()))
	foreignEd := must[*formatsnote.Signer](t)(formatsnote.NewSignerForCosignatureV1(m.witnesses[1].Secret()))
	foreignPQ := must[*formatsnote.Signer](t)(formatsnote.NewSignerForCosignatureV1(m.witnesses[3].Secret()))
	theirs := must[[]byte](t)(note.Sign(&note.Note{Text: string(formatslog.Checkpoint{Origin: origin, Size: 300, Hash: m.head().Root.bytes()}.Marshal())}, foreignLog, foreignEd, foreignPQ))
	theirs = append(theirs, EncodeSignatures([]Signature{must[Signature](t)(m.witnesses[0].Cosign(Checkpoint{Origin: origin, Size: 300, Root: m.head().Root}, noon))})...)
	if v, err := VerifyCheckpoint(m.policy, theirs); err != nil || len(v.Witnesses()) != 3 {
		t.Errorf("we read of theirs: %v", err)
	}
	ours := m.receipt(t, 17, 0, 3)
	var read formatsproof.TLogProof
	if err := read.Unmarshal(encode(t, ours)); err != nil || !bytes.Equal(read.Marshal(), encode(t, ours)) {
		t.Errorf("they read our proof: %v", err)
	}
	if back, err := ParseProof(read.Marshal()); err != nil || back.Index != 17 {
		t.Errorf("we read their proof: %v", err)
	}
}

func (h Hash) bytes() []byte { return h[:] }

// A foreign reader takes our policy, roots and all, for a policy. This one
// takes a witness's own line only with an address and does not know logs with
// cosignature keys, so it gets what it knows.
func TestForeignReaderOfAPolicy(t *testing.T) {
	m := newMesh(t, 1)
	spec := PolicySpec{Logs: m.policy.Logs(), Groups: []PolicyGroup{{"all-of-them", 2, []string{"par-1", "dub-1"}}}, Quorum: "all-of-them",
		Roots: []PolicyRoot{{"fra-1", root(t, "fra-1")}}}
	for _, w := range m.policy.Witnesses()[:2] {
		w.URL = "https://" + w.Name + ".example/"
		spec.Witnesses = append(spec.Witnesses, w)
	}
	p := must[*Policy](t)(NewPolicy(spec))
	group, err := formatswitness.ParsePolicy([]byte(p.Text()))
	if err != nil {
		t.Fatal(err)
	}
	if !group.Satisfied(m.checkpoint(t, 0, 1).Encode()) || group.Satisfied(m.checkpoint(t, 0).Encode()) {
		t.Error("they judge our quorum otherwise")
	}
}

func TestKeys(t *testing.T) {
	for _, bad := range []string{
		"", "a", "a+b", "a+00000000+", exampleVkey + "=", exampleVkey[:len(exampleVkey)-1], strings.ToUpper(exampleVkey), "X" + exampleVkey[1:],
		strings.Replace(exampleVkey, "c74f20a3", "c74f20a4", 1), strings.Replace(exampleVkey, "c74f20a3", "C74F20A3", 1), strings.Replace(exampleVkey, "+ARpc", "+AhPc", 1),
		strings.Replace(exampleVkey, "PeterNeumann", "Peter Neumann", 1), "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", strings.Repeat("x", 5000),
	} {
		if v, err := ParseVerifier(bad); err == nil {
			t.Errorf("%q was read as %s", bad, v)
		}
	}
	vkeys := []string{exampleVkey}
	m := newMesh(t, 1)
	for _, w := range m.witnesses {
		vkeys = append(vkeys, w.Verifier().String())
		back := must[*Cosigner](t)(ParseCosigner(w.Secret()))
		if back.Verifier().String() != w.Verifier().String() {
			t.Errorf("%s was read back as %s", w, back)
		}
		if _, err := ParseSigner(w.Secret()); err == nil {
			t.Error("a witness's key was read as a log's")
		}
	}
	for _, vkey := range vkeys {
		v := must[*Verifier](t)(ParseVerifier(vkey))
		if v.String() != vkey {
			t.Errorf("%s was read as %s", vkey, v)
		}
		step := max(1, len(vkey)/100)
		for i := 0; i < len(vkey); i += step {
			if _, err := ParseVerifier(string(flipBit([]byte(vkey), i, i%8))); err == nil {
				t.Errorf("%s with byte %d changed was read", vkey[:20], i)
			}
		}
	}
	if _, err := ParseCosigner(exampleSkey); err == nil {
		t.Error("a log's key was read as a witness's")
	}
	if _, err := m.log.Sign(Checkpoint{Origin: "another.example", Size: 1, Root: Hash{1}}); err == nil {
		t.Error("a log signed for another")
	}
	if _, err := m.witnesses[0].Cosign(Checkpoint{Origin: origin, Size: 1, Root: Hash{1}}, time.Time{}); err == nil {
		t.Error("a witness signed at no time")
	}
}

// No way of printing a secret key shows it.
func TestSecretsStaySecret(t *testing.T) {
	m := newMesh(t, 1)
	for _, secret := range []any{m.log, m.witnesses[0], m.witnesses[3]} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
			if got := fmt.Sprintf(verb, secret); !strings.HasPrefix(got, "secret key of ") {
				t.Errorf("%s prints %q", verb, got)
			}
		}
	}
	_, err := ParseSigner(m.log.Secret() + "A")
	if b64 := base64.StdEncoding.EncodeToString(m.log.seed[:6]); err == nil || strings.Contains(err.Error(), b64) {
		t.Errorf("%v", err)
	}
}

func TestCheckpointsThatAreNone(t *testing.T) {
	hash := Hash{1}.Text()
	signature := "— a AAAAAAA=\n"
	good := "a\n1\n" + hash + "\n\n" + signature
	if _, err := ParseSignedCheckpoint([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "\n", "\n\n", good[:len(good)-1], strings.Replace(good, "\n1\n", "\n01\n", 1), strings.Replace(good, "\n1\n", "\n+1\n", 1), strings.Replace(good, "\n1\n", "\n-1\n", 1),
		strings.Replace(good, "\n1\n", "\n1 \n", 1), strings.Replace(good, "\n1\n", "\n4611686018427387905\n", 1), strings.Replace(good, "\n1\n", "\n99999999999999999999\n", 1),
		strings.Replace(good, "\n1\n", "\n0\n", 1), strings.Replace(good, "\n1\n", "\n\n", 1), "\n1\n" + hash + "\n\n" + signature, strings.Repeat("a", 256) + good,
		strings.Replace(good, "AAA=\n\n", "AAB=\n\n", 1), strings.Replace(good, "=\n\n", "\n\n", 1), strings.Replace(good, "a\n", "a\r\n", 1), strings.Replace(good, "a\n", "a\xff\n", 1),
		strings.Replace(good, "— a", "- a", 1), strings.Replace(good, "— a", "—  a", 1), strings.Replace(good, "— a", "— a+b", 1), strings.Replace(good, "AAAAAAA=", "AAAAAA==", 1),
		strings.Replace(good, "AAAAAAA=", "AAAAAAB=", 1), strings.Replace(good, "AAAAAAA=", "AAAA AAA=", 1), "a\n1\n" + hash + "\n\n", "a\n1\n" + hash + "\n" + signature,
		strings.Replace(good, "\n\n", "\n\n\n", 1), "a\n1\n\n" + signature, good + strings.Repeat(signature, MaxSignatures), good + "\n", good + "x",
		"a\n1\n" + hash + "\n" + strings.Repeat("x\n", 17) + "\n" + signature, "a\n1\n" + hash + "\n" + strings.Repeat("x", 1025) + "\n\n" + signature,
	} {
		if s, err := ParseSignedCheckpoint([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, s)
		}
	}
	if _, err := ParseSignedCheckpoint(make([]byte, MaxCheckpoint+1)); err == nil {
		t.Error("too large, and read")
	}
	if _, err := ParseSignedCheckpoint([]byte(good + strings.Repeat(signature, MaxSignatures-1))); err != nil {
		t.Error(err)
	}
}

// An extension line is covered by Ed25519, and not by ML-DSA: a log that signs
// with that alone cannot have one.
func TestExtensionLines(t *testing.T) {
	m := newMesh(t, 5)
	c := Checkpoint{Origin: origin, Size: 5, Root: m.head().Root, Extensions: []string{"more"}}
	signed := m.checkpointOf(t, c, noon, 0, 1, 3)
	v, err := VerifyCheckpoint(m.policy, signed.Encode())
	if err != nil || len(v.Checkpoint().Extensions) != 1 {
		t.Fatal(err)
	}
	if _, err := VerifyCheckpoint(m.policy, bytes.Replace(signed.Encode(), []byte("\nmore\n"), []byte("\nmere\n"), 1)); verdictOf(err) != BadSignature {
		t.Errorf("another line: %v", err)
	}
	pq := must[*Cosigner](t)(NewCosigner(origin, CosignatureMLDSA44, seed(77)))
	policy := must[*Policy](t)(NewPolicy(PolicySpec{Logs: []PolicyLog{{pq.Verifier(), ""}}, Quorum: NoQuorum}))
	for _, tt := range []struct {
		extensions []string
		want       Verdict
	}{{nil, ""}, {[]string{"more"}, BadSignature}} {
		c.Extensions = tt.extensions
		signed := must[*SignedCheckpoint](t)(NewSignedCheckpoint(c, must[Signature](t)(pq.Cosign(c, noon))))
		if _, err := VerifyCheckpoint(policy, signed.Encode()); verdictOf(err) != tt.want {
			t.Errorf("with %q: %v", tt.extensions, err)
		}
	}
}

// The files an auditor keeps are for ever.
func TestGolden(t *testing.T) {
	m := newMesh(t, 300)
	p := m.receipt(t, 123, 0, 1, 2)
	add := &AddCheckpoint{OldSize: 100, Hashes: p.Hashes, Checkpoint: p.Checkpoint}
	for file, got := range map[string][]byte{
		"checkpoint-v1.txt": p.Checkpoint.Encode(), "receipt-v1.tlog-proof": encode(t, p), "policy-v1.txt": []byte(m.policy.Text()), "add-checkpoint-v1.txt": encode(t, add),
	} {
		file = "testdata/" + file
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want := must[[]byte](t)(os.ReadFile(file)); !bytes.Equal(got, want) {
			t.Errorf("%s is now\n%s", file, got)
		}
	}
}

func FuzzCheckpoint(f *testing.F) {
	f.Add([]byte(exampleCheckpoint))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := ParseSignedCheckpoint(data); err == nil && !bytes.Equal(s.Encode(), data) {
			t.Fatalf("%q has another encoding %q", data, s.Encode())
		}
	})
}

func FuzzProof(f *testing.F) {
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra AAAA\nindex 1\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n\n" + exampleCheckpoint))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseProof(data)
		if err != nil {
			return
		}
		if again, err := p.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q has another encoding %q (%v)", data, again, err)
		}
	})
}

func FuzzVerifierKey(f *testing.F) {
	f.Add(exampleVkey)
	f.Fuzz(func(t *testing.T, vkey string) {
		if v, err := ParseVerifier(vkey); err == nil && v.String() != vkey {
			t.Fatalf("%q was read as %s", vkey, v)
		}
		_, _ = ParseSigner("PRIVATE+KEY+" + vkey)
		_, _ = ParseCosigner("PRIVATE+KEY+" + vkey)
	})
}
