package mesh

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/sovmesh/sovmesh/placement"
)

// wiretap stands on every border of a mesh. It has the keys of all nodes, stolen
// from their disks, and between any two of different regions it plays each to
// the other: whatever they say passes through it in the clear, stream by stream,
// and is kept. Nodes know nothing of it.
type wiretap struct {
	m      *Mesh
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	doors map[netip.AddrPort]*tapDoor // guarded by mu
	said  []*utterance                // guarded by mu; in order of their beginning
}

// utterance is all that one side said on one stream.
type utterance struct {
	from, to placement.RegionID
	alpn     string // of the connection; "tcp" for the app listener
	// asks tells whoever opened the stream from whoever answers on it; reply is
	// the other direction, nil where there is none.
	asks  bool
	reply *utterance
	data  []byte // guarded by wiretap.mu
}

// tapDoor plays one machine towards all other regions: its socket has the
// machine's address, and what it sends goes straight to whom it is for.
type tapDoor struct {
	tap  *wiretap
	addr netip.AddrPort
	in   simnet.PacketReceiver
	quic *quic.Transport
}

// tapped is a mesh, in which nothing has started yet, and the tap on its borders.
func tapped(t *testing.T) (*Mesh, *wiretap) {
	w := &wiretap{doors: map[netip.AddrPort]*tapDoor{}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	t.Cleanup(w.stop) // after the nodes have said goodbye through it
	w.m = newMesh(t)
	w.m.wan.border = w
	return w.m, w
}

func (w *wiretap) stop() {
	w.cancel()
	w.mu.Lock()
	doors := w.doors
	w.doors = nil
	w.mu.Unlock()
	for _, d := range doors {
		_ = d.quic.Close()
		_ = d.quic.Conn.Close()
	}
	w.wg.Wait()
}

// SendPacket makes the tap the router of its doors: no border is between a door
// and the machine it speaks to.
func (w *wiretap) SendPacket(p simnet.Packet) error {
	w.m.wan.mu.Lock()
	host := w.m.wan.hosts[addrPort(p.To)]
	w.m.wan.mu.Unlock()
	if host != nil {
		host.RecvPacket(p)
	}
	return nil
}

// tapRouter lets a door's link make itself known to that door.
type tapRouter struct {
	*wiretap
	door *tapDoor
}

func (r tapRouter) AddNode(_ net.Addr, in simnet.PacketReceiver) { r.door.in = in }

func (w *wiretap) packet(p simnet.Packet) {
	if len(p.Data) == 0 || p.Data[0]&0x40 == 0 { // the fixed bit of RFC 9000, section 17: gossip has it clear
		from, to := addrPort(p.From), addrPort(p.To)
		w.keep(w.begin(from, to, "gossip packet"), p.Data)
	}
	if d := w.door(addrPort(p.To)); d != nil {
		d.in.RecvPacket(p)
	}
}

// door is the machine's stand-in, made when somebody first knocks.
func (w *wiretap) door(addr netip.AddrPort) *tapDoor {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.doors == nil {
		return nil
	}
	if d := w.doors[addr]; d != nil {
		return d
	}
	d := &tapDoor{tap: w, addr: addr}
	one := &simnet.Simnet{Router: tapRouter{w, d}}
	link := simnet.LinkSettings{MTU: mtu}
	conn := one.NewEndpoint(net.UDPAddrFromAddrPort(addr), simnet.NodeBiDiLinkSettings{
		Downlink: link, Uplink: link, LatencyFunc: func(simnet.Packet) time.Duration { return time.Millisecond },
	})
	if err := one.Start(); err != nil {
		panic(err)
	}
	d.quic = &quic.Transport{Conn: &socket{SimConn: conn, end: sync.OnceFunc(func() { _ = conn.Close(); _ = one.Close() })}}
	w.doors[addr] = d
	ln, err := d.quic.Listen(&tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h3", "sovmesh-infer/1", "sovmesh-raft/1", "sovmesh-gossip/1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return w.certificate(addr, "node.pem") },
	}, tapConfig())
	if err != nil {
		panic(err)
	}
	w.wg.Go(func() {
		for {
			c, err := ln.Accept(w.ctx)
			if err != nil {
				return
			}
			w.wg.Go(func() { d.relay(c) })
		}
	})
	return d
}

func tapConfig() *quic.Config {
	return &quic.Config{
		InitialPacketSize: 1200, MaxIncomingStreams: 1 << 10, MaxIncomingUniStreams: 64, KeepAlivePeriod: 5 * time.Second,
		EnableStreamResetPartialDelivery: true,
	}
}

// certificate is what the machine at the address shows, with its key.
func (w *wiretap) certificate(addr netip.AddrPort, file string) (*tls.Certificate, error) {
	for _, r := range w.m.regions {
		for _, h := range r.hosts {
			if h.addr != addr.Addr() {
				continue
			}
			data, err := os.ReadFile(filepath.Join(h.dir, file))
			if err != nil {
				return nil, err
			}
			var chain, key []byte
			for b, rest := pem.Decode(data); b != nil; b, rest = pem.Decode(rest) {
				if b.Type == "CERTIFICATE" {
					chain = append(chain, pem.EncodeToMemory(b)...)
				} else {
					key = pem.EncodeToMemory(b)
				}
			}
			cert, err := tls.X509KeyPair(chain, key)
			return &cert, err
		}
	}
	return nil, errors.New("no such machine")
}

// relay goes on to the machine that this door plays, as whoever came.
func (d *tapDoor) relay(in *quic.Conn) {
	w := d.tap
	from := addrPort(in.RemoteAddr())
	alpn := in.ConnectionState().TLS.NegotiatedProtocol
	back := w.door(from)
	if back == nil {
		return
	}
	out, err := back.quic.Dial(w.ctx, net.UDPAddrFromAddrPort(d.addr), &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{alpn}, // an attacker believes everybody
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return w.certificate(from, "node.pem") },
	}, tapConfig())
	if err != nil {
		_ = in.CloseWithError(closing(err))
		return
	}
	w.wg.Go(func() { w.carry(in, out, from, d.addr, alpn) })
	w.carry(out, in, d.addr, from, alpn)
}

// carry passes on the streams that one side opens, and its end.
func (w *wiretap) carry(a, b *quic.Conn, from, to netip.AddrPort, alpn string) {
	w.wg.Go(func() {
		for {
			s, err := a.AcceptUniStream(context.Background())
			if err != nil {
				return
			}
			if o, err := b.OpenUniStreamSync(w.ctx); err == nil {
				u := w.begin(from, to, alpn)
				w.wg.Go(func() { w.pass(o, s, u) })
			}
		}
	})
	for {
		s, err := a.AcceptStream(context.Background())
		if err != nil {
			_ = b.CloseWithError(w.closed(from, to, alpn, err))
			return
		}
		o, err := b.OpenStreamSync(w.ctx)
		if err != nil {
			s.CancelRead(1)
			s.CancelWrite(1)
			continue
		}
		ask, answer := w.begin(from, to, alpn), w.begin(to, from, alpn)
		ask.asks, ask.reply, answer.reply = true, answer, ask
		w.wg.Go(func() { w.pass(o, s, ask) })
		w.wg.Go(func() { w.pass(s, o, answer) })
	}
}

type sending interface {
	io.WriteCloser
	CancelWrite(quic.StreamErrorCode)
	Context() context.Context
}

type receiving interface {
	io.Reader
	CancelRead(quic.StreamErrorCode)
}

// pass carries the bytes of one direction, and how it ended.
func (w *wiretap) pass(to sending, from receiving, u *utterance) {
	stopped := context.AfterFunc(to.Context(), func() { from.CancelRead(streamCode(context.Cause(to.Context()))) })
	defer stopped()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		w.keep(u, buf[:n])
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				from.CancelRead(streamCode(err))
				return
			}
		}
		if err == io.EOF {
			_ = to.Close()
			return
		}
		if err != nil {
			to.CancelWrite(streamCode(err))
			return
		}
	}
}

func streamCode(err error) quic.StreamErrorCode {
	var s *quic.StreamError
	if errors.As(err, &s) {
		return s.ErrorCode
	}
	return 1
}

func closing(err error) (quic.ApplicationErrorCode, string) {
	var a *quic.ApplicationError
	if errors.As(err, &a) {
		return a.ErrorCode, a.ErrorMessage
	}
	return 0, ""
}

// closed keeps the words with which a connection was ended.
func (w *wiretap) closed(from, to netip.AddrPort, alpn string, err error) (quic.ApplicationErrorCode, string) {
	code, words := closing(err)
	if words != "" {
		w.keep(w.begin(from, to, alpn+" close"), []byte(words))
	}
	return code, words
}

func (w *wiretap) begin(from, to netip.AddrPort, alpn string) *utterance {
	u := &utterance{from: w.regionOf(from.Addr()), to: w.regionOf(to.Addr()), alpn: alpn}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, u)
	return u
}

func (w *wiretap) keep(u *utterance, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u.data = append(u.data, data...)
}

func (w *wiretap) regionOf(a netip.Addr) placement.RegionID {
	return w.m.regions[a.As4()[2]-1].spec.ID
}

// stream stands in a TCP connection between regions, as the listener towards the
// dialer: both speak TLS with it.
func (w *wiretap) stream(from netip.Addr, to netip.AddrPort, dialed net.Conn) net.Conn {
	ours, theirs := net.Pipe()
	source := netip.AddrPortFrom(from, 0)
	ask, answer := w.begin(source, to, "tcp"), w.begin(to, source, "tcp")
	ask.asks, ask.reply, answer.reply = true, answer, ask
	front := tls.Server(theirs, &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return w.certificate(to, "serving.pem") }})
	behind := tls.Client(dialed, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}) // an attacker believes everybody
	copyOf := func(to, from net.Conn, u *utterance) {
		defer to.Close()
		defer from.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			w.keep(u, buf[:n])
			if err != nil {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	w.wg.Go(func() { copyOf(behind, front, ask) })
	w.wg.Go(func() { copyOf(front, behind, answer) })
	return ours
}
