package state

import (
	"bytes"
	"errors"
	"testing"
)

func FuzzDecode(f *testing.F) {
	fx := &fixture{t: f, s: New(), now: day}
	for _, c := range []Command{StopJob{Job: "x"}, SubmitJob{Job: aJob(1, "EU")}, MarkDigest{}, fx.reservation(1, "EU"), JoinNode{Node: aNode("n2")}} {
		f.Add(fx.encode(c))
	}
	f.Add([]byte("\x01\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, c, err := Decode(raw)
		var malformed *Malformed
		var unknown *Unknown
		if err != nil {
			if !errors.As(err, &malformed) && !errors.As(err, &unknown) {
				t.Fatalf("error %T: %v", err, err)
			}
			return
		}
		again, err := Encode(h, c)
		if err != nil {
			return // what it means is too long when written out
		}
		h2, c2, err := Decode(again)
		if err != nil {
			t.Fatalf("%q decodes, what it encodes to does not: %v", raw, err)
		}
		third, _ := Encode(h2, c2)
		if !bytes.Equal(again, third) {
			t.Fatalf("%q has two encodings", raw)
		}
	})
}

// FuzzApply: whatever is committed, every replica does the same with it, and
// none falls over except for a newer program's command.
func FuzzApply(f *testing.F) {
	fx := &fixture{t: f, s: New(), now: day}
	for _, c := range []Command{StopJob{Job: "x"}, SubmitJob{Job: aJob(1, "EU")}, fx.reservation(1, "EU"), JoinNode{Node: aNode("n2")}, PutPeer{Region: aPeer("ber-1", "DE")}} {
		f.Add(fx.encode(c))
	}
	base := newFixture(f)
	var snap bytes.Buffer
	if err := base.s.Freeze().Write(&snap); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var unknown *Unknown
		if _, _, err := Decode(raw); errors.As(err, &unknown) {
			return
		}
		var digests [2]string
		for i := range digests {
			s, err := Restore(bytes.NewReader(snap.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			s.Apply(9, raw)
			digests[i] = s.Freeze().Digest()
			reopened(t, s)
		}
		if digests[0] != digests[1] {
			t.Fatalf("%q: two replicas differ", raw)
		}
	})
}

func FuzzRestore(f *testing.F) {
	fx := newFixture(f)
	var snap bytes.Buffer
	if err := fx.s.Freeze().Write(&snap); err != nil {
		f.Fatal(err)
	}
	f.Add(snap.Bytes())
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Restore(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := s.Freeze().Write(&again); err != nil {
			t.Fatal(err)
		}
	})
}

// A snapshot with any byte changed, or cut anywhere, is refused.
func TestADamagedSnapshotIsRefused(t *testing.T) {
	f := newFixture(t)
	f.assign(f.submit(1, "EU"), "n1")
	var buf bytes.Buffer
	if err := f.s.Freeze().Write(&buf); err != nil {
		t.Fatal(err)
	}
	whole := buf.Bytes()
	for i := 0; i < len(whole); i += 1 + len(whole)/200 {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x20
		if _, err := Restore(bytes.NewReader(bad)); err == nil {
			t.Errorf("byte %d changed, and nobody saw", i)
		}
		if _, err := Restore(bytes.NewReader(whole[:i])); err == nil {
			t.Errorf("cut at %d, and nobody saw", i)
		}
	}
	if _, err := Restore(bytes.NewReader(append(whole, 0))); err == nil {
		t.Error("a byte too many, and nobody saw")
	}
}
