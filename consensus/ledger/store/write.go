package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// The names of the files. Numbers in them are big endian; DESIGN.md says why
// each is as it is.
const (
	entriesFile = "entries"
	placesFile  = "entries.places"
	opensFile   = "openings"
	locksFile   = "openings.places"
	hashesFile  = "hashes." // and the level

	placeSize = 5
	lockSize  = 6
	// A place is an offset and one more, so that zero says: nothing here.
	maxPlace = 1<<(8*placeSize) - 2
	// erased, as the place of an opening, says that it was here.
	erased = 1<<(8*lockSize) - 1
)

const (
	// flushAt is how many bytes wait in memory before they are written.
	flushAt = 1 << 20
	// pendMax bounds what waits while the disk takes nothing, in bytes. Beyond it
	// the leaves are dropped and become a gap, which peers fill later; the raft
	// log, which is not compacted meanwhile, still has them.
	pendMax = 64 << 20
)

// pending is what was appended and not yet written. Its leaves are consecutive.
type pending struct {
	first   uint64
	count   uint64
	entryAt int64
	openAt  int64
	entries []byte
	places  []byte
	leaves  []byte
	opens   []byte
	locks   []byte
	nodes   []node
}

// node is a hash of a tile above the first level.
type node struct {
	level int
	at    uint64
	hash  ledger.Hash
}

func recordSize(entry []byte) int64 { return 2 + int64(len(entry)) }

const openingHead = 4 + 16

func openingSize(o *Opening) int64 {
	if o == nil {
		return 0
	}
	return openingHead + int64(len(o.Command))
}

func (p *pending) add(at uint64, entryAt, openAt int64, hash ledger.Hash, r Record) {
	if p.count == 0 {
		p.first, p.entryAt, p.openAt = at, entryAt, openAt
	}
	p.count++
	p.entries = appendEntry(p.entries, r.Entry)
	p.places = appendPlace(p.places, entryAt)
	p.leaves = append(p.leaves, hash[:]...)
	if r.Opening == nil {
		p.locks = appendLock(p.locks, 0)
		return
	}
	p.opens = appendOpening(p.opens, r.Opening)
	p.locks = appendLock(p.locks, uint64(openAt)+1)
}

func (p *pending) reset() {
	const keep = 2 * flushAt // a larger buffer was for one large leaf
	empty := func(b []byte) []byte {
		if cap(b) > keep {
			return nil
		}
		return b[:0]
	}
	*p = pending{entries: empty(p.entries), places: empty(p.places), leaves: empty(p.leaves), opens: empty(p.opens), locks: empty(p.locks), nodes: p.nodes[:0]}
}

func appendEntry(b, entry []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(entry))), entry...)
}

func appendOpening(b []byte, o *Opening) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(o.Command)))
	return append(append(b, o.Salt[:]...), o.Command...)
}

func appendPlace(b []byte, at int64) []byte {
	v := uint64(at) + 1
	return append(b, byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

func appendLock(b []byte, v uint64) []byte {
	return append(b, byte(v>>40), byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

func number(b []byte) (v uint64) {
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v
}

// Flush writes what waits in memory, without syncing it.
func (s *Store) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flush()
}

// flush writes what waits. Everything has its place, so that writing it again
// after a failure does no harm.
func (s *Store) flush() error {
	if s.pend.count == 0 && len(s.pend.nodes) == 0 {
		return nil
	}
	err := s.write(&s.pend)
	s.fault = err
	if err == nil {
		s.pend.reset()
		return nil
	}
	if len(s.pend.entries)+len(s.pend.opens) > pendMax {
		s.drop()
	}
	return err
}

func (s *Store) write(p *pending) error {
	if p.entryAt+int64(len(p.entries)) > maxPlace {
		return &Full{entriesFile, errors.New("it has reached one tebibyte")}
	}
	at := int64(p.first)
	for _, w := range []struct {
		name string
		file File
		data []byte
		at   int64
	}{
		{entriesFile, s.entries, p.entries, p.entryAt}, {opensFile, s.opens, p.opens, p.openAt},
		{locksFile, s.locks, p.locks, at * lockSize}, {hashesFile + "0", s.hashes[0], p.leaves, at * hashSize},
		// The place comes last: it makes the rest count.
		{placesFile, s.places, p.places, at * placeSize},
	} {
		if len(w.data) == 0 {
			continue
		}
		if _, err := w.file.WriteAt(w.data, w.at); err != nil {
			return written(w.name, err)
		}
	}
	for _, n := range p.nodes {
		if err := s.writeNode(n); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) writeNode(n node) error {
	_, err := s.hashes[n.level].WriteAt(n.hash[:], int64(n.at)*hashSize)
	return written(fmt.Sprint(hashesFile, n.level), err)
}

// drop gives up the leaves that wait; the tree keeps their hashes' sum.
func (s *Store) drop() {
	out := s.have[:0]
	for _, r := range s.have {
		if r.To = min(r.To, s.pend.first); r.From < r.To {
			out = append(out, r)
		}
	}
	s.have, s.lost = out, true
	s.entryAt, s.openAt = s.pend.entryAt, s.pend.openAt
	nodes := s.pend.nodes
	s.pend.reset()
	s.pend.nodes = nodes // few, and not to be had again before the gap is filled
}

// put writes leaves that were missing, all of one bundle. What waits was flushed
// before.
func (s *Store) put(first uint64, records []Record, hashes []ledger.Hash) error {
	p := pending{first: first, entryAt: s.entryAt}
	at := s.entryAt
	for i, r := range records {
		p.entries = appendEntry(p.entries, r.Entry)
		p.places = appendPlace(p.places, at)
		p.leaves = append(p.leaves, hashes[i][:]...)
		at += recordSize(r.Entry)
	}
	if err := s.write(&p); err != nil {
		return err
	}
	s.entryAt = at
	s.have = joined(append(s.have, Range{first, first + uint64(len(records))}))
	for i, r := range records {
		if err := s.keepOpening(first+uint64(i), r.Opening); err != nil {
			return err
		}
	}
	return s.climb(first)
}

// climb writes the hashes above a leaf that have become known.
func (s *Store) climb(at uint64) error {
	for level := 0; level+1 < levels; level++ {
		at /= ledger.TileWidth
		if (at+1)<<(8*(level+1)) > s.tree.End() {
			return nil
		}
		if known, err := s.slot(level+1, at); err != nil || known != (ledger.Hash{}) {
			return err
		}
		tile, err := s.rawTile(level, at, ledger.TileWidth)
		if err != nil || firstZero(tile) < ledger.TileWidth {
			return err
		}
		if err := s.writeNode(node{level + 1, at, tileRoot(tile)}); err != nil {
			return err
		}
	}
	return nil
}
