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
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, m := range c.nodes {
		wg.Go(func() {
			if err := m.Run(ctx); err != nil {
				c.r.t.Errorf("%s: %v", m.name, err)
			}
		})
	}
	return func() { cancel(); wg.Wait() }
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

// sent is the bytes that everybody sent, and the most that one did.
func (c *crowd) sent() (sum, most int64) {
	for _, m := range c.nodes {
		b := m.layer.sent.Load()
		sum, most = sum+b, max(most, b)
	}
	return sum, most
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

func TestMeasure(t *testing.T) {
	for _, n := range []int{100, 300, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			begin := time.Now()
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)))
				r := &region{t: t, ttl: 24 * time.Hour, cas: map[placement.RegionID]*identity.CA{}, bundles: &identity.MapBundles{}}
				c := newCrowd(r, n)
				c.seed()
				t0 := time.Now()
				stop := c.run()
				defer stop()
				for i := 0; !c.formed(); i++ {
					time.Sleep(time.Second)
					if i%10 == 0 {
						s, most := c.sent()
						fmt.Fprintln(os.Stderr, time.Since(t0), c.nodes[0].size(), c.nodes[500%n].size(), s/int64(n), most)
					}
				}
				t.Logf("formed in %s", time.Since(t0))
				fmt.Fprintln(os.Stderr, "formed in", time.Since(t0))
				time.Sleep(3 * time.Minute)
				s0, _ := c.sent()
				time.Sleep(3 * time.Minute)
				s1, _ := c.sent()
				t.Logf("steady: %.0f B/s a node", float64(s1-s0)/float64(n)/180)
				fmt.Fprintln(os.Stderr, "steady")
				for k := range 3 {
					m := c.nodes[5+k*7]
					before, _ := c.sent()
					t1 := time.Now()
					if err := m.Publish(payload("fr", m.name, 2, 8)); err != nil {
						t.Fatal(err)
					}
					for c.hold(m.name, 2) < n {
						time.Sleep(200 * time.Millisecond)
						fmt.Fprintln(os.Stderr, time.Since(t1), c.hold(m.name, 2))
					}
					t.Logf("news everywhere in %s", time.Since(t1))
					time.Sleep(20*time.Second)
					after, most := c.sent()
					t.Logf("news cost %.0f B a node, most ever sent %d", float64(after-before)/float64(n), most)
				}
			})
			t.Logf("wall %s", time.Since(begin))
			var u unix.Rusage
			unix.Getrusage(unix.RUSAGE_SELF, &u)
			t.Logf("cpu %d s, peak %d MiB", u.Utime.Sec, u.Maxrss>>10)
		})
	}
}
