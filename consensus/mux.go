package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sovmesh/sovmesh/placement"
)

// A stream begins with one byte that says what it carries.
const (
	streamRaft  = 'R'
	streamClock = 'C'
)

const (
	firstByteTimeout = 5 * time.Second
	maxChildren      = 64 // peers that ever spoke to this node
)

// mux is the raft transport. It sends through one raft.NetworkTransport and
// receives through one per peer, so that every RPC is known to come from the
// node that the certificate on its stream names; an RPC that claims another id
// or address never reaches raft.
type mux struct {
	g       *Group
	layer   Layer
	out     *raft.NetworkTransport
	consume chan raft.RPC
	beat    atomic.Pointer[func(raft.RPC)]
	stopped chan struct{}
	once    sync.Once
	silent  atomic.Bool
	refused atomic.Uint64

	mu       sync.Mutex
	children map[placement.NodeID]*child // guarded by mu
	conns    map[net.Conn]struct{}       // accepted, to be closed at the end; guarded by mu
	work     sync.WaitGroup
}

type child struct {
	net  *raft.NetworkTransport
	in   chan net.Conn
	done chan struct{}
	once sync.Once
}

func newMux(g *Group) *mux {
	m := &mux{
		g: g, layer: g.cfg.Layer, consume: make(chan raft.RPC), stopped: make(chan struct{}),
		children: map[placement.NodeID]*child{}, conns: map[net.Conn]struct{}{},
	}
	m.out = m.network(&outgoing{m: m})
	return m
}

func (m *mux) network(s raft.StreamLayer) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: s, MaxPool: 3, Timeout: max(2*m.g.cfg.HeartbeatTimeout, 500*time.Millisecond), Logger: hclogger(m.g.log, "raft"),
	})
}

// accept takes streams until the layer ends.
func (m *mux) accept() {
	for {
		conn, peer, err := m.layer.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				m.g.fail(fmt.Errorf("accept streams of the region's group: %w", err))
			}
			return
		}
		if !m.keep(conn) {
			conn.Close()
			return
		}
		m.work.Go(func() { m.receive(conn, peer) })
	}
}

// keep remembers a connection so that stop can close it.
func (m *mux) keep(conn net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns == nil {
		return false
	}
	m.conns[conn] = struct{}{}
	return true
}

func (m *mux) forget(conn net.Conn) {
	conn.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, conn)
}

// receive reads what a stream carries and hands it on.
func (m *mux) receive(conn net.Conn, peer placement.NodeID) {
	var first [1]byte
	_ = conn.SetReadDeadline(time.Now().Add(firstByteTimeout))
	_, err := io.ReadFull(conn, first[:])
	_ = conn.SetReadDeadline(time.Time{})
	switch {
	case err != nil:
	case !m.g.Allowed(peer):
		m.refuse(peer, "it is a worker, and workers do not speak raft")
	case first[0] == streamClock:
		m.g.tellClock(conn)
	case first[0] == streamRaft:
		if c := m.child(peer); c != nil {
			select {
			case c.in <- &tracked{Conn: conn, m: m}:
				return
			case <-m.stopped:
			}
		}
	default:
		m.refuse(peer, fmt.Sprintf("its stream begins with byte %#x", first[0]))
	}
	m.forget(conn)
}

func (m *mux) refuse(peer placement.NodeID, why string) {
	m.refused.Add(1)
	m.g.log.Warn("refuses raft", "region", m.g.cfg.Region, "peer", peer, "err", why)
}

// tracked is forgotten when raft's transport closes it.
type tracked struct {
	net.Conn
	m *mux
}

func (t *tracked) Close() error {
	t.m.forget(t.Conn)
	return nil
}

// child is the receiving transport of one peer.
func (m *mux) child(peer placement.NodeID) *child {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.children[peer]; c != nil || m.conns == nil || len(m.children) >= maxChildren {
		return c
	}
	c := &child{in: make(chan net.Conn), done: make(chan struct{})}
	c.net = m.network(incoming{c})
	c.net.SetHeartbeatHandler(func(rpc raft.RPC) { m.heartbeat(peer, rpc) })
	m.children[peer] = c
	m.work.Go(func() { m.merge(peer, c) })
	return c
}

// merge passes on what a peer may say.
func (m *mux) merge(peer placement.NodeID, c *child) {
	for {
		select {
		case rpc := <-c.net.Consumer():
			if err := m.judge(peer, rpc); err != nil {
				rpc.Respond(nil, err)
				continue
			}
			select {
			case m.consume <- rpc:
			case <-c.done:
				return
			}
		case <-c.done:
			return
		}
	}
}

func (m *mux) heartbeat(peer placement.NodeID, rpc raft.RPC) {
	if err := m.judge(peer, rpc); err != nil {
		rpc.Respond(nil, err)
		return
	}
	if f := m.beat.Load(); f != nil {
		(*f)(rpc)
		return
	}
	select {
	case m.consume <- rpc:
	case <-m.stopped:
		rpc.Respond(nil, raft.ErrTransportShutdown)
	}
}

// judge refuses an RPC whose header is not the peer's own: its id must be the
// certificate's, its address one that the configuration or the ledger gives it.
func (m *mux) judge(peer placement.NodeID, rpc raft.RPC) error {
	if m.silent.Load() {
		return raft.ErrTransportShutdown
	}
	h, ok := rpc.Command.(raft.WithRPCHeader)
	if !ok {
		return errors.New("this RPC says not who sends it")
	}
	header := h.GetRPCHeader()
	if string(header.ID) != string(peer) {
		m.refuse(peer, fmt.Sprintf("it speaks as %q", clip(header.ID)))
		return fmt.Errorf("the certificate on this stream is %s's: it cannot speak as another", peer)
	}
	if !m.g.mayClaim(peer, string(header.Addr)) {
		m.refuse(peer, fmt.Sprintf("it claims the address %q", clip(header.Addr)))
		return fmt.Errorf("%s cannot speak for the address it claims", peer)
	}
	if !m.g.Allowed(peer) {
		m.refuse(peer, "it is a worker, and workers do not speak raft")
		return fmt.Errorf("%s is a worker", peer)
	}
	return nil
}

func clip(b []byte) string {
	if len(b) > 64 {
		b = b[:64]
	}
	return string(b)
}

// mayClaim reports whether an address is the node's: as configured, as its own
// ledger records it, or any while nothing is known of the node.
func (g *Group) mayClaim(node placement.NodeID, addr string) bool {
	known := false
	for _, p := range g.Peers() {
		if p.Node == node {
			if p.Addr == addr {
				return true
			}
			known = true
		} else if p.Addr == addr {
			return false
		}
	}
	if n := g.View().Node(node); n != nil && n.QUIC != "" {
		if n.QUIC == addr {
			return true
		}
		known = true
	}
	return !known && addr != ""
}

// mute ends what this replica says, before its stores stop answering for it.
func (m *mux) mute() { m.silent.Store(true) }

// stop ends everything, and returns when it has ended.
func (m *mux) stop() {
	_ = m.Close()
	m.work.Wait()
}

// Close implements raft.WithClose: raft calls it once it has stopped.
func (m *mux) Close() error {
	m.once.Do(func() {
		close(m.stopped)
		_ = m.layer.Close()
		m.mu.Lock()
		conns, children := m.conns, m.children
		m.conns = nil
		m.mu.Unlock()
		for _, c := range children {
			c.stop()
		}
		m.out.CloseStreams()
		_ = m.out.Close()
		for conn := range conns {
			conn.Close()
		}
	})
	return nil
}

func (c *child) stop() {
	c.once.Do(func() { close(c.done) })
	c.net.CloseStreams()
	_ = c.net.Close()
}

// incoming is a child's stream layer: what receive hands it.
type incoming struct{ c *child }

func (l incoming) Accept() (net.Conn, error) {
	select {
	case conn := <-l.c.in:
		return conn, nil
	case <-l.c.done:
		return nil, net.ErrClosed
	}
}

func (l incoming) Close() error { l.c.once.Do(func() { close(l.c.done) }); return nil }

func (incoming) Addr() net.Addr { return nodeAddr("") }

func (incoming) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	return nil, errors.New("this side only receives")
}

// outgoing is the stream layer of what this node sends. Its addresses are
// "node@host:port", because a dial must name who is to be found there.
type outgoing struct{ m *mux }

func (o *outgoing) Accept() (net.Conn, error) {
	<-o.m.stopped
	return nil, net.ErrClosed
}

func (o *outgoing) Close() error { return nil }

func (o *outgoing) Addr() net.Addr { return nodeAddr(o.m.g.cfg.Advertise) }

func (o *outgoing) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	node, addr, _ := strings.Cut(string(to), "@")
	return o.m.dial(ctx, placement.NodeID(node), addr, streamRaft)
}

func (m *mux) dial(ctx context.Context, node placement.NodeID, addr string, first byte) (net.Conn, error) {
	conn, err := m.layer.Dial(ctx, node, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s at %s: %w", node, addr, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetWriteDeadline(deadline)
	}
	if _, err := conn.Write([]byte{first}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("greet %s at %s: %w", node, addr, err)
	}
	_ = conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

type nodeAddr string

func (nodeAddr) Network() string  { return "sovmesh" }
func (a nodeAddr) String() string { return string(a) }
