// Package gossip keeps the pool of one region: who seems alive, and what
// hardware each node says it has. It is memberlist over the node's own endpoint.
//
// Gossip hints and decides nothing. Who belongs is raft's to say, who speaks is
// the certificate's: a record counts only with the signature of the node it
// names, and a stream only with a certificate of the region. Packets are sealed
// by the region's keyring, which says "one of us" and no more.
//
// node wires it; the controller takes contact from it, the API shows it. Between
// regions there is no pool: they exchange placement.RegionSummary over HTTP/3.
package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// Config is what a [Pool] is built from.
type Config struct {
	// Self and Region must be those of the credential.
	Self   placement.NodeID
	Region placement.RegionID
	// Credential signs the node's own record, Verifier judges those of others.
	Credential *identity.Source
	Verifier   *identity.Verifier
	// Layer carries packets and streams; see transport.Endpoint.Gossip.
	Layer Layer
	// Advertise is the address that others reach the socket at; by default the
	// socket's own, which then must not be a wildcard.
	Advertise netip.AddrPort
	// Keys are the region's gossip keys, 16, 24 or 32 bytes each; the first seals.
	Keys [][]byte
	// Join names the voters of the raft configuration. Gossip does not heal by
	// itself once a member was held dead for 15 s: those of Join that are not
	// alive in the pool are joined again, for ever.
	Join func() []transport.Peer
	// OnEvent is called for one change at a time, in order, from one goroutine;
	// it may call the pool. It may be nil.
	OnEvent func(Member)
	Log     *slog.Logger

	// ProbeInterval is how often one member is probed; ProbeTimeout is a bound on
	// the round trip within the region.
	ProbeInterval, ProbeTimeout time.Duration
	// GossipInterval is how often news are sent on.
	GossipInterval time.Duration
	// PushPullInterval is how often the whole state is exchanged with one member.
	PushPullInterval time.Duration
	// RejoinInterval is how often Join is asked; JoinTimeout bounds one attempt.
	RejoinInterval, JoinTimeout time.Duration
	// LeaveTimeout bounds the goodbye.
	LeaveTimeout time.Duration
	// Now is the clock that signatures are dated and judged by.
	Now func() time.Time
}

// DefaultConfig has memberlist's timers for a local network, and ours.
func DefaultConfig() Config {
	return Config{
		ProbeInterval: time.Second, ProbeTimeout: 500 * time.Millisecond,
		GossipInterval: 200 * time.Millisecond, PushPullInterval: 30 * time.Second,
		RejoinInterval: 15 * time.Second, JoinTimeout: 3 * time.Second, LeaveTimeout: 2 * time.Second,
		Now: time.Now,
	}
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("gossip: "+what))
		}
	}
	need(placement.ValidName(string(c.Self)), fmt.Sprintf("Self %q is no node name", c.Self))
	need(placement.ValidName(string(c.Region)), fmt.Sprintf("Region %q is no region name", c.Region))
	need(c.Credential != nil && c.Verifier != nil, "Credential or Verifier is missing: records are signed")
	need(c.Layer != nil, "Layer is missing")
	need(len(c.Keys) > 0, "Keys are missing: packets are sealed")
	need(c.Log != nil, "Log is missing")
	need(c.Now != nil, "Now is missing")
	for _, d := range []time.Duration{c.ProbeInterval, c.ProbeTimeout, c.GossipInterval, c.PushPullInterval,
		c.RejoinInterval, c.JoinTimeout, c.LeaveTimeout} {
		need(d > 0, "an interval or a timeout is not positive")
	}
	return errors.Join(errs...)
}

// Layer is what a pool needs of the endpoint: *transport.PacketLayer has it.
type Layer interface {
	Addr() net.Addr
	// Packets and Streams give what comes in.
	Packets() <-chan transport.Packet
	Streams() <-chan net.Conn
	// WriteTo sends one packet of at most transport.PacketMax bytes, and waits
	// for nobody.
	WriteTo(packet []byte, to netip.AddrPort) error
	// Dial opens a stream to a node of the region.
	Dial(ctx context.Context, to transport.Peer) (net.Conn, error)
}

// Pool is a node's view of its region's gossip.
type Pool struct {
	cfg     Config
	keyring *memberlist.Keyring
	queue   memberlist.TransmitLimitedQueue // pieces of records
	notices memberlist.TransmitLimitedQueue // goodbyes
	work    *inbox
	told    chan struct{} // holds one: the own meta has changed
	counts  counters

	mu      sync.Mutex
	members map[placement.NodeID]*Member // guarded by mu: everybody seen, not Self
	present int                          // guarded by mu: of members, those in the pool
	records map[placement.NodeID]Record  // guarded by mu
	late    map[placement.NodeID]*late   // guarded by mu: what members speak of and is not held
	meta    Meta                         // guarded by mu: of the own record
	list    *memberlist.Memberlist       // guarded by mu: nil unless Run has it
	signer  *identity.Credential         // guarded by mu: signed the own record
	ran     bool                         // guarded by mu
	// What may be sent to those who ask, in bytes, as of a time.
	budget   int       // guarded by mu
	budgetAt time.Time // guarded by mu
}

// pieceSends is how often each node passes a piece on, whatever the size of the
// pool: of a rumor that everybody tells five times less than one in a hundred do
// not hear, and they ask. memberlist's own messages, for which nobody asks, are
// sent four times for every digit of the size: 16 times among a thousand.
const pieceSends = 5

// New checks the configuration and the keys. It starts nothing: Run does.
func New(cfg Config) (*Pool, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	keyring, err := memberlist.NewKeyring(cfg.Keys, cfg.Keys[0])
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	p := &Pool{cfg: cfg, keyring: keyring, work: newInbox(), told: make(chan struct{}, 1),
		members: map[placement.NodeID]*Member{}, records: map[placement.NodeID]Record{}, late: map[placement.NodeID]*late{}, budget: answerRate}
	p.queue = memberlist.TransmitLimitedQueue{RetransmitMult: pieceSends, NumNodes: func() int { return 9 }} // times one digit
	p.notices = memberlist.TransmitLimitedQueue{RetransmitMult: 4, NumNodes: p.size}
	return p, nil
}

// AddKey makes the pool read packets sealed with key, besides those it has.
// A rotation is AddKey on every node, then UseKey on every node, then RemoveKey.
func (p *Pool) AddKey(key []byte) error { return p.keyring.AddKey(key) }

// UseKey seals with key from now on; it must have been added.
func (p *Pool) UseKey(key []byte) error { return p.keyring.UseKey(key) }

// RemoveKey stops reading packets sealed with key, which must not be in use.
func (p *Pool) RemoveKey(key []byte) error { return p.keyring.RemoveKey(key) }

// SetKeys reads packets sealed with any of keys, seals with the first, and drops
// what is not among them: one step of a rotation.
func (p *Pool) SetKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return errors.New("gossip: a pool needs a key")
	}
	for _, key := range keys {
		if err := p.AddKey(key); err != nil {
			return fmt.Errorf("gossip keys: %w", err)
		}
	}
	if err := p.UseKey(keys[0]); err != nil {
		return fmt.Errorf("gossip keys: %w", err)
	}
	for _, held := range p.keyring.GetKeys() {
		if !slices.ContainsFunc(keys, func(key []byte) bool { return bytes.Equal(key, held) }) {
			if err := p.RemoveKey(held); err != nil {
				return fmt.Errorf("gossip keys: %w", err)
			}
		}
	}
	return nil
}

// Run joins the pool and takes part until ctx ends; then it says goodbye,
// within LeaveTimeout, and waits for everything it started. A pool runs once.
func (p *Pool) Run(ctx context.Context) error {
	p.mu.Lock()
	again := p.ran
	p.ran = true
	p.mu.Unlock()
	if again {
		return errors.New("gossip: a pool runs once")
	}
	wire, err := newWire(ctx, p)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(p.work.drain)
	defer p.work.close()

	list, err := memberlist.Create(p.listConfig(wire))
	if err != nil {
		_ = wire.Shutdown()
		return fmt.Errorf("start gossip: %w", err)
	}
	p.mu.Lock()
	p.list = list
	p.mu.Unlock()
	p.resign()
	wg.Go(func() { p.pullUntil(ctx, list) })
	wg.Go(func() { p.announceUntil(ctx, list) })
	p.rejoinUntil(ctx, list)
	p.leave(list)
	err = list.Shutdown()
	p.mu.Lock()
	p.list = nil
	p.mu.Unlock()
	p.settle(list, wire)
	return err
}

// listConfig is memberlist's configuration.
func (p *Pool) listConfig(w *wire) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = string(p.cfg.Self)
	c.Transport = w
	// The label is authenticated with each packet: keys given to two regions by
	// mistake would still not join their pools.
	c.Label = string(p.cfg.Region)
	c.Keyring = p.keyring
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true
	c.EnableCompression = false
	c.UDPBufferSize = 1150 // sealed and marked it still fits 1,232 bytes
	c.TCPTimeout = p.cfg.JoinTimeout
	c.ProbeInterval, c.ProbeTimeout = p.cfg.ProbeInterval, p.cfg.ProbeTimeout
	c.GossipInterval, c.PushPullInterval = p.cfg.GossipInterval, p.cfg.PushPullInterval
	// A node that comes back under another address is let in again; that it is
	// that node, its certificate shows on every stream.
	c.DeadNodeReclaimTime = 10 * time.Second
	d := (*delegate)(p)
	c.Delegate, c.Events, c.Alive, c.Ping = d, d, d, d
	c.Logger = newLogger(p)
	return c
}

// rejoinUntil joins whoever should be in the pool and is not, until ctx ends.
// The first attempts follow each other fast: joins fail when a peer has just
// restarted, or is starting as we do.
func (p *Pool) rejoinUntil(ctx context.Context, list *memberlist.Memberlist) {
	pause := p.cfg.RejoinInterval / 16
	for {
		missing := p.missing(ctx)
		if len(missing) > 0 {
			p.counts.joins.Add(1)
			if n, err := list.Join(missing); err != nil && ctx.Err() == nil {
				p.counts.joinFailures.Add(1)
				p.cfg.Log.Debug("gossip join", "reached", n, "of", len(missing), "err", err)
			}
		} else {
			pause = p.cfg.RejoinInterval
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, p.cfg.RejoinInterval)
		p.resign()
		p.forgetOld()
	}
}

// missing lists who of Join is not alive in the pool, as memberlist wants it.
func (p *Pool) missing(ctx context.Context) []string {
	if p.cfg.Join == nil {
		return nil
	}
	var out []string
	for _, peer := range p.cfg.Join() {
		if peer.ID.Node == p.cfg.Self || peer.ID.Region != p.cfg.Region {
			continue
		}
		addr, err := lookup(ctx, peer.Addr)
		if err != nil {
			p.cfg.Log.Debug("gossip join", "peer", peer.Addr, "err", err)
			continue
		}
		if addr == p.advertised() || p.alive(peer.ID.Node, addr) {
			continue
		}
		name := ""
		if peer.ID.Node != "" {
			name = string(peer.ID.Node) + "/"
		}
		out = append(out, name+addr.String())
	}
	return out
}

// leave tells the others that this is no crash.
func (p *Pool) leave(list *memberlist.Memberlist) {
	p.notice(p.cfg.Self)
	if err := list.Leave(p.cfg.LeaveTimeout); err != nil {
		p.cfg.Log.Debug("gossip leave", "err", err)
	}
}

// settle waits for what memberlist leaves running after Shutdown: one probe may
// still wait for an answer to a packet that has gone out.
func (p *Pool) settle(list *memberlist.Memberlist, w *wire) {
	longest := max(p.cfg.ProbeInterval, p.cfg.ProbeTimeout) * time.Duration(list.GetHealthScore()+1)
	time.Sleep(time.Until(w.lastSent().Add(longest + 10*time.Millisecond)))
}
