package devmesh

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"github.com/sovmesh/sovmesh/placement"
)

// fabric knows whose address is whose, and which borders are shut.
type fabric struct {
	mu   sync.RWMutex
	udp  map[netip.AddrPort]place
	tcp  map[string]place
	cut  map[placement.RegionID]bool
	dead map[placement.NodeID]bool
	// changed is closed when a border was shut or opened.
	changed chan struct{}
}

// place is where an address belongs.
type place struct {
	region placement.RegionID
	node   placement.NodeID
}

func newFabric() *fabric {
	return &fabric{udp: map[netip.AddrPort]place{}, tcp: map[string]place{}, cut: map[placement.RegionID]bool{}, dead: map[placement.NodeID]bool{}, changed: make(chan struct{})}
}

func (f *fabric) register(n *Node, udp *net.UDPConn, tcp net.Listener) place {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := place{n.Region, n.Name}
	f.udp[addrPort(udp.LocalAddr())] = at
	f.tcp[tcp.Addr().String()] = at
	return at
}

func addrPort(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// open reports whether packets pass between the two; f.mu is held.
func (f *fabric) open(a, b place) bool {
	if f.dead[a.node] || f.dead[b.node] {
		return false
	}
	return a.region == b.region || !f.cut[a.region] && !f.cut[b.region]
}

func (f *fabric) passes(at place, peer net.Addr) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	to, known := f.udp[addrPort(peer)]
	if !known {
		return !f.dead[at.node]
	}
	return f.open(at, to)
}

func (f *fabric) silence(n placement.NodeID, dead bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead[n] = dead
}

// Cut shuts all borders of a region, or opens them again: packets vanish, as
// they do on a real network, and nobody is told. It needs Config.Severable.
func (m *Mesh) Cut(r placement.RegionID, shut bool) {
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	m.net.cut[r] = shut
	close(m.net.changed)
	m.net.changed = make(chan struct{})
}

// Dial opens TCP connections as somebody in that region does: over a border
// that is shut nothing comes and nothing goes until it is opened again.
func (m *Mesh) Dial(from placement.RegionID) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		m.net.mu.RLock()
		to, known := m.net.tcp[addr]
		m.net.mu.RUnlock()
		if !known || to.region == from {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
		if !m.net.await(ctx.Done(), place{region: from}, to) {
			return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &crossing{Conn: c, net: m.net, from: place{region: from}, to: to, closed: make(chan struct{})}, nil
	}
}

// await returns once the border between the two is open; false if done came first.
func (f *fabric) await(done <-chan struct{}, a, b place) bool {
	for {
		f.mu.RLock()
		shut := f.cut[a.region] || f.cut[b.region]
		changed := f.changed
		f.mu.RUnlock()
		if !shut {
			return true
		}
		select {
		case <-changed:
		case <-done:
			return false
		}
	}
}

// crossing is a TCP connection over a border.
type crossing struct {
	net.Conn
	net      *fabric
	from, to place
	once     sync.Once
	closed   chan struct{}
}

func (c *crossing) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.net.await(c.closed, c.from, c.to) {
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *crossing) Write(b []byte) (int, error) {
	if !c.net.await(c.closed, c.from, c.to) {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func (c *crossing) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// tap is a node's socket with the fabric in front of it. It is no *net.UDPConn
// on purpose: QUIC would then read past it, in batches.
type tap struct {
	net.PacketConn
	net *fabric
	at  place
}

func (t *tap) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := t.PacketConn.ReadFrom(p)
		if err != nil || t.net.passes(t.at, from) {
			return n, from, err
		}
	}
}

// WriteTo says that a lost packet was sent: QUIC ends a connection whose write
// fails, and a real network does not tell.
func (t *tap) WriteTo(p []byte, to net.Addr) (int, error) {
	if !t.net.passes(t.at, to) {
		return len(p), nil
	}
	return t.PacketConn.WriteTo(p, to)
}

// SetReadBuffer and SetWriteBuffer let QUIC have the buffers it asks for.
func (t *tap) SetReadBuffer(n int) error { return t.PacketConn.(*net.UDPConn).SetReadBuffer(n) }

// SetWriteBuffer sets the size of the kernel's buffer, in bytes.
func (t *tap) SetWriteBuffer(n int) error { return t.PacketConn.(*net.UDPConn).SetWriteBuffer(n) }

// listener can drop all of its connections at once.
type listener struct {
	net.Listener
	mu    sync.Mutex
	conns map[*conn]struct{} // guarded by mu
}

type conn struct {
	net.Conn
	from *listener
}

func newListener(l net.Listener) *listener {
	return &listener{Listener: l, conns: map[*conn]struct{}{}}
}

// Accept remembers the connection until it is closed.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	one := &conn{c, l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[one] = struct{}{}
	return one, nil
}

func (c *conn) Close() error {
	c.from.mu.Lock()
	delete(c.from.conns, c)
	c.from.mu.Unlock()
	return c.Conn.Close()
}

// abort closes the listener and everything that it accepted.
func (l *listener) abort() {
	_ = l.Listener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.Conn.Close()
	}
}
