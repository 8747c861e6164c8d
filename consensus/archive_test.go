package consensus

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
)

// logSigner is the key of the test region's log.
func logSigner() *ledger.Signer { return signerOf("fra-1.mesh.example/ledger") }

func signerOf(origin string) *ledger.Signer {
	s, err := ledger.NewSigner(origin, [ledger.SeedSize]byte{5})
	if err != nil {
		panic(err)
	}
	return s
}

// noteOf signs a checkpoint of the log.
func noteOf(t *testing.T, c ledger.Checkpoint, cosigned time.Time) []byte {
	t.Helper()
	line, err := signerOf(c.Origin).Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	lines := []ledger.Signature{line}
	if !cosigned.IsZero() {
		w, err := ledger.NewCosigner("w.example/witness", ledger.CosignatureEd25519, [ledger.SeedSize]byte{6})
		if err != nil {
			t.Fatal(err)
		}
		if line, err = w.Cosign(c, cosigned); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	note, err := ledger.NewSignedCheckpoint(c, lines...)
	if err != nil {
		t.Fatal(err)
	}
	return note.Encode()
}

// sign has the log's present size signed and committed.
func (r *region) sign(s *server) ledger.Checkpoint {
	r.t.Helper()
	res, err := s.Propose(timeout(r.t.(*testing.T)), state.MarkLog{}, "op")
	if err != nil {
		r.t.Fatal(err)
	}
	size, err := strconv.ParseUint(res.ID, 10, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	marks := s.View().LogMarks()
	c := ledger.Checkpoint{Origin: s.View().LogOrigin(), Size: size, Root: marks[len(marks)-1].Root}
	res, err = s.Propose(timeout(r.t.(*testing.T)), state.SignLog{Size: size, Note: string(noteOf(r.t.(*testing.T), c, time.Time{}))}, "op")
	if err = errors.Join(err, res.Err()); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// says is a peer that answers the first question, and has no more.
type says []byte

func (p says) Checkpoints(_ context.Context, size uint64) ([]byte, error) {
	if size == 0 {
		return p, nil
	}
	return nil, nil
}

// rewinds has the same page for every question.
type rewinds []byte

func (p rewinds) Checkpoints(context.Context, uint64) ([]byte, error) { return p, nil }

// What a peer says about checkpoints is kept only if the log signed it and the
// leaves here make its tree.
func TestCheckpointsOfPeersAreProved(t *testing.T) {
	r := newRegion(t, 1, nil)
	l := r.leader()
	var all []ledger.Checkpoint
	for range 3 {
		if _, err := l.Propose(timeout(t), r.job(), "tok"); err != nil {
			t.Fatal(err)
		}
		all = append(all, r.sign(l))
	}
	now := time.Now().Truncate(time.Second)
	page := func(notes ...[]byte) []byte {
		t.Helper()
		var out []store.Kept
		for i, n := range notes {
			k, err := store.NewKept(n, now.Add(time.Duration(i-len(notes))*time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, k)
		}
		return store.EncodeKept(out)
	}
	was := now.Add(-3 * time.Hour)
	other := all[1]
	other.Root[0] ^= 1
	elsewhere := all[1]
	elsewhere.Origin += "/2"
	forged, err := ledger.ParseSignedCheckpoint(noteOf(t, all[1], was))
	if err != nil {
		t.Fatal(err)
	}
	forged, err = ledger.NewSignedCheckpoint(other, forged.Signatures()...)
	if err != nil {
		t.Fatal(err)
	}
	good := noteOf(t, all[1], was)
	cut := page(good)
	for _, c := range []struct {
		name string
		peer CheckpointPeer
		want string // in the error; empty for none
	}{
		{"nothing", says(nil), ""},
		{"the log signed another tree", says(page(noteOf(t, other, was))), "another tree"},
		{"nobody signed another tree", says(page(forged.Encode())), "signature"},
		{"of another log", says(page(noteOf(t, elsewhere, was))), "log"},
		{"to come", says(page(noteOf(t, all[1], now.Add(time.Hour)))), "to come"},
		{"cut short", says(cut[:len(cut)-1]), "cut short"},
		{"round and round", rewinds(page(good)), "do not rise"},
	} {
		s, err := store.Open(store.Memory())
		if err != nil {
			t.Fatal(err)
		}
		fillUp(t, s, l)
		taken, err := l.takeCheckpoints(timeout(t), s, c.peer)
		var lie *store.Lie
		if (err == nil) != (c.want == "") || err != nil && (!errors.As(err, &lie) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if kept, err := s.Archive().After(0, 1<<20); err != nil || len(kept) != taken || c.name != "round and round" && taken != 0 {
			t.Errorf("%s: %d are kept, %d taken, %v", c.name, len(kept), taken, err)
		}
	}
	s, err := store.Open(store.Memory())
	if err != nil {
		t.Fatal(err)
	}
	empty, err := l.takeCheckpoints(timeout(t), s, says(page(good)))
	if empty != 0 || err != nil {
		t.Errorf("of more leaves than are here: %d, %v", empty, err)
	}
	fillUp(t, s, l)
	if taken, err := l.takeCheckpoints(timeout(t), s, says(page(noteOf(t, all[0], was.Add(-time.Hour)), good))); taken != 2 || err != nil {
		t.Errorf("took %d of two good ones: %v", taken, err)
	}
	// Lines of keys that nobody knows count for nothing, and are not kept.
	if all, err := s.Archive().After(0, 1<<20); err != nil || len(all) != 2 || all[1].Witnesses != 0 || strings.Contains(string(all[1].Note), "w.example") {
		t.Errorf("a signature that nobody verified is kept: %+v, %v", all, err)
	}
	if taken, err := l.takeCheckpoints(timeout(t), s, says(page(good))); taken != 0 || err != nil {
		t.Errorf("the same checkpoint with a line of nobody takes the place of the one here: %d, %v", taken, err)
	}
	if err := l.keepCheckpoints(timeout(t), s); err != nil {
		t.Fatal(err)
	}
	kept, err := s.Archive().After(all[1].Size, 1<<20)
	if err != nil || len(kept) != 1 || kept[0].Size != all[2].Size {
		t.Errorf("of the state's own it keeps %+v, %v", kept, err)
	}
}

// fillUp copies the leaves of a node's ledger.
func fillUp(t *testing.T, s *store.Store, from *server) {
	t.Helper()
	for i := range from.Ledger().Size() {
		entry, err := from.Ledger().Entry(i)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Append(i, []store.Record{{Entry: entry}}); err != nil {
			t.Fatal(err)
		}
	}
}
