package node

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/gossip"
	"github.com/sovmesh/sovmesh/transport/identity"
)

const (
	// keyringLook is how often a node looks whether its keys are out of date,
	// keyringPull how often it asks a voter although nothing says so.
	keyringLook = 500 * time.Millisecond
	keyringPull = 30 * time.Second
	// keyringWithin bounds one question about keys; spreadWithin how long a step
	// of a rotation waits for the nodes that are in contact. Who is away fetches
	// the keys when it is back.
	keyringWithin  = time.Second
	spreadWithin   = 4 * time.Second
	keyringsAtOnce = 16
)

// keyring is the region's gossip keys as this node holds them. The rule: a key
// that a removed node knew is not used. Every removal raises
// [state.View.LastRemoval], the leader answers it with a new key, in three steps
// that leave no pair of nodes unable to read each other: every node holds the
// key, then seals with it, then drops the others. Keys travel over mutual TLS
// between nodes of the region alone and are kept in the data directory.
type keyring struct {
	n    *Node
	pool *gossip.Pool // set once, before Run

	mu   sync.Mutex
	ring api.Keyring // guarded by mu
}

func (n *Node) loadKeyring() (*keyring, error) {
	k := &keyring{n: n}
	if err := n.dir.readJSON(fileKeyring, &k.ring); err != nil {
		return nil, err
	}
	if err := k.ring.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", n.dir.path(fileKeyring), err)
	}
	return k, nil
}

// Ring is the keys as they are now.
func (k *keyring) Ring() api.Keyring {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ring.Clone()
}

// Offer takes keys that a voter hands out and gives those held afterwards: the
// offered ones unless what is held is as new.
func (k *keyring) Offer(from placement.NodeID, ring api.Keyring) (api.Keyring, error) {
	if !slices.ContainsFunc(k.n.voters(), func(p transport.Peer) bool { return p.ID.Node == from }) {
		return api.Keyring{}, fmt.Errorf("node %s is no voter that this node knows", from)
	}
	return k.keep(ring)
}

// keep writes keys down and uses them, if they are newer than those held.
func (k *keyring) keep(ring api.Keyring) (api.Keyring, error) {
	if err := ring.Validate(); err != nil {
		return api.Keyring{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if ring.Version <= k.ring.Version {
		return k.ring.Clone(), nil
	}
	if err := k.n.dir.writeJSON(fileKeyring, ring); err != nil {
		return api.Keyring{}, err
	}
	if err := k.pool.SetKeys(ring.Keys); err != nil {
		return api.Keyring{}, err
	}
	k.ring = ring.Clone()
	k.n.deps.Log.Info("gossip keys changed", "version", ring.Version, "keys", len(ring.Keys), "index", ring.Index)
	return ring, nil
}

// follow fetches the keys at the start, whenever a removal is newer than they
// are, and now and then: a node that was away can read no gossip to learn it.
func (k *keyring) follow(ctx context.Context) error {
	var asked time.Time
	for ctx.Err() == nil {
		stale := k.n.ledger.View().LastRemoval() > k.Ring().Index
		if !k.n.ledger.leads() && (stale || asked.IsZero() || time.Since(asked) >= keyringPull) && k.pull(ctx) {
			asked = time.Now()
		}
		pause(ctx, keyringLook)
	}
	return nil
}

// pull asks the leader, or the voters in turn, and reports whether one answered.
func (k *keyring) pull(ctx context.Context) bool {
	peers := k.n.voters()
	if leader, ok := k.n.ledger.Leader(); ok {
		slices.SortStableFunc(peers, func(a, b transport.Peer) int {
			return boolOrder(a.ID.Node != leader) - boolOrder(b.ID.Node != leader)
		})
	}
	for _, p := range peers {
		ring, err := k.ask(ctx, p)
		if err != nil {
			k.n.deps.Log.Debug("the gossip keys were not handed over", "from", p.ID.Node, "err", err)
			continue
		}
		if _, err := k.keep(*ring); err != nil {
			k.n.deps.Log.Warn("gossip keys were not taken", "from", p.ID.Node, "err", err)
			continue
		}
		return true
	}
	return false
}

func boolOrder(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (k *keyring) ask(ctx context.Context, p transport.Peer) (*api.Keyring, error) {
	ctx, cancel := context.WithTimeout(ctx, keyringWithin)
	defer cancel()
	return k.n.mesh.Keyring(ctx, p)
}

// lead rotates the keys after removals, as long as this node leads. A rotation
// that another leader began is finished.
func (k *keyring) lead(ctx context.Context) {
	for _, p := range k.n.voters() {
		if rec := k.n.ledger.View().Node(p.ID.Node); rec == nil || rec.Contact != placement.ContactAlive {
			continue
		}
		if ring, err := k.ask(ctx, p); err == nil {
			k.reconcile(*ring)
		}
	}
	for ctx.Err() == nil {
		if ring, due := k.begin(k.n.ledger.View(), k.Ring()); due {
			k.settle(ring)
		}
		if k.Ring().Next == nil {
			pause(ctx, keyringLook)
		} else if !k.step(ctx) {
			pause(ctx, retryEvery)
		}
	}
}

// begin makes a new key if somebody was removed since the newest was made.
func (k *keyring) begin(view *state.View, ring api.Keyring) (api.Keyring, bool) {
	if view.LastRemoval() <= ring.Index {
		return ring, false
	}
	ring.Next = identity.NewKeyringKey()
	// One that was on its way when the next node was removed is given up.
	ring.Keys = append(ring.Keys[:min(len(ring.Keys), api.MaxKeys-1)], ring.Next)
	ring.Version, ring.Index = ring.Version+1, view.LastRemoval()
	return ring, true
}

// step hands the keys out as they stand and goes on to the next step; it reports
// whether it did.
func (k *keyring) step(ctx context.Context) bool {
	ring := k.Ring()
	if !k.spread(ctx, ring) {
		return false
	}
	ring.Version++
	if !bytes.Equal(ring.Keys[0], ring.Next) {
		ring.Keys = slices.DeleteFunc(ring.Keys, func(key []byte) bool { return bytes.Equal(key, ring.Next) })
		ring.Keys = append([][]byte{ring.Next}, ring.Keys...)
		return k.settle(ring)
	}
	ring.Keys, ring.Next = [][]byte{ring.Next}, nil
	if !k.settle(ring) {
		return false
	}
	k.spread(ctx, ring)
	k.n.deps.Log.Info("the gossip keyring was rotated", "index", ring.Index)
	return true
}

func (k *keyring) settle(ring api.Keyring) bool {
	held, err := k.keep(ring)
	if err != nil {
		k.n.deps.Log.Error("the gossip keyring could not be changed", "err", err)
	}
	return err == nil && held.Version == ring.Version
}

// spread offers the keys to every node of the region and waits for those in
// contact. It is false if a node holds other keys that are as new: then both
// are joined, and the step begins again.
func (k *keyring) spread(ctx context.Context, ring api.Keyring) bool {
	ctx, cancel := context.WithTimeout(ctx, spreadWithin)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(keyringsAtOnce)
	for _, node := range k.n.ledger.View().Nodes() {
		if node.ID != k.n.who.Node {
			g.Go(func() error { return k.offer(ctx, node, ring) })
		}
	}
	return g.Wait() == nil
}

// offer repeats until the node has the keys, if it is in contact.
func (k *keyring) offer(ctx context.Context, node *placement.Node, ring api.Keyring) error {
	to := transport.Peer{ID: k.n.id(k.n.who.Region, node.ID), Addr: node.QUIC}
	for ctx.Err() == nil {
		asked, cancel := context.WithTimeout(ctx, keyringWithin)
		held, err := k.n.mesh.OfferKeyring(asked, to, ring)
		cancel()
		if err == nil && !held.Equal(ring) {
			k.reconcile(*held)
			return fmt.Errorf("node %s holds other gossip keys", node.ID)
		}
		if err == nil || node.Contact != placement.ContactAlive {
			return nil
		}
		k.n.deps.Log.Debug("gossip keys were not taken", "peer", node.ID, "err", err)
		pause(ctx, retryEvery)
	}
	return nil
}

// reconcile joins what another node holds with what this leader does: two
// leaders may have made keys for one removal. Nothing that anybody seals with is
// dropped before all have what the newer of the two brings in.
func (k *keyring) reconcile(theirs api.Keyring) {
	ours := k.Ring()
	if theirs.Equal(ours) || theirs.Validate() != nil || theirs.Version < ours.Version && theirs.Index <= ours.Index {
		return // ours, or an older step on the way to it
	}
	if joined := ours.Join(theirs); !joined.Equal(ours) {
		k.settle(joined)
	}
}
