package ledger

import (
	"bytes"
	"errors"
	"testing"
)

// What a witness answers, by status, as https://c2sp.org/tlog-witness says.
func TestJudge(t *testing.T) {
	m := newMesh(t, 100)
	small := m.head()
	m.grow(t, 150)
	keys := []*Verifier{m.log.Verifier()}
	hashes := must[[]Hash](t)(ProveConsistency(t.Context(), m, small, m.head()))
	now := m.checkpoint(t)
	fork := m.checkpointOf(t, Checkpoint{Origin: origin, Size: 250, Root: Hash{1}}, noon)
	impostor := newMesh(t, 250)
	impostor.log = must[*Signer](t)(NewSigner(origin, seed(99)))
	forged := must[*SignedCheckpoint](t)(NewSignedCheckpoint(fork.Unverified(), now.Signatures()...))
	tests := []struct {
		name   string
		keys   []*Verifier
		last   Head
		a      AddCheckpoint
		status int
	}{
		{"it extends the last", keys, small, AddCheckpoint{100, hashes, now}, 0},
		{"the first", keys, Head{}, AddCheckpoint{0, nil, now}, 0},
		{"the same again", keys, m.head(), AddCheckpoint{250, nil, now}, 0},
		{"an unknown log", nil, small, AddCheckpoint{100, hashes, now}, 404},
		{"another log's keys", []*Verifier{must[*Signer](t)(NewSigner("x", seed(4))).Verifier()}, small, AddCheckpoint{100, hashes, now}, 404},
		{"another key", keys, small, AddCheckpoint{100, hashes, impostor.checkpoint(t)}, 403},
		{"a signature over another tree", keys, small, AddCheckpoint{100, hashes, forged}, 403},
		{"an old size beyond the new", keys, small, AddCheckpoint{251, hashes, now}, 400},
		{"behind", keys, m.head(), AddCheckpoint{100, hashes, now}, 409},
		{"ahead", keys, small, AddCheckpoint{200, hashes, now}, 409},
		{"the first of a log known already", keys, small, AddCheckpoint{0, nil, now}, 409},
		{"no proof", keys, small, AddCheckpoint{100, nil, now}, 422},
		{"a fork", keys, small, AddCheckpoint{100, hashes, fork}, 422},
		{"another root of the same size", keys, m.head(), AddCheckpoint{250, nil, fork}, 422},
		{"a first with a proof", keys, Head{}, AddCheckpoint{0, hashes, now}, 422},
		{"a shorter log", keys, m.head(), AddCheckpoint{100, nil, m.checkpointOf(t, Checkpoint{Origin: origin, Size: 100, Root: small.Root}, noon)}, 409},
	}
	for _, tt := range tests {
		err := Judge(tt.keys, tt.last, &tt.a)
		var no *WitnessRefusal
		if errors.As(err, &no); (no == nil) != (tt.status == 0) || no != nil && (no.Status != tt.status || no.Size != tt.last.Size || no.Hint() == "") {
			t.Errorf("%s: %v, want %d", tt.name, err, tt.status)
		}
	}
}

func TestAnswersOfWitnesses(t *testing.T) {
	m := newMesh(t, 10)
	c := m.checkpoint(t).Unverified()
	for _, w := range m.witnesses {
		key := w.Verifier()
		good := must[Signature](t)(w.Cosign(c, noon))
		other := must[Signature](t)(w.Cosign(Checkpoint{Origin: origin, Size: 11, Root: c.Root}, noon))
		stranger := Signature{"stranger.example/w", 1, []byte("whatever")}
		got, err := AcceptCosignature(key, c, EncodeSignatures([]Signature{stranger, good}))
		if err != nil || !bytes.Equal(got.Bytes, good.Bytes) {
			t.Errorf("%s: %v", key.Name(), err)
		}
		for name, answer := range map[string][]byte{
			"nothing": nil, "a stranger": EncodeSignatures([]Signature{stranger}), "another size": EncodeSignatures([]Signature{other}), "twice": EncodeSignatures([]Signature{good, good}),
			"a size": EncodeSize(10), "cut": EncodeSignatures([]Signature{good})[:50],
		} {
			if _, err := AcceptCosignature(key, c, answer); err == nil {
				t.Errorf("%s: %s was taken", key.Name(), name)
			}
		}
	}
	for _, bad := range []string{"", "1", "\n", "01\n", "-1\n", "1\n\n", " 1\n", "4611686018427387905\n"} {
		if n, err := ParseSize([]byte(bad)); err == nil {
			t.Errorf("%q is the size %d", bad, n)
		}
	}
	if n, err := ParseSize(EncodeSize(20852014)); err != nil || n != 20852014 {
		t.Errorf("%d, %v", n, err)
	}
	if got := MonitorPath("a"); got != "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb/checkpoint" {
		t.Error(got)
	}
}

func TestEveryByteOfARequest(t *testing.T) {
	m := newMesh(t, 100)
	small := m.head()
	m.grow(t, 150)
	hashes := must[[]Hash](t)(ProveConsistency(t.Context(), m, small, m.head()))
	body := encode(t, &AddCheckpoint{100, hashes, m.checkpoint(t)})
	judge := func(data []byte) bool {
		a, err := ParseAddCheckpoint(data)
		return err == nil && Judge([]*Verifier{m.log.Verifier()}, small, a) == nil
	}
	if !judge(body) {
		t.Fatal("a good request was refused")
	}
	for i := range body {
		for bit := range 8 {
			if judge(flipBit(body, i, bit)) {
				t.Fatalf("byte %d changed, and cosigned: %q", i, around(body, i))
			}
		}
		if judge(body[:i]) {
			t.Fatalf("cut at %d, and cosigned", i)
		}
	}
}

func FuzzAddCheckpoint(f *testing.F) {
	f.Add([]byte(exampleRequest))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := ParseAddCheckpoint(data)
		if err != nil {
			return
		}
		if again, err := a.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q has another encoding %q (%v)", data, again, err)
		}
	})
}

func FuzzWitnessAnswer(f *testing.F) {
	f.Add([]byte(exampleAnswer))
	f.Add([]byte("20852014\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := ParseSignatures(data); err == nil && !bytes.Equal(EncodeSignatures(s), data) {
			t.Fatalf("%q has another encoding", data)
		}
		if n, err := ParseSize(data); err == nil && !bytes.Equal(EncodeSize(n), data) {
			t.Fatalf("%q has another encoding", data)
		}
	})
}
