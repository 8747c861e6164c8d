package store

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// maxOpening bounds the command behind a leaf, in bytes.
const maxOpening = 64 << 20

// erasingFile names the leaf whose opening is being erased, so that a crash in
// the middle is finished at the next start.
const erasingFile = "erasing"

func (s *Store) lock(at uint64) (uint64, error) {
	var b [lockSize]byte
	err := readAt(s.locks, b[:], int64(at)*lockSize)
	return number(b[:]), err
}

func (s *Store) setLock(at, lock uint64) error {
	_, err := s.locks.WriteAt(appendLock(nil, lock), int64(at)*lockSize)
	return written(locksFile, err)
}

// openingAt reads the record at an offset, as far as there is one.
func (s *Store) openingAt(off int64) (*Opening, error) {
	var head [openingHead]byte
	if n, err := s.opens.ReadAt(head[:], off); n < len(head) {
		return nil, err
	}
	size := number(head[:4])
	if size > maxOpening {
		return nil, fmt.Errorf("an opening of %d bytes", size)
	}
	o := &Opening{Salt: ledger.Salt(head[4:]), Command: make([]byte, size)}
	if n, err := s.opens.ReadAt(o.Command, off+openingHead); n < len(o.Command) {
		return nil, err
	}
	return o, nil
}

// opens reports whether an opening is that of a leaf.
func opens(entry []byte, o *Opening) bool {
	leaf, err := ledger.Decode(entry)
	return err == nil && ledger.Commit(o.Salt, o.Command) == leaf.Commitment
}

// keepOpening writes an opening that is not here. One that was erased stays so.
func (s *Store) keepOpening(at uint64, o *Opening) error {
	if o == nil {
		return nil
	}
	if lock, err := s.lock(at); err != nil || lock != 0 {
		return err
	}
	if _, err := s.opens.WriteAt(appendOpening(nil, o), s.openAt); err != nil {
		return written(opensFile, err)
	}
	if err := s.setLock(at, uint64(s.openAt)+1); err != nil {
		return err
	}
	s.openAt += openingSize(o)
	return nil
}

// Opening gives what a leaf's commitment hides, checked against the leaf. It
// fails with [ErrErased] or [ErrNoOpening] if there is nothing to give.
func (s *Store) Opening(index uint64) (*Opening, error) {
	entry, err := s.Entry(index)
	if err != nil {
		return nil, err
	}
	return s.openingOf(index, entry)
}

func (s *Store) openingOf(index uint64, entry []byte) (*Opening, error) {
	s.mu.Lock()
	lock, err := s.lock(index)
	var o *Opening
	if err == nil && lock != 0 && lock != erased {
		o, err = s.openingAt(int64(lock) - 1)
	}
	s.mu.Unlock()
	switch {
	case lock == erased:
		return nil, ErrErased
	case err == nil && lock == 0:
		return nil, ErrNoOpening
	case err != nil || !opens(entry, o):
		return nil, &Rot{opensFile, index}
	}
	return o, nil
}

// Erased reports whether the opening of a leaf was erased.
func (s *Store) Erased(index uint64) (bool, error) {
	e, err := s.begin()
	if err != nil {
		return false, err
	}
	if index >= e.size {
		return false, &Beyond{e.size}
	}
	lock, err := s.lock(index)
	return lock == erased, err
}

// Erase overwrites the opening of a leaf with zeros, durably, and leaves a
// tombstone: the leaf and every proof stay valid, and the opening is not taken
// again, neither from the raft log nor from a peer. To erase twice, or what is
// not here, is no error.
//
// The store forgets; the disk below it may not (a copy-on-write file system, a
// worn block of an SSD, a backup), and the raft log holds the command until it
// is compacted.
func (s *Store) Erase(index uint64) error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	// The tombstone must not be cut off by a recovery, so the leaf is made
	// durable first.
	if index >= s.Durable() {
		if err := s.sync(); err != nil {
			return err
		}
		if size := s.Durable(); index >= size {
			return &Beyond{size}
		}
	}
	if err := s.files.Replace(erasingFile, []byte(strconv.FormatUint(index, 10))); err != nil {
		return written(erasingFile, err)
	}
	entry, err := s.Entry(index)
	if err != nil {
		entry = nil // a rotten leaf is no reason to keep what it hides
	}
	if err := s.erase(index, entry); err != nil {
		return err
	}
	return written(erasingFile, s.files.Replace(erasingFile, nil))
}

// erase does it; it may be done again after a crash in its middle.
func (s *Store) erase(index uint64, entry []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.flush(); err != nil {
		return err
	}
	lock, err := s.lock(index)
	if err != nil {
		return err
	}
	if lock != 0 && lock != erased {
		off := int64(lock) - 1
		end, err := s.openingEnd(off, entry)
		if err != nil {
			return err
		}
		if _, err := s.opens.WriteAt(make([]byte, max(end-off-4, 0)), off+4); err != nil {
			return written(opensFile, err)
		}
		if err := s.opens.Sync(); err != nil {
			return written(opensFile, err)
		}
	}
	if err := s.setLock(index, erased); err != nil {
		return err
	}
	return written(locksFile, s.locks.Sync())
}

// openingEnd is where the record at an offset ends. One that is not what its leaf
// commits to may have a rotten length as well: too long a one would take the
// openings behind it along, too short a one leave bytes. Such a record is
// everything up to the next that is not erased.
func (s *Store) openingEnd(off int64, entry []byte) (int64, error) {
	if o, err := s.openingAt(off); err == nil && entry != nil && opens(entry, o) {
		return off + openingSize(o), nil
	}
	end, err := s.opens.Size()
	if err != nil {
		return 0, err
	}
	for at := range s.tree.End() {
		lock, err := s.lock(at)
		if err != nil {
			return 0, err
		}
		if next := int64(lock) - 1; lock != 0 && lock != erased && next > off {
			end = min(end, next)
		}
	}
	return end, nil
}

func (s *Store) finishErasing() error {
	data, err := s.files.Read(erasingFile)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(data) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	index, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil || index >= s.tree.End() {
		return &Corrupt{erasingFile, fmt.Errorf("it names no entry: %.40q", data)}
	}
	// What the leaf is cannot be asked yet, and the record is half erased anyway.
	if err := s.erase(index, nil); err != nil {
		return err
	}
	return written(erasingFile, s.files.Replace(erasingFile, nil))
}
