package transport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/transport/identity"
)

// packetMark is the first byte of a gossip packet. Its two top bits are clear,
// which is how quic-go tells it from QUIC (RFC 9443, section 3); memberlist's own
// first byte, 244, would look like QUIC.
const packetMark = 0x01

// PacketMax is the longest gossip packet, without its mark: it fits a path of
// 1,280 bytes, IPv6 and all.
const PacketMax = 1200

// packetQueue bounds the packets read from the socket and not yet taken.
const packetQueue = 512

// Packet is one gossip packet as it came. From is an address, not an identity:
// only the keyring of the pool says whether its sender belongs there.
type Packet struct {
	Data []byte
	From netip.AddrPort
	At   time.Time
}

// PacketLayer carries the gossip of the home region's pool: packets beside QUIC
// on the same socket, and streams for whole exchanges of state.
type PacketLayer struct {
	e       *Endpoint
	packets chan Packet
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func newPacketLayer(e *Endpoint) *PacketLayer {
	return &PacketLayer{e: e, packets: make(chan Packet, packetQueue),
		streams: make(chan net.Conn), done: make(chan struct{})}
}

// Addr is the address of the node's socket.
func (l *PacketLayer) Addr() net.Addr { return l.e.Addr() }

// Packets gives what comes in. A reader that is too slow loses packets, which
// [Stats] counts. The channel is never closed; see Done.
func (l *PacketLayer) Packets() <-chan Packet { return l.packets }

// Streams gives the streams that peers of the home region open, as *[Conn].
func (l *PacketLayer) Streams() <-chan net.Conn { return l.streams }

// Done is closed when the layer is: nothing comes any more.
func (l *PacketLayer) Done() <-chan struct{} { return l.done }

// Close ends the layer. Streams already handed out live on.
func (l *PacketLayer) Close() { l.close() }

func (l *PacketLayer) close() { l.once.Do(func() { close(l.done) }) }

// WriteTo sends one packet. It never dials and waits for nobody.
func (l *PacketLayer) WriteTo(data []byte, to netip.AddrPort) error {
	select {
	case <-l.done:
		return ErrClosed
	case <-l.e.started:
	default:
		return fmt.Errorf("send a gossip packet to %s: the endpoint does not run yet", to)
	}
	if len(data) > PacketMax {
		return fmt.Errorf("a gossip packet of %d bytes is longer than %d", len(data), PacketMax)
	}
	buf := make([]byte, 0, len(data)+1)
	buf = append(append(buf, packetMark), data...)
	_, err := l.e.quic.WriteTo(buf, net.UDPAddrFromAddrPort(to))
	return err
}

// Dial opens a stream to a node of the home region; see [StreamLayer.Dial].
func (l *PacketLayer) Dial(ctx context.Context, p Peer) (net.Conn, error) {
	select {
	case <-l.done:
		return nil, ErrClosed
	default:
		return l.e.dialStream(ctx, identity.ClassGossip, p)
	}
}

// read does nothing but copy and hand on: quic-go's own queue holds 32 packets
// and drops the rest in silence.
func (l *PacketLayer) read() {
	buf := make([]byte, 2048)
	for {
		n, from, err := l.e.quic.ReadNonQUICPacket(l.e.ctx, buf)
		if err != nil {
			return // the endpoint stops
		}
		data, ok := ParsePacket(buf[:n])
		if !ok {
			l.e.counts.garbage.Add(1)
			continue
		}
		p := Packet{Data: append([]byte(nil), data...), From: addrPort(from), At: time.Now()}
		select {
		case <-l.done:
			continue // nobody listens any more
		default:
		}
		select {
		case l.packets <- p:
			l.e.counts.packets.Add(1)
		default:
			l.e.counts.packetsDropped.Add(1)
		}
	}
}

// ParsePacket strips the mark off a datagram that is not QUIC. It reports false
// for what is no gossip packet: another mark, nothing after it, or too much.
func ParsePacket(b []byte) ([]byte, bool) {
	if len(b) < 2 || len(b) > PacketMax+1 || b[0] != packetMark {
		return nil, false
	}
	return b[1:], true
}

// deliver hands an accepted stream to Streams.
func (l *PacketLayer) deliver(c *Conn) bool {
	wait := time.NewTimer(helloTimeout)
	defer wait.Stop()
	select {
	case l.streams <- c:
		return true
	case <-l.done:
	case <-c.Context().Done():
	case <-wait.C:
		l.e.counts.unclaimed.Add(1)
	}
	return false
}

func addrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		ap := u.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
