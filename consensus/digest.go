package consensus

import (
	"context"
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
)

// Diverged says that this replica's state is not what the leader's is.
type Diverged struct {
	Size         uint64
	Leader, Here string
}

func (e *Diverged) Error() string {
	return fmt.Sprintf("this replica has diverged: after ledger entry %d its state is %.16s, the leader's is %.16s", e.Size, e.Here, e.Leader)
}

// Hint says what to do.
func (e *Diverged) Hint() string {
	return "keep its data directory as evidence, remove the node and let it join again: sovmesh node remove NODE"
}

// digests digests the state at every mark and compares it with what the leader
// found there. A replica that differs stops.
func (g *Group) digests(ctx context.Context) {
	mine := map[uint64]string{}
	var order []uint64
	for {
		select {
		case view := <-g.machine.marks:
			size := view.LedgerSize()
			mine[size] = view.Digest()
			if order = append(order, size); len(order) > 8 {
				delete(mine, order[0])
				order = order[1:]
			}
			if g.IsLeader() {
				g.tellDigest(ctx, state.CompareDigest{Size: size, Digest: mine[size]})
			}
		case c := <-g.machine.compare:
			if here, ok := mine[c.Size]; ok && here != c.Digest {
				g.fail(&Diverged{c.Size, c.Digest, here})
			}
		case <-ctx.Done():
			return
		}
	}
}

func (g *Group) tellDigest(ctx context.Context, c state.CompareDigest) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := g.Propose(ctx, c, g.actor()); err != nil {
		g.log.Debug("tell the digest", "region", g.cfg.Region, "err", err)
	}
}

// actor is who proposes what no person asked for.
func (g *Group) actor() string { return "group" }

// CompareReplicas makes all replicas compare their state now; those that
// differ from the leader stop.
func (g *Group) CompareReplicas(ctx context.Context) error {
	_, err := g.Propose(ctx, state.MarkDigest{}, g.actor())
	return err
}
