package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/transparency-dev/merkle/compact"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

const (
	manifestFile   = "manifest.json"
	manifestFormat = 1
)

// manifest is what a sync left behind: up to here, everything is on disk.
type manifest struct {
	Format int    `json:"format"`
	Size   uint64 `json:"size"`
	// Tree is the compact range of that size, as ledger.Tree writes it.
	Tree []byte      `json:"tree"`
	Have [][2]uint64 `json:"have"`
	// Entries and Openings are the lengths of the two record files.
	Entries  int64 `json:"entries"`
	Openings int64 `json:"openings"`
}

// Open opens a store, cuts off what a crash tore, and keeps what it left whole.
func Open(files Files) (*Store, error) {
	s := &Store{files: files, trusted: map[tileID]ledger.Hash{}}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	return s, nil
}

func (s *Store) open() (err error) {
	for name, f := range map[string]*File{entriesFile: &s.entries, placesFile: &s.places, opensFile: &s.opens, locksFile: &s.locks} {
		if *f, err = s.files.Open(name); err != nil {
			return err
		}
	}
	for l := range s.hashes {
		if s.hashes[l], err = s.files.Open(hashesFile + strconv.Itoa(l)); err != nil {
			return err
		}
	}
	if s.archive, err = openArchive(s.files); err != nil {
		return err
	}
	m, err := s.readManifest()
	if err != nil {
		return err
	}
	for _, h := range m.Have {
		s.have = append(s.have, Range{h[0], h[1]})
	}
	s.durable, s.entryAt, s.openAt = m.Size, m.Entries, m.Openings
	if err := s.recover(); err != nil {
		return err
	}
	return s.finishErasing()
}

func (s *Store) readManifest() (*manifest, error) {
	m := &manifest{Format: manifestFormat, Tree: ledger.NewTree().Marshal()}
	data, err := s.files.Read(manifestFile)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read the ledger's %s: %w", manifestFile, err)
	default:
		if err := json.Unmarshal(data, m); err != nil {
			return nil, &Corrupt{manifestFile, err}
		}
	}
	if m.Format != manifestFormat {
		return nil, &Corrupt{manifestFile, fmt.Errorf("format %d is of another program: this one reads %d", m.Format, manifestFormat)}
	}
	if s.tree, err = rangeOf(m.Tree); err != nil {
		return nil, &Corrupt{manifestFile, err}
	}
	if s.tree.End() != m.Size || m.Entries < 0 || m.Openings < 0 {
		return nil, &Corrupt{manifestFile, errors.New("its tree is not of its size")}
	}
	last := uint64(0)
	for _, h := range m.Have {
		if h[0] < last || h[1] <= h[0] || h[1] > m.Size {
			return nil, &Corrupt{manifestFile, errors.New("its ranges are out of order")}
		}
		last = h[1]
	}
	for name, want := range map[string]int64{entriesFile: m.Entries, opensFile: m.Openings, placesFile: int64(last) * placeSize, hashesFile + "0": int64(last) * hashSize} {
		f, err := s.files.Open(name)
		if err != nil {
			return nil, err
		}
		size, err := f.Size()
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		if size < want {
			return nil, &Corrupt{name, fmt.Errorf("it has %d bytes, and had %d when it was last synced", size, want)}
		}
	}
	return m, nil
}

// rangeOf reads a compact range that ledger.Tree wrote.
func rangeOf(data []byte) (*compact.Range, error) {
	if _, err := ledger.UnmarshalTree(data); err != nil {
		return nil, err
	}
	var hashes [][]byte
	for rest := bytes.Clone(data[8:]); len(rest) > 0; rest = rest[hashSize:] {
		hashes = append(hashes, rest[:hashSize:hashSize])
	}
	return factory.NewRange(0, number(data[:8]), hashes)
}

// recover goes on behind the last sync, leaf by leaf, as long as record, place
// and hash fit each other, and cuts off the rest: raft applies it again.
func (s *Store) recover() error {
	fileSize, err := s.entries.Size()
	if err != nil {
		return err
	}
	openSize, err := s.opens.Size()
	if err != nil {
		return err
	}
	for at := s.tree.End(); at < maxSize; at++ {
		place, err := s.place(at)
		if err != nil {
			return err
		}
		if place < s.entryAt || place >= fileSize {
			break
		}
		entry, err := s.record(place)
		if err != nil {
			break
		}
		hash := ledger.HashLeaf(entry)
		if known, err := s.slot(0, at); err != nil || known != hash {
			break
		}
		if err := s.tree.Append(hash[:], s.visit); err != nil {
			return err
		}
		s.entryAt = place + recordSize(entry)
		s.hold(at, at+1)
		if err := s.recoverOpening(at, entry, openSize); err != nil {
			return err
		}
	}
	for _, n := range s.pend.nodes {
		if err := s.writeNode(n); err != nil {
			return err
		}
	}
	s.pend.nodes = nil
	return s.cut()
}

// recoverOpening keeps an opening that is whole, and forgets one that is torn.
func (s *Store) recoverOpening(at uint64, entry []byte, size int64) error {
	lock, err := s.lock(at)
	if err != nil || lock == 0 || lock == erased {
		return err
	}
	off := int64(lock) - 1
	if off >= s.openAt && off < size {
		if o, err := s.openingAt(off); err == nil && opens(entry, o) {
			s.openAt = off + openingSize(o)
			return nil
		}
	}
	return s.setLock(at, 0)
}

// cut makes every file end where the store does.
func (s *Store) cut() error {
	size := int64(s.tree.End())
	for _, c := range []struct {
		name string
		file File
		end  int64
	}{{entriesFile, s.entries, s.entryAt}, {placesFile, s.places, size * placeSize}, {opensFile, s.opens, s.openAt}, {locksFile, s.locks, size * lockSize}} {
		if err := cutFile(c.file, c.end); err != nil {
			return written(c.name, err)
		}
	}
	for l, f := range s.hashes {
		if err := cutFile(f, size>>(8*l)*hashSize); err != nil {
			return written(hashesFile+strconv.Itoa(l), err)
		}
	}
	return nil
}

// cutFile only shortens: a file that ends early has a gap at its end.
func cutFile(f File, end int64) error {
	if size, err := f.Size(); err != nil || size <= end {
		return err
	}
	return f.Truncate(end)
}

// Sync makes everything that was appended durable. A snapshot that covers a
// leaf may be reported only after it. It fails as long as leaves are missing that
// were dropped because the disk was full.
func (s *Store) Sync() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	return s.sync()
}

// sync is Sync for a caller that holds syncMu.
func (s *Store) sync() error {
	s.mu.Lock()
	err := errors.Join(s.flush(), s.broken)
	if s.closed {
		err = os.ErrClosed
	}
	m := manifest{Format: manifestFormat, Size: s.tree.End(), Tree: marshal(s.tree), Entries: s.entryAt, Openings: s.openAt}
	for _, r := range s.have {
		m.Have = append(m.Have, [2]uint64{r.From, r.To})
	}
	_, gap := s.gap()
	lost := s.lost && gap
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for _, f := range s.all() {
		if err := f.Sync(); err != nil {
			// What the failed sync dropped, a later one does not write.
			err = fmt.Errorf("sync the ledger: %w; restart this node", err)
			s.mu.Lock()
			s.broken = err
			s.mu.Unlock()
			return err
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := s.files.Replace(manifestFile, data); err != nil {
		return written(manifestFile, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost = lost; lost {
		return errLost
	}
	s.durable = m.Size
	return nil
}

// errLost keeps the raft log from being compacted while it alone has leaves.
var errLost = errors.New("the disk took no more and ledger entries were dropped: they come back from other voters, or from the raft log at a restart")

func marshal(r *compact.Range) []byte {
	out := make([]byte, 0, 8+hashSize*len(r.Hashes()))
	end := r.End()
	for shift := 56; shift >= 0; shift -= 8 {
		out = append(out, byte(end>>shift))
	}
	for _, h := range r.Hashes() {
		out = append(out, h...)
	}
	return out
}

// readAt reads exactly, and gives zeros for what lies beyond the end.
func readAt(f File, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if err == io.EOF || n == len(b) {
		err = nil
	}
	clear(b[n:])
	return err
}
