package ledger

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestVerify(t *testing.T) {
	m := newMesh(t, 1000)
	receipt := encode(t, m.receipt(t, 700, 0, 2, 3))
	v, err := Verify(m.policy, receipt, entry(700))
	if err != nil {
		t.Fatal(err)
	}
	c := v.Checkpoint()
	if v.Index() != 700 || !bytes.Equal(v.Entry(), entry(700)) || string(v.UnsignedExtra()) != "extra" || c.Origin() != origin || c.Head() != m.head() || len(c.Unknown()) != 0 {
		t.Errorf("%+v", v)
	}
	if !slices.Equal(c.Witnesses(), []Witnessed{{"outside", noon.Add(2 * time.Second)}, {"par-1", noon}, {"waw-1", noon.Add(time.Second)}}) || !c.At().Equal(noon.Add(2*time.Second)) {
		t.Errorf("witnessed by %v at %v", c.Witnesses(), c.At())
	}
}

// Every way to be wrong has a verdict of its own.
func TestVerdicts(t *testing.T) {
	m := newMesh(t, 1000)
	good := func() *Proof { return m.receipt(t, 700, 0, 1, 2, 3) }
	foreign := newMesh(t, 1000)
	foreign.log = must[*Signer](t)(NewSigner("lon-1.mesh.example/ledger", seed(2)))
	impostor := newMesh(t, 1000)
	impostor.log = must[*Signer](t)(NewSigner(origin, seed(3)))
	sign := func(n *mesh, c Checkpoint) *SignedCheckpoint { return n.checkpointOf(t, c, noon, 0, 1, 2, 3) }
	now := Checkpoint{Origin: origin, Size: 1000, Root: m.edge.Root()}
	other := Checkpoint{Origin: origin, Size: 1000, Root: Hash{1}}
	tests := []struct {
		name   string
		change func(*Proof)
		entry  []byte
		want   Verdict
	}{
		{"nothing", func(p *Proof) {}, entry(700), ""},
		{"another extra, which nobody signed", func(p *Proof) { p.Extra = nil }, entry(700), ""},
		{"three witnesses of four", func(p *Proof) { p.Checkpoint = m.checkpoint(t, 0, 1, 3) }, entry(700), ""},
		{"another entry", func(p *Proof) {}, entry(701), NotIncluded},
		{"another index", func(p *Proof) { p.Index = 701 }, entry(700), NotIncluded},
		{"an index whose proof is shorter", func(p *Proof) { p.Index = 999 }, entry(700), NotIncluded},
		{"a hash less", func(p *Proof) { p.Hashes = p.Hashes[1:] }, entry(700), NotIncluded},
		{"a hash more", func(p *Proof) { p.Hashes = append(p.Hashes, Hash{}) }, entry(700), NotIncluded},
		{"a hash changed", func(p *Proof) { p.Hashes[3][9] ^= 4 }, entry(700), NotIncluded},
		{"newer than the checkpoint", func(p *Proof) { p.Index = 1000 }, entry(1000), WrongSize},
		{"another log", func(p *Proof) {
			p.Checkpoint = sign(foreign, Checkpoint{Origin: "lon-1.mesh.example/ledger", Size: 1000, Root: m.edge.Root()})
		}, entry(700), WrongOrigin},
		{"another key for the same log", func(p *Proof) { p.Checkpoint = sign(impostor, now) }, entry(700), BadSignature},
		{"another tree, signed as ours", func(p *Proof) { p.Checkpoint = sign(m, other) }, entry(700), NotIncluded},
		{"signed by witnesses only", func(p *Proof) {
			p.Checkpoint = must[*SignedCheckpoint](t)(NewSignedCheckpoint(now, p.Checkpoint.Signatures()[1:]...))
		}, entry(700), BadSignature},
		{"signatures over another tree", func(p *Proof) {
			p.Checkpoint = must[*SignedCheckpoint](t)(NewSignedCheckpoint(other, p.Checkpoint.Signatures()...))
		}, entry(700), BadSignature},
		{"one witness's signature over another tree", func(p *Proof) {
			p.Checkpoint = must[*SignedCheckpoint](t)(p.Checkpoint.With(must[Signature](t)(m.witnesses[1].Cosign(other, noon))))
		}, entry(700), BadSignature},
		{"a witness twice", func(p *Proof) {
			again := must[Signature](t)(m.witnesses[1].Cosign(now, noon))
			p.Checkpoint = must[*SignedCheckpoint](t)(NewSignedCheckpoint(now, append(slices.Clone(p.Checkpoint.Signatures()), again)...))
		}, entry(700), BadSignature},
		{"no witness", func(p *Proof) { p.Checkpoint = m.checkpoint(t) }, entry(700), NotWitnessed},
		{"one witness twice for the group", func(p *Proof) { p.Checkpoint = m.checkpoint(t, 0, 3) }, entry(700), NotWitnessed},
		{"not the outside one", func(p *Proof) { p.Checkpoint = m.checkpoint(t, 0, 1, 2) }, entry(700), NotWitnessed},
		{"a witness before 1970", func(p *Proof) { stamp(t, m, p, 0) }, entry(700), WrongTime},
		{"a witness beyond all times", func(p *Proof) { stamp(t, m, p, 1<<63) }, entry(700), WrongTime},
		{"a witness a second later than it signed", func(p *Proof) { stamp(t, m, p, uint64(noon.Unix()+7)) }, entry(700), BadSignature},
	}
	said := map[string]string{}
	for _, tt := range tests {
		p := good()
		tt.change(p)
		v, err := Verify(m.policy, encode(t, p), tt.entry)
		if got := verdictOf(err); got != tt.want || (err == nil) != (v != nil) {
			t.Errorf("%s: %q, want %q (%v)", tt.name, got, tt.want, err)
		}
		if err == nil {
			continue
		}
		if err.(*VerifyError).Hint() == "" {
			t.Errorf("%s: no hint with %v", tt.name, err)
		}
		kind := string(tt.want)
		if before, ok := said[err.Error()]; ok && before != kind {
			t.Errorf("%s says the same as %s: %v", kind, before, err)
		}
		said[err.Error()] = kind
	}
	if _, err := Verify(m.policy, []byte("x"), entry(700)); verdictOf(err) != Unreadable {
		t.Errorf("rubbish: %v", err)
	}
	none := must[*Policy](t)(ParsePolicy([]byte("quorum none\n")))
	if _, err := Verify(none, encode(t, good()), entry(700)); verdictOf(err) != WrongOrigin {
		t.Errorf("a policy without a log: %v", err)
	}
}

// stamp writes another time into the first witness's cosignature.
func stamp(t *testing.T, m *mesh, p *Proof, at uint64) {
	t.Helper()
	for i, s := range p.Checkpoint.signatures {
		if s.Name == m.witnesses[0].Verifier().Name() {
			b := bytes.Clone(s.Bytes)
			for k := range 8 {
				b[k] = byte(at >> (56 - 8*k))
			}
			p.Checkpoint.signatures[i].Bytes = b
		}
	}
}

func TestConsistency(t *testing.T) {
	m := newMesh(t, 500)
	older := m.checkpoint(t, 0, 1, 3).Encode()
	oldHead := m.head()
	m.grow(t, 700)
	c := Checkpoint{Origin: origin, Size: 1200, Root: m.edge.Root()}
	newer := m.checkpointOf(t, c, noon.Add(time.Minute), 0, 1, 3).Encode()
	hashes := must[[]Hash](t)(ProveConsistency(t.Context(), m, oldHead, m.head()))
	if first, second, err := VerifyConsistency(m.policy, older, newer, hashes); err != nil || first.Head() != oldHead || second.Head() != m.head() {
		t.Fatal(err)
	}
	if _, _, err := VerifyConsistency(m.policy, newer, newer, nil); err != nil {
		t.Errorf("a checkpoint with itself: %v", err)
	}
	fork := c
	fork.Root = Hash{9}
	same := Checkpoint{Origin: origin, Size: 500, Root: Hash{9}}
	bad := slices.Clone(hashes)
	bad[0][0] ^= 1
	other := newMesh(t, 1200)
	other.log = must[*Signer](t)(NewSigner(origin+"/2", seed(5)))
	two := must[*Policy](t)(NewPolicy(PolicySpec{Logs: []PolicyLog{{m.log.Verifier(), ""}, {other.log.Verifier(), ""}}, Quorum: NoQuorum}))
	tests := []struct {
		name         string
		policy       *Policy
		older, newer []byte
		hashes       []Hash
		want         Verdict
	}{
		{"a changed proof", m.policy, older, newer, bad, NotConsistent},
		{"no proof", m.policy, older, newer, nil, NotConsistent},
		{"a fork", m.policy, older, m.checkpointOf(t, fork, noon.Add(time.Minute), 0, 1, 3).Encode(), hashes, NotConsistent},
		{"two roots of one size", m.policy, older, m.checkpointOf(t, same, noon.Add(time.Minute), 0, 1, 3).Encode(), nil, NotConsistent},
		{"in the wrong order", m.policy, newer, older, hashes, WrongSize},
		{"a clock that ran back", m.policy, older, m.checkpointOf(t, c, noon.Add(-time.Hour), 0, 1, 3).Encode(), hashes, WrongTime},
		{"not witnessed", m.policy, older, m.checkpoint(t, 0).Encode(), hashes, NotWitnessed},
		{"too many hashes", m.policy, older, newer, make([]Hash, 64), Unreadable},
		{"two logs", two, older, other.checkpointOf(t, Checkpoint{Origin: origin + "/2", Size: 1200, Root: c.Root}, noon).Encode(), hashes, WrongOrigin},
		{"rubbish", m.policy, older, []byte("x"), hashes, Unreadable},
	}
	for _, tt := range tests {
		first, second, err := VerifyConsistency(tt.policy, tt.older, tt.newer, tt.hashes)
		if verdictOf(err) != tt.want || first != nil || second != nil {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// Every byte of a receipt, changed in every bit: none passes, but in what the
// format says nobody signed, the extra data.
func TestEveryByteOfAReceipt(t *testing.T) {
	m := newMesh(t, 70)
	p := m.receipt(t, 33, 0, 2, 3)
	p.Checkpoint = must[*SignedCheckpoint](t)(p.Checkpoint.With(Signature{"unknown.example/w", 7, []byte("whatever")}))
	receipt := encode(t, p)
	if _, err := Verify(m.policy, receipt, entry(33)); err != nil {
		t.Fatal(err)
	}
	extra := bytes.Index(receipt, []byte("extra "))
	extraEnd := extra + bytes.IndexByte(receipt[extra:], '\n') + 1
	unknown := bytes.Index(receipt, []byte("— unknown"))
	for i := range receipt {
		free := i >= extra && i < extraEnd || i >= unknown
		bits := 8
		if i%7 != 0 && len(receipt)-i > 200 && i > 1200 { // a long ML-DSA signature
			bits = 1
		}
		for bit := range bits {
			bad := flipBit(receipt, i, bit)
			v, err := Verify(m.policy, bad, entry(33))
			if err != nil {
				continue
			}
			if !free || v.Index() != 33 || v.Checkpoint().Head() != m.head() {
				t.Fatalf("byte %d, bit %d changed, and it passes: %q", i, bit, around(bad, i))
			}
		}
	}
	for cut := range receipt {
		if _, err := Verify(m.policy, receipt[:cut], entry(33)); err == nil && cut != unknown {
			t.Fatalf("cut at %d, and it passes", cut)
		}
	}
	for _, more := range []string{"\n", " ", "x", "— x\n", "\n\n"} {
		if _, err := Verify(m.policy, append(bytes.Clone(receipt), more...), entry(33)); err == nil {
			t.Fatalf("%q at the end, and it passes", more)
		}
	}
	e := entry(33)
	for i := range e {
		if _, err := Verify(m.policy, receipt, flipBit(e, i, i%8)); verdictOf(err) != NotIncluded {
			t.Fatalf("byte %d of the entry changed: %v", i, err)
		}
	}
}

func flipBit(data []byte, at, bit int) []byte {
	bad := bytes.Clone(data)
	bad[at] ^= 1 << bit
	return bad
}

func around(data []byte, at int) []byte { return data[max(0, at-20):min(len(data), at+20)] }

// Receipts of random trees pass; with another receipt's entry they do not.
func TestRandomReceipts(t *testing.T) {
	m := newMesh(t, 0)
	var receipts [][]byte
	rapid.Check(t, func(rt *rapid.T) {
		if m.edge.Size() < 2000 {
			m.grow(t, rapid.Uint64Range(1, 40).Draw(rt, "more"))
		}
		index := rapid.Uint64Range(0, m.edge.Size()-1).Draw(rt, "index")
		receipt := encode(t, m.receipt(t, index, 0, 1, 3))
		if _, err := Verify(m.policy, receipt, entry(index)); err != nil {
			rt.Fatal(err)
		}
		if _, err := Verify(m.policy, receipt, entry(index+1)); verdictOf(err) != NotIncluded {
			rt.Fatalf("another entry: %v", err)
		}
		receipts = append(receipts, receipt)
		old := rapid.IntRange(0, len(receipts)-1).Draw(rt, "old")
		again := must[*Proof](t)(ParseProof(receipts[old]))
		if _, err := Verify(m.policy, receipts[old], entry(again.Index)); err != nil {
			rt.Fatalf("an older receipt: %v", err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	m := newMesh(f, 70)
	f.Add([]byte(m.policy.Text()), encode(f, m.receipt(f, 33, 0, 2, 3)), entry(33))
	want := m.receipt(f, 33)
	f.Fuzz(func(t *testing.T, policy, receipt, leaf []byte) {
		p, err := ParsePolicy(policy)
		if err != nil {
			return
		}
		v, err := Verify(p, receipt, leaf)
		if err == nil && strings.Contains(p.Text(), m.log.Verifier().String()) && p.Quorum() == "both" && (v.Index() != want.Index || !bytes.Equal(v.Entry(), entry(33))) {
			t.Fatalf("%q passes", receipt)
		}
		if err != nil && verdictOf(err) == "" {
			t.Fatalf("%v has no verdict", err)
		}
	})
}
