package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// memory is a log in memory: its full tiles, its bundles, and its edge.
type memory struct {
	edge    *Edge
	tiles   map[string][]byte
	entries [][]byte
}

func entry(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte("entry "), n) }

func newMemory(t testing.TB, size uint64) *memory {
	t.Helper()
	m := &memory{edge: new(Edge), tiles: map[string][]byte{}}
	m.grow(t, size)
	return m
}

// grow appends entries and writes the partial tiles at the new size.
func (m *memory) grow(t testing.TB, more uint64) {
	t.Helper()
	for range more {
		m.entries = append(m.entries, entry(m.edge.Size()))
		err := m.edge.Append(HashLeaf(entry(m.edge.Size())), func(tile Tile, data []byte) error {
			m.tiles[tile.Path()] = data
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for tile, data := range m.edge.Partial() {
		m.tiles[tile.Path()] = bytes.Clone(data)
	}
}

func (m *memory) head() Head { return Head{m.edge.Size(), m.edge.Root()} }

func (m *memory) ReadTile(_ context.Context, t Tile) ([]byte, error) {
	if data, ok := m.tiles[t.Path()]; ok {
		return data, nil
	}
	if data, ok := m.tiles[t.Widest().Path()]; ok { // the partial tile is gone
		return data, nil
	}
	return nil, fmt.Errorf("%s is not here", t.Path())
}

func (m *memory) bundle(t Tile) (bundle []byte) {
	from, to := t.Leaves()
	for _, e := range m.entries[from:to] {
		bundle, _ = AppendEntry(bundle, e)
	}
	return bundle
}

// The edge, the compact range and the RFC's own hashes agree at every size.
func TestEdgeAgreesWithTree(t *testing.T) {
	tree, m := NewTree(), newMemory(t, 0)
	for n := range uint64(70_000) {
		if n < 1500 || n%4099 == 0 || n%256 < 2 {
			if m.edge.Root() != tree.Root() || m.edge.Size() != tree.Size() {
				t.Fatalf("%d leaves: %x, want %x", n, m.edge.Root(), tree.Root())
			}
		}
		tree.Append(entry(n))
		m.grow(t, 1)
	}
	if HashLeaf(entry(1)) != Hash(rfc6962.DefaultHasher.HashLeaf(entry(1))) {
		t.Error("a leaf's hash")
	}
	again, err := ReadEdge(t.Context(), m, m.edge.Size())
	if err != nil || again.Root() != m.edge.Root() {
		t.Errorf("read back: %v", err)
	}
	var want, got []string
	for tile := range Tiles(0, m.edge.Size()) {
		want = append(want, tile.Path())
	}
	for tile := range Tiles(0, m.edge.Size()) {
		if _, ok := m.tiles[tile.Path()]; ok {
			got = append(got, tile.Path())
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d tiles of %d were made", len(got), len(want))
	}
}

// Proofs of random trees verify here and with x/mod's tlog; with any other
// index, size, leaf, hash or root they never do.
func TestProofs(t *testing.T) {
	m := newMemory(t, 0)
	tree := NewTree()
	heads := []Head{m.head()}
	const most = 3000
	for n := range uint64(most) {
		m.grow(t, 1)
		tree.Append(entry(n))
		heads = append(heads, Head{tree.Size(), tree.Root()})
	}
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Uint64Range(1, most).Draw(t, "size")
		index := rapid.Uint64Range(0, size-1).Draw(t, "index")
		head := heads[size]
		hashes, err := ProveInclusion(context.Background(), m, head, index)
		if err != nil {
			t.Fatal(err)
		}
		var foreign tlog.RecordProof
		for _, h := range hashes {
			foreign = append(foreign, tlog.Hash(h))
		}
		leaf := HashLeaf(entry(index))
		if err := tlog.CheckRecord(foreign, int64(size), tlog.Hash(head.Root), int64(index), tlog.Hash(leaf)); err != nil {
			t.Fatalf("tlog: %v", err)
		}
		refuse := func(what string, head Head, index uint64, leaf Hash, hashes []Hash) {
			if checkInclusion(head, index, leaf, hashes) == nil {
				t.Fatalf("%s, and the proof of %d in %d holds", what, index, size)
			}
		}
		other := rapid.Uint64Range(0, most).Filter(func(n uint64) bool { return n != index }).Draw(t, "other index")
		refuse("another index", head, other, leaf, hashes)
		refuse("another leaf", head, index, HashLeaf(entry(other)), hashes)
		refuse("another root", Head{size, heads[(size+1)%most].Root}, index, leaf, hashes)
		refuse("a hash more", head, index, leaf, append(slices.Clone(hashes), Hash{}))
		for i := range hashes {
			bad := slices.Clone(hashes)
			bad[i][0] ^= 1
			refuse("a changed hash", head, index, leaf, bad)
			refuse("a hash less", head, index, leaf, slices.Delete(slices.Clone(hashes), i, i+1))
		}
		older := rapid.Uint64Range(0, size).Draw(t, "older")
		hashes, err = ProveConsistency(context.Background(), m, heads[older], head)
		if err != nil {
			t.Fatal(err)
		}
		if older == 0 {
			return
		}
		var consistent tlog.TreeProof
		for _, h := range hashes {
			consistent = append(consistent, tlog.Hash(h))
		}
		if err := tlog.CheckTree(consistent, int64(size), tlog.Hash(head.Root), int64(older), tlog.Hash(heads[older].Root)); err != nil {
			t.Fatalf("tlog: %v", err)
		}
		for i := range hashes {
			bad := slices.Clone(hashes)
			bad[i][31] ^= 0x80
			if checkConsistency(heads[older], head, bad) == nil {
				t.Fatal("a changed hash, and the proof holds")
			}
		}
		if older < size && checkConsistency(Head{older, heads[older-1].Root}, head, hashes) == nil {
			t.Fatal("another root, and the proof holds")
		}
	})
}

func TestProofsOfWhatIsNotThere(t *testing.T) {
	m := newMemory(t, 300)
	for _, head := range []Head{{}, m.head(), {MaxSize + 1, Hash{}}} {
		if _, err := ProveInclusion(t.Context(), m, head, head.Size); err == nil {
			t.Errorf("entry %d of %d was proven", head.Size, head.Size)
		}
	}
	if _, err := ProveConsistency(t.Context(), m, m.head(), Head{299, Hash{}}); err == nil {
		t.Error("a smaller tree was proven to extend a larger")
	}
	if err := checkConsistency(Head{0, Hash{1}}, m.head(), nil); err == nil {
		t.Error("an empty tree had a root of its own")
	}
	if err := checkConsistency(Head{0, NewTree().Root()}, m.head(), []Hash{{}}); err == nil {
		t.Error("a proof from the empty tree had hashes")
	}
	if err := checkConsistency(Head{0, NewTree().Root()}, Head{0, Hash{1}}, nil); err == nil {
		t.Error("an empty tree had two roots")
	}
}

// Every tile of a copy is changed once: a checked reader gives no changed byte,
// and no proof is made from one.
func TestDamagedTiles(t *testing.T) {
	m := newMemory(t, 66_000) // three levels
	ctx := t.Context()
	for tile := range Tiles(0, 66_000) {
		got, err := NewCheckedTiles(m, m.head()).ReadTile(ctx, tile)
		if err != nil || !bytes.Equal(got, m.tiles[tile.Path()]) {
			t.Fatalf("%s: %v", tile.Path(), err)
		}
		kept := m.tiles[tile.Path()]
		for _, bad := range [][]byte{flipped(kept, 0), flipped(kept, len(kept)-1), kept[:len(kept)-1], kept[:len(kept)-32], nil} {
			m.tiles[tile.Path()] = bad
			if _, err := NewCheckedTiles(m, m.head()).ReadTile(ctx, tile); err == nil {
				t.Fatalf("%s was changed, and read", tile.Path())
			}
		}
		if tile.Level == 0 { // its own entries cannot be proven from it
			m.tiles[tile.Path()] = flipped(kept, 0)
			var damage *DamageError
			if _, err := ProveInclusion(ctx, m, m.head(), tile.Index*TileWidth+1%uint64(tile.Width)); !errors.As(err, &damage) {
				t.Fatalf("%s was changed, and a proof made: %v", tile.Path(), err)
			}
		}
		m.tiles[tile.Path()] = kept
	}
}

func flipped(data []byte, at int) []byte {
	bad := bytes.Clone(data)
	bad[at] ^= 1
	return bad
}

// An auditor reads a whole log; a back-filled replica goes on from it.
func TestCheckedEntries(t *testing.T) {
	m := newMemory(t, 1100)
	c := NewCheckedTiles(m, m.head())
	n := uint64(0)
	for bundle := range Bundles(0, 1100) {
		entries, err := c.Entries(t.Context(), bundle, m.bundle(bundle))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !bytes.Equal(e, entry(n)) {
				t.Fatalf("entry %d is %q", n, e)
			}
			n++
		}
		data := m.bundle(bundle)
		var damage *DamageError
		if _, err := c.Entries(t.Context(), bundle, flipped(data, len(data)-1)); !errors.As(err, &damage) {
			t.Fatalf("an entry was changed: %v", err)
		}
	}
	edge, err := c.Edge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	goOn := &memory{edge: edge, tiles: m.tiles}
	m.edge = nil
	goOn.grow(t, 500)
	want := newMemory(t, 1600)
	if goOn.head() != want.head() {
		t.Error("another root after going on")
	}
	if _, err := NewCheckedTiles(want, Head{1600, Hash{}}).Edge(t.Context()); err == nil {
		t.Error("a log passed for another")
	}
	for _, tile := range []Tile{{0, 7, 256}, {3, 0, 1}, {EntriesLevel, 0, 256}, {0, 0, 0}} {
		if _, err := c.ReadTile(t.Context(), tile); err == nil {
			t.Errorf("%v was read of 1100 leaves", tile)
		}
	}
	if _, err := c.Entries(t.Context(), Tile{0, 0, 256}, nil); err == nil {
		t.Error("a tile of hashes passed for a bundle")
	}
}

// A partial tile that is gone is read out of the full one.
func TestOlderSizesAfterGrowing(t *testing.T) {
	m := newMemory(t, 100)
	old := m.head()
	m.grow(t, 1000)
	delete(m.tiles, Tile{0, 0, 100}.Path())
	if _, err := ProveInclusion(t.Context(), m, old, 99); err != nil {
		t.Error(err)
	}
	if _, err := NewCheckedTiles(m, old).ReadTile(t.Context(), Tile{0, 0, 100}); err != nil {
		t.Error(err)
	}
}
