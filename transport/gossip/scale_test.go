package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// crowd is a pool of many nodes over a network in memory: real memberlist, real
// keys and signatures, no QUIC. Endpoints for a thousand nodes would take
// gigabytes, and what they add is counted instead: see the constants.
type crowd struct {
	r      *region
	nodes  []*member
	layers map[netip.AddrPort]*memoryLayer // fixed before anybody runs
}

type member struct {
	*Pool
	layer *memoryLayer
	name  placement.NodeID
	cred  *identity.Source
}

// What the real endpoint sends beyond gossip's bytes: IPv4, UDP and the mark of a
// packet; and for a stream, which mostly needs a new connection, either side's
// part of a handshake with certificates.
const (
	packetOverhead = 29
	streamOverhead = 4096
	delayOneWay    = time.Millisecond
)

// memoryLayer is one node's end of the network.
type memoryLayer struct {
	crowd   *crowd
	addr    netip.AddrPort
	packets chan transport.Packet
	streams chan net.Conn
	sent    atomic.Int64 // bytes, of packets and streams
}

func (l *memoryLayer) Addr() net.Addr                   { return net.UDPAddrFromAddrPort(l.addr) }
func (l *memoryLayer) Packets() <-chan transport.Packet { return l.packets }
func (l *memoryLayer) Streams() <-chan net.Conn         { return l.streams }

func (l *memoryLayer) WriteTo(b []byte, to netip.AddrPort) error {
	if len(b) > transport.PacketMax {
		return fmt.Errorf("a packet of %d bytes", len(b))
	}
	l.sent.Add(int64(len(b)) + packetOverhead)
	other := l.crowd.layers[to]
	if other == nil {
		return nil
	}
	p := transport.Packet{Data: append([]byte(nil), b...), From: l.addr}
	time.AfterFunc(delayOneWay, func() {
		p.At = time.Now()
		select {
		case other.packets <- p:
		default:
		}
	})
	return nil
}

func (l *memoryLayer) Dial(ctx context.Context, to transport.Peer) (net.Conn, error) {
	at, err := netip.ParseAddrPort(to.Addr)
	if err != nil {
		return nil, err
	}
	other := l.crowd.layers[at]
	if other == nil {
		return nil, errors.New("nobody is there")
	}
	mine, theirs := net.Pipe()
	l.sent.Add(streamOverhead)
	other.sent.Add(streamOverhead)
	select {
	case other.streams <- &countedConn{theirs, other}:
		return &countedConn{mine, l}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// countedConn counts what is written into it.
type countedConn struct {
	net.Conn
	l *memoryLayer
}

func (c *countedConn) Write(b []byte) (int, error) {
	c.l.sent.Add(int64(len(b)))
	return c.Conn.Write(b)
}

func (c *countedConn) RemoteAddr() net.Addr { return c.l.Addr() }

// newCrowd builds n nodes of fr, of which the first three are joined by all.
func newCrowd(r *region, n int) *crowd {
	c := &crowd{r: r, layers: map[netip.AddrPort]*memoryLayer{}}
	for i := range n {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i / 250), byte(1 + i%250)}), 7000)
		name := placement.NodeID(fmt.Sprintf("node-%04d", i))
		l := &memoryLayer{crowd: c, addr: addr, packets: make(chan transport.Packet, 512), streams: make(chan net.Conn)}
		c.layers[addr] = l
		if i < 3 {
			r.addVoter(name, addr.String())
		}
		m := &member{layer: l, name: name, cred: identity.NewSource(r.credential("fr", name))}
		cfg := DefaultConfig()
		cfg.Self, cfg.Region, cfg.Credential = name, "fr", m.cred
		cfg.Verifier = &identity.Verifier{Home: "fr", Mesh: "mesh.test", Bundles: r.bundles}
		cfg.Layer, cfg.Keys, cfg.Log, cfg.Join = l, [][]byte{key1}, slog.New(slog.DiscardHandler), r.join
		pool, err := New(cfg)
		if err != nil {
			r.t.Fatal(err)
		}
		m.Pool = pool
		c.nodes = append(c.nodes, m)
	}
	return c
}

// run starts everybody; stop ends all at once.
func (c *crowd) run() (stop func()) {
	var stops []func()
	for _, m := range c.nodes {
		stops = append(stops, c.runOne(m))
	}
	return sync.OnceFunc(func() {
		var wg sync.WaitGroup
		for _, f := range stops {
			wg.Go(f)
		}
		wg.Wait()
	})
}

func (c *crowd) runOne(m *member) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.r.t.Errorf("%s: %v", m.name, err)
		}
	})
	c.r.t.Cleanup(stop)
	return stop
}

// formed reports whether everybody sees everybody.
func (c *crowd) formed() bool {
	for _, m := range c.nodes {
		if m.size() != len(c.nodes) {
			return false
		}
	}
	return true
}

// hold counts who has the given record.
func (c *crowd) hold(node placement.NodeID, version uint64) (n int) {
	for _, m := range c.nodes {
		if r, ok := m.Record(node); ok && r.Version == version {
			n++
		}
	}
	return n
}

// sent is the bytes that each has sent.
func (c *crowd) sent() (out []int64) {
	for _, m := range c.nodes {
		out = append(out, m.layer.sent.Load())
	}
	return out
}

// seed gives everybody the same records of all, as after a long life together:
// a thousand nodes that verify a thousand signatures each take minutes.
func (c *crowd) seed() {
	all := map[placement.NodeID]Record{}
	for _, m := range c.nodes {
		if err := m.Publish(payload("fr", m.name, 1, 8)); err != nil {
			c.r.t.Fatal(err)
		}
		all[m.name] = m.records[m.name]
	}
	for _, m := range c.nodes {
		maps.Copy(m.records, all)
	}
}

// crowdSize is how many nodes the test of many has: of a thousand it is what
// `make bench` runs, and takes some minutes of processor time.
func crowdSize(t *testing.T) int {
	text := os.Getenv("SOVMESH_CROWD")
	if text == "" {
		return 100
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 10 || n > 5000 {
		t.Fatalf("SOVMESH_CROWD=%s: say how many nodes, 10 to 5000", text)
	}
	return n
}

// What the region may spend and wait for, whatever its size up to a thousand.
const (
	quietMax = 4 << 10 // bytes a second that any node sends when nothing changes
	newsMax  = 5 * time.Second
)

// A region whose inventory does not change sends next to nothing, a change is
// known everywhere within seconds, and who comes late has all of it soon.
func TestManyNodesAreQuietAndLearnFast(t *testing.T) {
	n := crowdSize(t)
	inBubble(t, func(t *testing.T, r *region) {
		r.ttl = 24 * time.Hour
		c := newCrowd(r, n+1)
		newcomer := c.nodes[n]
		c.nodes = c.nodes[:n]
		c.seed()
		stop := c.run()
		begin := time.Now()
		within(t, 3*time.Minute, "everybody to see everybody", c.formed)
		t.Logf("%d nodes saw each other after %s", n, time.Since(begin).Round(time.Second))
		time.Sleep(90 * time.Second) // what joining stirred up comes to rest

		const quiet = 180 * time.Second // every node exchanges its state in that time
		before := c.sent()
		time.Sleep(quiet)
		var sum, most int64
		for i, b := range c.sent() {
			sum, most = sum+b-before[i], max(most, b-before[i])
		}
		t.Logf("quiet: %d B/s a node, the most %d B/s", sum/int64(n)/180, most/180)
		if most/180 > quietMax {
			t.Errorf("a node of %d sends %d B/s while nothing changes, the budget is %d", n, most/180, quietMax)
		}

		var slowest time.Duration
		before = c.sent()
		for i, at := range []int{5, n / 2, n - 1} {
			m, changed := c.nodes[at], time.Now()
			if err := m.Publish(payload("fr", m.name, 2, 8)); err != nil {
				t.Fatal(err)
			}
			within(t, time.Minute, fmt.Sprintf("change %d to be known everywhere", i), func() bool { return c.hold(m.name, 2) == n })
			slowest = max(slowest, time.Since(changed))
			time.Sleep(10 * time.Second)
		}
		sum = 0
		for i, b := range c.sent() {
			sum += b - before[i]
		}
		t.Logf("news: known everywhere in %s at most; with three changes in half a minute %d B a node", slowest, sum/int64(n))
		if slowest > newsMax {
			t.Errorf("a change took %s to be known by %d nodes, %s is the most", slowest, n, newsMax)
		}

		c.nodes = append(c.nodes, newcomer)
		if err := newcomer.Publish(payload("fr", newcomer.name, 1, 8)); err != nil {
			t.Fatal(err)
		}
		leave := c.runOne(newcomer)
		began := time.Now()
		within(t, time.Minute, "a newcomer to hold every record", func() bool { return len(newcomer.Records()) == n+1 })
		t.Logf("late: a newcomer had every record after %s", time.Since(began).Round(100*time.Millisecond))
		leave()
		stop()
	})
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d s of processor time, %d MiB at most", used.Utime.Sec, used.Maxrss>>10)
}
