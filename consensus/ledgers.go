package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/placement"
)

const (
	// ledgerFlushEvery is how often appended leaves are written, ledgerSyncEvery
	// how often they are also synced. A snapshot syncs them in any case.
	ledgerFlushEvery = time.Second
	ledgerSyncEvery  = 10 * time.Second
	// fillWithin bounds one visit to a peer; what it brought stays.
	fillWithin = time.Minute
)

func (g *Group) openLedger(stores *Stores) error {
	if stores.Ledger == nil {
		return nil
	}
	s, err := store.Open(stores.Ledger)
	if err != nil {
		return fmt.Errorf("open the ledger of region %s: %w", g.cfg.Region, err)
	}
	g.machine.ledger = s
	g.ledger.Store(s)
	g.old.files = stores.Ledger
	g.machine.reopen = func(restarts int) (*store.Store, error) {
		next, err := store.Open(filesOf(stores.Ledger, restarts))
		if err != nil {
			return nil, fmt.Errorf("open the ledger that region %s began anew: %w", g.cfg.Region, err)
		}
		return next, g.ledger.Swap(next).Close()
	}
	return nil
}

// filesOf are the files of the log that was begun after so many restarts.
func filesOf(all store.Files, restarts int) store.Files {
	if restarts == 0 {
		return all
	}
	return store.Under(all, fmt.Sprintf("%d.", restarts+1))
}

func (g *Group) closeLedger() error {
	var errs []error
	g.old.mu.Lock()
	for _, s := range g.old.open {
		errs = append(errs, s.Close())
	}
	g.old.open, g.old.files = nil, nil
	g.old.mu.Unlock()
	if s := g.ledger.Load(); s != nil {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// oldLedgers are the logs that the region had before it was recovered: their
// files stay, and are opened when somebody asks.
type oldLedgers struct {
	mu    sync.Mutex
	files store.Files          // guarded by mu; nil where no ledger is kept, and after the end
	open  map[int]*store.Store // guarded by mu; by the restarts before it
}

// OldLedger is the log that the region had after so many restarts, fewer than
// now. It is empty on a node that joined since. The group closes it.
func (g *Group) OldLedger(restarts int) (*store.Store, error) {
	if restarts < 0 || restarts >= g.View().Restarts {
		return nil, fmt.Errorf("region %s had no other log after %d recoveries", g.cfg.Region, restarts)
	}
	g.old.mu.Lock()
	defer g.old.mu.Unlock()
	if s := g.old.open[restarts]; s != nil {
		return s, nil
	}
	if g.old.files == nil {
		return nil, errors.New("no ledger is kept here")
	}
	s, err := store.Open(filesOf(g.old.files, restarts))
	if err != nil {
		return nil, fmt.Errorf("open the log that region %s had before a recovery: %w", g.cfg.Region, err)
	}
	if g.old.open == nil {
		g.old.open = map[int]*store.Store{}
	}
	g.old.open[restarts] = s
	return s, nil
}

// Ledger is this replica's ledger; nil before Run has opened it, and where none
// is kept. Read-only for whoever is not the group.
func (g *Group) Ledger() *store.Store { return g.ledger.Load() }

// LedgerStatus is how complete this replica's ledger is, and how many of the
// voters were last heard to have a whole one.
func (g *Group) LedgerStatus() (here store.Status, whole, voters int) {
	if s := g.ledger.Load(); s != nil {
		here = s.Status()
	}
	for _, m := range g.Peers() {
		if m.Voter {
			voters++
		}
	}
	return here, int(g.whole.Load()), voters
}

func (g *Group) missing() uint64 {
	if s := g.ledger.Load(); s != nil {
		return s.Status().Missing
	}
	return 0
}

// judgeLedgers says when fewer than a quorum of the voters hold a whole ledger:
// a snapshot quietly turns "all have it" into "one has it".
func (g *Group) judgeLedgers(all map[placement.NodeID]pulse) {
	whole, voters := 0, 0
	for _, m := range g.Peers() {
		if !m.Voter {
			continue
		}
		voters++
		p, heard := all[m.Node]
		if m.Node == g.cfg.Self && g.missing() == 0 || heard && p.missing == 0 {
			whole++
		}
	}
	was := g.whole.Swap(int64(whole))
	few, wasFew := whole < voters/2+1, int(was) < voters/2+1
	switch {
	case voters == 0:
	case few && !wasFew:
		g.log.Warn("fewer than a quorum of the voters hold the whole ledger", "region", g.cfg.Region, "node", g.cfg.Self, "whole", whole, "voters", voters)
	case !few && wasFew:
		g.log.Info("a quorum of the voters holds the whole ledger", "region", g.cfg.Region, "node", g.cfg.Self, "whole", whole, "voters", voters)
	}
}

// keepLedger writes and syncs the ledger at intervals and fills its gaps.
func (g *Group) keepLedger(ctx context.Context) {
	s := g.ledger.Load()
	if s == nil {
		return
	}
	var failed error
	var archived archiving
	for n := 1; g.sleep(ledgerFlushEvery, ctx.Done()); n++ {
		s = g.ledger.Load() // the log may have been begun anew
		err := s.Flush()
		if err == nil && n%int(ledgerSyncEvery/ledgerFlushEvery) == 0 && s.Durable() < s.Size() {
			err = s.Sync()
		}
		if (err == nil) != (failed == nil) {
			if failed = err; err != nil {
				g.log.Error("the ledger cannot be written; no snapshot is taken meanwhile", "region", g.cfg.Region, "err", err)
			} else {
				g.log.Info("the ledger is written again", "region", g.cfg.Region)
			}
		}
		if g.cfg.LedgerPeer != nil && !s.Status().Full() {
			g.fillLedger(ctx, s)
			archived.asked = nil
		}
		if n%int(archiveEvery/ledgerFlushEvery) == 0 {
			g.archive(ctx, s, &archived)
		}
	}
}

// fillLedger asks the other members in turn for what is missing here.
func (g *Group) fillLedger(ctx context.Context, s *store.Store) {
	for _, m := range g.Peers() {
		if m.Node == g.cfg.Self || ctx.Err() != nil {
			continue
		}
		visit, cancel := context.WithTimeout(ctx, fillWithin)
		n, err := s.Backfill(visit, g.cfg.LedgerPeer(m))
		cancel()
		if n > 0 {
			g.log.Info("took ledger entries from a peer", "region", g.cfg.Region, "peer", m.Node, "entries", n, "missing", s.Status().Missing)
		}
		var lie *store.Lie
		switch {
		case err == nil:
			return
		case errors.As(err, &lie):
			g.log.Warn("refuses ledger entries of a peer", "region", g.cfg.Region, "peer", m.Node, "err", err)
		case ctx.Err() == nil:
			g.log.Debug("take ledger entries from a peer", "region", g.cfg.Region, "peer", m.Node, "err", err)
		}
	}
}
