package gossip

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// wan is a small simulated network; see transport's own test.
type wan struct {
	mu       sync.Mutex
	hosts    map[string]simnet.PacketReceiver // guarded by mu
	starting map[string]simnet.PacketReceiver // guarded by mu; links that do not run yet
	cut      map[string]bool                  // guarded by mu
	lose     float64                          // guarded by mu
	rand     *rand.Rand                       // guarded by mu
}

func (w *wan) SendPacket(p simnet.Packet) error {
	w.mu.Lock()
	drop := w.cut[p.From.String()] || w.cut[p.To.String()] || w.rand.Float64() < w.lose
	host := w.hosts[p.To.String()]
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
		w.starting = map[string]simnet.PacketReceiver{}
	}
	w.starting[a.String()] = r
}

// up lets packets through to a host once its link runs: before, the link is
// still being written.
func (w *wan) up(a net.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[a.String()] = w.starting[a.String()]
	delete(w.starting, a.String())
}

func (w *wan) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

type simSocket struct {
	*simnet.SimConn
	close func()
}

func (s simSocket) Close() error { s.close(); return nil }

func (w *wan) socket(t *testing.T, addr string) net.PacketConn {
	a := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))
	one := &simnet.Simnet{Router: w}
	mtu := simnet.LinkSettings{MTU: 1232}
	c := one.NewEndpoint(a, simnet.NodeBiDiLinkSettings{Downlink: mtu, Uplink: mtu, Latency: time.Millisecond})
	if err := one.Start(); err != nil {
		t.Fatal(err)
	}
	w.up(a)
	stop := sync.OnceFunc(func() {
		w.set(func() { delete(w.hosts, a.String()) })
		_ = c.Close()
		_ = one.Close()
	})
	t.Cleanup(stop)
	return simSocket{c, stop}
}

type region struct {
	t       *testing.T
	wan     *wan
	cas     map[placement.RegionID]*identity.CA
	bundles *identity.MapBundles
	ttl     time.Duration // of certificates

	mu     sync.Mutex
	voters []transport.Peer // guarded by mu
}

func (r *region) addVoter(name placement.NodeID, addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.voters = append(r.voters, transport.Peer{ID: identity.ID{Region: "fr", Node: name}, Addr: addr})
}

func (r *region) join() []transport.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.voters)
}

type node struct {
	*Pool
	addr   string
	cred   *identity.Source
	socket net.PacketConn
	stop   func() // the pool, then the endpoint
}

var key1, key2 = bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)

func inBubble(t *testing.T, f func(t *testing.T, r *region)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)))
		f(t, &region{t: t, ttl: time.Hour, cas: map[placement.RegionID]*identity.CA{}, bundles: &identity.MapBundles{},
			wan: &wan{hosts: map[string]simnet.PacketReceiver{}, cut: map[string]bool{}, rand: rand.New(rand.NewPCG(1, 2))}})
	})
}

func (r *region) credential(id placement.RegionID, name placement.NodeID) *identity.Credential {
	ca := r.cas[id]
	if ca == nil {
		var err error
		if ca, err = identity.NewCA(id, "mesh.test", time.Now()); err != nil {
			r.t.Fatal(err)
		}
		r.cas[id] = ca
		r.bundles.Set(ca.Bundle())
	}
	key, err := identity.NewKey()
	if err != nil {
		r.t.Fatal(err)
	}
	csr, err := identity.NewCSR(key)
	if err != nil {
		r.t.Fatal(err)
	}
	chain, err := ca.IssueNode(csr, name, time.Now(), r.ttl)
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := identity.NewCredential(key, chain)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// node starts endpoint and pool; change, if any, sees the configuration first.
func (r *region) node(id placement.RegionID, name placement.NodeID, addr string, change func(*Config)) *node {
	n := &node{addr: addr, cred: identity.NewSource(r.credential(id, name)), socket: r.wan.socket(r.t, addr)}
	verifier := &identity.Verifier{Home: id, Mesh: "mesh.test", Bundles: r.bundles}
	ec := transport.DefaultConfig()
	ec.Socket, ec.Credential, ec.Verifier, ec.Home = n.socket, n.cred, verifier, id
	ec.ResetKey, ec.Log = [32]byte{9}, slog.New(slog.DiscardHandler)
	endpoint, err := transport.New(ec)
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Self, cfg.Region, cfg.Credential, cfg.Verifier = name, id, n.cred, verifier
	cfg.Layer, cfg.Keys, cfg.Log = endpoint.Gossip(), [][]byte{key1}, slog.New(slog.DiscardHandler)
	cfg.Join = r.join
	if change != nil {
		change(&cfg)
	}
	if n.Pool, err = New(cfg); err != nil {
		r.t.Fatal(err)
	}
	run := func(f func(context.Context) error) func() {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- f(ctx) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Errorf("%s: %v", name, err)
			}
		}
	}
	stopEndpoint, stopPool := run(endpoint.Run), run(n.Run)
	n.stop = sync.OnceFunc(func() { stopPool(); stopEndpoint() })
	r.t.Cleanup(n.stop)
	return n
}

// three starts three nodes of fr, each joined by the others.
func (r *region) three() []*node {
	var out []*node
	for i := range 3 {
		name, addr := placement.NodeID(fmt.Sprintf("n%d", i+1)), fmt.Sprintf("10.0.0.%d:7000", i+1)
		r.addVoter(name, addr)
		out = append(out, r.node("fr", name, addr, nil))
	}
	return out
}

func within(t *testing.T, d time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

func (n *node) state(name placement.NodeID) State {
	for _, m := range n.Members() {
		if m.Node == name {
			return m.State
		}
	}
	return ""
}

func whole(nodes []*node) func() bool {
	return func() bool {
		for _, n := range nodes {
			alive := 0
			for _, m := range n.Members() {
				if m.State == Alive {
					alive++
				}
			}
			if alive != len(nodes)-1 {
				return false
			}
		}
		return true
	}
}

// payload is a record as node writes it, made large by devices.
func payload(region placement.RegionID, name placement.NodeID, version uint64, devices int) []byte {
	n := placement.Node{ID: name, Region: region, Inventory: placement.Inventory{Version: version}}
	for i := range devices {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", name, i))
		n.Inventory.Devices = append(n.Inventory.Devices, placement.Device{UUID: fmt.Sprintf("GPU-%x", sum[:16]),
			Model: "NVIDIA H100 80GB HBM3", Memory: 80 * placement.GiB, Health: placement.DeviceOK, Vendor: "NVIDIA"})
	}
	b, err := json.Marshal(n)
	if err != nil {
		panic(err)
	}
	return b
}

func TestMembersComeAndGo(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		nodes := r.three()
		within(t, 5*time.Second, "three members", whole(nodes))
		nodes[2].stop()
		within(t, 2*time.Second, "n3 to have left", func() bool {
			return nodes[0].state("n3") == Left && nodes[1].state("n3") == Left
		})
		again := r.node("fr", "n3", "10.0.0.3:7000", nil)
		within(t, 20*time.Second, "n3 to be back", whole([]*node{nodes[0], nodes[1], again}))
		_ = again.socket.Close() // a crash
		within(t, 15*time.Second, "n3 to be suspected", func() bool {
			return nodes[0].state("n3") == Suspect || nodes[1].state("n3") == Suspect
		})
		within(t, 30*time.Second, "n3 to be held dead", func() bool {
			return nodes[0].state("n3") == Dead && nodes[1].state("n3") == Dead
		})
		for _, m := range nodes[0].Members() {
			if m.Since.IsZero() || m.Addr.String() == "" {
				t.Errorf("member %+v", m)
			}
		}
	})
}

// Without the rejoin loop a cut of 15 s or more is never healed.
func TestPoolHealsAfterALongCut(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		nodes := r.three()
		within(t, 5*time.Second, "three members", whole(nodes))
		r.wan.set(func() { r.wan.cut[nodes[2].addr] = true })
		time.Sleep(90 * time.Second)
		if nodes[0].state("n3") != Dead || nodes[2].state("n1") != Dead {
			t.Fatalf("after 90 s: %s, %s", nodes[0].state("n3"), nodes[2].state("n1"))
		}
		r.wan.set(func() { r.wan.cut[nodes[2].addr] = false })
		within(t, 25*time.Second, "the pool to be whole", whole(nodes))
	})
}

func TestPoolFormsUnderLoss(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		r.wan.lose = 0.1
		nodes := r.three()
		within(t, 60*time.Second, "three members", whole(nodes))
	})
}

func TestRecordsSpread(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		nodes := r.three()
		within(t, 5*time.Second, "three members", whole(nodes))
		r.addVoter("n4", "10.0.0.4:7000")
		n4 := r.node("fr", "n4", "10.0.0.4:7000", nil)
		nodes = append(nodes, n4)
		within(t, 5*time.Second, "four members", whole(nodes))
		// Large enough to need several packets.
		want := payload("fr", "n1", 1, 16)
		if err := nodes[0].Publish(want); err != nil {
			t.Fatal(err)
		}
		holds := func(n *node, version uint64) bool {
			rec, ok := n.Record("n1")
			return ok && rec.Version == version
		}
		within(t, 10*time.Second, "everybody to hold the record, by gossip", func() bool {
			return holds(nodes[1], 1) && holds(nodes[2], 1) && holds(n4, 1)
		})
		rec, _ := n4.Record("n1")
		if !bytes.Equal(rec.Payload, want) || len(rec.packed) < pieceSize+1 {
			t.Errorf("a record of %d bytes, packed in %d", len(rec.Payload), len(rec.packed))
		}
		if got, err := n4.open(rec.Statement(), rec.packed); err != nil || !got.SignedAt.Equal(rec.SignedAt) {
			t.Errorf("its statement opens as %+v: %v", got, err)
		}
		if err := nodes[0].Publish(payload("fr", "n1", 2, 3)); err != nil {
			t.Fatal(err)
		}
		within(t, 10*time.Second, "version 2 everywhere, and the members to say so", func() bool {
			for _, n := range nodes[1:] {
				for _, m := range n.Members() {
					if m.Node == "n1" && (m.InventoryVersion != 2 || m.Behind) {
						return false
					}
				}
				if !holds(n, 2) {
					return false
				}
			}
			return true
		})
		if n := len(n4.Records()); n != 1 {
			t.Errorf("%d records", n)
		}
	})
}

// A node that joins later asks for the records.
func TestLateJoinerGetsRecords(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		nodes := r.three()
		for i, n := range nodes {
			if err := n.Publish(payload("fr", placement.NodeID(fmt.Sprintf("n%d", i+1)), 7, 8)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute) // their gossip is over
		late := r.node("fr", "n9", "10.0.0.9:7000", nil)
		within(t, 5*time.Second, "three records", func() bool { return len(late.Records()) == 3 })
	})
}

// Records outlive the certificate that signed them: renewal signs them anew.
func TestRecordIsSignedAnewOnRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		r.ttl = 6 * time.Minute
		nodes := r.three()
		if err := nodes[0].Publish(payload("fr", "n1", 1, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		for i, n := range nodes {
			if err := n.cred.Swap(r.credential("fr", placement.NodeID(fmt.Sprintf("n%d", i+1)))); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Minute) // the first certificate has run out
		late := r.node("fr", "n9", "10.0.0.9:7000", nil)
		within(t, 10*time.Second, "the record at a late joiner", func() bool { _, ok := late.Record("n1"); return ok })
	})
}

// told hands a node a statement that a member is said to speak of.
func (n *node) told(of placement.NodeID, statement string) {
	packed, err := pack(statement)
	if err != nil {
		panic(err)
	}
	n.accept(of, hashOf([]byte(statement)), packed)
}

func TestRecordsThatLieAreRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		nodes := r.three()
		within(t, 5*time.Second, "three members", whole(nodes))
		own := r.credential("fr", "n1")
		foreign := r.credential("de", "n1")
		withField := func(field string) []byte {
			return []byte(strings.Replace(string(payload("fr", "n1", 1, 0)), "{", "{"+field+",", 1))
		}
		tests := []struct {
			name    string
			cred    *identity.Credential
			context string
			payload []byte
			claim   bool
		}{
			{"another node's name", own, RecordContext, payload("fr", "n2", 1, 0), true},
			{"another region", own, RecordContext, payload("de", "n1", 1, 0), true},
			{"another country", own, RecordContext, withField(`"country":"US"`), true},
			{"another operator", own, RecordContext, withField(`"operator":{"home":"US"}`), true},
			{"claims in another spelling", own, RecordContext, withField(`"Claims":{}`), true},
			{"a foreign certificate", foreign, RecordContext, payload("fr", "n1", 1, 0), true},
			{"a foreign certificate of its own region", foreign, RecordContext, payload("de", "n1", 1, 0), true},
			{"another context", own, "sovmesh/grant/1", payload("fr", "n1", 1, 0), false},
			{"no JSON", own, RecordContext, []byte("{"), false},
		}
		for _, test := range tests {
			statement, err := identity.Sign(test.cred, test.context, test.payload, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			before := nodes[1].Stats()
			nodes[1].told("n1", statement)
			after := nodes[1].Stats()
			if _, ok := nodes[1].Record("n1"); ok {
				t.Errorf("%s: it was kept", test.name)
			}
			if after.RecordsRefused != before.RecordsRefused+1 || (after.ClaimsRefused > before.ClaimsRefused) != test.claim {
				t.Errorf("%s: counted %+v", test.name, after)
			}
		}
		if err := nodes[0].Publish(payload("fr", "n2", 1, 0)); err == nil {
			t.Error("a node signed a record of another")
		}
		if err := nodes[0].Publish(payload("fr", "n1", 1, 400)); err == nil {
			t.Error("a record beyond the bound was published")
		}
		// An older record never takes the place of a newer one.
		for _, version := range []uint64{5, 4} {
			statement, err := identity.Sign(own, RecordContext, payload("fr", "n1", version, 0), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			nodes[1].told("n1", statement)
		}
		if rec, _ := nodes[1].Record("n1"); rec.Version != 5 {
			t.Errorf("version %d is held", rec.Version)
		}
		nodes[1].Forget("n1")
		if _, ok := nodes[1].Record("n1"); ok {
			t.Error("a forgotten node's record is held")
		}
	})
}

// The keyring keeps strangers out, packets and streams, and rotates without a gap.
func TestKeyring(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		nodes := r.three()
		within(t, 5*time.Second, "three members", whole(nodes))
		stranger := r.node("fr", "n8", "10.0.0.8:7000", func(c *Config) { c.Keys = [][]byte{key2} })
		time.Sleep(30 * time.Second)
		if len(stranger.Members()) != 0 || nodes[0].state("n8") != "" {
			t.Error("a node with another key is in the pool")
		}
		stranger.stop()
		for _, step := range []func(*node) error{
			func(n *node) error { return n.AddKey(key2) },
			func(n *node) error { return n.UseKey(key2) },
			func(n *node) error { return n.RemoveKey(key1) },
		} {
			for _, n := range nodes {
				if err := step(n); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
			}
		}
		time.Sleep(time.Minute)
		if !whole(nodes)() {
			t.Error("the rotation lost a member")
		}
		with := r.node("fr", "n8", "10.0.0.8:7000", func(c *Config) { c.Keys = [][]byte{key2} })
		within(t, 5*time.Second, "a node with the new key", whole(append(nodes, with)))
	})
}

// Two regions that share keys by mistake stay two pools.
func TestRegionsDoNotMeet(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		nodes := r.three()
		within(t, 5*time.Second, "three members", whole(nodes))
		de := r.node("de", "d1", "10.0.1.1:7000", func(c *Config) {
			c.Join = func() []transport.Peer {
				return []transport.Peer{{ID: identity.ID{Region: "fr", Node: "n1"}, Addr: nodes[0].addr},
					{ID: identity.ID{Region: "de"}, Addr: nodes[0].addr}}
			}
		})
		time.Sleep(30 * time.Second)
		if len(de.Members()) != 0 || nodes[0].state("d1") != "" {
			t.Errorf("%v %v", de.Members(), nodes[0].Members())
		}
	})
}

func TestEventsAreTold(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		var mu sync.Mutex
		var told []string
		r.addVoter("n1", "10.0.0.1:7000")
		r.addVoter("n2", "10.0.0.2:7000")
		r.node("fr", "n1", "10.0.0.1:7000", func(c *Config) {
			c.OnEvent = func(m Member) { mu.Lock(); defer mu.Unlock(); told = append(told, string(m.Node)+" "+string(m.State)) }
		})
		n2 := r.node("fr", "n2", "10.0.0.2:7000", nil)
		within(t, 5*time.Second, "n2 alive", func() bool { mu.Lock(); defer mu.Unlock(); return len(told) == 1 })
		n2.stop()
		within(t, 5*time.Second, "n2 left", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return told[0] == "n2 alive" && (told[len(told)-1] == "n2 left")
		})
	})
}

// A bubble whose goroutines outlive Run fails by itself: stop under total loss,
// with probes and joins under way.
func TestRunLeavesNothingBehindUnderTotalLoss(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		nodes := r.three()
		within(t, 5*time.Second, "three members", whole(nodes))
		r.wan.set(func() { r.wan.lose = 1 })
		time.Sleep(4500 * time.Millisecond)
		begin := time.Now()
		var wg sync.WaitGroup
		for _, n := range nodes {
			wg.Go(n.stop)
		}
		wg.Wait()
		if took := time.Since(begin); took > 15*time.Second {
			t.Errorf("the stop took %s", took)
		}
		if err := nodes[0].Run(context.Background()); err == nil {
			t.Error("a pool ran twice")
		}
	})
}

func TestValidate(t *testing.T) {
	_, err := New(Config{})
	for _, want := range []string{"Self", "Region", "Credential", "Layer", "Keys", "Log", "interval"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not reported: %v", want, err)
		}
	}
}
