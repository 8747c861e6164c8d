package mesh

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
)

// wan is the simulated packet network between all nodes: links by simnet,
// routing, cuts and loss by us. A cut holds for a directed pair of hosts.
type wan struct {
	mu       sync.Mutex
	hosts    map[netip.AddrPort]simnet.PacketReceiver // guarded by mu
	starting map[netip.AddrPort]simnet.PacketReceiver // guarded by mu; links that do not run yet
	cut      map[pair]bool                            // guarded by mu
	loss     float64                                  // guarded by mu; of packets between regions
	rand     *rand.Rand                               // guarded by mu
	delay    func(from, to netip.Addr) time.Duration
	// border, if set, gets what goes from one region to another instead of the
	// host that it is for. It is set before the first packet.
	border interface {
		packet(simnet.Packet)
		stream(from netip.Addr, to netip.AddrPort, dialed net.Conn) net.Conn
	}
}

type pair struct{ from, to netip.Addr }

func newWan(seed uint64, delay func(from, to netip.Addr) time.Duration) *wan {
	return &wan{
		hosts: map[netip.AddrPort]simnet.PacketReceiver{}, cut: map[pair]bool{},
		rand: rand.New(rand.NewPCG(seed, 1)), delay: delay,
	}
}

// SendPacket delivers or drops. It never fails: quic-go ends a connection
// whose write fails, and a real network does not tell.
func (w *wan) SendPacket(p simnet.Packet) error {
	from, to := addrPort(p.From), addrPort(p.To)
	w.mu.Lock()
	drop := w.cut[pair{from.Addr(), to.Addr()}] || w.loss > 0 && w.rand.Float64() < w.loss
	host := w.hosts[to]
	w.mu.Unlock()
	switch {
	case drop || host == nil:
	case w.border != nil && crosses(from.Addr(), to.Addr()):
		w.border.packet(p)
	default:
		host.RecvPacket(p)
	}
	return nil
}

// crosses reports whether two machines are in different regions; what is outside
// of all of them is an attacker's.
func crosses(from, to netip.Addr) bool {
	a, b := from.As4(), to.As4()
	return a[1] == 0 && b[1] == 0 && a[2] != b[2]
}

// AddNode is how a simnet link makes itself known to its router.
func (w *wan) AddNode(a net.Addr, r simnet.PacketReceiver) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.starting == nil {
		w.starting = map[netip.AddrPort]simnet.PacketReceiver{}
	}
	w.starting[addrPort(a)] = r
}

// up lets packets through to a host once its link runs: before, the link is
// still being written.
func (w *wan) up(a net.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[addrPort(a)] = w.starting[addrPort(a)]
	delete(w.starting, addrPort(a))
}

func (w *wan) setCut(from, to netip.Addr, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if cut {
		w.cut[pair{from, to}] = true
	} else {
		delete(w.cut, pair{from, to})
	}
}

func (w *wan) isCut(from, to netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[pair{from, to}]
}

func (w *wan) setLoss(loss float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loss = loss
}

// mtu is an ordinary Ethernet path.
const mtu = 1500

// socket is a UDP socket on the simulated network. Each has a link of its own,
// so that a node can crash alone.
func (w *wan) socket(addr netip.AddrPort) (net.PacketConn, error) {
	a := net.UDPAddrFromAddrPort(addr)
	one := &simnet.Simnet{Router: w}
	link := simnet.LinkSettings{MTU: mtu}
	conn := one.NewEndpoint(a, simnet.NodeBiDiLinkSettings{
		Downlink: link, Uplink: link,
		LatencyFunc: func(p simnet.Packet) time.Duration { return w.delay(addrPort(p.From).Addr(), addrPort(p.To).Addr()) },
	})
	if err := one.Start(); err != nil {
		return nil, err
	}
	w.up(a)
	return &socket{SimConn: conn, end: sync.OnceFunc(func() {
		w.mu.Lock()
		delete(w.hosts, addr)
		w.mu.Unlock()
		_ = conn.Close()
		_ = one.Close()
	})}, nil
}

// socket closes once: a simulated connection panics on the second Close.
type socket struct {
	*simnet.SimConn
	end func()
}

func (s *socket) Close() error { s.end(); return nil }

// addrPort is the address without regard to how many bytes it was written in.
func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// tcp stands for every stream connection of the bubble: app listeners and
// model servers, by host:port, over net.Pipe.
type tcp struct {
	net       *wan
	mu        sync.Mutex
	listeners map[string]*listener // guarded by mu
}

type listener struct {
	addr  string
	tcp   *tcp
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newTCP(w *wan) *tcp { return &tcp{net: w, listeners: map[string]*listener{}} }

func (t *tcp) listen(addr string) *listener {
	l := &listener{addr: addr, tcp: t, conns: make(chan net.Conn), done: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.listeners[addr] = l
	return l
}

// dial connects to a listener, from the given host; an empty host is outside
// the network and is never cut off.
func (t *tcp) dial(ctx context.Context, from netip.Addr, addr string) (net.Conn, error) {
	t.mu.Lock()
	l := t.listeners[addr]
	t.mu.Unlock()
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	if from.IsValid() && (t.net.isCut(from, to.Addr()) || t.net.isCut(to.Addr(), from)) {
		<-ctx.Done() // packets vanish
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
	}
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		if from.IsValid() && t.net.border != nil && crosses(from, to.Addr()) {
			return t.net.border.stream(from, to, ours), nil
		}
		return ours, nil
	case <-l.done:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.tcp.mu.Lock()
		if l.tcp.listeners[l.addr] == l {
			delete(l.tcp.listeners, l.addr)
		}
		l.tcp.mu.Unlock()
		close(l.done)
	})
	return nil
}

func (l *listener) Addr() net.Addr { return tcpAddr(l.addr) }

type tcpAddr string

func (tcpAddr) Network() string  { return "tcp" }
func (a tcpAddr) String() string { return string(a) }
