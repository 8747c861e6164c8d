package transport

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// wan is a simulated packet network: links by simnet, cuts by us.
type wan struct {
	mu       sync.Mutex
	hosts    map[netip.AddrPort]simnet.PacketReceiver // guarded by mu
	starting map[netip.AddrPort]simnet.PacketReceiver // guarded by mu; links that do not run yet
	cut      map[netip.Addr]bool                      // guarded by mu: nothing in, nothing out
	sent     map[netip.Addr]int                       // guarded by mu: packets by sender
	mtu      int
	delay    time.Duration
}

func newWan(mtu int) *wan {
	return &wan{hosts: map[netip.AddrPort]simnet.PacketReceiver{}, cut: map[netip.Addr]bool{},
		sent: map[netip.Addr]int{}, mtu: mtu, delay: 5 * time.Millisecond}
}

// SendPacket never fails: quic-go ends a connection whose write fails.
func (w *wan) SendPacket(p simnet.Packet) error {
	from, to := addrPort(p.From), addrPort(p.To)
	w.mu.Lock()
	drop := w.cut[from.Addr()] || w.cut[to.Addr()]
	host := w.hosts[to]
	w.sent[from.Addr()]++
	w.mu.Unlock()
	if !drop && host != nil {
		host.RecvPacket(p)
	}
	return nil
}

func (w *wan) AddNode(a net.Addr, r simnet.PacketReceiver) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.starting == nil {
		w.starting = map[netip.AddrPort]simnet.PacketReceiver{}
	}
	w.starting[addrPort(a)] = r
}

// up lets packets through to a host once its link runs: before, the link is
// still being written.
func (w *wan) up(a net.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[addrPort(a)] = w.starting[addrPort(a)]
	delete(w.starting, addrPort(a))
}

func (w *wan) setCut(addr string, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[netip.MustParseAddrPort(addr).Addr()] = cut
}

func (w *wan) packetsFrom(addr string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent[netip.MustParseAddrPort(addr).Addr()]
}

// simSocket closes once: a simulated connection panics on the second Close.
type simSocket struct {
	*simnet.SimConn
	close func()
}

func (s simSocket) Close() error { s.close(); return nil }

func (w *wan) socket(t testing.TB, addr string) net.PacketConn {
	a := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))
	one := &simnet.Simnet{Router: w}
	mtu := simnet.LinkSettings{MTU: w.mtu}
	c := one.NewEndpoint(a, simnet.NodeBiDiLinkSettings{Downlink: mtu, Uplink: mtu, Latency: w.delay})
	if err := one.Start(); err != nil {
		t.Fatal(err)
	}
	w.up(a)
	stop := sync.OnceFunc(func() {
		w.mu.Lock()
		delete(w.hosts, addrPort(a))
		w.mu.Unlock()
		_ = c.Close()
		_ = one.Close()
	})
	t.Cleanup(stop)
	return simSocket{c, stop}
}

// testMesh has one CA per region and everybody's bundle pinned everywhere.
type testMesh struct {
	t       testing.TB
	wan     *wan
	cas     map[placement.RegionID]*identity.CA
	bundles *identity.MapBundles
}

// inBubble runs a test in virtual time, from a date at which packs and
// certificates are in force.
func inBubble(t *testing.T, mtu int, f func(t *testing.T, m *testMesh)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)))
		m := &testMesh{t: t, wan: newWan(mtu), cas: map[placement.RegionID]*identity.CA{}, bundles: &identity.MapBundles{}}
		f(t, m)
	})
}

func (m *testMesh) ca(region placement.RegionID) *identity.CA {
	if ca := m.cas[region]; ca != nil {
		return ca
	}
	ca, err := identity.NewCA(region, "mesh.test", time.Now())
	if err != nil {
		m.t.Fatal(err)
	}
	m.cas[region] = ca
	m.bundles.Set(ca.Bundle())
	return ca
}

func (m *testMesh) credential(region placement.RegionID, node placement.NodeID, ttl time.Duration) *identity.Credential {
	key, err := identity.NewKey()
	if err != nil {
		m.t.Fatal(err)
	}
	csr, err := identity.NewCSR(key)
	if err != nil {
		m.t.Fatal(err)
	}
	chain, err := m.ca(region).IssueNode(csr, node, time.Now(), ttl)
	if err != nil {
		m.t.Fatal(err)
	}
	cred, err := identity.NewCredential(key, chain)
	if err != nil {
		m.t.Fatal(err)
	}
	return cred
}

type testNode struct {
	*Endpoint
	addr string
	id   identity.ID
	stop func() // ends Run and waits for it
}

func (n *testNode) peer() Peer { return Peer{ID: n.id, Addr: n.addr} }

// config is that of a node about to run.
func (m *testMesh) config(region placement.RegionID, node placement.NodeID, addr string) Config {
	return m.configOn(region, node, m.wan.socket(m.t, addr))
}

func (m *testMesh) configOn(region placement.RegionID, node placement.NodeID, socket net.PacketConn) Config {
	cfg := DefaultConfig()
	cfg.Socket = socket
	cfg.Credential = identity.NewSource(m.credential(region, node, time.Hour))
	cfg.Verifier = &identity.Verifier{Home: region, Mesh: "mesh.test", Bundles: m.bundles,
		RaftPeer: func(identity.ID) bool { return true }}
	cfg.Home = region
	cfg.ResetKey = [32]byte{1, 2, 3}
	cfg.Guard = allowAll{}
	cfg.Log = slog.New(slog.DiscardHandler)
	return cfg
}

func (m *testMesh) run(cfg Config) *testNode {
	e, err := New(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("Run: %v", err)
		}
	})
	m.t.Cleanup(stop)
	return &testNode{Endpoint: e, addr: cfg.Socket.LocalAddr().String(), id: cfg.Credential.Current().ID, stop: stop}
}

func (m *testMesh) node(region placement.RegionID, node placement.NodeID, addr string) *testNode {
	return m.run(m.config(region, node, addr))
}

type allowAll struct{}

func (allowAll) PermitEgress(context.Context, placement.RegionID, placement.RegionID, Cargo) error {
	return nil
}

// within polls in virtual time: a wrong condition fails after d of it.
func within(t *testing.T, d time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

func ctxFor(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
