// Package consensus runs a region's raft group: what a majority of the region's
// voters has written to disk is decided, and everybody applies it in one order.
//
// Three rules hold. An acknowledged command is never lost, and takes effect
// once, however often it is proposed again across lost leaders. Whoever speaks
// raft is whoever the certificate on the stream names: an RPC that claims
// another voter's id or address is refused. And a replica that cannot go on
// truthfully (an unknown command, a diverged state, a wrong clock) stops or
// steps down; it never guesses.
//
// It is the only importer of hashicorp/raft. node/controller, node/api and
// node/runner rely on [Group.Propose], [Group.View], [Group.Wait] and
// [Group.Lead].
package consensus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// Layer carries the group's streams between nodes of one region. Both ends are
// known by certificate: Accept says who is there, and Dial fails unless the
// named node is found.
type Layer interface {
	// Accept waits for a stream of a peer; it ends with net.ErrClosed.
	Accept() (net.Conn, placement.NodeID, error)
	Dial(ctx context.Context, node placement.NodeID, addr string) (net.Conn, error)
	Close() error
}

// Member is one server of the raft configuration.
type Member struct {
	Node  placement.NodeID
	Addr  string // host:port of its UDP socket
	Voter bool
}

// Config is what a [Group] is built from.
type Config struct {
	Self      placement.NodeID
	Region    placement.RegionID
	Advertise string // own host:port, UDP, as others reach it
	Storage   Storage
	Layer     Layer
	// Forward hands an encoded command to the leader's [Group.ProposeRaw]. Nil
	// means that commands are taken on the leader only.
	Forward func(ctx context.Context, leader Member, raw []byte) (state.Result, error)
	// LedgerPeer reaches the ledger of another member, to take from it what this
	// replica lacks. Nil means that a gap stays.
	LedgerPeer func(Member) store.Peer

	// HeartbeatTimeout and ElectionTimeout decide how soon a lost leader is
	// noticed and replaced; the lease may not be longer than the heartbeat.
	HeartbeatTimeout time.Duration
	ElectionTimeout  time.Duration
	LeaseTimeout     time.Duration
	// CommitTimeout is how late followers learn of a commit on a quiet log whose
	// leader's own word did not reach them: see teller.
	CommitTimeout time.Duration
	// SnapshotThreshold is how many log entries are worth a snapshot,
	// SnapshotInterval how often that is looked at, Trailing how many entries
	// are kept behind it for followers that lag.
	SnapshotThreshold uint64
	SnapshotInterval  time.Duration
	Trailing          uint64
	// DigestInterval is how often replicas compare the digest of their whole
	// state; zero means never.
	DigestInterval time.Duration
	// ClockInterval is how often a replica compares its clock with the others',
	// MaxSkew what may lie between them.
	ClockInterval time.Duration
	MaxSkew       time.Duration
	// ReplaceAfter is how long a voter may be out of contact before a standby
	// takes its vote.
	ReplaceAfter time.Duration

	Clock func() time.Time
	Rand  io.Reader
	Log   *slog.Logger
}

// DefaultConfig has the timers that were measured.
func DefaultConfig() Config {
	return Config{
		HeartbeatTimeout: time.Second, ElectionTimeout: time.Second, LeaseTimeout: 500 * time.Millisecond,
		CommitTimeout: 10 * time.Millisecond, SnapshotThreshold: 16384, SnapshotInterval: 30 * time.Second, Trailing: 8192,
		DigestInterval: 10 * time.Minute, ClockInterval: 10 * time.Second, MaxSkew: time.Minute, ReplaceAfter: 5 * time.Minute,
		Clock: time.Now, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler),
	}
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("consensus: "+what))
		}
	}
	need(placement.ValidName(string(c.Self)), fmt.Sprintf("Self %q is no name of a node", c.Self))
	need(placement.ValidName(string(c.Region)), fmt.Sprintf("Region %q is no name of a region", c.Region))
	need(c.Advertise != "", "Advertise is missing: others must know where this node is")
	need(c.Storage != nil, "Storage is missing")
	need(c.Layer != nil, "Layer is missing")
	need(c.HeartbeatTimeout > 0 && c.ElectionTimeout >= c.HeartbeatTimeout, "ElectionTimeout must be at least HeartbeatTimeout, and both positive")
	need(c.LeaseTimeout > 0 && c.LeaseTimeout <= c.HeartbeatTimeout, "LeaseTimeout must be positive and not longer than HeartbeatTimeout")
	need(c.CommitTimeout > 0 && c.SnapshotInterval > 0 && c.ClockInterval > 0 && c.MaxSkew > 0, "CommitTimeout, SnapshotInterval, ClockInterval and MaxSkew must be positive")
	need(c.Clock != nil && c.Rand != nil && c.Log != nil, "Clock, Rand and Log must be handed in")
	return errors.Join(errs...)
}

// Group is one node's part in its region's raft group.
type Group struct {
	cfg     Config
	log     *slog.Logger
	machine *machine
	queue   chan *proposal
	jobs    chan struct{} // one for each new job that is being committed
	lead    *leadership
	clock   *clockWatch
	ready   chan struct{} // closed once raft runs
	done    chan struct{} // closed once Run has returned
	fatal   chan error    // the first reason to stop
	raft    atomic.Pointer[raft.Raft]
	net     atomic.Pointer[mux]
	health  atomic.Pointer[error] // last storage fault
	ledger  atomic.Pointer[store.Store]
	old     oldLedgers
	whole   atomic.Int64 // voters with a whole ledger, as last heard
	// forget is that of the stores; Run sets it before anything asks.
	forget func(index uint64) (bool, error)

	barrierMu   sync.Mutex
	barrierTerm uint64 // term in which a barrier has passed; guarded by barrierMu
}

// New builds a group and starts nothing.
func New(cfg Config) (*Group, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	g := &Group{
		cfg: cfg, log: cfg.Log, queue: make(chan *proposal), jobs: make(chan struct{}, jobsInFlight), lead: newLeadership(),
		ready: make(chan struct{}), done: make(chan struct{}), fatal: make(chan error, 1),
	}
	g.machine = newMachine(g.fail)
	g.clock = &clockWatch{}
	return g, nil
}

// Run opens the log, takes part in the group until ctx ends or the replica
// cannot go on, and then stops everything that it started, in order.
func (g *Group) Run(ctx context.Context) error {
	defer close(g.done)
	stores, err := g.cfg.Storage.Open(Identity{Region: g.cfg.Region, Node: g.cfg.Self}, g.log)
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
	g.forget = stores.Forget
	net := newMux(g)
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	notify := make(chan bool, 8)
	stable := &patientStore{StableStore: stores.Stable, stop: inner.Done(), note: g.noteStorage, after: g.sleep}
	r, err := raft.NewRaft(g.raftConfig(notify), g.machine, cached(stores.Log, g.noteStorage), stable, stores.Snapshots, net)
	if err != nil {
		net.stop()
		return g.notBegun(err)
	}
	g.raft.Store(r)
	g.net.Store(net)
	close(g.ready)

	var parts, batches sync.WaitGroup
	batches.Go(func() { g.batch(inner, r) })
	parts.Go(net.accept)
	parts.Go(func() { g.standAlone(inner) })
	parts.Go(func() { g.watchLeadership(inner, r, notify) })
	parts.Go(func() { g.digests(inner) })
	parts.Go(func() { g.noteCommitted(inner, stores) })
	parts.Go(func() { g.keepLedger(inner) })
	parts.Go(func() { g.erase(inner) })
	parts.Go(func() { g.compareClocks(inner, net) })
	parts.Go(func() { _ = g.Lead(inner, func(ctx context.Context) { g.steward(ctx, r, net) }) })

	select {
	case <-ctx.Done():
		err = nil
	case err = <-g.fatal:
		g.log.Error("consensus stops", "region", g.cfg.Region, "node", g.cfg.Self, "err", err)
	}
	// Words already promised are finished or refused before raft goes away.
	// Raft forgets what its state machine has still to apply when it is shut
	// down, and answers it never: every batch in flight lands first. It does, for
	// a leader that no longer reaches its followers gives up within a lease.
	net.mute()
	cancel()
	batches.Wait()
	g.closing("raft", func() error { return r.Shutdown().Error() })
	// Accepting ends before what was accepted is waited for: nothing may be
	// added to a group of goroutines that is being waited for.
	g.closing("streams", net.Close)
	parts.Wait()
	net.stop()
	return err
}

// notBegun says why raft does not begin. Raft itself tells of a state that it
// could not restore in its log alone.
func (g *Group) notBegun(err error) error {
	if g.machine.broken != nil {
		err = g.machine.broken
	} else {
		err = &Corrupt{"its snapshots", err}
	}
	return fmt.Errorf("open raft log of region %s: %w", g.cfg.Region, err)
}

func (g *Group) closing(what string, f func() error) {
	if err := f(); err != nil {
		g.log.Warn("close "+what, "region", g.cfg.Region, "err", err)
	}
}

// fail ends Run with the first reason given.
func (g *Group) fail(err error) {
	select {
	case g.fatal <- err:
	default:
	}
}

func (g *Group) noteStorage(err error) {
	if err == nil {
		g.health.Store(nil)
	} else if g.health.Swap(&err) == nil {
		g.log.Error("the raft log cannot be written; this replica waits", "region", g.cfg.Region, "err", err)
	}
}

// Health is the fault that keeps the replica from writing (a full disk), or nil.
func (g *Group) Health() error {
	if err := g.health.Load(); err != nil {
		return *err
	}
	return nil
}

// noteCommitted writes down, at an interval and at the end, how far this
// replica has applied the log.
func (g *Group) noteCommitted(ctx context.Context, stores *Stores) {
	if stores.NoteCommitted == nil {
		return
	}
	var noted uint64
	for more := true; more; {
		more = g.sleep(5*time.Second, ctx.Done())
		if index := g.View().Index(); index > noted && stores.NoteCommitted(index) == nil {
			noted = index
		}
	}
}

// sleep waits for d, or until stop; it reports whether d passed.
func (g *Group) sleep(d time.Duration, stop <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-stop:
		return false
	}
}

func (g *Group) raftConfig(notify chan<- bool) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(g.cfg.Self)
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = g.cfg.HeartbeatTimeout, g.cfg.ElectionTimeout, g.cfg.LeaseTimeout
	c.CommitTimeout = g.cfg.CommitTimeout
	c.SnapshotThreshold, c.SnapshotInterval, c.TrailingLogs = g.cfg.SnapshotThreshold, g.cfg.SnapshotInterval, g.cfg.Trailing
	c.NotifyCh = notify
	c.ShutdownOnRemove = false // a removed node says so itself, through its role
	c.NoLegacyTelemetry = true
	c.Logger = hclogger(g.log, "raft")
	return c
}
