package gateway

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3/option"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/driver/inference/canary"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// wires is a mesh over real sockets: one CA per region, one endpoint per node.
type wires struct {
	t       *testing.T
	cas     map[placement.RegionID]*identity.CA
	bundles *identity.MapBundles
}

func newWires(t *testing.T, books ...*book) *wires {
	w := &wires{t: t, cas: map[placement.RegionID]*identity.CA{}, bundles: &identity.MapBundles{}}
	for _, b := range books {
		ca, err := identity.NewCA(b.id, "mesh.test", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		w.cas[b.id] = ca
		w.bundles.Set(ca.Bundle())
	}
	return w
}

// guard permits what the ledger's facts of the destination permit.
type guard struct{ *book }

func (g guard) PermitEgress(_ context.Context, _, to placement.RegionID, cargo transport.Cargo) error {
	v := g.View()
	return residency.Check(cargo.Policy, v.Region(to).Facts.Site(to, ""), v.Pack(), residency.Options{On: residency.DateOf(today)})
}

// endpoint starts the endpoint of a node on loopback.
func (w *wires) endpoint(b *book, name string) *transport.Endpoint {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	key, err := identity.NewKey()
	must(err)
	csr, err := identity.NewCSR(key)
	must(err)
	chain, err := w.cas[b.id].IssueNode(csr, placement.NodeID(name), time.Now(), time.Hour)
	must(err)
	cred, err := identity.NewCredential(key, chain)
	must(err)
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(err)
	cfg := transport.DefaultConfig()
	cfg.Socket, cfg.Credential, cfg.Home, cfg.Guard, cfg.Log = socket, identity.NewSource(cred), b.id, guard{b}, slog.New(slog.DiscardHandler)
	cfg.Verifier = &identity.Verifier{Home: b.id, Mesh: "mesh.test", Bundles: w.bundles}
	cfg.ResetKey = sha256.Sum256([]byte(name))
	e, err := transport.New(cfg)
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	b.do(state.ReportInventory{Node: placement.NodeID(name), QUIC: socket.LocalAddr().String(), Inventory: placement.Inventory{
		Version: 2, CPU: 64000, Memory: 256 * placement.GiB, Drivers: []string{"inference"}, States: 1, Reported: today,
	}})
	return e
}

// overQUIC is as abroad, with real endpoints between the nodes.
func overQUIC(t *testing.T, h func(http.ResponseWriter, *http.Request)) (fr *node, s *server) {
	fra, ber := newBook(t, "fra-1", "FR", 1), newBook(t, "ber-1", "DE", 2)
	federate(fra, ber)
	s = newServer(t, h)
	ber.deploy("default", "DE", "m", s.url, "n2")
	w, mesh := newWires(t, fra, ber), newNet(t, fra, ber)
	on := func(b *book, name string) (*node, *transport.Endpoint) {
		e := w.endpoint(b, name)
		n := mesh.start(b, name, func(c *Config) { c.Mesh = Over(e) })
		e.ServeInfer(n.ServeInfer)
		return n, e
	}
	_, door := on(ber, "n1")
	on(ber, "n2")
	fr, _ = on(fra, "n1")
	fr.peers.learn(ber, door.Addr().String())
	return fr, s
}

func TestOverQUIC(t *testing.T) {
	fr, s := overQUIC(t, talk("berlin"))
	c := fr.sdk("sk-eu")
	for range 3 {
		st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
		var said string
		for st.Next() {
			said += st.Current().Choices[0].Delta.Content
		}
		if st.Err() != nil || said != "berlin says hello" {
			t.Fatalf("%q, %v", said, st.Err())
		}
	}
	var raw *http.Response
	got, err := c.Chat.Completions.New(within(t), chat("m"), option.WithResponseInto(&raw))
	if err != nil || got.Choices[0].Message.Content != "berlin" || raw.Header.Get("X-Sovmesh-Region") != "ber-1" {
		t.Errorf("%+v, %v", got, err)
	}
	long := chat("m")
	long.Messages[0].OfUser.Content.OfString.Value = strings.Repeat("a long prompt ", 100_000)
	if _, err := c.Chat.Completions.New(within(t), long); err != nil {
		t.Errorf("a prompt of 1.4 MB: %v", err)
	}
	if got := s.requests(); len(got[len(got)-1].body) < 1_400_000 {
		t.Errorf("%d bytes of it arrived", len(got[len(got)-1].body))
	}
	if _, err := c.Chat.Completions.New(within(t), chat("none")); code(err) != "model_not_found" {
		t.Errorf("an unknown model: %v", err)
	}
	us := fr.sdk("sk-any", tagged("FR,US"))
	if _, err := us.Chat.Completions.New(within(t), chat("m")); code(err) != "residency_not_permitted" {
		t.Errorf("outside of the tag: %v", err)
	}
}

func TestCancelOverQUIC(t *testing.T) {
	fr, s := overQUIC(t, func(w http.ResponseWriter, r *http.Request) {
		stream(chunkOf("one"))(w, r)
		<-r.Context().Done()
	})
	c := fr.sdk("sk-eu")
	for range 3 {
		st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
		if !st.Next() {
			t.Fatal(st.Err())
		}
		cancelled(t, s, func() { _ = st.Close() })
	}
}

func TestACutOverQUIC(t *testing.T) {
	read := make(chan struct{})
	fr, _ := overQUIC(t, func(w http.ResponseWriter, r *http.Request) {
		stream(chunkOf("one"))(w, r)
		<-read
		panic(http.ErrAbortHandler)
	})
	c := fr.sdk("sk-eu")
	st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
	var said string
	for st.Next() {
		said += st.Current().Choices[0].Delta.Content
		close(read)
	}
	if st.Err() == nil || !strings.Contains(st.Err().Error(), "upstream_cut") || said != "one" {
		t.Errorf("%q, %v", said, st.Err())
	}
}

// TestACutAtOnceOverQUIC: a reset may overtake what was written before it. Then
// the client has a plain error, and never an empty answer.
func TestACutAtOnceOverQUIC(t *testing.T) {
	fr, _ := overQUIC(t, func(w http.ResponseWriter, r *http.Request) {
		stream(chunkOf("one"))(w, r)
		panic(http.ErrAbortHandler)
	})
	c := fr.sdk("sk-eu")
	st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
	for st.Next() {
	}
	if st.Err() == nil || !strings.Contains(st.Err().Error(), "upstream_cut") && status(st.Err()) != 502 {
		t.Errorf("got %v", st.Err())
	}
}

// TestTheCanaryAnswers is the path that demo and probes take.
func TestTheCanaryAnswers(t *testing.T) {
	fr, _ := overQUIC(t, canary.New(canary.Config{Models: []string{"m"}}).ServeHTTP)
	c := fr.sdk("sk-eu")
	whole, err := c.Chat.Completions.New(within(t), chat("m"))
	if err != nil || whole.Choices[0].Message.Content == "" || whole.Usage.CompletionTokens == 0 {
		t.Fatalf("%+v, %v", whole, err)
	}
	st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
	var said string
	for st.Next() {
		said += st.Current().Choices[0].Delta.Content
	}
	if st.Err() != nil || said != whole.Choices[0].Message.Content {
		t.Errorf("streamed %q, %v; whole %q", said, st.Err(), whole.Choices[0].Message.Content)
	}
	eventually(t, "both are counted, in tokens", func() bool {
		got := fr.Snapshot()
		return len(got) == 1 && got[0].Answered == 2 && got[0].Uncounted == 0 && got[0].CompletionTokens == 2*whole.Usage.CompletionTokens
	})
}
