package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// Peer is another replica, as a store is filled up from it. Its answers are
// judged here; it need not be trusted.
type Peer interface {
	// ReadTile is [Store.ReadTile] there.
	ledger.TileReader
	// Openings is [Store.Openings] there.
	Openings(ctx context.Context, first uint64, count int) ([]byte, error)
}

// Rebase makes the tree that of a snapshot. A tree further on leaves a gap; one
// that this store had already must be the same, else it is a *[Conflict].
func (s *Store) Rebase(tree *ledger.Tree) error {
	s.mu.Lock()
	if tree.Size() > s.tree.End() {
		defer s.mu.Unlock()
		next, err := rangeOf(tree.Marshal())
		if err != nil {
			return err
		}
		if s.flush() != nil {
			s.drop() // what follows is not consecutive
		}
		s.tree = next
		clear(s.trusted)
		return nil
	}
	s.mu.Unlock()
	edge, err := ledger.ReadEdge(context.Background(), s, tree.Size())
	var gap *Gap
	switch {
	case errors.As(err, &gap):
		return nil // nothing to compare with yet
	case err != nil:
		return err
	case edge.Root() != tree.Root():
		return &Conflict{Index: tree.Size() - 1, Have: edge.Root(), Got: tree.Root(), Reason: "the snapshot has another root at this size"}
	}
	return nil
}

// syncEvery is how many bundles are filled between two syncs.
const syncEvery = 256

// Backfill takes what is missing from a peer, a bundle at a time, and writes
// nothing that the tree does not confirm. It returns how many leaves it took;
// an answer that is wrong is a *[Lie]. The opening of a leaf is taken if the
// peer has it and it was not erased here.
func (s *Store) Backfill(ctx context.Context, peer Peer) (filled uint64, err error) {
	root, size := s.Root()
	asked := &asked{peer: peer}
	checked := ledger.NewCheckedTiles(asked, ledger.Head{Size: size, Root: root})
	for n := 1; ; n++ {
		chunk, ok := s.nextChunk(size)
		if !ok || ctx.Err() != nil {
			return filled, errors.Join(s.finish(filled), context.Cause(ctx))
		}
		records, err := fetch(ctx, asked, checked, chunk)
		if err == nil {
			err = s.fill(chunk.From, records)
		}
		if err != nil {
			return filled, errors.Join(err, s.finish(filled))
		}
		filled += chunk.To - chunk.From
		if n%syncEvery == 0 {
			_ = s.Sync() // the last one counts
		}
	}
}

// nextChunk is the first run of missing leaves below size within one bundle.
func (s *Store) nextChunk(size uint64) (Range, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.gap()
	if !ok || g.From >= size {
		return Range{}, false
	}
	return Range{g.From, min(g.To, size, (g.From/ledger.TileWidth+1)*ledger.TileWidth)}, true
}

// finish makes durable what was filled.
func (s *Store) finish(filled uint64) error {
	if filled == 0 {
		return nil
	}
	return s.Sync()
}

// fetch reads the leaves of a chunk, all of one bundle, and proves them.
func fetch(ctx context.Context, peer *asked, checked *ledger.CheckedTiles, c Range) ([]Record, error) {
	// A bundle is asked for as wide as the tree has it: most are full.
	t := ledger.TileOf(c.From, checked.Head().Size).Bundle()
	peer.failed = nil
	bundle, err := peer.ReadTile(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("fetch ledger entry %d: %w", c.From, err)
	}
	entries, err := checked.Entries(ctx, t, bundle)
	switch {
	case peer.failed != nil:
		return nil, fmt.Errorf("fetch the hashes of ledger entry %d: %w", c.From, peer.failed)
	case err != nil:
		return nil, &Lie{c.From, err.Error()}
	}
	skip := c.From % ledger.TileWidth
	entries = entries[skip : skip+c.To-c.From]
	records := make([]Record, len(entries))
	for i, e := range entries {
		records[i].Entry = e
	}
	return records, fetchOpenings(ctx, peer.peer, c.From, records)
}

// fill writes what was proved.
func (s *Store) fill(first uint64, records []Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.flush(); err != nil {
		return err
	}
	hashes := make([]ledger.Hash, len(records))
	for i, r := range records {
		hashes[i] = ledger.HashLeaf(r.Entry)
	}
	s.fault = s.put(first, records, hashes)
	return s.fault
}

// asked tells a peer that does not answer from one that answers wrongly.
type asked struct {
	peer   Peer
	failed error
}

func (a *asked) ReadTile(ctx context.Context, t ledger.Tile) ([]byte, error) {
	data, err := a.peer.ReadTile(ctx, t)
	if err != nil {
		a.failed = err
	}
	return data, err
}
