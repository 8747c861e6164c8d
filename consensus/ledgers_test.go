package consensus

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
)

type localPeer struct {
	r     *region
	m     Member
	tiles *atomic.Int64 // that were asked for
}

func (p localPeer) store() (*store.Store, error) {
	if s := p.r.at(p.m.Node); s != nil && s.Ledger() != nil {
		return s.Ledger(), nil
	}
	return nil, errors.New("no route")
}

func (p localPeer) ReadTile(ctx context.Context, t ledger.Tile) ([]byte, error) {
	s, err := p.store()
	if err != nil {
		return nil, err
	}
	p.tiles.Add(1)
	return s.ReadTile(ctx, t)
}

func (p localPeer) Openings(_ context.Context, first uint64, count int) ([]byte, error) {
	s, err := p.store()
	if err != nil {
		return nil, err
	}
	return s.Openings(first, count)
}

// Many commands, a compacted log, and a fresh fourth node: it gets a snapshot,
// has the same root at once, fills its ledger up and proves every leaf.
func TestAFreshReplicaFillsItsLedger(t *testing.T) {
	commands := 6_000 // two dozen bundles; a tile of the second level would take 65,536
	if testing.Short() {
		commands = 600
	}
	var r *region
	var tiles atomic.Int64
	r = newRegion(t, 3, func(c *Config) {
		c.SnapshotThreshold, c.SnapshotInterval, c.Trailing = 20, 20*time.Millisecond, 1
		c.Storage = Memory() // raft-wal still reads deleted entries of its newest segment
		c.LedgerPeer = func(m Member) store.Peer { return localPeer{r, m, &tiles} }
	})
	l := r.leader()
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			for range commands / 100 {
				if _, err := l.Propose(timeout(t), r.job(), "tok"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	r.within("a compacted log", func() bool {
		at, err := strconv.ParseUint(l.raft.Load().Stats()["last_snapshot_index"], 10, 64)
		return err == nil && at+40 > l.raft.Load().LastIndex()
	})
	fresh := r.join("n4")
	r.within("equal roots", func() bool { return fresh.View().LedgerRoot() == r.leader().View().LedgerRoot() })
	r.within("a whole ledger", func() bool {
		st := fresh.Ledger().Status()
		return st.Full() && st.Size >= uint64(commands)
	})
	if tiles.Load() < int64(commands/ledger.TileWidth) {
		t.Errorf("%d tiles and bundles were asked for: the gap was not filled from peers", tiles.Load())
	}
	proved(t, fresh)
}

// proved reads every leaf of a replica's ledger through the tree that raft agreed on.
func proved(t *testing.T, s *server) {
	t.Helper()
	view := s.View()
	head := ledger.Head{Size: view.LedgerSize(), Root: view.LedgerRoot()}
	checked := ledger.NewCheckedTiles(s.Ledger(), head)
	for b := range ledger.Bundles(0, head.Size) {
		data, err := s.Ledger().ReadTile(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := checked.Entries(context.Background(), b, data)
		if err != nil {
			t.Fatal(err)
		}
		for i := range entries {
			if _, err := ledger.Decode(entries[i]); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Ledger().Opening(b.Index * ledger.TileWidth); err != nil {
			t.Fatal(err)
		}
	}
}

// A replica whose ledger holds another leaf than raft agreed on stops.
func TestAnotherLeafStopsTheReplica(t *testing.T) {
	r := newRegion(t, 1, nil)
	l := r.leader()
	for range 5 {
		if _, err := l.Propose(timeout(t), r.job(), "tok"); err != nil {
			t.Fatal(err)
		}
	}
	// What raft will append next is there already, and is something else.
	if err := l.Ledger().Append(l.Ledger().Size(), []store.Record{{Entry: []byte("another leaf")}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, _ = l.Propose(ctx, r.job(), "tok")
	var conflict *store.Conflict
	select {
	case err := <-l.done:
		if !errors.As(err, &conflict) {
			t.Fatalf("it stopped with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on with a ledger that is not raft's")
	}
}
