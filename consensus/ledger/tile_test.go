package ledger

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// The first is the example of https://c2sp.org/tlog-tiles.
func TestTilePaths(t *testing.T) {
	tests := []struct {
		tile Tile
		path string
	}{
		{Tile{0, 1234067, 256}, "tile/0/x001/x234/067"},
		{Tile{0, 0, 256}, "tile/0/000"},
		{Tile{3, 67, 1}, "tile/3/067.p/1"},
		{Tile{EntriesLevel, 1000, 255}, "tile/entries/x001/000.p/255"},
		{Tile{7, 0, 64}, "tile/7/000.p/64"},
	}
	for _, tt := range tests {
		if got := tt.tile.Path(); got != tt.path {
			t.Errorf("%v is at %s, want %s", tt.tile, got, tt.path)
		}
		if back, err := ParseTilePath(tt.path); err != nil || back != tt.tile {
			t.Errorf("%s is %v (%v), want %v", tt.path, back, err, tt.tile)
		}
	}
	for _, path := range []string{
		"", "/", "tile", "tile/", "tile/0", "tile/0/", "tile/0/0", "tile/0/00", "tile/0/0000", "tile/0/1000", "tile/00/000", "tile/+0/000", "tile/-1/000",
		"tile/8/000", "tile/64/000", "tile/data/000", "tile/0/x000/067", "tile/0/001/067", "tile/0/x001", "tile/0/x001/x067", "tile/0/067.p/", "tile/0/067.p/0",
		"tile/0/067.p/256", "tile/0/067.p/01", "tile/0/067.p/+1", "tile/0/067.p/1/", "tile/0/067.p/1.p/1", "tile/0/067/", "tile/0//067", "/tile/0/067", "tile/0/x067/../067",
		"tile/0/x18/446/744/073/709/551/616", "tile/0/x999/x999/x999/x999/x999/x999/x999/999", "tile/7/001.p/1", "tile/7/000.p/65", "tile/7/000", "tile/0/" + strings.Repeat("x001/", 100) + "000",
	} {
		if tile, err := ParseTilePath(path); err == nil {
			t.Errorf("%q was read as %v", path, tile)
		}
	}
}

func FuzzTilePath(f *testing.F) {
	f.Add("tile/0/x001/x234/067")
	f.Add("tile/entries/067.p/9")
	f.Fuzz(func(t *testing.T, path string) {
		if tile, err := ParseTilePath(path); err == nil && (tile.Path() != path || !tile.Valid()) {
			t.Fatalf("%q was read as %v", path, tile)
		}
	})
}

// The example of https://c2sp.org/tlog-tiles, partial tiles.
func TestTilesOfSeventyThousand(t *testing.T) {
	full, partial := map[int]int{}, map[int]int{}
	for tile := range Tiles(0, 70000) {
		if tile.Full() {
			full[tile.Level]++
		} else {
			partial[tile.Level] = tile.Width
		}
	}
	if full[0] != 273 || partial[0] != 112 || full[1] != 1 || partial[1] != 17 || full[2] != 0 || partial[2] != 1 || len(full) > 3 || len(partial) != 3 {
		t.Errorf("full %v partial %v", full, partial)
	}
	if got := slices.Collect(Tiles(0, 256)); !slices.Equal(got, []Tile{{0, 0, 256}, {1, 0, 1}}) {
		t.Errorf("256 leaves have %v", got)
	}
}

// x/mod's tlog, another implementation, publishes the same tiles.
func TestTilesAgreeWithAnotherImplementation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.Uint64Range(0, 200_000).Draw(t, "from")
		to := from + rapid.Uint64Range(0, 3000).Draw(t, "more")
		got := map[string]bool{}
		for tile := range Tiles(from, to) {
			got[tlog.Tile{H: tileHeight, L: tile.Level, N: int64(tile.Index), W: tile.Width}.Path()] = true
			if !tile.In(to) || tile.In(from) {
				t.Fatalf("%v is new from %d to %d", tile, from, to)
			}
		}
		for _, tile := range tlog.NewTiles(tileHeight, int64(from), int64(to)) {
			if !got[tile.Path()] {
				t.Fatalf("from %d to %d: %v is missing", from, to, tile)
			}
			delete(got, tile.Path())
		}
		if len(got) != 0 {
			t.Fatalf("from %d to %d: %v too many", from, to, got)
		}
		at := from
		for bundle := range Bundles(from, to) {
			first, end := bundle.Leaves()
			if first > at || end <= at || bundle.Hashes() != TileOf(at, to) || bundle.Hashes().Bundle() != bundle {
				t.Fatalf("%v does not go on at %d", bundle, at)
			}
			at = end
		}
		if at != to {
			t.Fatalf("the bundles end at %d of %d", at, to)
		}
	})
}

func TestBundles(t *testing.T) {
	var bundle []byte
	want := [][]byte{[]byte("one"), {}, []byte(strings.Repeat("x", MaxLeaf))}
	for _, entry := range want {
		var err error
		if bundle, err = AppendEntry(bundle, entry); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := AppendEntry(nil, make([]byte, MaxLeaf+1)); err == nil {
		t.Error("an entry too large for its length was added")
	}
	for width := 1; width <= 3; width++ {
		got, err := ParseBundle(bundle, width)
		if err != nil || !slices.EqualFunc(got, want[:width], slices.Equal) {
			t.Errorf("%d entries: %d, %v", width, len(got), err)
		}
	}
	for _, width := range []int{-1, 0, 4, 256} {
		if _, err := ParseBundle(bundle, width); err == nil {
			t.Errorf("%d entries were read from a bundle of 3", width)
		}
	}
	for cut := range bundle {
		if _, err := ParseBundle(bundle[:cut], 3); err == nil {
			t.Fatalf("a bundle cut at %d was read", cut)
		}
	}
	if _, err := ParseBundle(make([]byte, 2*257), 256); err == nil {
		t.Error("a bundle of 257 was read")
	}
}

func FuzzBundle(f *testing.F) {
	f.Add([]byte{0, 1, 'x', 0, 0}, 2)
	f.Fuzz(func(t *testing.T, bundle []byte, width int) {
		entries, err := ParseBundle(bundle, width)
		if err == nil && len(entries) != width {
			t.Fatalf("%d entries, not %d", len(entries), width)
		}
	})
}
