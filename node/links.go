package node

import (
	"bytes"
	"context"
	"reflect"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// summaryWithin bounds one question for a summary: a border that does not
// answer by then is unknown, long before a transport would notice.
const summaryWithin = 800 * time.Millisecond

// links is this node's contact with other regions. Each node asks by itself,
// about itself: no region needs another to know who is reachable.
type links struct {
	n     *Node
	mu    sync.Mutex
	peers map[placement.RegionID]*link // guarded by mu
}

// link is what is known of one region. A region that does not answer is
// unknown, never gone; its last summary is kept until it expires.
type link struct {
	up      bool
	since   time.Time
	rtt     time.Duration
	summary *placement.RegionSummary
	doors   []placement.FrontDoor
	pack    string
}

func newLinks(n *Node) *links { return &links{n: n, peers: map[placement.RegionID]*link{}} }

// run keeps one asker for every active peer.
func (l *links) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	asked := map[placement.RegionID]bool{}
	for ctx.Err() == nil {
		for _, r := range l.n.ledger.View().Regions() {
			if !r.Self && r.State == placement.PeerActive && !asked[r.ID] {
				asked[r.ID] = true
				wg.Go(func() { l.follow(ctx, r.ID) })
			}
		}
		pause(ctx, retryEvery)
	}
	return nil
}

func (l *links) follow(ctx context.Context, region placement.RegionID) {
	for ctx.Err() == nil {
		rec := l.n.ledger.View().Region(region)
		if rec == nil || rec.State != placement.PeerActive {
			l.forget(region)
			pause(ctx, l.n.cfg.Summaries)
			continue
		}
		l.ask(ctx, rec)
		pause(ctx, l.n.cfg.Summaries)
	}
}

// ask tries the region's front doors, the one that answered last first. All
// that do not answer within summaryWithin make the region unknown.
func (l *links) ask(ctx context.Context, rec *placement.Region) {
	doors := l.ordered(rec)
	type answer struct {
		s   *api.SummaryStatement
		rtt time.Duration
		at  int
	}
	asked, cancel := context.WithTimeout(ctx, summaryWithin)
	defer cancel()
	answers := make(chan *answer, len(doors))
	for i, door := range doors {
		go func() {
			// The doors after the first are asked only when it is slow.
			if i > 0 {
				pause(asked, time.Duration(i)*summaryWithin/8)
			}
			begin := time.Now()
			s, err := l.n.mesh.Summary(asked, transport.Peer{ID: l.n.id(rec.ID, ""), Addr: door.QUIC}, l.n.verifier, l.n.deps.now())
			if err != nil {
				answers <- nil
				return
			}
			answers <- &answer{s, time.Since(begin), i}
		}()
	}
	var got *answer
	for range doors {
		if a := <-answers; a != nil && got == nil {
			got = a
			cancel()
		}
	}
	if ctx.Err() != nil {
		return
	}
	if got == nil {
		l.lost(rec.ID)
		return
	}
	l.heard(rec.ID, doors[got.at], got.rtt, got.s)
	l.update(ctx, rec, got.s)
}

func (l *links) ordered(rec *placement.Region) []placement.FrontDoor {
	l.mu.Lock()
	defer l.mu.Unlock()
	doors := rec.FrontDoors
	if k := l.peers[rec.ID]; k != nil && len(k.doors) > 0 {
		doors = k.doors
	}
	return doors
}

func (l *links) lost(region placement.RegionID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.peers[region]
	if k == nil {
		k = &link{since: l.n.deps.now()}
		l.peers[region] = k
	}
	if k.up {
		k.up, k.since = false, l.n.deps.now()
		l.n.deps.Log.Info("no contact with region", "peer", region)
	}
}

func (l *links) heard(region placement.RegionID, door placement.FrontDoor, rtt time.Duration, s *api.SummaryStatement) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.peers[region]
	if k == nil {
		k = &link{}
		l.peers[region] = k
	}
	if !k.up {
		k.up, k.since = true, l.n.deps.now()
		l.n.deps.Log.Info("contact with region", "peer", region)
	}
	k.rtt, k.summary, k.pack = rtt, &s.Summary, s.LawPack
	// The door that answered comes first, the others follow as announced.
	k.doors = k.doors[:0:0]
	k.doors = append(k.doors, door)
	for _, d := range s.FrontDoors {
		if d.QUIC != door.QUIC {
			k.doors = append(k.doors, d)
		}
	}
}

func (l *links) forget(region placement.RegionID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.peers, region)
}

// update records what a peer may change without a new approval: front doors and
// the law pack it decides by. A bundle is not among them. The leader does it for all.
func (l *links) update(ctx context.Context, rec *placement.Region, s *api.SummaryStatement) {
	if !l.n.ledger.leads() {
		return
	}
	cmd := state.UpdatePeer{Region: rec.ID}
	changed := false
	if !reflect.DeepEqual(rec.FrontDoors, s.FrontDoors) && len(s.FrontDoors) > 0 {
		cmd.FrontDoors, changed = s.FrontDoors, true
	}
	if rec.LawPack != s.LawPack {
		cmd.LawPack, changed = s.LawPack, true
	}
	if !changed {
		return
	}
	if res, err := l.n.ledger.Propose(ctx, cmd, l.n.actor()); err != nil || res.Refused != nil {
		l.n.deps.Log.Warn("what the peer says of itself was not recorded", "peer", rec.ID, "err", err, "refused", res.Refused)
	}
}

func (l *links) get(region placement.RegionID) (link, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.peers[region]; k != nil {
		return *k, true
	}
	return link{}, false
}

// pack is the law pack that the region last said it decides by.
func (l *links) pack(region placement.RegionID) string {
	if k, ok := l.get(region); ok && k.pack != "" {
		return k.pack
	}
	if rec := l.n.ledger.View().Region(region); rec != nil {
		return rec.LawPack
	}
	return ""
}

// peersOf are the region's front doors as peers to dial, best first.
func (l *links) peersOf(region placement.RegionID) []transport.Peer {
	doors := []placement.FrontDoor(nil)
	if k, ok := l.get(region); ok {
		doors = k.doors
	}
	if rec := l.n.ledger.View().Region(region); len(doors) == 0 && rec != nil {
		doors = rec.FrontDoors
	}
	out := make([]transport.Peer, len(doors))
	for i, d := range doors {
		out[i] = transport.Peer{ID: l.n.id(region, ""), Addr: d.QUIC}
	}
	return out
}

func (n *Node) id(region placement.RegionID, node placement.NodeID) identity.ID {
	return identity.ID{Region: region, Mesh: n.who.Mesh, Node: node}
}

// keepBundles follows the ledger: what it accepts is believed, what it dropped
// is not, and both are kept for the next start.
func (n *Node) keepBundles(ctx context.Context) error {
	var index uint64
	held := map[string][]byte{}
	nodes := map[placement.NodeID]bool{}
	for ctx.Err() == nil {
		view, err := n.ledger.Wait(ctx, index)
		if err != nil {
			pause(ctx, retryEvery)
			continue
		}
		index = view.Index()
		n.dropRemoved(nodes, view)
		want := map[string][]byte{}
		for _, r := range view.Regions() {
			if r.Self || r.State == placement.PeerActive {
				want[identity.TrustDomain(r.ID, n.who.Mesh)] = r.Bundle
			}
		}
		if reflect.DeepEqual(held, want) {
			continue
		}
		n.believe(held, want)
		held = want
	}
	return nil
}

func (n *Node) believe(held, want map[string][]byte) {
	for domain, raw := range want {
		if bytes.Equal(held[domain], raw) {
			continue
		}
		b, err := identity.ParseBundle(raw, bundleMax)
		if err != nil {
			n.deps.Log.Error("a recorded bundle cannot be read", "peer", domain, "err", err)
			continue
		}
		if b.TrustDomain != domain {
			n.deps.Log.Error("a recorded bundle speaks for another trust domain and is not believed", "peer", domain, "claims", b.TrustDomain)
			continue
		}
		n.bundles.Set(b)
	}
	for domain := range held {
		if _, ok := want[domain]; !ok {
			n.bundles.Remove(domain)
			if region, mesh, err := identity.SplitTrustDomain(domain); err == nil {
				n.endpoint.Drop(identity.ID{Region: region, Mesh: mesh})
			}
		}
	}
	if err := n.dir.writeJSON(fileBundles, want); err != nil {
		n.deps.Log.Warn("bundles were not kept for the next start", "err", err)
	}
}

// dropRemoved ends the connections of nodes that the region had and has no
// more: their certificates are refused from now on, and what is open would
// outlive that.
func (n *Node) dropRemoved(had map[placement.NodeID]bool, view *state.View) {
	now := map[placement.NodeID]bool{}
	for _, node := range view.Nodes() {
		now[node.ID] = true
		had[node.ID] = true
	}
	for node := range had {
		if !now[node] {
			delete(had, node)
			n.endpoint.Drop(n.id(n.who.Region, node))
			n.gossip.Forget(node)
		}
	}
}
