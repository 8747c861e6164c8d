package store

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

func TestAppendAndReadBack(t *testing.T) {
	for _, size := range []uint64{1, 255, 256, 257, 1000, 66000} {
		dir := Dir(t.TempDir())
		s := opened(t, dir)
		appendTo(t, s, 0, size)
		checkAll(t, s, size)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = opened(t, dir)
		if s.Durable() != size {
			t.Errorf("%d of %d are durable after closing", s.Durable(), size)
		}
		checkAll(t, s, size)
	}
}

func TestTheSameIndexTwice(t *testing.T) {
	s := opened(t, Memory())
	appendTo(t, s, 0, 300)
	if err := s.Append(100, samples(100, 300)); err != nil {
		t.Fatalf("the same again: %v", err)
	}
	checkAll(t, s, 300)
	if err := s.Append(299, []Record{sampleOf(299, "other")}); !is[*Conflict](err) {
		t.Errorf("other bytes at 299: %v", err)
	}
	if err := s.Append(301, samples(301, 302)); !is[*Conflict](err) {
		t.Errorf("a leaf beyond the end: %v", err)
	}
}

// Of every write since the last sync, any number of bytes may be on disk.
func TestACrashAtEveryByte(t *testing.T) {
	d := newDisk()
	s, err := Open(d)
	if err != nil {
		t.Fatal(err)
	}
	appendTo(t, s, 0, 250)
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	appendTo(t, s, 250, 262)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	writes := len(d.log)
	if writes < 5 {
		t.Fatalf("only %d writes to tear", writes)
	}
	step := 1
	if testing.Short() {
		step = 13
	}
	for torn := range writes {
		for n := 0; n <= len(d.log[torn].data); n += step {
			// In order: everything before the torn write is there, nothing after it.
			reopenedAs(t, d.crash(func(i int, w write) int {
				switch {
				case i < torn:
					return len(w.data)
				case i == torn:
					return n
				}
				return -1
			}), 250, 262)
			// Out of order: everything but the end of one write is there.
			reopenedAs(t, d.crash(func(i int, w write) int {
				if i == torn {
					return n
				}
				return len(w.data)
			}), 250, 262)
		}
	}
}

// Random lives: appends, syncs, erasures and crashes in any order.
func TestRandomCrashes(t *testing.T) {
	for seed := range uint64(40) {
		r := seeded(seed)
		d := newDisk()
		durable, size := uint64(0), uint64(0)
		for range 4 {
			s, err := Open(d)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if s.Size() < durable {
				t.Fatalf("seed %d: %d leaves, %d were durable", seed, s.Size(), durable)
			}
			for range 1 + r.IntN(5) {
				from := durable // as raft does: what is not durable comes again
				size = max(s.Size(), from+uint64(r.IntN(400)))
				appendTo(t, s, from, size)
				if r.IntN(3) == 0 {
					if err := s.Sync(); err != nil {
						t.Fatal(err)
					}
					durable = s.Durable()
				} else if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			d = d.crash(func(_ int, w write) int { return r.IntN(len(w.data)+2) - 1 })
		}
		reopenedAs(t, d, durable, max(size, durable)+10)
	}
}

func TestAFullDisk(t *testing.T) {
	d := newDisk()
	s := opened(t, d)
	appendTo(t, s, 0, 300)
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	d.room = 1000
	appendTo(t, s, 300, 600) // goes on: raft has the leaves
	if err := s.Sync(); !is[*Full](err) {
		t.Fatalf("a sync on a full disk: %v", err)
	}
	if st := s.Status(); st.Size != 600 || st.Durable != 300 || !is[*Full](st.Fault) {
		t.Errorf("%+v", st)
	}
	if _, err := s.Entry(10); !is[*Full](err) {
		t.Errorf("a read while leaves wait: %v", err)
	}
	d.room = 1 << 40
	if err := s.Sync(); err != nil || s.Status().Fault != nil {
		t.Fatalf("with room again: %v", err)
	}
	checkAll(t, s, 600)
}

// A disk that takes nothing for long makes a gap, not a heap without bounds;
// what it held back is not called durable before peers have filled it.
func TestAFullDiskForLong(t *testing.T) {
	d := newDisk()
	s := opened(t, d)
	d.room = 0
	big := make([]byte, 1<<20)
	for i := range uint64(80) {
		r := sample(i)
		r.Opening.Command = big // not that of the leaf: nobody reads it here
		if err := s.Append(i, []Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	if held := len(s.pend.opens); held > pendMax+2<<20 {
		t.Errorf("%d MiB wait in memory", held>>20)
	}
	d.room = 1 << 40
	if err := s.Sync(); err == nil {
		t.Error("leaves were dropped, and a sync calls all durable")
	}
	if st := s.Status(); st.Full() || st.Durable != 0 {
		t.Errorf("%+v", st)
	}
	whole := opened(t, Memory())
	appendTo(t, whole, 0, 80)
	if _, err := s.Backfill(context.Background(), peerOf{Store: whole}); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); !st.Full() || st.Durable != 80 {
		t.Errorf("after filling: %+v", st)
	}
}

// Every byte of every file, changed on disk, is noticed by whoever reads it,
// and gives no wrong answer.
func TestRotIsNoticed(t *testing.T) {
	const size = 600
	path := t.TempDir()
	s := opened(t, Dir(path))
	appendTo(t, s, 0, size)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{entriesFile, placesFile, hashesFile + "0", hashesFile + "1", opensFile} {
		file := filepath.Join(path, name)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		step := max(len(whole)/25, 1)
		for at := 0; at < len(whole); at += step {
			bad := append([]byte(nil), whole...)
			bad[at] ^= 1
			if err := os.WriteFile(file, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if !rots(t, Dir(path), size) {
				t.Fatalf("byte %d of %s was changed, and nobody noticed", at, name)
			}
		}
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	checkAll(t, opened(t, Dir(path)), size)
}

// rots reads all, and reports whether something was refused with a file's name.
func rots(t *testing.T, files Files, size uint64) (found bool) {
	s, err := Open(files)
	if err != nil {
		return is[*Corrupt](err)
	}
	defer s.closeFiles()
	note := func(err error) {
		if err != nil && !is[*Rot](err) && !is[*Gap](err) {
			t.Fatalf("an error that names no file: %v", err)
		}
		found = found || err != nil
	}
	for b := range ledger.Tiles(0, size) {
		_, err := s.ReadTile(context.Background(), b)
		note(err)
	}
	for b := range ledger.Bundles(0, size) {
		first := b.Index * ledger.TileWidth
		entries, err := s.Entries(first, b.Width)
		note(err)
		for i, entry := range entries {
			if string(entry) != string(sample(first+uint64(i)).Entry) {
				t.Fatalf("entry %d is wrong, and was given", first+uint64(i))
			}
		}
		_, err = s.Openings(first, b.Width)
		note(err)
	}
	return found
}

func TestATornManifestOrShortFileIsCorrupt(t *testing.T) {
	path := t.TempDir()
	s := opened(t, Dir(path))
	appendTo(t, s, 0, 300)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, _ := os.ReadFile(filepath.Join(path, entriesFile))
	if err := os.Truncate(filepath.Join(path, entriesFile), int64(len(whole)-1)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Dir(path)); !is[*Corrupt](err) {
		t.Errorf("a short file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(path, manifestFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Dir(path)); !is[*Corrupt](err) {
		t.Errorf("a torn manifest: %v", err)
	}
}

func BenchmarkAppend(b *testing.B) {
	path := b.TempDir()
	s := opened(b, Dir(path))
	records := samples(0, 4096)
	entry := 0
	b.ResetTimer()
	for i := 0; i < b.N; i += 16 {
		at := i % 4096
		if err := s.Append(uint64(i), records[at:at+16]); err != nil {
			b.Fatal(err)
		}
		entry += len(records[at].Entry) * 16
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
	b.StopTimer()
	if err := s.Sync(); err != nil {
		b.Fatal(err)
	}
	files, bytes := 0, int64(0)
	for _, name := range []string{entriesFile, placesFile, hashesFile + "0", hashesFile + "1", hashesFile + "2"} {
		if info, err := os.Stat(filepath.Join(path, name)); err == nil {
			files++
			bytes += info.Size()
		}
	}
	b.ReportMetric(float64(bytes-int64(entry))/float64(b.N), "overhead-B/entry")
}
