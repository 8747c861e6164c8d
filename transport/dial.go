package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// poolKey tells apart what must not share a connection: two classes, two
// addresses, two expectations of who is there, or requests and what lasts.
type poolKey struct {
	class   identity.Class
	addr    string
	id      identity.ID
	lasting Lasting
	whose   string // of what lasts
}

// dialing is a connection that is there or on its way. Those who want it wait
// for done with no lock held; the other fields are set before done is closed.
type dialing struct {
	key    poolKey
	users  int         // guarded by the endpoint's mu; those of what lasts leave again
	idle   *time.Timer // guarded by it too: once all have left
	done   chan struct{}
	conn   *quic.Conn
	h3     *http3.ClientConn // class h3 only
	retire time.Time         // from then on new users get a fresh connection
	err    error
}

// usable reports whether the connection can take one more stream.
func (d *dialing) usable(now time.Time) bool {
	return d.err == nil && d.conn.Context().Err() == nil && now.Before(d.retire)
}

// connect gives a pooled connection to the peer, or a fresh one; concurrent
// callers share one dial. fresh reports whether this call waited for a dial.
// What lasts has to be left again.
func (e *Endpoint) connect(ctx context.Context, key poolKey) (d *dialing, fresh bool, err error) {
	p, class := Peer{ID: key.id, Addr: key.addr}, key.class
	if err := e.permitClass(class, p); err != nil {
		return nil, false, err
	}
	select {
	case <-e.started:
	case <-e.ctx.Done():
		return nil, false, ErrClosed
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	d, fresh, err = e.record(key)
	if err != nil {
		return nil, false, err
	}
	select {
	case <-d.done:
	case <-ctx.Done():
		e.leave(d)
		return nil, fresh, &UnreachableError{Peer: p, Class: class, Err: context.Cause(ctx)}
	}
	if d.err != nil {
		e.leave(d)
		return nil, fresh, &UnreachableError{Peer: p, Class: class, Err: d.err}
	}
	return d, fresh, nil
}

// permitClass refuses what must not be dialed at all.
func (e *Endpoint) permitClass(class identity.Class, p Peer) error {
	if p.ID.Region == "" {
		return fmt.Errorf("dial %s: no region is named, so nobody could be recognised there", p.Addr)
	}
	if class.HomeOnly() && p.ID.Region != e.cfg.Home {
		return fmt.Errorf("dial %s at %s: %s stays within the region %s", p.ID, p.Addr, class, e.cfg.Home)
	}
	return nil
}

// record finds the connection's record or starts a dial for it.
func (e *Endpoint) record(key poolKey) (*dialing, bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, false, ErrClosed
	}
	e.bound(&key)
	if d := e.pool[key]; d != nil {
		select {
		case <-d.done:
			if d.usable(time.Now()) {
				d.users++
				return d, false, nil
			}
		default:
			d.users++
			return d, true, nil // on its way
		}
	}
	d := &dialing{key: key, users: 1, done: make(chan struct{})}
	e.pool[key] = d
	// Not spawn: mu is held, and closed was just seen to be false.
	e.wg.Go(func() { e.dial(d) })
	return d, true, nil
}

// forget takes a connection that was found dead out of the pool.
func (e *Endpoint) forget(d *dialing) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pool[d.key] == d {
		delete(e.pool, d.key)
	}
}

// dial fills the record. It is shared by all who wait for it, so it runs on the
// endpoint's context and not on that of the first who asked.
func (e *Endpoint) dial(d *dialing) {
	ctx, cancel := context.WithTimeout(e.ctx, 3*e.cfg.HandshakeTimeout)
	defer cancel()
	e.counts.dials.Add(1)
	d.conn, d.err = e.handshake(ctx, d.key)
	if d.err == nil {
		d.err = e.introduce(ctx, d.key, d)
	}
	if d.err != nil {
		e.counts.dialFailures.Add(1)
		if d.conn != nil {
			_ = d.conn.CloseWithError(codeHello, "not answered")
		}
		e.forget(d)
	}
	close(d.done)
}

func (e *Endpoint) handshake(ctx context.Context, key poolKey) (*quic.Conn, error) {
	addr, err := resolve(ctx, key.addr)
	if err != nil {
		return nil, err
	}
	tlsConfig := e.cfg.Verifier.ClientConfig(e.cfg.Credential, key.class, key.id)
	return e.quic.Dial(ctx, addr, tlsConfig, e.dialConfig(key))
}

// introduce makes sure that the peer has accepted us: the TLS client finishes
// first, so a dial alone says nothing. Raft and gossip say hello per stream.
func (e *Endpoint) introduce(ctx context.Context, key poolKey, d *dialing) error {
	who, err := e.adopt(d.conn, func() { e.forget(d) })
	if err != nil {
		return err
	}
	if !matches(who, key.id) { // the verifier has checked it; two paths assert it
		return fmt.Errorf("found %s there", who)
	}
	d.retire = retireAt(d.conn, time.Now())
	switch key.class {
	case identity.ClassHTTP:
		// The server's settings are its first bytes; ours go with them.
		d.h3 = e.client.NewClientConn(d.conn)
		select {
		case <-d.h3.ReceivedSettings():
		case <-d.conn.Context().Done():
			return context.Cause(d.conn.Context())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return nil
	case identity.ClassInfer:
		s, err := d.conn.OpenStreamSync(ctx)
		if err != nil {
			return err
		}
		defer s.CancelRead(codeNone)
		if err := sayHello(ctx, s, e.cfg.HandshakeTimeout); err != nil {
			return err
		}
		_ = s.Close() // the peer has answered and may have left the stream already
	}
	return nil
}

// matches reports whether got is who was wanted; no Node means any of the region.
func matches(got, want identity.ID) bool {
	return got.Region == want.Region && got.Mesh == want.Mesh &&
		(want.Node == "" || got.Node == want.Node)
}

// retireAt leaves a connection the last quarter of the peer's certificate to
// finish what runs on it: at its end the connection is closed.
func retireAt(c *quic.Conn, now time.Time) time.Time {
	end := c.ConnectionState().TLS.PeerCertificates[0].NotAfter
	return now.Add(end.Sub(now) * 3 / 4)
}

// resolve reads "ip:port" without asking anybody, and looks names up.
func resolve(ctx context.Context, addr string) (*net.UDPAddr, error) {
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())), nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("address %q is not host:port: %w", addr, err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("address %q has no port number", addr)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(ips) == 0 {
		return nil, errors.New("no address for " + host)
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(ips[0].Unmap(), uint16(number))), nil
}

// openStream opens a stream on a connection to the peer and calls use with it.
// A pooled connection that turns out dead is replaced, once: when the stream
// could not be opened, or when stale says that what use met is a dead connection
// which has done nothing with what use sent.
func (e *Endpoint) openStream(ctx context.Context, class identity.Class, p Peer, stale func(error) bool, use func(*quic.Stream) error) (*quic.Conn, error) {
	key := poolKey{class: class, addr: p.Addr, id: p.ID}
	for attempt := 1; ; attempt++ {
		d, fresh, err := e.connect(ctx, key)
		if err != nil {
			return nil, err
		}
		s, err := d.conn.OpenStreamSync(ctx)
		again := err != nil
		if err == nil {
			if err = use(s); err == nil {
				return d.conn, nil
			}
			again = stale(err)
			cancelBoth(s, codeCanceled)
		}
		if ctx.Err() != nil {
			return nil, &UnreachableError{Peer: p, Class: class, Err: context.Cause(ctx)}
		}
		if again {
			e.forget(d)
		}
		if !again || fresh || attempt == 2 {
			return nil, &UnreachableError{Peer: p, Class: class, Err: err}
		}
		e.counts.retries.Add(1)
	}
}
