package consensus

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"

	"github.com/sovmesh/sovmesh/consensus/ledger/store"
)

// eraser carries out on this replica's disk what the region's state says is
// erased. It begins with the first erasure at every start, so that a replica
// that was away, or restored a backup, makes good what it missed.
type eraser struct {
	done uint64 // the newest erasure carried out
	// purge: the raft log and snapshots may hold what was erased.
	purge bool
}

// step erases what is new. It is called again when it fails.
func (e *eraser) step(g *Group, s *store.Store) error {
	for _, next := range g.View().Erasures(e.done) {
		for _, leaf := range next.Leaves {
			gone, err := s.Erased(leaf)
			if err == nil && !gone {
				e.purge = true
				err = s.Erase(leaf)
			}
			if err != nil {
				return err
			}
		}
		e.done = next.Seq
	}
	if !e.purge {
		return nil
	}
	if err := g.purge(); err != nil {
		return err
	}
	e.purge = false
	return nil
}

// purge takes what commands held out of raft's files: a snapshot with no entries
// left behind it, and a second one, because the store keeps two. Entries that
// were committed while the snapshot was written stay in the last file of the log,
// with all that the file held before, until that file is full and dropped.
func (g *Group) purge() error {
	r := g.raft.Load()
	if r == nil {
		return nil
	}
	usual := r.ReloadableConfig()
	none := usual
	none.TrailingLogs = 0
	if err := r.ReloadConfig(none); err != nil {
		return err
	}
	var errs []error
	for range snapshotsKept {
		if err := r.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, r.ReloadConfig(usual))...)
}

// erase runs the eraser until the context ends.
func (g *Group) erase(ctx context.Context) {
	s := g.ledger.Load()
	if s == nil {
		return
	}
	var e eraser
	var failed error
	for g.sleep(ledgerFlushEvery, ctx.Done()) {
		err := e.step(g, s)
		if (err == nil) == (failed == nil) {
			continue
		}
		if failed = err; err != nil {
			g.log.Error("what was erased is still on this disk; it is tried again", "region", g.cfg.Region, "err", err)
		} else {
			g.log.Info("what was erased is off this disk", "region", g.cfg.Region)
		}
	}
}
