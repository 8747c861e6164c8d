// Package node is the composition root: it knows every part of a node and how
// they are wired, and decides nothing itself.
//
// The rule that must hold: everything that starts goroutines is built inside
// Run, and parts end in the reverse of the order in which they began, so that
// the API stops promising before the runner stops delivering, and raft outlives
// both. The agent, `sovmesh dev` and scenarios/mesh all run this very code.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/controller"
	"github.com/sovmesh/sovmesh/node/gateway"
	"github.com/sovmesh/sovmesh/node/metrics"
	"github.com/sovmesh/sovmesh/node/receipts"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/node/witness"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/gossip"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// retryEvery is the pause of loops that wait for a leader or a peer.
const retryEvery = 100 * time.Millisecond

// Node is one node of a region.
type Node struct {
	cfg  Config
	deps Deps
	dir  dataDir
	who  whoami

	credential *identity.Source
	serving    *identity.ServingSource
	bundles    *identity.MapBundles
	refusals   *refusals
	verifier   *identity.Verifier
	authority  *authority
	devices    *devices
	answers    *answers // of the other nodes, while this one leads
	relays     relays   // of sessions into tasks that were moved

	endpoint   *transport.Endpoint
	mesh       *api.MeshClient
	group      *consensus.Group // nil on a worker
	facts      *facts           // of a worker; nil on the others
	ledger     *ledger
	gossip     *gossip.Pool
	keyring    *keyring
	links      *links
	runner     *runner.Runner
	controller *controller.Controller
	server     *api.Server
	gateway    *gateway.Gateway
	witness    *witness.Service // nil on a worker
	receipts   *receipts.Keeper
	metrics    *metrics.Metrics

	founded   chan struct{} // closed once the region's first commands are committed
	ready     chan struct{}
	readyOnce sync.Once
}

// New builds a node from its data directory and starts nothing. The directory
// must have been filled by [Found] or [Join].
func New(cfg Config, deps Deps) (*Node, error) {
	if err := errors.Join(cfg.Validate(), deps.validate()); err != nil {
		return nil, err
	}
	dir := dataDir(cfg.Data)
	who, ok, err := dir.whoami()
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%s holds no node; found a region or join one first", cfg.Data)
	}
	if who.Node != cfg.Node {
		return nil, fmt.Errorf("%s belongs to node %s of region %s, not to %s; one node, one directory", cfg.Data, who.Node, who.Region, cfg.Node)
	}
	n := &Node{cfg: cfg, deps: deps, dir: dir, who: who, ready: make(chan struct{}), founded: make(chan struct{})}
	n.answers = &answers{n: n}
	n.deps.Log = deps.Log.With("region", string(who.Region), "node", string(who.Node))
	n.devices = newDevices(n)
	for _, build := range []func() error{n.buildIdentity, n.buildTransport, n.buildConsensus, n.buildGossip, n.buildWitness, n.buildWork, n.buildReceipts, n.buildFront, n.buildMetrics} {
		if err := build(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Region and ID are who the node is.
func (n *Node) Region() placement.RegionID { return n.who.Region }

// ID is the node's name.
func (n *Node) ID() placement.NodeID { return n.who.Node }

// Ready is closed once the node serves its region: it knows a leader and its
// own record in the ledger.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// View is the region's state as this node has it; for tests and status.
func (n *Node) View() *state.View { return n.ledger.View() }

// Leader is whom this node believes to lead its region.
func (n *Node) Leader() (placement.NodeID, bool) { return n.ledger.Leader() }

func (n *Node) actor() string { return "node:" + string(n.who.Node) }

func (n *Node) buildIdentity() (err error) {
	cred, serving, err := loadCertificates(n.dir)
	if err != nil {
		return err
	}
	if cred.ID.Region != n.who.Region || cred.ID.Node != n.who.Node {
		return fmt.Errorf("%s is the certificate of %s, but the directory belongs to node %s of region %s", n.dir.path(fileCredential), cred.ID, n.who.Node, n.who.Region)
	}
	n.credential, n.serving = identity.NewSource(cred), &identity.ServingSource{}
	n.serving.Swap(serving)
	if n.bundles, err = n.dir.bundles(); err != nil {
		return err
	}
	if n.authority, err = newAuthority(n.dir, n.cfg.CertificateTTL, n.deps.now); err != nil {
		return err
	}
	if n.keyring, err = n.loadKeyring(); err != nil {
		return err
	}
	n.refusals = newRefusals(n.dir.path(dirRefused), n.bundles.All, n.deps.now, n.logOf("identity"))
	n.verifier = &identity.Verifier{
		Home: n.who.Region, Mesh: n.who.Mesh, Bundles: n.bundles, Clock: n.deps.now,
		Refused:  n.refusals.take,
		Revoked:  n.revoked,
		Since:    n.since,
		RaftPeer: n.raftPeer,
	}
	return nil
}

// revoked says whose certificate no longer counts: one that the ledger revoked,
// and every one of a node of the region that neither the ledger nor the group has. A removed
// node may hold older certificates than the last; a node that has just joined,
// and that this replica has not heard of yet, is believed at its next try.
func (n *Node) revoked(id identity.ID, serial *big.Int) bool {
	view := n.ledger.View()
	if view.Revoked(serial.String()) {
		return true
	}
	if id.Region != n.who.Region || view.Self() == nil || view.Node(id.Node) != nil {
		return false
	}
	if n.group == nil {
		return true // whom a worker must hear is among the nodes that it was told of
	}
	// A replica that lags may not have heard of a member of its own group: it
	// must listen to it, or it would never hear.
	return !slices.ContainsFunc(n.group.Peers(), func(m consensus.Member) bool { return m.Node == id.Node })
}

// since is when the node joined under its name, less what a certificate is
// backdated by and what clocks may differ by. The certificate that the ledger
// has for the node counts whenever it was made: a founder's is older than its region.
func (n *Node) since(id identity.ID, serial *big.Int) time.Time {
	rec := n.ledger.View().Node(id.Node)
	if id.Region != n.who.Region || rec == nil || rec.JoinedAt.IsZero() || rec.Serial == serial.String() {
		return time.Time{}
	}
	return rec.JoinedAt.Add(-identity.Backdate - maxSkew)
}

// raftPeer says who may speak raft: the voters and standbys of the current
// configuration, and on a node that has none yet, those it joined by.
func (n *Node) raftPeer(id identity.ID) bool {
	if n.group == nil {
		return false
	}
	peers := n.group.Peers()
	if len(peers) == 0 {
		for _, v := range n.who.Voters {
			if v.Node == id.Node {
				return true
			}
		}
		return false
	}
	for _, p := range peers {
		if p.Node == id.Node {
			return true
		}
	}
	// A node that was just admitted is dialed before the configuration that
	// names it is committed; its role in the ledger says that it may speak.
	rec := n.ledger.View().Node(id.Node)
	return rec != nil && rec.Role != placement.RoleWorker
}

// law is the law in force here, today.
func (n *Node) law() placement.Law {
	return n.ledger.View().Law(residency.DateOf(n.deps.now()))
}

func (n *Node) buildTransport() error {
	key, err := n.dir.resetKey()
	if err != nil {
		return err
	}
	cfg := transport.DefaultConfig()
	cfg.Socket, cfg.Credential, cfg.Verifier, cfg.Home = n.deps.Socket, n.credential, n.verifier, n.who.Region
	cfg.ResetKey, cfg.Log = key, n.deps.Log
	cfg.Guard = &transport.ResidencyGuard{
		Home: n.who.Region,
		Region: func(r placement.RegionID) *placement.Region {
			rec := n.ledger.View().Region(r)
			if rec == nil || rec.State != placement.PeerActive {
				return nil
			}
			if rec.Self {
				return rec
			}
			said := *rec
			said.LawPack = n.links.pack(r) // its own word is newer than our ledger's
			return &said
		},
		Law: n.law,
	}
	if n.endpoint, err = transport.New(cfg); err != nil {
		return err
	}
	n.mesh = api.NewMeshClient(n.endpoint)
	n.links = newLinks(n)
	return nil
}

// serveApp runs the app listener: TLS with the serving certificate, HTTP/1.1
// alone, so that a body can be refused unread.
func (n *Node) serveApp(ctx context.Context) error {
	return serveHTTPS(ctx, n.deps.HTTP, n.serving, n.appHandler(), n.deps.Log)
}

// modelsOf keeps model servers on loopback, whatever a job says, and inside tasks
// that brought theirs: only the gateway names those.
func (n *Node) modelsOf(dial func(context.Context, string) (net.Conn, error)) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		if task, port, err := placement.ParseTaskAddr(addr); err == nil {
			return n.runner.Dial(ctx, task, port)
		}
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("model server %s is not on this node's loopback", addr)
		}
		return dial(ctx, addr)
	}
}

// pause waits for d or the end of the context.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// logOf names the part in its lines.
func (n *Node) logOf(part string) *slog.Logger { return n.deps.Log.With("part", part) }
