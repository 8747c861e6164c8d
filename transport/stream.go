package transport

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// Conn is one QUIC stream as a net.Conn. Its peer is known by certificate.
type Conn struct {
	*quic.Stream
	conn *quic.Conn
	peer identity.ID
}

func newConn(c *quic.Conn, s *quic.Stream, peer identity.ID) *Conn {
	return &Conn{Stream: s, conn: c, peer: peer}
}

// PeerID is who is at the other end, from the certificate on the connection.
func (c *Conn) PeerID() identity.ID { return c.peer }

// LocalAddr is the address of the node's socket.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Close ends both directions. The stream's own Close would end only the
// sending one, and the stream would keep its place among those allowed.
func (c *Conn) Close() error {
	c.CancelRead(codeNone)
	return c.Stream.Close()
}

// StreamLayer carries the streams of a raft group: consensus puts raft's own
// transport on top. Peers are of the home region only, by their certificates;
// whether one belongs to the group is for consensus to say, by [Conn.PeerID].
type StreamLayer struct {
	e    *Endpoint
	in   chan *Conn
	done chan struct{}
	once sync.Once
}

func newStreamLayer(e *Endpoint) *StreamLayer {
	return &StreamLayer{e: e, in: make(chan *Conn), done: make(chan struct{})}
}

// Accept waits for a peer's stream, a *[Conn]; after Close it returns net.ErrClosed.
func (l *StreamLayer) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. Streams already handed out live on.
func (l *StreamLayer) Close() error {
	l.close()
	return nil
}

func (l *StreamLayer) close() { l.once.Do(func() { close(l.done) }) }

// Addr is the address of the node's socket.
func (l *StreamLayer) Addr() net.Addr { return l.e.Addr() }

// Dial opens a stream to a node of the home region: a *[Conn]. It returns after
// the peer has answered a hello on that very stream, so a certificate that the
// peer refused, or a connection that had died, is an error here and not later.
func (l *StreamLayer) Dial(ctx context.Context, p Peer) (net.Conn, error) {
	return l.e.dialStream(ctx, identity.ClassRaft, p)
}

// deliver hands an accepted stream to Accept; nobody waiting for it is refusal.
func (l *StreamLayer) deliver(c *Conn) bool {
	wait := time.NewTimer(helloTimeout)
	defer wait.Stop()
	select {
	case l.in <- c:
		return true
	case <-l.done:
	case <-c.Context().Done():
	case <-wait.C:
		l.e.counts.unclaimed.Add(1)
	}
	return false
}

// dialStream opens a greeted stream of a class, on a pooled connection if there
// is one that answers.
func (e *Endpoint) dialStream(ctx context.Context, class identity.Class, p Peer) (net.Conn, error) {
	var got *quic.Stream
	c, err := e.openStream(ctx, class, e.complete(p), isConnError, func(s *quic.Stream) error {
		got = s
		return sayHello(ctx, s, e.cfg.HandshakeTimeout)
	})
	if err != nil {
		return nil, err
	}
	id, err := identity.PeerID(c.ConnectionState().TLS)
	if err != nil {
		cancelBoth(got, codeRefused)
		return nil, err
	}
	return newConn(c, got, id), nil
}
