package store

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"strconv"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

type tileID struct {
	level int
	at    uint64
}

// trustedMax bounds how many roots of tiles are remembered.
const trustedMax = 4096

// slot is a hash of a tile, zero if it is not known.
func (s *Store) slot(level int, at uint64) (h ledger.Hash, err error) {
	return h, readAt(s.hashes[level], h[:], int64(at)*hashSize)
}

func (s *Store) place(at uint64) (int64, error) {
	var b [placeSize]byte
	err := readAt(s.places, b[:], int64(at)*placeSize)
	return int64(number(b[:])) - 1, err
}

// record reads the entry at an offset, as far as there is one.
func (s *Store) record(off int64) ([]byte, error) {
	var head [2]byte
	if _, err := s.entries.ReadAt(head[:], off); err != nil {
		return nil, err
	}
	entry := make([]byte, number(head[:]))
	if n, err := s.entries.ReadAt(entry, off+2); n < len(entry) {
		return nil, err
	}
	return entry, nil
}

// rawTile reads hashes as they are on disk; those not known are zero.
func (s *Store) rawTile(level int, at uint64, width int) ([]ledger.Hash, error) {
	buf := make([]byte, width*hashSize)
	if err := readAt(s.hashes[level], buf, int64(at)*ledger.TileWidth*hashSize); err != nil {
		return nil, fmt.Errorf("read the ledger file %s%d: %w", hashesFile, level, err)
	}
	out := make([]ledger.Hash, width)
	for i := range out {
		out[i] = ledger.Hash(buf[i*hashSize:])
	}
	return out, nil
}

func firstZero(tile []ledger.Hash) int {
	for i := range tile {
		if tile[i] == (ledger.Hash{}) {
			return i
		}
	}
	return len(tile)
}

// tileRoot is the root of a perfect tree over hashes, a power of two of them.
func tileRoot(hashes []ledger.Hash) ledger.Hash {
	row := append([]ledger.Hash(nil), hashes...)
	for n := len(row); n > 1; n /= 2 {
		for i := range n / 2 {
			row[i] = ledger.HashChildren(row[2*i], row[2*i+1])
		}
	}
	return row[0]
}

// edge is the tree as it was when a read began.
type edge struct {
	size   uint64
	hashes [][]byte
}

// begin makes everything appended readable and gives the tree that proves it.
func (s *Store) begin() (edge, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return edge{}, errors.New("the ledger is closed")
	}
	if err := s.flush(); err != nil {
		return edge{}, err
	}
	return edge{s.tree.End(), append([][]byte(nil), s.tree.Hashes()...)}, nil
}

// width is how many hashes a tile has in the tree; zero if there is no such tile.
func (e edge) width(level int, at uint64) int {
	n := e.size >> (8 * level)
	if at >= 1<<40 || n <= at*ledger.TileWidth {
		return 0
	}
	return int(min(n-at*ledger.TileWidth, ledger.TileWidth))
}

// tile reads a whole tile, as wide as the tree has it, and makes sure of it.
func (s *Store) tile(e edge, level int, at uint64) ([]ledger.Hash, error) {
	width := e.width(level, at)
	if width == 0 || level >= levels {
		return nil, &Beyond{e.size}
	}
	tile, err := s.rawTile(level, at, width)
	if err != nil {
		return nil, err
	}
	if n := firstZero(tile); n < width {
		return nil, s.missing((at*ledger.TileWidth + uint64(n)) << (8 * level))
	}
	rot := &Rot{hashesFile + strconv.Itoa(level), (at * ledger.TileWidth) << (8 * level)}
	if width < ledger.TileWidth {
		return tile, e.confirm(level, tile, rot)
	}
	root, id := tileRoot(tile), tileID{level, at}
	if s.trusts(id, root) {
		return tile, nil
	}
	above, err := s.tile(e, level+1, at/ledger.TileWidth)
	if err != nil {
		return nil, err
	}
	if above[at%ledger.TileWidth] != root {
		return nil, rot
	}
	s.trust(id, root)
	return tile, nil
}

// confirm compares the last tile of a level with the tree: its hashes, in
// groups of powers of two, are nodes of the compact range.
func (e edge) confirm(level int, tile []ledger.Hash, rot *Rot) error {
	for bit := 7; bit >= 0; bit-- {
		if len(tile)>>bit == 0 {
			continue
		}
		at := bits.OnesCount64(e.size >> (8*level + bit + 1))
		if tileRoot(tile[:1<<bit]) != ledger.Hash(e.hashes[at]) {
			return rot
		}
		tile = tile[1<<bit:]
	}
	return nil
}

func (s *Store) trusts(id tileID, root ledger.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trusted[id] == root
}

func (s *Store) trust(id tileID, root ledger.Hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.trusted) >= trustedMax {
		clear(s.trusted)
	}
	s.trusted[id] = root
}

// missing is why a leaf is not here: it is in a gap, or its hash was lost.
func (s *Store) missing(at uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := uint64(0)
	for _, h := range s.have {
		if at < h.From {
			return &Gap{from, h.From}
		}
		if at < h.To {
			// The leaf is here. Above the first level, a hash may wait for others.
			if g, ok := s.gap(); ok {
				return &Gap{g.From, g.To}
			}
			return &Rot{hashesFile, at}
		}
		from = h.To
	}
	return &Gap{from, s.tree.End()}
}

// ReadTile gives a tile of hashes, 32 bytes each, or a bundle of entries, each
// behind its length in two bytes, as tlog-tiles writes them. The errors to
// expect are *[Beyond], *[Gap] and *[Rot].
func (s *Store) ReadTile(_ context.Context, t ledger.Tile) ([]byte, error) {
	if t.Level == ledger.EntriesLevel {
		return s.bundle(t)
	}
	e, err := s.begin()
	if err != nil {
		return nil, err
	}
	if !t.In(e.size) || t.Level >= levels {
		return nil, &Beyond{e.size}
	}
	tile, err := s.tile(e, t.Level, t.Index)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, t.Width*hashSize)
	for _, h := range tile[:t.Width] {
		out = append(out, h[:]...)
	}
	return out, nil
}

func (s *Store) bundle(t ledger.Tile) ([]byte, error) {
	if !t.Valid() {
		return nil, &Beyond{s.Size()}
	}
	entries, err := s.Entries(t.Index*ledger.TileWidth, t.Width)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, e := range entries {
		out = appendEntry(out, e)
	}
	return out, nil
}

// Entries gives count leaves from first on, all of one bundle, each checked
// against the tree.
func (s *Store) Entries(first uint64, count int) ([][]byte, error) {
	e, err := s.begin()
	if err != nil {
		return nil, err
	}
	at, skip := first/ledger.TileWidth, int(first%ledger.TileWidth)
	if count < 1 || skip+count > e.width(0, at) {
		return nil, &Beyond{e.size}
	}
	tile, err := s.tile(e, 0, at)
	if err != nil {
		return nil, err
	}
	out := make([][]byte, count)
	for i := range out {
		place, err := s.place(first + uint64(i))
		if err != nil {
			return nil, fmt.Errorf("read the ledger file %s: %w", placesFile, err)
		}
		if place < 0 {
			return nil, s.missing(first + uint64(i))
		}
		if out[i], err = s.record(place); err != nil || ledger.HashLeaf(out[i]) != tile[skip+i] {
			return nil, &Rot{entriesFile, first + uint64(i)}
		}
	}
	return out, nil
}

// Entry gives one leaf, checked against the tree.
func (s *Store) Entry(index uint64) ([]byte, error) {
	all, err := s.Entries(index, 1)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

var _ ledger.TileReader = (*Store)(nil)
