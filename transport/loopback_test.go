package transport

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// loopback is two nodes of two regions on real sockets, in real time.
func loopback(tb testing.TB) (a, b *testNode) {
	tb.Helper()
	m := &testMesh{t: tb, cas: map[placement.RegionID]*identity.CA{}, bundles: &identity.MapBundles{}}
	start := func(region placement.RegionID) *testNode {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			tb.Fatal(err)
		}
		cfg := m.configOn(region, "n1", c)
		e, err := New(cfg)
		if err != nil {
			tb.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		tb.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				tb.Error(err)
			}
		})
		return &testNode{Endpoint: e, addr: c.LocalAddr().String(), id: cfg.Credential.Current().ID}
	}
	a, b = start("fr"), start("de")
	b.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	b.ServeInfer(func(_ context.Context, s *Stream) {
		body, err := io.ReadAll(s.Body())
		if err != nil {
			return
		}
		_ = s.Answer(Answer{Status: 200, Size: int64(len(body))})
		_, _ = s.Write(body)
		_ = s.Close()
	})
	return a, b
}

func (n *testNode) ask(p Peer, body string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := n.OpenInfer(ctx, p, prompt(), head(), []byte(body))
	if err != nil {
		return "", err
	}
	defer s.Close()
	got, err := io.ReadAll(s)
	return string(got), err
}

func (n *testNode) post(p Peer, body string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequest("POST", "https://peer/", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	res, err := n.Do(ctx, p, summary, r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return string(got), err
}

func TestRealSockets(t *testing.T) {
	a, b := loopback(t)
	for _, size := range []int{1, 1000, 1 << 20} {
		want := strings.Repeat("x", size)
		if got, err := a.ask(b.peer(), want); err != nil || got != want {
			t.Errorf("inference of %d bytes: %d, %v", size, len(got), err)
		}
		if got, err := a.post(b.peer(), want); err != nil || got != want {
			t.Errorf("HTTP/3 of %d bytes: %d, %v", size, len(got), err)
		}
	}
	deadline := time.After(30 * time.Second)
	for {
		if err := a.Gossip().WriteTo([]byte("ping"), netip.MustParseAddrPort(b.addr)); err != nil {
			t.Fatal(err)
		}
		select {
		case p := <-b.Gossip().Packets():
			if string(p.Data) != "ping" {
				t.Errorf("packet %q", p.Data)
			}
			return
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatal("no packet in 30 s")
		}
	}
}

func BenchmarkInfer(b *testing.B) {
	n, peer := loopback(b)
	body := strings.Repeat("x", 256)
	for b.Loop() {
		if _, err := n.ask(peer.peer(), body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkH3(b *testing.B) {
	n, peer := loopback(b)
	body := strings.Repeat("x", 256)
	for b.Loop() {
		if _, err := n.post(peer.peer(), body); err != nil {
			b.Fatal(err)
		}
	}
}
