package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// restored is a store that a snapshot of size put ahead, and that then went on.
func restored(t *testing.T, files Files, from, size, end uint64) *Store {
	s := opened(t, files)
	appendTo(t, s, 0, from)
	if err := s.Rebase(treeOf(size)); err != nil {
		t.Fatal(err)
	}
	appendTo(t, s, size, end)
	return s
}

func TestBackfill(t *testing.T) {
	whole := opened(t, Memory())
	appendTo(t, whole, 0, 65800)
	for _, c := range []struct{ from, size, end uint64 }{
		{0, 1, 1}, {0, 255, 256}, {0, 256, 257}, {0, 1000, 1030}, {100, 1000, 1000}, {100, 300, 600}, {256, 512, 1024}, {300, 65700, 65800},
	} {
		d := newDisk()
		s := restored(t, d, c.from, c.size, c.end)
		if st := s.Status(); st.Missing != c.size-c.from {
			t.Fatalf("%+v: %d are missing", c, st.Missing)
		}
		if c.from < c.size {
			if _, err := s.Entry(c.from); !is[*Gap](err) {
				t.Errorf("%+v: an entry in the gap: %v", c, err)
			}
			if _, err := s.ReadTile(context.Background(), ledger.TileOf(c.from, c.end)); !is[*Gap](err) {
				t.Errorf("%+v: a tile over the gap: %v", c, err)
			}
		}
		n, err := s.Backfill(context.Background(), peerOf{Store: whole})
		if err != nil || n != c.size-c.from {
			t.Fatalf("%+v: %d filled: %v", c, n, err)
		}
		checkAll(t, s, c.end)
		reopenedAs(t, d.crash(func(int, write) int { return -1 }), c.end, c.end)
	}
}

// A crash in a back-fill loses at most what was not synced; the gap is known.
func TestBackfillGoesOnAfterACrash(t *testing.T) {
	whole := opened(t, Memory())
	appendTo(t, whole, 0, 3000)
	d := newDisk()
	s := restored(t, d, 0, 2900, 3000)
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	asked := 0
	gone := errors.New("gone")
	_, err := s.Backfill(context.Background(), stopping{peerOf{Store: whole}, &asked, 20, gone})
	if !errors.Is(err, gone) {
		t.Fatal(err)
	}
	again := opened(t, d.crash(func(int, write) int { return -1 }))
	if m := again.Status().Missing; m == 0 || m >= 2900 {
		t.Errorf("%d are missing after the crash", m)
	}
	if _, err := again.Backfill(context.Background(), peerOf{Store: whole}); err != nil {
		t.Fatal(err)
	}
	checkAll(t, again, 3000)
}

type stopping struct {
	peerOf
	asked *int
	after int
	err   error
}

func (s stopping) ReadTile(ctx context.Context, t ledger.Tile) ([]byte, error) {
	if *s.asked++; *s.asked > s.after {
		return nil, s.err
	}
	return s.peerOf.ReadTile(ctx, t)
}

// Whatever a peer changes in its answers, nothing of it is stored.
func TestALyingPeerIsRefused(t *testing.T) {
	whole := opened(t, Memory())
	appendTo(t, whole, 0, 700)
	forged := opened(t, Memory())
	for i := range uint64(700) {
		if err := forged.Append(i, []Record{sampleOf(i, "forged")}); err != nil {
			t.Fatal(err)
		}
	}
	flip := func(data []byte, at int) []byte {
		data = bytes.Clone(data)
		data[at%len(data)] ^= 1
		return data
	}
	n := 0
	lies := map[string]Peer{
		"another ledger":     peerOf{Store: forged},
		"a hash changed":     peerOf{Store: whole, tile: func(t ledger.Tile, b []byte) []byte { n += 77; return pickIf(t.Level >= 0, flip(b, n), b) }},
		"an entry changed":   peerOf{Store: whole, tile: func(t ledger.Tile, b []byte) []byte { return pickIf(t.Level < 0, flip(b, 100), b) }},
		"a short bundle":     peerOf{Store: whole, tile: func(t ledger.Tile, b []byte) []byte { return pickIf(t.Level < 0, b[:len(b)-1], b) }},
		"an empty bundle":    peerOf{Store: whole, tile: func(t ledger.Tile, b []byte) []byte { return pickIf(t.Level < 0, nil, b) }},
		"an opening changed": peerOf{Store: whole, open: func(b []byte) []byte { return flip(b, len(b)-1) }},
		"a salt changed":     peerOf{Store: whole, open: func(b []byte) []byte { return flip(b, 6) }},
		"openings cut short": peerOf{Store: whole, open: func(b []byte) []byte { return b[:len(b)-1] }},
		"no openings":        peerOf{Store: whole, open: func([]byte) []byte { return nil }},
		"too many openings":  peerOf{Store: whole, open: func(b []byte) []byte { return append(b, 0) }},
	}
	for name, peer := range lies {
		s := restored(t, Memory(), 0, 600, 700)
		filled, err := s.Backfill(context.Background(), peer)
		if !is[*Lie](err) {
			t.Errorf("%s: %v", name, err)
		}
		if st := s.Status(); filled != 0 || st.Missing != 600 {
			t.Errorf("%s: %d were taken", name, filled)
		}
		if _, err := s.Backfill(context.Background(), peerOf{Store: whole}); err != nil {
			t.Errorf("%s, then the truth: %v", name, err)
		}
		checkAll(t, s, 700)
	}
}

func pickIf(cond bool, a, b []byte) []byte {
	if cond {
		return a
	}
	return b
}

func TestRebase(t *testing.T) {
	s := opened(t, Memory())
	appendTo(t, s, 0, 700)
	for _, n := range []uint64{0, 1, 255, 256, 600, 700} {
		if err := s.Rebase(treeOf(n)); err != nil {
			t.Errorf("its own past, %d leaves: %v", n, err)
		}
	}
	other := treeOf(599)
	other.Append(sampleOf(599, "other").Entry)
	if err := s.Rebase(other); !is[*Conflict](err) {
		t.Errorf("a snapshot of another history: %v", err)
	}
	checkAll(t, s, 700)
}

// A rotten length neither takes the openings behind it along, nor leaves bytes.
func TestEraseWithARottenLength(t *testing.T) {
	for _, length := range []uint32{0, 7, 1 << 20, 1<<32 - 1} {
		d := newDisk()
		s := opened(t, d)
		appendTo(t, s, 0, 300)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		lock, err := s.lock(5)
		if err != nil || lock == 0 {
			t.Fatal(lock, err)
		}
		if _, err := s.opens.WriteAt(binary.BigEndian.AppendUint32(nil, length), int64(lock)-1); err != nil {
			t.Fatal(err)
		}
		if err := s.Erase(5); err != nil {
			t.Fatal(err)
		}
		f, _ := d.Files.Open(opensFile)
		size, _ := f.Size()
		all := make([]byte, size)
		_, _ = f.ReadAt(all, 0)
		if bytes.Contains(all, appendOpening(nil, sample(5).Opening)[4:]) {
			t.Errorf("length %d: the bytes are still there", length)
		}
		for i := range uint64(300) {
			if _, err := s.Opening(i); i != 5 && err != nil {
				t.Fatalf("length %d: opening %d: %v", length, i, err)
			}
		}
	}
}

func TestErase(t *testing.T) {
	d := newDisk()
	s := opened(t, d)
	appendTo(t, s, 0, 300)
	for _, i := range []uint64{0, 255, 299} {
		for range 2 {
			if err := s.Erase(i); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(s *Store, what string) {
		t.Helper()
		for _, i := range []uint64{0, 255, 299} {
			if _, err := s.Opening(i); !errors.Is(err, ErrErased) {
				t.Errorf("%s: opening %d: %v", what, i, err)
			}
			if e, err := s.Entry(i); err != nil || !bytes.Equal(e, sample(i).Entry) {
				t.Errorf("%s: entry %d: %v", what, i, err)
			}
			f, _ := d.Files.Open(opensFile)
			size, _ := f.Size()
			all := make([]byte, size)
			_, _ = f.ReadAt(all, 0)
			if bytes.Contains(all, appendOpening(nil, sample(i).Opening)[4:]) {
				t.Errorf("%s: the bytes of opening %d are still there", what, i)
			}
		}
		if _, err := s.Opening(1); err != nil {
			t.Errorf("%s: opening 1: %v", what, err)
		}
	}
	check(s, "at once")
	appendTo(t, s, 0, 300) // raft applies it all again
	check(s, "applied again")
	d = d.crash(func(int, write) int { return -1 })
	s = opened(t, d)
	appendTo(t, s, 0, 300)
	check(s, "after a crash")
	if err := s.Erase(300); !is[*Beyond](err) {
		t.Errorf("what is not there: %v", err)
	}
	// A peer does not bring back what was erased, and does not get it.
	fresh := restored(t, Memory(), 0, 300, 300)
	if _, err := fresh.Backfill(context.Background(), peerOf{Store: s}); err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.Opening(255); !errors.Is(err, ErrNoOpening) {
		t.Errorf("an erased opening travelled: %v", err)
	}
}

// A crash anywhere in an erasure is finished at the next start.
func TestErasureSurvivesACrash(t *testing.T) {
	files := newDisk()
	s := opened(t, files)
	appendTo(t, s, 0, 10)
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := files.Replace(erasingFile, []byte("7")); err != nil { // and then the power went
		t.Fatal(err)
	}
	again := opened(t, files.crash(func(int, write) int { return -1 }))
	if _, err := again.Opening(7); !errors.Is(err, ErrErased) {
		t.Errorf("opening 7: %v", err)
	}
}

func FuzzOpenings(f *testing.F) {
	s, err := Open(Memory())
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Append(0, samples(0, 3)); err != nil {
		f.Fatal(err)
	}
	whole, err := s.Openings(0, 3)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseOpenings(data)
		if err != nil {
			return
		}
		var again []byte
		for _, o := range all {
			if again = append(again, 0); o != nil {
				again[len(again)-1] = 1
				again = appendOpening(again, o)
			}
		}
		if !bytes.Equal(again, data) {
			t.Fatalf("%x has another encoding %x", data, again)
		}
	})
}

// Whatever the manifest says, opening does not panic and holds to its own rules.
func FuzzManifest(f *testing.F) {
	d := newDisk()
	s, _ := Open(d)
	_ = s.Append(0, samples(0, 5))
	_ = s.Sync()
	f.Add(d.small[manifestFile])
	f.Fuzz(func(t *testing.T, data []byte) {
		c := d.crash(func(int, write) int { return -1 })
		_ = c.Replace(manifestFile, data)
		s, err := Open(c)
		if err != nil {
			return
		}
		for i := range min(s.Size(), 8) {
			_, _ = s.Entry(i)
		}
	})
}
