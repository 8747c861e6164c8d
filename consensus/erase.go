package consensus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
)

// purgeEvery is how often the raft files are emptied again while they still hold
// what was erased.
const purgeEvery = 10 * time.Second

// eraser carries out on this replica's disk what the region's state says is
// erased. It begins with the first erasure at every start, so that a replica
// that was away, or restored a backup, or stopped in the middle, makes good what
// it missed.
type eraser struct {
	done uint64 // sequence number of the newest erasure carried out on the ledger
	// wanted and clean are raft's indexes: what it keeps up to wanted has to go,
	// and what it kept up to clean is gone.
	wanted, clean uint64
}

// step erases what is new, and reports whether nothing of it is left. It is
// called again when it fails, and until it is done.
func (e *eraser) step(ctx context.Context, g *Group, s *store.Store) (bool, error) {
	view := g.View()
	for _, next := range view.Erasures(e.done) {
		// The files of a log before a recovery are closed; what was erased in them
		// is marked there.
		for _, leaf := range next.Leaves {
			if next.Log != view.Restarts {
				break
			}
			gone, err := s.Erased(leaf)
			if err == nil && !gone {
				err = s.Erase(leaf)
			}
			if err != nil {
				return false, err
			}
		}
		e.done, e.wanted = next.Seq, max(e.wanted, next.Index)
	}
	if e.clean >= e.wanted {
		return true, nil
	}
	return e.empty(ctx, g)
}

// empty takes what was erased out of raft's files.
func (e *eraser) empty(ctx context.Context, g *Group) (bool, error) {
	gone, err := g.forgotten(e.wanted)
	if err == nil && !gone {
		if err = g.purge(ctx); err == nil {
			gone, err = g.forgotten(e.wanted)
		}
	}
	if gone && err == nil {
		e.clean = e.wanted
	}
	return gone && err == nil, err
}

func (g *Group) forgotten(index uint64) (bool, error) {
	if g.forget == nil {
		return true, nil // nothing of raft's is on a disk
	}
	return g.forget(index)
}

// purge writes a snapshot and keeps no entry of the log before it. If nothing
// was committed in the meantime that empties the log's files; a region that is
// busy fills its last file soon, and the next purge drops it.
func (g *Group) purge(ctx context.Context) error {
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
	err := r.Snapshot().Error()
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		// The newest snapshot is as old as what it left behind in the log: raft
		// drops that only with a newer one. This command leaves no leaf.
		ctx, cancel := context.WithTimeout(ctx, purgeEvery)
		defer cancel()
		if _, err = g.Propose(ctx, state.MarkLog{}, g.actor()); err == nil {
			err = r.Snapshot().Error()
		}
	}
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		err = nil // it has not come here yet: the next round will find it
	}
	return errors.Join(err, r.ReloadConfig(usual))
}

// erase runs the eraser until the context ends.
func (g *Group) erase(ctx context.Context) {
	if g.ledger.Load() == nil {
		return
	}
	var e eraser
	var failed error
	said := uint64(0)
	for pause := ledgerFlushEvery; g.sleep(pause, ctx.Done()); {
		gone, err := e.step(ctx, g, g.ledger.Load()) // the log may have been begun anew
		pause = ledgerFlushEvery
		if !gone {
			pause = purgeEvery
		}
		if gone && e.done > said {
			said = e.done
			g.log.Info("what was erased is off this disk", "region", g.cfg.Region, "index", e.wanted)
		}
		if err != nil && failed == nil && ctx.Err() == nil {
			g.log.Error("what was erased is still on this disk; it is tried again", "region", g.cfg.Region, "err", err)
		}
		failed = err
	}
}

const (
	snapshotsDir = "snapshots" // where raft's file store puts them
	unfinished   = ".tmp"      // a snapshot that is being written
)

// forget removes the snapshots that end before an index, if a newer one is there,
// and reports whether no file of raft's holds an entry up to it any more. A file
// of the log is named after its first entry, and goes as a whole.
func (d dir) forget(stores *Stores, index uint64) (bool, error) {
	all, err := stores.Snapshots.List()
	if err != nil || len(all) == 0 || all[0].Index < index {
		return false, err
	}
	for _, old := range all[1:] {
		if old.Index < index {
			if err := os.RemoveAll(filepath.Join(string(d), snapshotsDir, old.ID)); err != nil {
				return false, fmt.Errorf("remove an old snapshot: %w", err)
			}
		}
	}
	files, err := os.ReadDir(filepath.Join(string(d), logDir))
	if err != nil {
		return false, err
	}
	for _, f := range files {
		var first, number uint64
		if n, err := fmt.Sscanf(f.Name(), "%020d-%016x.wal", &first, &number); err == nil && n == 2 && first <= index {
			return false, nil
		}
	}
	return true, nil
}

// dropUnfinished removes snapshots that a crash left half-written: raft leaves
// them lying for ever, with all that they hold.
func (d dir) dropUnfinished() error {
	path := filepath.Join(string(d), snapshotsDir)
	files, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), unfinished) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(path, f.Name())))
		}
	}
	return err
}
