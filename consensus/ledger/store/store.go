// Package store keeps a region's ledger on disk: every leaf, the Merkle tree
// over them as C2SP tiles, and, apart from both, the openings of the leaves'
// commitments, which can be erased one by one.
//
// Three rules hold. What is at an index stays: the same bytes again change
// nothing, other bytes are a [Conflict], which is evidence that replicas have
// diverged. Nothing is served that the tree kept in memory does not confirm, so
// that a bit that rotted on disk is an error and never an answer. And what
// [Store.Sync] reported as durable survives any crash; whatever came later may
// be lost, and is applied again from the raft log.
//
// The store is never compacted and is in no snapshot. A replica that was
// restored from one has a gap, votes, and serves no proof over the gap until
// [Store.Backfill] has filled it from its peers. consensus writes here,
// node/api serves from here; DESIGN.md has the layout.
package store

import (
	"crypto/sha256"
	"errors"
	"slices"
	"sync"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

const (
	// levels of tiles are kept: enough for 2^40 leaves.
	levels   = 5
	hashSize = sha256.Size
	maxSize  = 1 << 40
)

var factory = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// Record is one leaf with what opens its commitment.
type Record struct {
	// Entry is the encoded leaf.
	Entry []byte
	// Opening is nil where there is none to keep.
	Opening *Opening
}

// Opening is what a leaf's commitment hides: SHA-256(domain || Salt || Command).
type Opening struct {
	Salt    ledger.Salt
	Command []byte
}

// Range is the leaves from From up to, not including, To.
type Range struct{ From, To uint64 }

// Status says how complete a store is.
type Status struct {
	// Size is the number of leaves of the tree, Durable how many of them a crash
	// cannot take away, Missing how many of them are not here.
	Size, Durable, Missing uint64
	// Have are the leaves that are here, in order.
	Have []Range
	// Fault is why the last write failed, nil if it did not.
	Fault error
}

// Full reports whether every leaf is here.
func (s Status) Full() bool { return s.Missing == 0 }

// Store is the ledger of one replica. It is safe for concurrent use; it starts
// no goroutine.
type Store struct {
	files   Files
	entries File // records: length (2 bytes), leaf; in the order of arrival
	places  File // 5 bytes a leaf: where its record is
	opens   File // records: length (4 bytes), salt, command
	locks   File // 6 bytes a leaf: where its opening is
	hashes  [levels]File
	archive *Archive // of signed checkpoints

	syncMu sync.Mutex // one Sync, Erase or Backfill step at a time; taken before mu

	mu      sync.Mutex
	tree    *compact.Range         // guarded by mu, as is all below
	have    []Range                // sorted, apart from each other
	pend    pending                // not yet written
	entryAt int64                  // where the next record of entries goes
	openAt  int64                  // where the next record of opens goes
	durable uint64                 // leaves that the manifest on disk covers
	fault   error                  // the last write failed
	broken  error                  // a sync failed: what is on disk is not known
	trusted map[tileID]ledger.Hash // roots of full tiles that the tree confirmed
	lost    bool                   // leaves were dropped that no sync has covered
	closed  bool
}

// Size is the number of leaves of the tree.
func (s *Store) Size() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tree.End()
}

// Root is the tree's root and its size.
func (s *Store) Root() (ledger.Hash, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return rootOf(s.tree), s.tree.End()
}

// Durable is how many leaves a crash cannot take away: those that this store
// had when it was last synced.
func (s *Store) Durable() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// Status says how complete the store is.
func (s *Store) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Status{Size: s.tree.End(), Durable: s.durable, Missing: s.tree.End(), Have: slices.Clone(s.have), Fault: errors.Join(s.fault, s.broken)}
	for _, r := range s.have {
		out.Missing -= r.To - r.From
	}
	return out
}

// Archive keeps the signed checkpoints of this log.
func (s *Store) Archive() *Archive { return s.archive }

// Append adds leaves from index first on. Those that are here already must be
// the same; those that were missing are taken. It fails with a *[Conflict] for
// other bytes and for an index beyond the end, and never because of the disk: a
// write that fails is tried again by the next [Store.Flush], [Store.Sync] or
// read, and shows in [Status.Fault].
func (s *Store) Append(first uint64, records []Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range records {
		at := first + uint64(i)
		if at < s.tree.End() {
			if err := s.again(at, r); err != nil {
				return err
			}
			continue
		}
		if at > s.tree.End() {
			return &Conflict{Index: at, Reason: "the leaves before it are missing: this store ends earlier"}
		}
		if len(r.Entry) > ledger.MaxLeaf {
			return &Conflict{Index: at, Reason: "it is larger than an entry of a log may be"}
		}
		s.add(at, r)
	}
	if len(s.pend.entries)+len(s.pend.opens) >= flushAt {
		_ = s.flush() // shows in Status
	}
	return nil
}

// add appends one leaf behind the last.
func (s *Store) add(at uint64, r Record) {
	hash := ledger.HashLeaf(r.Entry)
	// Append errs for overlapping ranges only, which one hash cannot be.
	_ = s.tree.Append(hash[:], s.visit)
	s.pend.add(at, s.entryAt, s.openAt, hash, r)
	s.entryAt += recordSize(r.Entry)
	s.openAt += openingSize(r.Opening)
	s.hold(at, at+1)
}

// visit keeps the new hashes that are in tiles above the first level.
func (s *Store) visit(id compact.NodeID, hash []byte) {
	if id.Level > 0 && id.Level%8 == 0 && id.Level/8 < levels {
		s.pend.nodes = append(s.pend.nodes, node{int(id.Level / 8), id.Index, ledger.Hash(hash)})
	}
}

// again meets a leaf that the tree has already. Only a leaf that differs is an
// error: a disk that cannot be read or written shows in Status.
func (s *Store) again(at uint64, r Record) error {
	hash := ledger.HashLeaf(r.Entry)
	if s.flush() != nil {
		return nil
	}
	known, err := s.slot(0, at)
	switch {
	case err != nil:
	case known == ledger.Hash{}:
		err = s.put(at, []Record{r}, []ledger.Hash{hash})
	case known != hash:
		return &Conflict{Index: at, Have: known, Got: hash, Reason: "it holds another leaf"}
	default:
		err = s.keepOpening(at, r.Opening)
	}
	s.fault = err
	return nil
}

// hold notes that the leaves of a range are here.
func (s *Store) hold(from, to uint64) {
	if n := len(s.have); n > 0 && s.have[n-1].To == from {
		s.have[n-1].To = to
		return
	}
	s.have = joined(append(s.have, Range{from, to}))
}

// joined sorts ranges and makes one of those that touch.
func joined(all []Range) []Range {
	slices.SortFunc(all, func(a, b Range) int {
		if a.From < b.From {
			return -1
		}
		return 1
	})
	out := all[:0]
	for _, r := range all {
		if n := len(out); n > 0 && out[n-1].To >= r.From {
			out[n-1].To = max(out[n-1].To, r.To)
			continue
		}
		out = append(out, r)
	}
	return out
}

// gap is the first run of leaves that are missing; ok is false if none is.
func (s *Store) gap() (r Range, ok bool) {
	end := s.tree.End()
	for _, h := range s.have {
		if h.From > r.From {
			return Range{r.From, h.From}, true
		}
		r.From = h.To
	}
	return Range{r.From, end}, r.From < end
}

// Close writes what waits, syncs and closes the files. The store is of no use
// after it.
func (s *Store) Close() error {
	err := s.Sync()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return errors.Join(err, s.closeFiles())
}

func (s *Store) closeFiles() error {
	var errs []error
	if s.archive != nil {
		errs = append(errs, s.archive.close())
	}
	for _, f := range s.all() {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

func (s *Store) all() []File {
	return append([]File{s.entries, s.places, s.opens, s.locks}, s.hashes[:]...)
}

func rootOf(r *compact.Range) ledger.Hash {
	root, err := r.GetRootHash(nil)
	if err != nil || root == nil {
		root = rfc6962.DefaultHasher.EmptyRoot()
	}
	return ledger.Hash(root)
}
