package ledger

import (
	"fmt"
	"iter"
	"math/bits"
	"strconv"
	"strings"
)

// The tile layout is that of C2SP tlog-tiles (https://c2sp.org/tlog-tiles):
// tiles are 256 hashes wide, and so are the bundles of entries beneath them.
const (
	TileWidth  = 256
	tileHeight = 8
	// MaxSize is the largest tree this package works on. Larger checkpoints
	// are refused as unreadable; x/mod's tlog has the same bound.
	MaxSize = 1 << 62
	// EntriesLevel is the Level of a [Tile] that names a bundle of entries.
	EntriesLevel = -1
	// maxLevel is the highest level a tree of MaxSize has a tile on.
	maxLevel = 62 / tileHeight
	// maxPath is longer than any path of a tile.
	maxPath = 64
)

// Tile names a tile of hashes, or a bundle of entries, by its place and width.
// The zero value names nothing: a tile has at least one hash.
type Tile struct {
	// Level is 0 for leaf hashes, n for roots of full tiles of level n-1, and
	// [EntriesLevel] for the entries themselves.
	Level int
	// Index counts the tiles of a level from the left.
	Index uint64
	// Width is the number of hashes or entries, 1 to 256.
	Width int
}

// Full reports whether the tile will never change again.
func (t Tile) Full() bool { return t.Width == TileWidth }

// Widest is the full tile at the same place.
func (t Tile) Widest() Tile { return Tile{t.Level, t.Index, TileWidth} }

// Bundle is the bundle that holds the entries of a tile of leaf hashes, and
// Hashes is the way back.
func (t Tile) Bundle() Tile { return Tile{EntriesLevel, t.Index, t.Width} }

// Hashes is the tile of leaf hashes over a bundle's entries.
func (t Tile) Hashes() Tile { return Tile{0, t.Index, t.Width} }

// Leaves is the half-open range of leaf indices the tile covers.
func (t Tile) Leaves() (from, to uint64) {
	span := uint64(1) << (tileHeight * max(t.Level, 0))
	from = t.Index * TileWidth * span
	return from, from + uint64(t.Width)*span
}

// Valid reports whether a tree of at most [MaxSize] leaves can have the tile.
func (t Tile) Valid() bool {
	if t.Level < EntriesLevel || t.Level > maxLevel || t.Width < 1 || t.Width > TileWidth {
		return false
	}
	count := uint64(MaxSize) >> (tileHeight * max(t.Level, 0)) // hashes a full tree has on the level
	return t.Index <= count/TileWidth && t.Index*TileWidth+uint64(t.Width) <= count
}

// In reports whether a tree of that size has exactly this tile, or had it when
// it was smaller and has a wider one now.
func (t Tile) In(size uint64) bool {
	_, to := t.Leaves()
	return t.Valid() && to <= size
}

// Path is the tile's address below a log's prefix, such as
// tile/0/x001/x234/067.p/9 or tile/entries/067.
func (t Tile) Path() string {
	level := "entries"
	if t.Level >= 0 {
		level = strconv.Itoa(t.Level)
	}
	groups := fmt.Sprintf("%03d", t.Index%1000)
	for n := t.Index / 1000; n > 0; n /= 1000 {
		groups = fmt.Sprintf("x%03d/%s", n%1000, groups)
	}
	if t.Full() {
		return "tile/" + level + "/" + groups
	}
	return "tile/" + level + "/" + groups + ".p/" + strconv.Itoa(t.Width)
}

// ParseTilePath reads what [Tile.Path] writes and nothing else, so that an
// address names one file and a file has one address.
func ParseTilePath(path string) (Tile, error) {
	t, ok := parseTilePath(path)
	if !ok || !t.Valid() || t.Path() != path {
		return Tile{}, fmt.Errorf("%q is no path of a tile; one looks like tile/0/x001/234 or tile/entries/067.p/9", shorten(path))
	}
	return t, nil
}

// parseTilePath is lenient; its caller compares with the one right form.
func parseTilePath(path string) (t Tile, ok bool) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || len(path) > maxPath {
		return t, false
	}
	level, rest, _ := strings.Cut(rest, "/")
	if t.Level = EntriesLevel; level != "entries" {
		n, err := strconv.ParseUint(level, 10, 8)
		if err != nil {
			return t, false
		}
		t.Level = int(n)
	}
	rest, width, partial := strings.Cut(rest, ".p/")
	if t.Width = TileWidth; partial {
		n, err := strconv.ParseUint(width, 10, 8) // 256 is written without .p
		if err != nil {
			return t, false
		}
		t.Width = int(n)
	}
	for group := range strings.SplitSeq(rest, "/") {
		n, err := strconv.ParseUint(strings.TrimPrefix(group, "x"), 10, 10)
		if err != nil || n > 999 {
			return t, false
		}
		high, low := bits.Mul64(t.Index, 1000)
		if high != 0 || low+n < low {
			return t, false
		}
		t.Index = low + n
	}
	return t, true
}

// Tiles are the tiles of hashes that a tree of newSize leaves has and one of
// oldSize has not, level by level from the leaves up, each level from the left.
// With oldSize 0 these are all tiles of the tree. Of a tile that grew, only the
// width that it has at newSize comes.
func Tiles(oldSize, newSize uint64) iter.Seq[Tile] {
	return func(yield func(Tile) bool) {
		for level := 0; level <= maxLevel; level++ {
			if !tilesOf(level, oldSize>>(tileHeight*level), newSize>>(tileHeight*level), yield) {
				return
			}
		}
	}
}

// Bundles are the bundles of entries, in the same way.
func Bundles(oldSize, newSize uint64) iter.Seq[Tile] {
	return func(yield func(Tile) bool) { tilesOf(EntriesLevel, oldSize, newSize, yield) }
}

func tilesOf(level int, from, to uint64, yield func(Tile) bool) bool {
	if from >= to {
		return true
	}
	for at := from / TileWidth; at*TileWidth < to; at++ {
		if !yield(Tile{level, at, int(min(TileWidth, to-at*TileWidth))}) {
			return false
		}
	}
	return true
}

// TileOf is the tile of leaf hashes, in a tree of that size, that holds the
// leaf. The leaf must be below the size.
func TileOf(leaf, size uint64) Tile {
	at := leaf / TileWidth
	return Tile{0, at, int(min(TileWidth, size-at*TileWidth))}
}

// shorten keeps a stranger's text in an error to a readable length.
func shorten(text string) string {
	const most = 80
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
