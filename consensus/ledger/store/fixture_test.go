package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// sample is leaf i of a made-up history, with its opening.
func sample(i uint64) Record { return sampleOf(i, "command") }

// made are records that were made before, by what they were made of: a record is
// hashed twice, and tests ask for the same ones thousands of times.
var made sync.Map

func sampleOf(i uint64, word string) Record {
	type of struct {
		i    uint64
		word string
	}
	was, ok := made.Load(of{i, word})
	if !ok {
		was = makeSample(i, word)
		if i < 4*ledger.TileWidth {
			made.Store(of{i, word}, was)
		}
	}
	r := was.(Record)
	return Record{bytes.Clone(r.Entry), &Opening{r.Opening.Salt, bytes.Clone(r.Opening.Command)}}
}

func makeSample(i uint64, word string) Record {
	var salt ledger.Salt
	binary.BigEndian.PutUint64(salt[:], i)
	command := fmt.Appendf(nil, "%s %d", word, i)
	leaf := ledger.Leaf{Index: i, Kind: "job.submit", Time: time.Unix(int64(i), 0), Actor: "tok-1", Salt: ledger.LeafSalt(salt), Commitment: ledger.Commit(salt, command)}
	entry, err := leaf.Encode()
	if err != nil {
		panic(err)
	}
	return Record{entry, &Opening{salt, command}}
}

func samples(from, to uint64) (out []Record) {
	for i := from; i < to; i++ {
		out = append(out, sample(i))
	}
	return out
}

func opened(t testing.TB, files Files) *Store {
	t.Helper()
	s, err := Open(files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func appendTo(t testing.TB, s *Store, from, to uint64) {
	t.Helper()
	for ; from < to; from += 100 {
		if err := s.Append(from, samples(from, min(to, from+100))); err != nil {
			t.Fatal(err)
		}
	}
}

// treeOf is the tree of the first n samples.
func treeOf(n uint64) *ledger.Tree {
	tree := ledger.NewTree()
	for i := range n {
		tree.Append(sample(i).Entry)
	}
	return tree
}

// checkAll reads everything back: tiles, entries and openings.
func checkAll(t testing.TB, s *Store, size uint64) {
	t.Helper()
	if got := s.Status(); got.Size != size || !got.Full() {
		t.Fatalf("%+v, want a full store of %d", got, size)
	}
	root, _ := s.Root()
	if root != treeOf(size).Root() {
		t.Fatal("another root")
	}
	ctx := context.Background()
	checked := ledger.NewCheckedTiles(s, ledger.Head{Size: size, Root: root})
	for b := range ledger.Bundles(0, size) {
		data, err := s.ReadTile(ctx, b)
		if err != nil {
			t.Fatalf("%s: %v", b.Path(), err)
		}
		entries, err := checked.Entries(ctx, b, data)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			if want := sample(b.Index*ledger.TileWidth + uint64(i)); !bytes.Equal(e, want.Entry) {
				t.Fatalf("%s: entry %d differs", b.Path(), i)
			}
		}
	}
	apart := 1 + size/ledger.TileWidth/4 // of four bundles all, in between none
	for i := uint64(0); i < size; {
		if bundle := i / ledger.TileWidth; bundle%apart != 0 {
			i = (bundle + 1) * ledger.TileWidth
			continue
		}
		data, err := s.Openings(i, int(min(size-i, ledger.TileWidth-i%ledger.TileWidth)))
		if err != nil {
			t.Fatalf("openings from %d: %v", i, err)
		}
		all, err := parseOpenings(data)
		if err != nil || len(all) == 0 {
			t.Fatalf("openings from %d: %d, %v", i, len(all), err)
		}
		for _, o := range all {
			if o == nil || !bytes.Equal(o.Command, sample(i).Opening.Command) {
				t.Fatalf("opening %d: %v", i, o)
			}
			i++
		}
	}
	if size == 0 {
		return
	}
	if o, err := s.Opening(size - 1); err != nil || !bytes.Equal(o.Command, sample(size-1).Opening.Command) {
		t.Fatalf("opening %d: %v", size-1, err)
	}
}

// disk is memory that can lose what was not synced, and take no more.
type disk struct {
	Files
	mu    sync.Mutex
	log   []write           // since the last sync of each file; guarded by mu
	room  int64             // bytes that may still be written; guarded by mu
	kept  map[string][]byte // what is certainly on disk; guarded by mu
	small map[string][]byte
}

// write is one write that no sync has covered; at below zero stands for a cut.
type write struct {
	name string
	at   int64
	data []byte
}

func newDisk() *disk {
	return &disk{Files: Memory(), room: 1 << 40, kept: map[string][]byte{}, small: map[string][]byte{}}
}

type diskFile struct {
	File
	d    *disk
	name string
}

func (d *disk) Open(name string) (File, error) {
	f, err := d.Files.Open(name)
	return diskFile{f, d, name}, err
}

func (d *disk) Replace(name string, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.room -= int64(len(data)); d.room < 0 {
		return syscall.ENOSPC
	}
	d.small[name] = bytes.Clone(data)
	return d.Files.Replace(name, data)
}

func (f diskFile) WriteAt(p []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.room < int64(len(p)) {
		n, _ := f.File.WriteAt(p[:f.d.room], at)
		f.d.room = 0
		return n, syscall.ENOSPC
	}
	f.d.room -= int64(len(p))
	f.d.log = append(f.d.log, write{f.name, at, bytes.Clone(p)})
	return f.File.WriteAt(p, at)
}

func (f diskFile) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.d.log = append(f.d.log, write{f.name, -1 - size, nil})
	return f.File.Truncate(size)
}

func (f diskFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	rest := f.d.log[:0:0]
	for _, w := range f.d.log {
		if w.name != f.name {
			rest = append(rest, w)
			continue
		}
		f.d.kept[w.name] = apply(f.d.kept[w.name], w)
	}
	f.d.log = rest
	return nil
}

func apply(b []byte, w write) []byte {
	end := w.at + int64(len(w.data))
	if w.at < 0 {
		end = -1 - w.at
	}
	if more := end - int64(len(b)); more > 0 {
		b = append(b, make([]byte, more)...)
	}
	if w.at < 0 {
		return b[:end]
	}
	copy(b[w.at:], w.data)
	return b
}

// crash is a disk as a lost power may leave it: all that was synced, and of
// the writes since then those for which keep says how many bytes.
func (d *disk) crash(keep func(n int, w write) int) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := newDisk()
	for name, data := range d.kept {
		out.kept[name] = bytes.Clone(data)
	}
	for i, w := range d.log {
		n := keep(i, w)
		if n < 0 {
			continue
		}
		if w.at >= 0 {
			w.data = w.data[:min(n, len(w.data))]
		}
		out.kept[w.name] = apply(out.kept[w.name], w)
	}
	for name, data := range out.kept {
		f, _ := out.Files.Open(name)
		_, _ = f.WriteAt(data, 0)
	}
	for name, data := range d.small {
		out.small[name] = data
		_ = out.Files.Replace(name, data)
	}
	return out
}

// reopenedAs opens what a crash left, applies the rest again and checks all.
func reopenedAs(t *testing.T, d *disk, durable, size uint64) {
	t.Helper()
	s, err := Open(d)
	if err != nil {
		t.Fatalf("open after the crash: %v", err)
	}
	if s.Size() < durable {
		t.Fatalf("%d leaves after the crash, %d were durable", s.Size(), durable)
	}
	if err := s.Append(durable, samples(durable, size)); err != nil {
		t.Fatalf("apply again: %v", err)
	}
	checkAll(t, s, size)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }

// peerOf serves one store to another, through a hand that may change answers.
type peerOf struct {
	*Store
	tile func(ledger.Tile, []byte) []byte
	open func([]byte) []byte
}

func (p peerOf) ReadTile(ctx context.Context, t ledger.Tile) ([]byte, error) {
	data, err := p.Store.ReadTile(ctx, t)
	if err == nil && p.tile != nil {
		data = p.tile(t, data)
	}
	return data, err
}

func (p peerOf) Openings(_ context.Context, first uint64, count int) ([]byte, error) {
	data, err := p.Store.Openings(first, count)
	if err == nil && p.open != nil {
		data = p.open(data)
	}
	return data, err
}

func is[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}
