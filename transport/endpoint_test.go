package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// echoRaft answers every raft stream with what it says.
func echoRaft(n *testNode) {
	go func() {
		for {
			c, err := n.Raft().Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func echo(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("echo %q, %v", got, err)
	}
}

// Paths of 1,280 bytes leave 1,232 for UDP's payload: quic-go's default first
// packet would not pass.
func TestStreamsPassASmallPath(t *testing.T) {
	inBubble(t, 1232, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		echoRaft(b)
		c, err := a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		echo(t, c, strings.Repeat("x", 20000))
		if got := c.(*Conn).PeerID(); got != b.id {
			t.Errorf("peer %s, want %s", got, b.id)
		}
		if c.RemoteAddr().String() != b.addr {
			t.Errorf("remote address %s", c.RemoteAddr())
		}
	})
}

func TestAnyNodeOfTheRegionMayBeMeant(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		echoRaft(b)
		c, err := a.Raft().Dial(ctxFor(t, 5*time.Second), Peer{ID: identity.ID{Region: "fr"}, Addr: b.addr})
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		wrong := Peer{ID: identity.ID{Region: "fr", Node: "n3"}, Addr: b.addr}
		if _, err = a.Raft().Dial(ctxFor(t, 5*time.Second), wrong); identity.ReasonOf(err) != identity.WrongPeer {
			t.Errorf("found n2 where n3 was expected: %v", err)
		}
		if _, err = a.Raft().Dial(ctxFor(t, 5*time.Second), Peer{Addr: b.addr}); err == nil {
			t.Error("a peer without a region was dialed")
		}
	})
}

func TestHomeOnlyClassesTakeNoForeigners(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("de", "n1", "10.0.0.2:7000")
		echoRaft(b)
		if _, err := a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer()); err == nil {
			t.Error("raft was dialed into another region")
		}
		if n := m.wan.packetsFrom(a.addr); n != 0 {
			t.Errorf("%d packets left for another region's raft", n)
		}
		// A dialer without our manners is refused by the other side, and learns
		// it only because it waits for the hello.
		for _, class := range []identity.Class{identity.ClassRaft, identity.ClassGossip} {
			_, err := rudeDial(t, a, b, class)
			if err == nil {
				t.Errorf("%s took a foreign certificate", class)
			}
		}
	})
}

// rudeDial opens a greeted stream past the endpoint's own checks.
func rudeDial(t *testing.T, a, b *testNode, class identity.Class) (*quic.Stream, error) {
	t.Helper()
	ctx := ctxFor(t, 5*time.Second)
	tlsConfig := a.cfg.Verifier.ClientConfig(a.cfg.Credential, class, b.id)
	tlsConfig.VerifyConnection = nil
	c, err := a.quic.Dial(ctx, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(b.addr)), tlsConfig, a.dialConfig(poolKey{class: class}))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = c.CloseWithError(0, "") })
	s, err := c.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	return s, sayHello(ctx, s, 2*time.Second)
}

// The TLS client finishes first: without the answered hello this dial would
// give a connection that the server is about to refuse.
func TestDialFailsWhenTheServerRefuses(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a := m.node("fr", "n1", "10.0.0.1:7000")
		cfg := m.config("fr", "n2", "10.0.0.2:7000")
		cfg.Verifier.RaftPeer = func(identity.ID) bool { return false }
		b := m.run(cfg)
		echoRaft(b)
		_, err := a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer())
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) {
			t.Fatalf("a dial that the server refused gave %v", err)
		}
	})
}

func TestConcurrentDialsShareOneConnection(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		echoRaft(b)
		errs := make(chan error, 20)
		for range cap(errs) {
			go func() {
				c, err := a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer())
				if err == nil {
					err = c.Close()
				}
				errs <- err
			}()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if n := a.Stats().Dials; n != 1 {
			t.Errorf("%d dials for 20 streams", n)
		}
	})
}

// A peer that crashed and came back does not know the pooled connection: with
// its reset key it says so at once, and the stream goes to a fresh one.
func TestStaleConnectionIsReplacedOnce(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a := m.node("fr", "n1", "10.0.0.1:7000")
		cfg := m.config("fr", "n2", "10.0.0.2:7000")
		b := m.run(cfg)
		echoRaft(b)
		c, err := a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer())
		if err != nil {
			t.Fatal(err)
		}
		echo(t, c, "before")
		_ = cfg.Socket.Close() // the crash: no word to anybody
		b.stop()
		again := m.config("fr", "n2", "10.0.0.2:7000")
		b = m.run(again)
		echoRaft(b)
		begin := time.Now()
		if c, err = a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer()); err != nil {
			t.Fatalf("after the restart: %v", err)
		}
		echo(t, c, "after")
		if took := time.Since(begin); took > 500*time.Millisecond {
			t.Errorf("it took %s: the reset key was of no use", took)
		}
		if n := a.Stats().Retries; n != 1 {
			t.Errorf("%d retries, want 1", n)
		}
	})
}

func TestUnreachableIsSaidInTime(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a := m.node("fr", "n1", "10.0.0.1:7000")
		begin := time.Now()
		_, err := a.Raft().Dial(ctxFor(t, time.Minute), Peer{ID: identity.ID{Region: "fr"}, Addr: "10.0.0.9:7000"})
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) || unreachable.Hint() == "" {
			t.Fatalf("got %v", err)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("it took %s", took)
		}
		begin = time.Now()
		if _, err = a.Raft().Dial(ctxFor(t, 100*time.Millisecond), Peer{ID: identity.ID{Region: "fr"}, Addr: "10.0.0.9:7000"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took > 110*time.Millisecond {
			t.Errorf("a caller's own deadline took %s", took)
		}
	})
}

// A stream that its acceptor closed gives its place back even while the dialer
// holds on to it: Close alone would end one direction and keep the place.
func TestClosedStreamsGiveTheirPlaceBack(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a := m.node("fr", "n1", "10.0.0.1:7000")
		cfg := m.config("fr", "n2", "10.0.0.2:7000")
		cfg.StreamsMax = 3
		b := m.run(cfg)
		go func() {
			for {
				c, err := b.Raft().Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
		for i := range 10 {
			if _, err := a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer()); err != nil {
				t.Fatalf("stream %d: %v", i, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
}

func TestDropClosesBothWays(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b, c := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000"), m.node("fr", "n3", "10.0.0.3:7000")
		echoRaft(a)
		echoRaft(b)
		ab, err := a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer())
		if err != nil {
			t.Fatal(err)
		}
		ba, err := b.Raft().Dial(ctxFor(t, 5*time.Second), a.peer())
		if err != nil {
			t.Fatal(err)
		}
		ca, err := c.Raft().Dial(ctxFor(t, 5*time.Second), a.peer())
		if err != nil {
			t.Fatal(err)
		}
		a.Drop(b.id)
		for _, conn := range []net.Conn{ab, ba} {
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("a stream with the dropped node lives on")
			}
		}
		echo(t, ca, "the others stay")
	})
}

func TestConnectionEndsWithItsCertificate(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		echoRaft(b)
		c, err := a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(b.cfg.Credential.Current().Leaf.NotAfter) - 10*time.Second)
		echo(t, c, "still valid")
		time.Sleep(11 * time.Second)
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("a connection outlived its certificate")
		}
		// Renewed, they talk again.
		for _, n := range []*testNode{a, b} {
			if err := n.cfg.Credential.Swap(m.credential("fr", n.id.Node, time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		if c, err = a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer()); err != nil {
			t.Fatal(err)
		}
		echo(t, c, "renewed")
	})
}

func TestOldConnectionsTakeNoNewStreams(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		echoRaft(b)
		dial := func() net.Conn {
			c, err := a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer())
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		old := dial()
		time.Sleep(50 * time.Minute) // of the hour that the certificate lives
		for _, n := range []*testNode{a, b} {
			if err := n.cfg.Credential.Swap(m.credential("fr", n.id.Node, time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		fresh := dial()
		echo(t, old, "runs to its end")
		time.Sleep(15 * time.Minute)
		echo(t, fresh, "on the renewed certificate")
	})
}

func TestGossipPacketsAndGarbage(t *testing.T) {
	inBubble(t, 1232, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		to := netip.MustParseAddrPort(b.addr)
		within(t, time.Second, "the first packet to arrive", func() bool {
			if err := a.Gossip().WriteTo([]byte("ping"), to); err != nil {
				return false
			}
			select {
			case p := <-b.Gossip().Packets():
				return string(p.Data) == "ping" && p.From.String() == a.addr
			case <-time.After(50 * time.Millisecond):
				return false
			}
		})
		if err := a.Gossip().WriteTo(make([]byte, PacketMax+1), to); err == nil {
			t.Error("a packet longer than PacketMax was taken")
		}
		if err := a.Gossip().WriteTo(make([]byte, PacketMax), to); err != nil {
			t.Error(err)
		}
		if p := <-b.Gossip().Packets(); len(p.Data) != PacketMax {
			t.Errorf("%d bytes", len(p.Data))
		}
		// Garbage of every first byte, to the listening socket.
		dest := net.UDPAddrFromAddrPort(to)
		for first := range 256 {
			if first == packetMark {
				continue
			}
			junk := append([]byte{byte(first)}, "garbage garbage garbage garbage"...)
			if _, err := a.quic.WriteTo(junk, dest); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if _, err := a.quic.WriteTo([]byte{packetMark}, dest); err != nil {
			t.Fatal(err)
		}
		within(t, time.Second, "garbage to be counted", func() bool { return b.Stats().Garbage >= 63 })
		if n := len(b.Gossip().Packets()); n != 0 {
			t.Errorf("%d packets of garbage were handed on", n)
		}
		echoRaft(b)
		c, err := a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer())
		if err != nil {
			t.Fatalf("after the garbage: %v", err)
		}
		echo(t, c, "well")
	})
}

func TestSlowReaderLosesPacketsAndCountsThem(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		to := netip.MustParseAddrPort(b.addr)
		within(t, 10*time.Second, "a drop to be counted", func() bool {
			for range 20 {
				_ = a.Gossip().WriteTo([]byte("flood"), to)
			}
			return b.Stats().PacketsDropped > 0
		})
		if n := len(b.Gossip().Packets()); n != packetQueue {
			t.Errorf("%d packets queued, want %d", n, packetQueue)
		}
	})
}

func TestGarbageOnStreamsHarmsNobody(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		echoRaft(b)
		for _, class := range []identity.Class{identity.ClassRaft, identity.ClassGossip, identity.ClassInfer, identity.ClassHTTP} {
			ctx := ctxFor(t, 5*time.Second)
			c, err := a.quic.Dial(ctx, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(b.addr)),
				a.cfg.Verifier.ClientConfig(a.cfg.Credential, class, b.id), a.listenConfig())
			if err != nil {
				t.Fatal(err)
			}
			s, err := c.OpenStreamSync(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = s.Write([]byte(strings.Repeat("\xff garbage", 1000)))
			_ = s.SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, err := s.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("%s answered garbage", class)
			}
			_ = c.CloseWithError(0, "")
		}
		c, err := a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer())
		if err != nil {
			t.Fatal(err)
		}
		echo(t, c, "well")
	})
}

// sessions counts the tickets that a client is given.
type sessions struct{ tickets int }

func (s *sessions) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (s *sessions) Put(string, *tls.ClientSessionState)        { s.tickets++ }

// A resumed session would outlive a withdrawn certificate, and early data can be
// replayed: neither is on offer.
func TestNoTicketsNoEarlyData(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		cache := &sessions{}
		for _, class := range classes {
			tlsConfig := a.cfg.Verifier.ClientConfig(a.cfg.Credential, class, b.id)
			tlsConfig.ClientSessionCache = cache
			c, err := a.quic.Dial(ctxFor(t, 5*time.Second), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(b.addr)), tlsConfig, a.dialConfig(poolKey{class: class}))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if c.ConnectionState().Used0RTT || c.ConnectionState().TLS.DidResume {
				t.Errorf("%s: early data or a resumed session", class)
			}
			_ = c.CloseWithError(0, "")
		}
		if cache.tickets != 0 {
			t.Errorf("%d tickets were given out", cache.tickets)
		}
		if b.listenConfig().Allow0RTT {
			t.Error("early data is allowed")
		}
	})
}

// A bubble whose goroutines outlive Run fails by itself: this one has every
// kind of use open when both ends stop.
func TestRunLeavesNothingBehind(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		echoRaft(b)
		c, err := a.Raft().Dial(ctxFor(t, 5*time.Second), b.peer())
		if err != nil {
			t.Fatal(err)
		}
		b.stop()
		var closed *quic.ApplicationError
		if _, err = c.Read(make([]byte, 1)); !errors.As(err, &closed) || !closed.Remote {
			t.Errorf("the peer was left without a word: %v", err)
		}
		a.stop()
		if _, err := a.Raft().Dial(context.Background(), b.peer()); !errors.Is(err, ErrClosed) {
			t.Errorf("after Run: %v", err)
		}
		if _, err := a.Raft().Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Run: %v", err)
		}
		if err := a.Gossip().WriteTo([]byte("x"), netip.MustParseAddrPort(b.addr)); err == nil {
			t.Error("a packet was taken after Run")
		}
		if err := a.Run(context.Background()); !errors.Is(err, ErrClosed) {
			t.Errorf("a second Run: %v", err)
		}
	})
}

func TestValidateReportsAll(t *testing.T) {
	_, err := New(Config{})
	for _, want := range []string{"Socket", "Credential", "Verifier", "Home", "ResetKey", "Log", "IdleTimeout", "StreamsMax"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not reported: %v", want, err)
		}
	}
}
