package consensus

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// clockWatch knows whether this node's clock is far from a majority of the
// region's other members. A leader whose clock is wrong stamps nothing: it
// refuses, and gives the lead away.
type clockWatch struct{ skew atomic.Int64 }

// off is how far the own clock is from the others', zero while it agrees.
func (c *clockWatch) off() time.Duration { return time.Duration(c.skew.Load()) }

// pulse is what a node answers on a clock stream: its clock (8 bytes,
// nanoseconds since 1970), the last index it has applied (8 bytes) and how many
// leaves its ledger lacks (8 bytes).
type pulse struct {
	skew    time.Duration // its clock less ours
	applied uint64
	missing uint64
}

const pulseTimeout = 2 * time.Second

func (g *Group) tellClock(conn net.Conn) {
	out := binary.BigEndian.AppendUint64(nil, uint64(g.cfg.Clock().UnixNano()))
	var applied uint64
	if r := g.raft.Load(); r != nil {
		applied = r.AppliedIndex()
	}
	_ = conn.SetDeadline(time.Now().Add(pulseTimeout))
	out = binary.BigEndian.AppendUint64(out, applied)
	_, _ = conn.Write(binary.BigEndian.AppendUint64(out, g.missing()))
	// The asker closes; without waiting for it the answer could be cut off.
	_, _ = io.Copy(io.Discard, io.LimitReader(conn, 1))
}

func (g *Group) feel(ctx context.Context, net *mux, m Member) (pulse, error) {
	ctx, cancel := context.WithTimeout(ctx, pulseTimeout)
	defer cancel()
	conn, err := net.dial(ctx, m.Node, m.Addr, streamClock)
	if err != nil {
		return pulse{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(pulseTimeout))
	before := g.cfg.Clock()
	var answer [24]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return pulse{}, err
	}
	after := g.cfg.Clock()
	theirs := time.Unix(0, int64(binary.BigEndian.Uint64(answer[:])))
	return pulse{theirs.Sub(before.Add(after.Sub(before) / 2)), binary.BigEndian.Uint64(answer[8:]), binary.BigEndian.Uint64(answer[16:])}, nil
}

// compareClocks asks all other members at an interval, and at once whenever the
// lead changes.
func (g *Group) compareClocks(ctx context.Context, net *mux) {
	for {
		changed := g.lead.changes()
		felt := g.feelAll(ctx, net)
		g.judgeClock(felt)
		g.judgeLedgers(felt)
		t := time.NewTimer(g.cfg.ClockInterval)
		select {
		case <-t.C:
		case <-changed:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

func (g *Group) feelAll(ctx context.Context, net *mux) map[placement.NodeID]pulse {
	var mu sync.Mutex
	var asked sync.WaitGroup
	all := map[placement.NodeID]pulse{}
	for _, m := range g.Peers() {
		if m.Node == g.cfg.Self {
			continue
		}
		asked.Go(func() {
			if p, err := g.feel(ctx, net, m); err == nil {
				mu.Lock()
				all[m.Node] = p
				mu.Unlock()
			}
		})
	}
	asked.Wait()
	return all
}

// judgeClock believes the others when more of them disagree with this node
// than agree, itself counted.
func (g *Group) judgeClock(all map[placement.NodeID]pulse) {
	agree, disagree := 1, 0
	var worst time.Duration
	for _, p := range all {
		if p.skew.Abs() > g.cfg.MaxSkew {
			disagree++
			if p.skew.Abs() > worst {
				worst = p.skew.Abs()
			}
		} else {
			agree++
		}
	}
	if disagree <= agree {
		worst = 0
	}
	if was := g.clock.skew.Swap(int64(worst)); worst != 0 && was == 0 {
		g.log.Error("this node's clock is wrong: it proposes nothing", "region", g.cfg.Region, "node", g.cfg.Self, "skew", worst)
	} else if worst == 0 && was != 0 {
		g.log.Info("this node's clock agrees again", "region", g.cfg.Region, "node", g.cfg.Self)
	}
}
