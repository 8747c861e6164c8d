// Package mesh runs whole meshes in one process: real raft, real gossip and
// real QUIC with mutual TLS over a simulated packet network, in the virtual
// time of testing/synctest. Ten minutes of a mesh cost seconds.
//
// What runs is node.Node itself; simulated are the sockets, the app listeners
// and the machines that tasks run on (driver fake). Files are real. Nothing here
// may block on a real socket or process: virtual time stands still meanwhile.
//
// A seed repeats the schedule of faults, not every interleaving: run one
// several times, with make soak SEED=n RUNS=20.
package mesh

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus"
	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Domain is the mesh's name in all simulated meshes.
const Domain = "mesh.test"

// Begin is the instant at which every simulated mesh begins: law packs and
// certificates are in force then, which they are not in the year 2000, where a
// bubble's clock starts.
var Begin = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// Spec describes one region to simulate.
type Spec struct {
	ID      placement.RegionID
	Country string
	Nodes   int
	// Names are the names of the nodes, in their order; without one it is n1, n2, …
	Names []placement.NodeID
	// Operator is the name of who runs it; it has one without.
	Operator string
	// GPUs are the devices of every node.
	GPUs []placement.Device
	// Sites are the sites of the nodes, in their order; a node beyond them has none.
	Sites []string
	// Storage is where the nodes keep their state, below their directories; nil
	// means as always.
	Storage func(dir string) consensus.Storage
	// Tune changes the configuration of every node, if set.
	Tune func(*node.Config)
	// Processes has jobs of the kind process run as tasks of the driver fake, for
	// what such a job may say and one of the kind fake may not.
	Processes bool
	// Machine is told of every machine before its node starts, if set.
	Machine func(*host)
}

// Region is a region of the given number of nodes.
func Region(id placement.RegionID, country string, nodes int) Spec {
	return Spec{ID: id, Country: country, Nodes: nodes}
}

// Mesh is a running simulation. Its methods are for the test's goroutine.
type Mesh struct {
	t       *testing.T
	wan     *wan
	tcp     *tcp
	regions []*region
	log     *events
	dir     string
}

type region struct {
	spec        Spec
	index       int
	token, ca   string
	fingerprint string
	hosts       []*host
}

// host is one machine: it outlives the node's program.
type host struct {
	m       *Mesh
	region  *region
	name    placement.NodeID
	addr    netip.Addr
	dir     string
	world   *fake.World
	devices *gpus
	clock   atomic.Int64 // how far its clock is off, as a time.Duration

	node   *node.Node // nil while it is down
	socket net.PacketConn
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of the last run; read after done
}

// New starts the regions, lets them federate pair by pair, and returns once all
// of them take jobs. Call it inside a bubble, see [Run].
func New(t *testing.T, specs ...Spec) *Mesh {
	t.Helper()
	m := newMesh(t)
	m.begin(specs...)
	return m
}

// newMesh is a network with nothing on it yet.
func newMesh(t *testing.T) *Mesh {
	// Cleanups run last first: the directories have to outlive the nodes.
	m := &Mesh{t: t, log: newEvents(t), dir: t.TempDir()}
	m.wan = newWan(1, m.delay)
	m.tcp = newTCP(m.wan)
	t.Cleanup(m.stop)
	return m
}

func (m *Mesh) begin(specs ...Spec) {
	m.t.Helper()
	for i, spec := range specs {
		m.startRegion(i, spec)
	}
	m.federate()
}

// delay is 1 ms within a region and 15 ms between two.
func (m *Mesh) delay(from, to netip.Addr) time.Duration {
	if from.As4()[2] == to.As4()[2] {
		return time.Millisecond / 2
	}
	return 15 * time.Millisecond
}

func (m *Mesh) startRegion(index int, spec Spec) {
	m.t.Helper()
	r := &region{spec: spec, index: index}
	m.regions = append(m.regions, r)
	for range spec.Nodes {
		m.addHost(r)
	}
	first := r.hosts[0]
	founded, err := node.Found(first.config(), node.Founding{
		Region: spec.ID, Mesh: Domain, Now: time.Now(),
		Facts: placement.RegionFacts{
			Country: spec.Country, Operator: placement.Operator{Name: cmp.Or(spec.Operator, string(spec.ID)+" operator"), Home: spec.Country, Parent: "none"},
			Assurance: placement.Assurance{Location: "documented", Operator: "documented", AsOf: Begin.Format("2006-01-02")},
		},
	})
	m.must(err)
	r.token, r.ca, r.fingerprint = founded.Token, founded.CA, founded.Fingerprint
	first.start()
	first.waitReady()
	client := m.At(spec.ID)
	for _, h := range r.hosts[1:] {
		tok, err := client.CreateNodeToken(m.t.Context(), api.NodeTokenRequest{Node: h.name})
		m.must(err)
		m.must(h.join(tok.Token))
		h.start()
	}
	for _, h := range r.hosts[1:] {
		h.waitReady()
	}
	if len(r.hosts) > 1 {
		time.Sleep(time.Second) // the leader takes voters into raft's configuration one by one, each within 250 ms
	}
}

// addHost adds one machine to a region, with nothing on its disk.
func (m *Mesh) addHost(r *region) *host {
	i := len(r.hosts) + 1
	name := placement.NodeID(fmt.Sprintf("n%d", i))
	if i <= len(r.spec.Names) {
		name = r.spec.Names[i-1]
	}
	h := &host{
		m: m, region: r, name: name, world: fake.NewWorld(),
		addr: netip.AddrFrom4([4]byte{10, 0, byte(r.index + 1), byte(i)}),
		dir:  filepath.Join(m.dir, string(r.spec.ID), string(name)),
	}
	r.hosts = append(r.hosts, h)
	if r.spec.Machine != nil {
		r.spec.Machine(h)
	}
	return h
}

// join makes the machine a member of the region that made the token.
func (h *host) join(token string) error {
	cfg := h.config()
	cfg.Join = token
	return node.Join(h.m.t.Context(), cfg, h.deps(nil, nil))
}

// federate connects every pair of regions as two operators would.
func (m *Mesh) federate() {
	ctx := m.t.Context()
	for i, a := range m.regions {
		for _, b := range m.regions[i+1:] {
			inviter, joiner := m.At(a.spec.ID), m.At(b.spec.ID)
			invitation, err := inviter.InviteRegion(ctx, b.spec.ID)
			m.must(err)
			joined, err := joiner.JoinRegion(ctx, api.JoinRegionRequest{Code: invitation.Code, Fingerprint: a.fingerprint})
			m.must(err)
			if joined.Fingerprint != b.fingerprint {
				m.t.Fatalf("%s shows the fingerprint %s, its CA has %s", b.spec.ID, joined.Fingerprint, b.fingerprint)
			}
			_, err = inviter.ApproveRegion(ctx, b.spec.ID, b.fingerprint)
			m.must(err)
		}
	}
	for _, r := range m.regions {
		for _, other := range m.regions {
			if r != other {
				m.Within(20*time.Second, fmt.Sprintf("%s hears of %s", r.spec.ID, other.spec.ID), func() bool {
					status, err := m.At(r.spec.ID).Region(ctx, other.spec.ID)
					return err == nil && status.Link == api.LinkUp
				})
			}
		}
	}
}

func (h *host) config() node.Config {
	cfg := node.DefaultConfig()
	cfg.Node, cfg.Data = h.name, h.dir
	cfg.QUIC, cfg.API = netip.AddrPortFrom(h.addr, 7443).String(), "https://"+netip.AddrPortFrom(h.addr, 7443).String()
	cfg.CPU, cfg.Memory = 64_000, 256*placement.GiB
	// Raft's idle chatter is most of what a simulation costs.
	cfg.Commit = 200 * time.Millisecond
	if i := slices.Index(h.region.hosts, h); i >= 0 && i < len(h.region.spec.Sites) {
		cfg.Site = h.region.spec.Sites[i]
	}
	if h.region.spec.Tune != nil {
		h.region.spec.Tune(&cfg)
	}
	return cfg
}

func (h *host) deps(socket net.PacketConn, listener net.Listener) node.Deps {
	var storage consensus.Storage
	if h.region.spec.Storage != nil {
		storage = h.region.spec.Storage(h.dir)
	}
	drivers := map[string]runner.Driver{string(placement.KindFake): h.world.Driver(), string(placement.KindInference): h.world.Driver()}
	if h.region.spec.Processes {
		drivers[string(placement.KindProcess)] = processes{h.world.Driver()}
	}
	return node.Deps{
		Socket: socket, HTTP: listener, Storage: storage,
		Models: func(ctx context.Context, addr string) (net.Conn, error) { return h.m.tcp.dial(ctx, netip.Addr{}, addr) },
		Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return h.m.tcp.dial(ctx, h.addr, addr)
		},
		Drivers: drivers,
		GPUs:    h.gpus(),
		Log:     slog.New(h.m.log.handler(string(h.region.spec.ID) + "/" + string(h.name))),
		Now:     func() time.Time { return time.Now().Add(time.Duration(h.clock.Load())) },
	}
}

// processes is the driver fake under another name.
type processes struct{ *fake.Driver }

func (processes) Name() string { return string(placement.KindProcess) }

// gpus are the devices of the machine, under names of its own. They stay when
// its node starts anew.
func (h *host) gpus() *gpus {
	if h.devices == nil {
		fixed := make(gpu.Fixed, len(h.region.spec.GPUs))
		for i, d := range h.region.spec.GPUs {
			d.UUID = fmt.Sprintf("sim-%s-%s-%d", h.region.spec.ID, h.name, i)
			d.Index = i
			fixed[i] = d
		}
		h.devices = &gpus{Fixed: fixed, told: make(chan gpu.Update)}
	}
	return h.devices
}

// gpus are pretended devices that may be told to fail.
type gpus struct {
	gpu.Fixed
	driver string // its version
	told   chan gpu.Update
}

// Read gives the devices under the driver that a test says.
func (g *gpus) Read(ctx context.Context) (gpu.Reading, error) {
	r, err := g.Fixed.Read(ctx)
	r.DriverVersion = g.driver
	return r, err
}

// Watch passes on what a test says.
func (g *gpus) Watch(ctx context.Context, take func(gpu.Update)) error {
	r, err := g.Read(ctx)
	if err != nil {
		return err
	}
	take(gpu.Update{Reading: &r})
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-g.told:
			take(u)
		}
	}
}

// XID makes a device of a node tell of a fault.
func (m *Mesh) XID(region placement.RegionID, name placement.NodeID, device int, xid uint64) {
	m.t.Helper()
	g := m.host(region, name).gpus()
	select {
	case g.told <- gpu.Update{Event: &gpu.Event{UUID: g.Fixed[device].UUID, XID: xid}}:
	case <-time.After(10 * time.Second):
		m.t.Fatalf("nobody listens to the devices of %s", name)
	}
}

// start runs the node's program on its directory.
func (h *host) start() {
	h.m.t.Helper()
	addr := netip.AddrPortFrom(h.addr, 7443)
	socket, err := h.m.wan.socket(addr)
	h.m.must(err)
	n, err := node.New(h.config(), h.deps(socket, h.m.tcp.listen(addr.String())))
	h.m.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	h.node, h.socket, h.cancel, h.done = n, socket, cancel, make(chan struct{})
	done := h.done
	go func() {
		h.err = n.Run(ctx)
		close(done)
	}()
}

func (h *host) waitReady() {
	h.m.t.Helper()
	select {
	case <-h.node.Ready():
	case <-h.done:
		h.m.t.Fatalf("%s/%s ended: %v", h.region.spec.ID, h.name, h.err)
	case <-time.After(30 * time.Second):
		h.m.t.Fatalf("%s/%s is not ready after 30 s", h.region.spec.ID, h.name)
	}
}

// end stops the program; a crash takes its socket away first, so that it says
// goodbye to nobody.
func (h *host) end(crash bool) {
	if h.node == nil {
		return
	}
	if crash {
		_ = h.socket.Close()
	}
	h.cancel()
	<-h.done
	_ = h.socket.Close()
	h.node = nil
}

// stop ends everything; it is registered with Cleanup, because a bubble that is
// left with goroutines panics and buries the reason.
func (m *Mesh) stop() {
	var wg sync.WaitGroup
	for _, r := range m.regions {
		for _, h := range r.hosts {
			wg.Go(func() { h.end(false) })
		}
	}
	wg.Wait()
	// memberlist waits for an acknowledgement after its shutdown.
	time.Sleep(10 * time.Second)
}

func (m *Mesh) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}
