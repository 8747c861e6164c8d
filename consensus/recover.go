package consensus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// Recovered is what a recovery made of a region.
type Recovered struct {
	Origin   string             // of the new log
	Quoted   uint64             // leaves of the last checkpoint that its first leaf quotes, 0 if none was known
	Leaves   uint64             // leaves of the old log that this node had
	Removed  []placement.NodeID // voters and standbys that are members no more
	Restarts int                // how often the log was begun anew by now
}

// Recover makes a region that lost its quorum for good out of what this one node
// has on disk. The node must not run, and no other voter may ever run again on
// its old directory: what they alone had is lost, and the two would be two
// histories. They are removed and join anew with empty directories.
//
// Whatever this node has is kept, also what was never committed. As nobody can
// say what was lost, the log ends here and a new one begins, whose first leaf
// quotes the old one's last checkpoint: an amputation that everybody can see.
func Recover(ctx context.Context, cfg Config) (Recovered, error) {
	cfg.Layer, cfg.Forward, cfg.LedgerPeer = newQuiet(), nil, nil
	if err := standUp(cfg); err != nil {
		return Recovered{}, err
	}
	g, err := New(cfg)
	if err != nil {
		return Recovered{}, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- g.Run(running) }()
	out, err := g.beginAnew(ctx)
	stop()
	return out, errors.Join(err, <-ended)
}

// standUp rewrites the raft configuration on disk: this node alone.
func standUp(cfg Config) error {
	g, err := New(cfg)
	if err != nil {
		return err
	}
	stores, err := cfg.Storage.Open(Identity{Region: cfg.Region, Node: cfg.Self}, g.log)
	if err != nil {
		return err
	}
	defer g.closing("log", stores.Close)
	if err := checkLog(stores); err != nil {
		return err
	}
	if err := g.openLedger(stores); err != nil {
		return err
	}
	defer g.closing("ledger", g.closeLedger)
	alone := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(cfg.Self), Address: raft.ServerAddress(cfg.Advertise)}}}
	_, transport := raft.NewInmemTransport(raft.ServerAddress(cfg.Advertise))
	defer transport.Close()
	err = raft.RecoverCluster(g.raftConfig(make(chan bool, 1)), g.machine, cached(stores.Log, g.noteStorage), stores.Stable, stores.Snapshots, transport, alone)
	if err == nil {
		err = g.machine.broken
	}
	if err != nil {
		return fmt.Errorf("recover region %s from this node's disk: %w", cfg.Region, err)
	}
	if g.View().Self() == nil {
		return fmt.Errorf("recover region %s: this node's disk holds none of its state", cfg.Region)
	}
	return nil
}

const recoverWithin = time.Minute

// beginAnew ends the old log, drops the lost members, and takes a snapshot, so
// that nothing of the old raft log is ever applied again.
func (g *Group) beginAnew(ctx context.Context) (out Recovered, err error) {
	ctx, cancel := context.WithTimeout(ctx, recoverWithin)
	defer cancel()
	select {
	case <-g.ready:
	case <-g.done:
		return out, errors.New("the recovered group does not run")
	case <-ctx.Done():
		return out, context.Cause(ctx)
	}
	if _, err := g.ReadIndex(g.awaitLead(ctx)); err != nil {
		return out, fmt.Errorf("lead the recovered group: %w", err)
	}
	v := g.View()
	previous := ""
	if all := v.Checkpoints(); len(all) > 0 {
		previous, out.Quoted = withoutCosignatures(all[0].Note), all[0].Size
	}
	out.Leaves = v.LedgerSize()
	if s := g.Ledger(); s != nil {
		if err := g.keepCheckpoints(ctx, s); err != nil {
			return out, fmt.Errorf("keep the old log's checkpoints: %w", err)
		}
	}
	if _, err := g.Propose(ctx, state.RestartLog{Previous: previous}, g.actor()); err != nil {
		return out, fmt.Errorf("begin a new log: %w", err)
	}
	for _, n := range v.Nodes() {
		if n.ID == g.cfg.Self || n.Role == placement.RoleWorker {
			continue
		}
		if _, err := g.Propose(ctx, state.RemoveNode{Node: n.ID}, g.actor()); err != nil {
			return out, fmt.Errorf("remove node %s: %w", n.ID, err)
		}
		out.Removed = append(out.Removed, n.ID)
	}
	// The steward may have taken one of them in before it was removed.
	for len(g.Peers()) > 1 {
		if !g.sleep(stewardEvery, ctx.Done()) {
			return out, fmt.Errorf("drop the lost members: %w", context.Cause(ctx))
		}
	}
	v = g.View()
	out.Origin, out.Restarts = v.LogOrigin(), v.Restarts
	// Raft takes no snapshot behind a change of its members until a command
	// follows it: this one leaves no leaf.
	if _, err := g.Propose(ctx, state.MarkLog{}, g.actor()); err != nil {
		return out, fmt.Errorf("write the recovered state: %w", err)
	}
	if err := g.raft.Load().Snapshot().Error(); err != nil {
		return out, fmt.Errorf("write the recovered state: %w", err)
	}
	return out, nil
}

// awaitLead waits until this node leads, or ctx ends.
func (g *Group) awaitLead(ctx context.Context) context.Context {
	for {
		leading, changed := g.lead.now()
		if leading {
			return ctx
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx
		}
	}
}

// maxQuoted bounds what a leaf quotes in clear, in bytes.
const maxQuoted = 4 << 10

// withoutCosignatures is the checkpoint as it is if a leaf has room for it, and
// else with its first signature line, the log's own, alone.
func withoutCosignatures(note string) string {
	if len(note) <= maxQuoted {
		return note
	}
	end := strings.LastIndex(note, "\n\n")
	first, _, _ := strings.Cut(note[end+2:], "\n")
	return note[:end+2] + first + "\n"
}

// quiet is a layer on which nobody is reached and nobody comes.
type quiet struct {
	once   sync.Once
	closed chan struct{}
}

func newQuiet() *quiet { return &quiet{closed: make(chan struct{})} }

func (q *quiet) Accept() (net.Conn, placement.NodeID, error) {
	<-q.closed
	return nil, "", net.ErrClosed
}

func (q *quiet) Dial(context.Context, placement.NodeID, string) (net.Conn, error) {
	return nil, errors.New("a region that is being recovered speaks to nobody")
}

func (q *quiet) Close() error {
	q.once.Do(func() { close(q.closed) })
	return nil
}
