package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/controller"
	"github.com/sovmesh/sovmesh/node/gateway"
	"github.com/sovmesh/sovmesh/node/outputs"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/gossip"
)

// maxSkew is what two clocks of the mesh may differ by before a stamp is refused.
const maxSkew = time.Minute

func (n *Node) buildConsensus() error {
	n.ledger = &ledger{n: n}
	if n.who.Role == placement.RoleWorker {
		n.facts = newFacts(n)
		return nil
	}
	cfg := consensus.DefaultConfig()
	cfg.Self, cfg.Region, cfg.Advertise = n.who.Node, n.who.Region, n.cfg.QUIC
	cfg.Storage = n.deps.Storage
	if cfg.Storage == nil {
		cfg.Storage = consensus.Dir(n.dir.path(dirRaft))
	}
	cfg.Layer = raftLayer{n}
	cfg.Forward = func(ctx context.Context, leader consensus.Member, raw []byte) (state.Result, error) {
		return n.mesh.Propose(ctx, transport.Peer{ID: n.id(n.who.Region, leader.Node), Addr: leader.Addr}, raw)
	}
	cfg.LedgerPeer = func(m consensus.Member) store.Peer {
		return n.mesh.Ledger(transport.Peer{ID: n.id(n.who.Region, m.Node), Addr: m.Addr})
	}
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaseTimeout = n.cfg.Heartbeat, n.cfg.Heartbeat, n.cfg.Heartbeat
	cfg.CommitTimeout = n.cfg.Commit
	if n.cfg.Replace > 0 {
		cfg.ReplaceAfter = n.cfg.Replace
	}
	if n.cfg.SnapshotEvery > 0 {
		cfg.SnapshotThreshold = n.cfg.SnapshotEvery
	}
	cfg.MaxSkew, cfg.Clock, cfg.Log = maxSkew, n.deps.now, n.logOf("consensus")
	group, err := consensus.New(cfg)
	n.group = group
	return err
}

// raftLayer is the endpoint's raft class as the group wants it: peers by name,
// all of the home region.
type raftLayer struct{ n *Node }

func (l raftLayer) Accept() (net.Conn, placement.NodeID, error) {
	conn, err := l.n.endpoint.Raft().Accept()
	if err != nil {
		return nil, "", err
	}
	peer, ok := conn.(*transport.Conn)
	if !ok {
		_ = conn.Close()
		return nil, "", errors.New("a raft stream without a peer")
	}
	return conn, peer.PeerID().Node, nil
}

func (l raftLayer) Dial(ctx context.Context, node placement.NodeID, addr string) (net.Conn, error) {
	return l.n.endpoint.Raft().Dial(ctx, transport.Peer{ID: l.n.id(l.n.who.Region, node), Addr: addr})
}

func (l raftLayer) Close() error { return l.n.endpoint.Raft().Close() }

func (n *Node) buildGossip() error {
	addr, err := net.ResolveUDPAddr("udp", n.cfg.QUIC)
	if err != nil {
		return fmt.Errorf("quic address %q: %w", n.cfg.QUIC, err)
	}
	ap := addr.AddrPort()
	cfg := gossip.DefaultConfig()
	cfg.Self, cfg.Region, cfg.Credential, cfg.Verifier = n.who.Node, n.who.Region, n.credential, n.verifier
	cfg.Layer, cfg.Keys, cfg.Now, cfg.Log = n.endpoint.Gossip(), n.keyring.Ring().Keys, n.deps.now, n.logOf("gossip")
	cfg.Advertise = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	cfg.Join = n.voters
	n.gossip, err = gossip.New(cfg)
	n.keyring.pool = n.gossip
	return err
}

// voters are the other nodes that hold the region's state, as raft or, on a
// worker, the facts have them, or as the region told when this node joined.
func (n *Node) voters() []transport.Peer {
	var out []transport.Peer
	add := func(node placement.NodeID, addr string) {
		if node != n.who.Node && addr != "" {
			out = append(out, transport.Peer{ID: n.id(n.who.Region, node), Addr: addr})
		}
	}
	if n.group != nil {
		for _, p := range n.group.Peers() {
			add(p.Node, p.Addr)
		}
	}
	if n.facts != nil {
		for _, role := range []placement.NodeRole{placement.RoleVoter, placement.RoleStandby} {
			for _, p := range n.facts.View().Nodes() {
				if p.Role == role {
					add(p.ID, p.QUIC)
				}
			}
		}
	}
	if len(out) == 0 {
		for _, v := range n.who.Voters {
			add(v.Node, v.QUIC)
		}
	}
	return out
}

func (n *Node) buildWork() (err error) {
	store, err := runner.OpenDir(n.dir.path(dirRunner))
	if err != nil {
		return err
	}
	cfg := runner.DefaultConfig()
	cfg.Drivers, cfg.Store, cfg.Log = n.deps.Drivers, store, n.logOf("runner")
	cfg.Assignments, cfg.Reporter, cfg.Noter = n.ledger, n.ledger, n.ledger
	cfg.Gate = runner.Gates(runner.ClockGate(maxSkew), n.lawful, n.devices.sound)
	cfg.Moves, cfg.MovesOut, cfg.MovesIn = moves{n}, n.cfg.Moves, n.cfg.Moves
	cfg.Resolve, cfg.Connect = n.standsFor, (&services{n: n}).Connect
	cfg.StopOnExit = n.deps.StopTasksOnExit
	cfg.Secrets, cfg.SecretsDir = n.secrets, n.secretsDir()
	cfg.Inputs, cfg.Outputs = n.deps.Inputs, outputs.New(n.dir.path(dirOutputs))
	if n.runner, err = runner.New(cfg); err != nil {
		return err
	}
	if n.group == nil {
		return nil
	}
	ctl := controller.DefaultConfig()
	ctl.Self, ctl.Region, ctl.Log, ctl.Members = n.who.Node, n.who.Region, n.ledger, members{n}
	ctl.Regions = &regions{n: n}
	ctl.Transfer = n.handOver
	ctl.SilentAfter, ctl.LeaseFor = n.cfg.Silent, n.cfg.Lease
	ctl.Logger, ctl.Now = n.logOf("controller"), n.deps.now
	n.controller, err = controller.New(ctl)
	return err
}

// lawful judges a task once more on the node that is about to start it, with
// the law and facts that this node holds.
func (n *Node) lawful(_ placement.Task, job placement.Job) error {
	view := n.ledger.View()
	if view.Self() == nil {
		return errors.New("this node does not know what is lawful here")
	}
	self := view.Node(n.who.Node)
	if self == nil {
		return errors.New("this node is not in its region's ledger")
	}
	return n.lawfulAt(view, &job, self)
}

// lawfulAt judges whether a job may be on a node of this region.
func (n *Node) lawfulAt(view *state.View, job *placement.Job, at *placement.Node) error {
	x := placement.Crossing{Layers: job.Policy, To: view.Self(), Site: at.Site, Law: n.law()}
	if job.Origin != "" && job.Origin != n.who.Region {
		x.From, x.Arrived = &placement.Region{ID: job.Origin}, true
	}
	r := x.Judge()
	return r.Err()
}

// votes reports whether raft's configuration has the node as a voter.
func (n *Node) votes(node placement.NodeID) bool {
	return n.group != nil && slices.ContainsFunc(n.group.Peers(), func(m consensus.Member) bool { return m.Node == node && m.Voter })
}

// handOver gives the leadership to another voter that is not being emptied.
func (n *Node) handOver(ctx context.Context) error {
	err := errors.New("no other voter can lead")
	for _, m := range n.group.Peers() {
		rec := n.ledger.View().Node(m.Node)
		if !m.Voter || m.Node == n.who.Node || rec == nil || rec.State != placement.NodeReady || rec.Contact != placement.ContactAlive {
			continue
		}
		if err = n.group.TransferLeadership(ctx, m.Node); err == nil {
			return nil
		}
	}
	return err
}

// members is gossip as the controller reads it, narrowed by who answers.
type members struct{ n *Node }

func (m members) Alive(node placement.NodeID) (alive, known bool) {
	g, known := m.n.gossip.Member(node)
	return known && (g.State == gossip.Alive || g.State == gossip.Suspect) && !m.n.answers.silent(node), known
}

func (n *Node) buildFront() (err error) {
	cfg := api.DefaultConfig()
	cfg.Region, cfg.Mesh, cfg.Self, cfg.Version = n.who.Region, n.who.Mesh, n.who.Node, n.cfg.Program
	if n.group != nil {
		cfg.Ledger, cfg.LedgerFiles, cfg.LedgerState = n.ledger, n.ledgerFiles, n.ledgerState
		cfg.OldLedger = n.oldLedger
		cfg.Witness, cfg.Signing = apiWitness{n.witness}, n.signing
	}
	cfg.Voters, cfg.Peers, cfg.Tasks, cfg.Links = n.voters, n.endpoint, tasks{n.runner}, apiLinks{n.links}
	reach := inside{n.runner, newSnapshots(n.dir.path(dirSnapshots))}
	if err := reach.snaps.clear(); err != nil {
		return fmt.Errorf("remove snapshots that were not sent: %w", err)
	}
	cfg.Inside, cfg.Moves = reach, moves{n}
	cfg.Note = func(ctx context.Context, note placement.TaskNote) error {
		return n.ledger.Note(ctx, []placement.TaskNote{note})
	}
	cfg.Authority = func() api.Authority {
		if !n.authority.holds() {
			return nil
		}
		return issuer{n.authority, n.keyring}
	}
	cfg.Keyring, cfg.Votes = n.keyring, n.votes
	cfg.Credential, cfg.Verifier, cfg.Dial, cfg.Now, cfg.Log = n.credential, n.verifier, n.deps.Dial, n.deps.now, n.logOf("api")
	cfg.Ready, cfg.Refused = n.isReady, n.refusals.all
	cfg.Receipts = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { n.gateway.Handler().ServeHTTP(w, r) })
	cfg.Segments, cfg.Devices = n.receipts, n.devices
	if n.server, err = api.New(cfg); err != nil {
		return err
	}
	gw := gateway.DefaultConfig()
	gw.Region, gw.Node, gw.Views, gw.Mesh, gw.Peers = n.who.Region, n.who.Node, n.ledger, gateway.Over(n.endpoint), gatewayPeers{n.links}
	gw.Auth, gw.Models = n.bearer, n.modelsOf(n.deps.Models)
	gw.Receipts = gatewayReceipts{n}
	gw.Now, gw.Log = n.deps.now, n.logOf("gateway")
	if n.gateway, err = gateway.New(gw); err != nil {
		return err
	}
	n.endpoint.ServeH3(n.server.Mesh())
	n.endpoint.ServeInfer(n.gateway.ServeInfer)
	return nil
}

func (n *Node) isReady() error {
	select {
	case <-n.ready:
	default:
		return errors.New("this node has not found its region's leader yet")
	}
	if n.facts != nil {
		return n.facts.ready()
	}
	if _, ok := n.ledger.Leader(); !ok {
		return errors.New("the region has no leader now")
	}
	return nil
}

// appHandler joins what the app listener serves.
func (n *Node) appHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v1/", n.gateway.Handler())
	mux.Handle("/metrics", n.metricsHandler())
	mux.Handle("/metrics/dcgm", n.dcgmHandler())
	mux.Handle("/", n.server.App())
	return mux
}

// tasks is the runner as the API reads it.
type tasks struct{ r *runner.Runner }

func (t tasks) Logs(ctx context.Context, task placement.TaskID, from int64, follow bool) (io.ReadCloser, error) {
	return t.r.Logs(ctx, task, from, follow)
}

func (t tasks) Outputs(ctx context.Context, task placement.TaskID) (*placement.OutputList, error) {
	return t.r.Outputs(ctx, task)
}

func (t tasks) OpenOutput(ctx context.Context, task placement.TaskID, digest string) (io.ReadCloser, error) {
	return t.r.OpenOutput(ctx, task, digest)
}

// Suspect reports whether gossip or its last answer makes the node doubtful, or
// nobody has heard of it.
func (m members) Suspect(node placement.NodeID) bool {
	g, known := m.n.gossip.Member(node)
	return !known || g.State != gossip.Alive || m.n.answers.doubted(node)
}

// publish tells the region's gossip pool what this node has.
func (n *Node) publish() error {
	payload, err := json.Marshal(placement.Node{ID: n.who.Node, Region: n.who.Region, Site: n.cfg.Site, QUIC: n.cfg.QUIC, API: n.cfg.API, Inventory: n.devices.Inventory()})
	if err != nil {
		return err
	}
	return n.gossip.Publish(payload)
}
