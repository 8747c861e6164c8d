package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// Endpoint is one node's door to its peers: every connection, in and out, and
// every gossip packet goes through its one socket.
type Endpoint struct {
	cfg     Config
	quic    *quic.Transport
	h3      *http3.Server
	client  *http3.Transport // settings of the HTTP/3 client; it never dials
	raft    *StreamLayer
	gossip  *PacketLayer
	started chan struct{} // closed once the socket listens
	counts  counters

	handler atomic.Pointer[http.Handler]
	infer   atomic.Pointer[InferHandler]

	// ctx is the endpoint's own, ended by stop: were it Run's, raft's and
	// gossip's streams would die before they had said goodbye.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // everything that spawn started

	mu     sync.Mutex
	closed bool                       // guarded by mu: spawn and pool refuse
	pool   map[poolKey]*dialing       // guarded by mu: connections this node opened
	conns  map[*quic.Conn]identity.ID // guarded by mu: every connection, both ways, and who is there
}

// New checks the configuration. It starts nothing: [Endpoint.Run] does.
func New(cfg Config) (*Endpoint, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	key := quic.StatelessResetKey(cfg.ResetKey)
	e := &Endpoint{
		cfg:     cfg,
		quic:    &quic.Transport{Conn: cfg.Socket, StatelessResetKey: &key},
		client:  &http3.Transport{MaxResponseHeaderBytes: cfg.HeaderMax, DisableCompression: true},
		started: make(chan struct{}),
		pool:    map[poolKey]*dialing{},
		conns:   map[*quic.Conn]identity.ID{},
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.h3 = e.newH3Server()
	e.raft = newStreamLayer(e)
	e.gossip = newPacketLayer(e)
	return e, nil
}

// Addr is the address of the socket.
func (e *Endpoint) Addr() net.Addr { return e.cfg.Socket.LocalAddr() }

// Raft is the endpoint's layer of streams for the region's raft group.
func (e *Endpoint) Raft() *StreamLayer { return e.raft }

// Gossip is the endpoint's layer of packets and streams for the gossip pool.
func (e *Endpoint) Gossip() *PacketLayer { return e.gossip }

// Run listens until ctx ends or the socket fails, then closes every connection
// with a word to its peer, and the socket. Nothing it started outlives it. An
// endpoint runs once.
func (e *Endpoint) Run(ctx context.Context) error {
	ln, err := e.listen()
	if err != nil {
		e.stop(nil)
		return err
	}
	accepted := make(chan error, 1)
	e.spawn(func() { accepted <- e.acceptLoop(ln) })
	e.spawn(e.gossip.read)
	close(e.started)

	select {
	case <-ctx.Done():
	case err = <-accepted:
	}
	e.stop(ln)
	return err
}

func (e *Endpoint) listen() (*quic.Listener, error) {
	e.mu.Lock()
	closed := e.closed
	e.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	tlsConfig := e.cfg.Verifier.ServerConfig(e.cfg.Credential, classes...)
	ln, err := e.quic.Listen(tlsConfig, e.listenConfig())
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", e.Addr(), err)
	}
	return ln, nil
}

// listenConfig is one for all classes: quic-go tells GetConfigForClient the
// address but not the ALPN.
func (e *Endpoint) listenConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout: e.cfg.HandshakeTimeout,
		MaxIdleTimeout:       e.cfg.IdleTimeout,
		// The default first packet is 1,280 bytes of payload: over a path of
		// 1,280 (1,232 of payload) every dial would fail. Both sides set it.
		InitialPacketSize:  1200,
		MaxIncomingStreams: e.cfg.StreamsMax,
		// HTTP/3 needs three; the other classes none.
		MaxIncomingUniStreams: 8,
		// Many idle peers: windows begin small and grow with use. They grow with what
		// is read alone: a dozen bodies that nobody reads use up a connection's. What may
		// stand so has connections of its own (see lasting.go).
		InitialStreamReceiveWindow:     streamWindow,
		InitialConnectionReceiveWindow: 16 * streamWindow,
		Allow0RTT:                      false,
		// A cut answer keeps the tokens that were sent before it.
		EnableStreamResetPartialDelivery: true,
	}
}

// dialConfig keeps a connection awake, except gossip's: those carry one
// exchange in half a minute and may go idle in between.
func (e *Endpoint) dialConfig(key poolKey) *quic.Config {
	class, c := key.class, e.listenConfig()
	if class != identity.ClassGossip {
		c.KeepAlivePeriod = e.cfg.KeepAlive
	}
	if class == identity.ClassHTTP {
		c.MaxIncomingStreams = -1 // an HTTP/3 server opens no requests
	}
	if key.lasting == LastingService || key.lasting == LastingSession {
		c.InitialConnectionReceiveWindow, c.MaxConnectionReceiveWindow = lastingWindow, lastingWindow
		c.MaxStreamReceiveWindow = lastingStreamMax
	}
	return c
}

// spawn runs f in a goroutine that stop waits for. It reports false, and runs
// nothing, once the endpoint has stopped.
func (e *Endpoint) spawn(f func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.wg.Go(f)
	return true
}

// stop ends everything in the order that leaves peers a clean word:
// no new connections, a close on each that is there, then the transport.
func (e *Endpoint) stop(ln *quic.Listener) {
	e.mu.Lock()
	e.closed = true
	open := make([]*quic.Conn, 0, len(e.conns))
	for c := range e.conns {
		open = append(open, c)
	}
	e.mu.Unlock()

	e.raft.close()
	e.gossip.close()
	if ln != nil {
		_ = ln.Close()
	}
	// Transport.Close would send no words: each connection gets its own.
	for _, c := range open {
		_ = c.CloseWithError(codeShutdown, "the node stops")
	}
	e.cancel()
	_ = e.quic.Close()
	e.wg.Wait()
	if err := e.cfg.Socket.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		e.cfg.Log.Warn("close the UDP socket", "err", err)
	}
}

// Drop closes every connection, in and out, with a node that was removed or
// revoked; an ID without Node means every node of its region. It stops nobody
// from coming back: that is the verifier's part.
func (e *Endpoint) Drop(id identity.ID) {
	e.mu.Lock()
	var gone []*quic.Conn
	for c, who := range e.conns {
		if who.Region == id.Region && who.Mesh == id.Mesh && (id.Node == "" || who.Node == id.Node) {
			gone = append(gone, c)
		}
	}
	e.mu.Unlock()
	for _, c := range gone {
		_ = c.CloseWithError(codeDropped, "this node was removed from the mesh")
	}
}

// adopt enters a connection whose certificate was verified, and sees to it that
// it is closed when that certificate runs out. ended, if any, is called after
// the connection's end. The caller closes what adopt refuses.
func (e *Endpoint) adopt(c *quic.Conn, ended func()) (identity.ID, error) {
	state := c.ConnectionState().TLS
	id, err := identity.PeerID(state)
	if err != nil {
		return identity.ID{}, err
	}
	until := time.Until(state.PeerCertificates[0].NotAfter)

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return identity.ID{}, ErrClosed
	}
	e.conns[c] = id
	expires := time.AfterFunc(until, func() { _ = c.CloseWithError(codeExpired, "the certificate has run out") })
	// Not spawn: mu is held, and closed was just seen to be false.
	e.wg.Go(func() {
		<-c.Context().Done()
		expires.Stop()
		e.mu.Lock()
		delete(e.conns, c)
		e.mu.Unlock()
		if ended != nil {
			ended()
		}
	})
	return id, nil
}
