package consensus

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
)

// shutPeer answers nothing about the ledger while it is shut.
type shutPeer struct {
	localPeer
	shut *atomic.Bool
}

func (p shutPeer) ReadTile(ctx context.Context, t ledger.Tile) ([]byte, error) {
	if p.shut.Load() {
		return nil, errors.New("no route")
	}
	return p.localPeer.ReadTile(ctx, t)
}

// Two replicas that came after compaction and could not fill their ledgers yet
// elect a leader between them and commit. Over what they lack they give no tile,
// no leaf and no proof, also none of leaves that came since; filled up, they give
// all.
func TestReplicasWithAGapVoteAndProveNothing(t *testing.T) {
	var r *region
	var tiles atomic.Int64
	var shut atomic.Bool
	shut.Store(true)
	r = newRegion(t, 1, func(c *Config) {
		c.SnapshotThreshold, c.SnapshotInterval, c.Trailing = 20, 20*time.Millisecond, 1
		c.Storage = Memory()
		c.LedgerPeer = func(m Member) store.Peer { return shutPeer{localPeer{r, m, &tiles}, &shut} }
	})
	first := r.leader()
	for range 600 {
		if _, err := first.Propose(timeout(t), r.job(), "tok"); err != nil {
			t.Fatal(err)
		}
	}
	r.within("a compacted log", func() bool {
		at, err := strconv.ParseUint(first.raft.Load().Stats()["last_snapshot_index"], 10, 64)
		return err == nil && at+40 > first.raft.Load().LastIndex()
	})
	fresh := []*server{r.join("n2"), r.join("n3")}
	r.within("all vote", func() bool { return r.votes(first) == 3 })
	// Who has not heard that all vote would wait for a leader that is cut off.
	r.within("all know that all vote", func() bool {
		last := first.raft.Load().LastIndex()
		return fresh[0].raft.Load().AppliedIndex() >= last && fresh[1].raft.Load().AppliedIndex() >= last
	})
	r.net.isolate("n1", true)
	r.within("one of the new ones leads", func() bool { l, ok := fresh[0].Leader(); return ok && l != "n1" })
	l := fresh[0]
	if lead, _ := fresh[0].Leader(); lead == "n3" {
		l = fresh[1]
	}
	if _, err := l.Propose(timeout(t), r.job(), "tok"); err != nil {
		t.Fatalf("two of three voters do not commit: %v", err)
	}
	size, root := l.View().LedgerSize(), l.View().LedgerRoot()
	r.within("it has the newest leaf", func() bool { return l.Ledger().Size() == size })
	if st := l.Ledger().Status(); st.Missing < 500 {
		t.Fatalf("it lacks %d leaves: the test shows nothing", st.Missing)
	}
	var gap *store.Gap
	for _, leaf := range []uint64{0, 300, size - 1} {
		if _, err := ledger.ProveInclusion(t.Context(), l.Ledger(), ledger.Head{Size: size, Root: root}, leaf); !errors.As(err, &gap) {
			t.Errorf("a proof of leaf %d over the gap: %v", leaf, err)
		}
	}
	if _, err := l.Ledger().ReadTile(t.Context(), ledger.TileOf(0, size)); !errors.As(err, &gap) {
		t.Errorf("a tile in the gap: %v", err)
	}
	if _, err := l.Ledger().Entry(0); !errors.As(err, &gap) {
		t.Errorf("a leaf in the gap: %v", err)
	}
	shut.Store(false)
	r.net.isolate("n1", false)
	for _, s := range fresh {
		r.within("a whole ledger", func() bool { return s.Ledger().Status().Full() })
		proved(t, s)
	}
}
