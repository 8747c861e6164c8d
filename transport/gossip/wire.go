package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// wire is memberlist's transport: the endpoint's packets and streams.
type wire struct {
	p       *Pool
	ctx     context.Context // of dials: ends with Run's, so that a goodbye waits for none
	cancel  context.CancelFunc
	done    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
	packets chan *memberlist.Packet
	streams chan net.Conn
	last    atomic.Int64 // when a packet was last sent, ns since 1970

	mu     sync.Mutex
	closed bool                      // guarded by mu
	open   map[*trackedConn]struct{} // guarded by mu: streams not yet closed
}

var _ memberlist.NodeAwareTransport = (*wire)(nil)

func newWire(ctx context.Context, p *Pool) (*wire, error) {
	if !p.advertised().IsValid() || p.advertised().Addr().IsUnspecified() {
		return nil, fmt.Errorf("gossip: the socket listens on %s, so say by Advertise where others reach it", p.cfg.Layer.Addr())
	}
	w := &wire{p: p, done: make(chan struct{}), packets: make(chan *memberlist.Packet),
		streams: make(chan net.Conn), open: map[*trackedConn]struct{}{}}
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.wg.Go(w.forwardPackets)
	w.wg.Go(w.forwardStreams)
	return w, nil
}

// advertised is the address that others are told.
func (p *Pool) advertised() netip.AddrPort {
	if p.cfg.Advertise.IsValid() {
		return p.cfg.Advertise
	}
	ap, _ := netip.ParseAddrPort(p.cfg.Layer.Addr().String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func (w *wire) forwardPackets() {
	for {
		select {
		case <-w.done:
			return
		case in := <-w.p.cfg.Layer.Packets():
			out := &memberlist.Packet{Buf: in.Data, From: net.UDPAddrFromAddrPort(in.From), Timestamp: in.At}
			select {
			case w.packets <- out:
			case <-w.done:
				return
			}
		}
	}
}

func (w *wire) forwardStreams() {
	for {
		select {
		case <-w.done:
			return
		case c := <-w.p.cfg.Layer.Streams():
			select {
			case w.streams <- w.track(c):
			case <-w.done:
				_ = c.Close()
				return
			}
		}
	}
}

// FinalAdvertiseAddr is the address that others are told, whatever memberlist asks.
func (w *wire) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	a := w.p.advertised()
	return a.Addr().AsSlice(), int(a.Port()), nil
}

// WriteTo sends one packet.
func (w *wire) WriteTo(b []byte, addr string) (time.Time, error) {
	return w.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress sends one packet. It runs on memberlist's own goroutines, so it
// never dials.
func (w *wire) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	select {
	case <-w.done:
		return time.Time{}, errors.New("gossip has stopped")
	default:
	}
	to, err := netip.ParseAddrPort(addr.Addr)
	if err != nil {
		return time.Time{}, err
	}
	now := time.Now()
	w.last.Store(now.UnixNano())
	return now, w.p.cfg.Layer.WriteTo(b, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
}

func (w *wire) lastSent() time.Time { return time.Unix(0, w.last.Load()) }

// PacketCh gives what came in.
func (w *wire) PacketCh() <-chan *memberlist.Packet { return w.packets }

// StreamCh gives the streams that others opened.
func (w *wire) StreamCh() <-chan net.Conn { return w.streams }

// DialTimeout opens a stream to any node of the region at addr.
func (w *wire) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return w.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout opens a stream to the node that memberlist names: somebody
// else at its address is refused by certificate.
func (w *wire) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(w.ctx, timeout)
	defer cancel()
	id := identity.ID{Region: w.p.cfg.Region, Node: placement.NodeID(addr.Name)}
	c, err := w.p.cfg.Layer.Dial(ctx, transport.Peer{ID: id, Addr: addr.Addr})
	if err != nil {
		return nil, err
	}
	return w.track(c), nil
}

// Shutdown stops the forwarding and closes the streams, and waits for both.
func (w *wire) Shutdown() error {
	w.once.Do(func() {
		w.cancel()
		close(w.done)
		w.mu.Lock()
		w.closed = true
		open := make([]*trackedConn, 0, len(w.open))
		for c := range w.open {
			open = append(open, c)
		}
		w.mu.Unlock()
		for _, c := range open {
			_ = c.Close()
		}
		w.wg.Wait()
	})
	return nil
}

// trackedConn is a stream that Shutdown can close under memberlist.
type trackedConn struct {
	net.Conn
	w    *wire
	once sync.Once
}

func (w *wire) track(c net.Conn) net.Conn {
	t := &trackedConn{Conn: c, w: w}
	w.mu.Lock()
	closed := w.closed
	if !closed {
		w.open[t] = struct{}{}
	}
	w.mu.Unlock()
	if closed {
		_ = t.Close()
	}
	return t
}

// Close closes the stream once.
func (t *trackedConn) Close() (err error) {
	t.once.Do(func() {
		t.w.mu.Lock()
		delete(t.w.open, t)
		t.w.mu.Unlock()
		err = t.Conn.Close()
	})
	return err
}

// lookup reads "ip:port" without asking anybody, and looks names up: memberlist
// would ask the name server over TCP first, in real time.
func lookup(ctx context.Context, addr string) (netip.AddrPort, error) {
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(ips[0].Unmap(), uint16(number)), nil
}
