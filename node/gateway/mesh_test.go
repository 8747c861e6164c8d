package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
)

// abroad is a client's node in FR and a region DE of two nodes, whose second
// one runs "m"; its front door is the first.
func abroad(t *testing.T, h func(http.ResponseWriter, *http.Request)) (fr *node, s *server, mesh *meshNet, fra, ber *book) {
	fra, ber = newBook(t, "fra-1", "FR", 1), newBook(t, "ber-1", "DE", 2)
	federate(fra, ber)
	s = newServer(t, h)
	ber.deploy("default", "DE", "m", s.url, "n2")
	mesh = newNet(t, fra, ber)
	mesh.start(ber, "n1", nil)
	mesh.start(ber, "n2", nil)
	fr = mesh.start(fra, "n1", nil)
	fr.peers.learn(ber, "ber-1-n1:7443")
	return fr, s, mesh, fra, ber
}

func TestTokensStreamFromAnotherRegion(t *testing.T) {
	fr, _, mesh, _, _ := abroad(t, talk("berlin"))
	c := fr.sdk("sk-eu")
	var raw *http.Response
	st := c.Chat.Completions.NewStreaming(within(t), chat("m"), option.WithResponseInto(&raw))
	var said string
	for st.Next() {
		said += st.Current().Choices[0].Delta.Content
	}
	if st.Err() != nil || said != "berlin says hello" {
		t.Fatalf("%q, %v", said, st.Err())
	}
	h := raw.Header
	if h.Get("X-Sovmesh-Region") != "ber-1" || h.Get("X-Sovmesh-Hops") != "1" || h.Get("X-Sovmesh-Node") != "" {
		t.Errorf("headers %v: a node of another region has no name here", h)
	}
	if !slices.Equal(mesh.crossed, []string{"fra-1>ber-1"}) {
		t.Errorf("borders crossed: %v", mesh.crossed)
	}
	if page, err := c.Models.List(within(t)); err != nil || len(page.Data) != 1 || page.Data[0].ID != "m" {
		t.Errorf("models %+v, %v", page, err)
	}
	eventually(t, "it is counted", func() bool {
		got := fr.Snapshot()
		return len(got) == 1 && got[0].Answered == 1 && got[0].CompletionTokens == 3
	})
}

func TestCancelCrossesTwoHops(t *testing.T) {
	fr, s, _, _, _ := abroad(t, func(w http.ResponseWriter, r *http.Request) {
		stream(chunkOf("one"))(w, r)
		<-r.Context().Done()
	})
	c := fr.sdk("sk-eu")
	st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
	if !st.Next() {
		t.Fatal(st.Err())
	}
	cancelled(t, s, func() { _ = st.Close() })
}

func TestACutCrossesTwoHops(t *testing.T) {
	for name, h := range map[string]func(http.ResponseWriter, *http.Request){
		"broken": func(w http.ResponseWriter, r *http.Request) {
			stream(chunkOf("one"))(w, r)
			panic(http.ErrAbortHandler)
		},
		"without [DONE]": stream(chunkOf("one")),
	} {
		t.Run(name, func(t *testing.T) {
			fr, _, _, _, _ := abroad(t, h)
			c := fr.sdk("sk-eu")
			st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
			for st.Next() {
			}
			if st.Err() == nil || !strings.Contains(st.Err().Error(), "upstream_cut") {
				t.Errorf("the client got %v", st.Err())
			}
		})
	}
}

func TestADeadDoorIsPassedBy(t *testing.T) {
	fr, _, mesh, _, ber := abroad(t, talk("berlin"))
	fr.peers.learn(ber, "ber-1-n1:7443", "ber-1-n2:7443")
	mesh.cut("ber-1-n1:7443", true)
	c := fr.sdk("sk-eu")
	if _, err := c.Chat.Completions.New(within(t), chat("m")); err != nil {
		t.Errorf("one of two doors is dead: %v", err)
	}
	mesh.cut("ber-1-n2:7443", true)
	if _, err := c.Chat.Completions.New(within(t), chat("m")); code(err) != "region_unknown" {
		t.Errorf("both are dead: %v", err)
	}
}

func TestARegionLostWhileWaitingIsUnknown(t *testing.T) {
	began := make(chan struct{})
	fr, s, _, _, _ := abroad(t, func(w http.ResponseWriter, r *http.Request) { close(began); <-r.Context().Done() })
	c := fr.sdk("sk-eu")
	go func() {
		<-began
		fr.peers.set("ber-1", false)
	}()
	start := time.Now()
	if _, err := c.Chat.Completions.New(within(t), chat("m")); code(err) != "region_unknown" {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the answer took %v", took)
	}
	<-s.left
}

func code(err error) string {
	var e *openai.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// TestPoliciesOnlyNarrow runs one request under every combination: it is
// answered only where all layers permit, and otherwise nowhere.
func TestPoliciesOnlyNarrow(t *testing.T) {
	fra, ber, iad := newBook(t, "fra-1", "FR", 1), newBook(t, "ber-1", "DE", 1), newBook(t, "iad-1", "US", 1)
	federate(fra, ber, iad)
	mesh := newNet(t, fra, ber, iad)
	servers := map[string]*server{}
	for _, b := range []*book{fra, ber, iad} {
		s := newServer(t, talk(string(b.id)))
		servers[string(b.id)] = s
		country := b.View().Self().Facts.Country
		b.deploy("default", "ANY", "everywhere", s.url, "n1")
		b.deploy("default", country, "in-"+country, s.url, "n1")
	}
	fra.deploy("default", "FR,!DE", "home", servers["fra-1"].url, "n1")
	fr := mesh.start(fra, "n1", nil)
	mesh.start(ber, "n1", nil)
	mesh.start(iad, "n1", nil)
	fr.peers.learn(ber, "ber-1-n1:7443")
	fr.peers.learn(iad, "iad-1-n1:7443")
	rule := func(tag string) *string { return &tag }
	tests := []struct {
		name, key, tenant, header, export, model string
		want                                     string // region, or code
	}{
		{"key alone, near", "sk-eu", "", "", "", "everywhere", "fra-1"},
		{"key alone, far", "sk-eu", "", "", "", "in-DE", "ber-1"},
		{"the key keeps it out of the US", "sk-eu", "", "", "", "in-US", "residency_not_permitted"},
		{"a header cannot widen the key", "sk-eu", "", "EEA,US", "", "in-US", "residency_not_permitted"},
		{"a key for ANY goes there", "sk-any", "", "", "", "in-US", "iad-1"},
		{"a header narrows ANY", "sk-any", "", "EU", "", "in-US", "residency_not_permitted"},
		{"the header alone", "sk-plain", "", "US,FR", "", "in-US", "iad-1"},
		{"the tenant narrows the key", "sk-eu", "FR", "", "", "in-DE", "residency_not_permitted"},
		{"the tenant is enough", "sk-plain", "FR", "", "", "home", "fra-1"},
		{"the tenant narrows the header", "sk-plain", "FR", "FR,US", "", "in-US", "residency_not_permitted"},
		{"header and tenant exclude each other", "sk-plain", "FR", "US", "", "in-US", "residency_not_permitted"},
		{"an export rule keeps prompts at home", "sk-any", "", "", "FR,DE", "in-US", "residency_not_permitted"},
		{"and lets others go", "sk-any", "", "", "FR,DE", "in-DE", "ber-1"},
		{"the deployment's own tag binds", "sk-any", "", "ANY", "", "home", "fra-1"},
		{"outside of the header", "sk-any", "", "DE", "", "everywhere", "residency.misdirected"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fra.do(state.SetTenant{Tenant: state.Tenant{ID: "default", Residency: tt.tenant}})
			fra.do(state.SetRegionPolicy{Export: rule(tt.export)})
			var opts []option.RequestOption
			if tt.header != "" {
				opts = append(opts, tagged(tt.header))
			}
			before := prompts(servers)
			c := fr.sdk(tt.key, opts...)
			got, err := c.Chat.Completions.New(within(t), chat(tt.model))
			if strings.Contains(tt.want, "-1") {
				if err != nil || got.Choices[0].Message.Content != tt.want {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if code(err) != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if prompts(servers) != before {
				t.Error("a refused prompt reached a model server")
			}
		})
	}
}

func prompts(servers map[string]*server) (n int) {
	for _, s := range servers {
		n += len(s.requests())
	}
	return n
}

// TestTheExecutingNodeJudgesAgain sends streams as a broken or hostile gateway
// would: the node that executes relies on nothing that the sender says.
func TestTheExecutingNodeJudgesAgain(t *testing.T) {
	_, s, mesh, fra, ber := abroad(t, talk("berlin"))
	ber.deploy("acme", "DE", "private", s.url, "n2")
	stopped := ber.deploy("default", "DE", "stopped", s.url, "n2")
	ber.do(state.StopJob{Job: stopped})
	pending := region("iad-1", "US")
	pending.Bundle, pending.Fingerprint = []byte(`{"keys":[]}`), "fp"
	ber.do(state.InviteRegion{Region: "iad-1", Hash: hash("iad"), Expires: today.Add(time.Hour)})
	ber.do(state.PutPeer{Region: pending, InviteHash: hash("iad")})
	// A pack under which Germany is not in the Union: Paris may decide by it.
	tables := residency.Embedded().Tables()
	for name, table := range tables {
		tables[name] = bytes.Replace(table, []byte("\nEU,DE,1958-01-01,,"), []byte("\nEU,DE,1958-01-01,2020-01-01,"), 1)
	}
	theirs := ber.do(state.ImportLawPack{Tables: tables}).ID
	good := transport.Head{
		RequestID: "r1", Tenant: "fra-1/default", Tag: "EU", LawPack: ber.View().Pack().Hash(), Model: "m",
		Method: "POST", Path: "/v1/chat/completions", ContentType: "application/json", Hops: 1,
	}
	home, foreign := sender{"ber-1", "n1"}, sender{"fra-1", "n1"}
	body := `{"model":"m","messages":[]}`
	tests := []struct {
		name   string
		door   string
		from   sender
		change func(*transport.Head)
		body   string
		want   string // code; empty: answered
	}{
		{"as it should be", "n1", foreign, nil, body, ""},
		{"from a node of the region", "n2", home, func(h *transport.Head) { h.Tenant = "default" }, body, ""},
		{"outside of the tag", "n1", foreign, func(h *transport.Head) { h.Tag = "FR" }, body, "residency_not_permitted"},
		{"outside of the tag, at the replica itself", "n2", foreign, func(h *transport.Head) { h.Tag = "FR" }, body, "residency_not_permitted"},
		{"outside of one layer", "n1", foreign, func(h *transport.Head) { h.Tag = "EU & FR" }, body, "residency_not_permitted"},
		{"through a region outside of the path", "n1", foreign, func(h *transport.Head) { h.Tag = "DE" }, body, "residency_not_permitted"},
		{"a tag that cannot be read", "n1", foreign, func(h *transport.Head) { h.Tag = "Europe" }, body, "tag.syntax"},
		{"a region that is no peer", "n1", sender{"sha-1", "n1"}, func(h *transport.Head) { h.Tenant = "sha-1/default" }, body, "peer_not_active"},
		{"a peer that nobody approved", "n1", sender{"iad-1", "n1"}, func(h *transport.Head) { h.Tenant, h.Tag = "iad-1/default", "ANY" }, body, "peer_not_active"},
		{"for a tenant of this region", "n1", foreign, func(h *transport.Head) { h.Tenant = "acme" }, body, "tenant_not_yours"},
		{"for a tenant of a third", "n1", foreign, func(h *transport.Head) { h.Tenant = "iad-1/default" }, body, "tenant_not_yours"},
		{"a tenant's own model", "n1", foreign, func(h *transport.Head) { h.Model = "private" }, `{"model":"private"}`, "model_not_found"},
		{"a pack that is not held", "n1", foreign, func(h *transport.Head) { h.LawPack = "sha256:00" }, body, "law.not-held"},
		{"forbidden by the sender's pack", "n1", foreign, func(h *transport.Head) { h.LawPack = theirs }, body, "residency_not_permitted"},
		{"a claim that is too weak", "n1", foreign, func(h *transport.Head) {
			h.Tag = "json:eyJhc3N1cmFuY2UiOnsibG9jYXRpb24iOiJhdHRlc3RlZCJ9LCJyZXNpZGVuY3kiOnsiYWxsb3ciOlsiRVUiXX19"
		}, body, "claim.weak"},
		{"another path", "n1", foreign, func(h *transport.Head) { h.Path = "/v1/files" }, body, "unknown_url"},
		{"another method", "n1", foreign, func(h *transport.Head) { h.Method = "GET" }, body, "unknown_url"},
		{"another model in the body", "n1", foreign, nil, `{"model":"private"}`, "invalid_body"},
		{"two models in the body", "n1", foreign, nil, `{"model":"m","model":"private"}`, "invalid_body"},
		{"a stopped task", "n1", foreign, func(h *transport.Head) { h.Model = "stopped" }, `{"model":"stopped"}`, "model_not_found"},
		{"a second hop within the region", "n1", home, func(h *transport.Head) { h.Tenant = "default" }, body, "no_capacity_in_region"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			head := good
			if tt.change != nil {
				tt.change(&head)
			}
			before := len(s.requests())
			h, err := mesh.raw(ber, tt.door, tt.from, head, tt.body)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			answer, err := io.ReadAll(h)
			if h.Head().Code != tt.want || err != nil {
				t.Fatalf("code %q (%s), %v; want %q", h.Head().Code, h.Head().Message, err, tt.want)
			}
			if tt.want == "" && (!bytes.Contains(answer, []byte("berlin")) || h.Head().Region != "ber-1") {
				t.Errorf("answer %s of %+v", answer, h.Head())
			}
			if tt.want != "" && len(s.requests()) != before {
				t.Error("a refused prompt reached the model server")
			}
		})
	}
	t.Run("the import rule", func(t *testing.T) {
		closed := "FR"
		ber.do(state.SetRegionPolicy{Import: &closed})
		h, err := mesh.raw(ber, "n1", foreign, good, body)
		if err != nil || h.Head().Code != "residency_not_permitted" {
			t.Errorf("%+v, %v", h.Head(), err)
		}
	})
	_ = fra
}

// raw sends a stream with a head of the test's choice.
func (n *meshNet) raw(to *book, door string, from sender, head transport.Head, body string) (Hop, error) {
	p := transport.Peer{Addr: string(to.id) + "-" + door + ":7443"}
	p.ID.Region = to.id
	// Cargo that any guard lets through: the receiver alone is tested here.
	tag, _, err := residency.Parse("ANY", residency.Embedded())
	if err != nil {
		return nil, err
	}
	cargo := transport.Cargo{Kind: transport.CargoInference, Policy: residency.NewPolicy(residency.Layer{Tag: tag})}
	return asking{side{n, from}}.OpenInfer(n.t.Context(), p, cargo, head, []byte(body))
}

// TestNothingRunsWithoutACommittedPlacement: routing may lag behind the ledger,
// execution may not.
func TestNothingRunsWithoutACommittedPlacement(t *testing.T) {
	n, s, b := alone(t, talk("paris"), nil)
	job := b.View().Jobs("", 1, nil)[0]
	n.catalog.of(b.View())
	n.catalog.mu.Lock()
	n.catalog.next = time.Now().Add(time.Hour) // as if it had taken long to build
	n.catalog.mu.Unlock()
	b.report(job.ID.Task(0, 1), "n1", placement.TaskStopped)
	c := n.sdk("sk-eu")
	if _, err := c.Chat.Completions.New(within(t), chat("m")); code(err) != "no_capacity_in_region" {
		t.Errorf("at the node itself: %v", err)
	}
	mesh := newNet(t, b)
	mesh.gateways["fra-1-n1:7443"] = n.Gateway
	head := transport.Head{RequestID: "r1", Tenant: "default", Tag: "EU", LawPack: b.View().Pack().Hash(), Model: "m", Method: "POST", Path: "/v1/chat/completions", Hops: 1}
	h, err := mesh.raw(b, "n1", sender{"fra-1", "n2"}, head, `{"model":"m"}`)
	if err != nil || h.Head().Code != "no_capacity_in_region" {
		t.Errorf("over the mesh: %+v, %v", h, err)
	}
	if len(s.requests()) != 0 {
		t.Error("the model server was asked")
	}
}

func TestLeastBusyOfTheNearest(t *testing.T) {
	var f flights
	list := []target{{key: "far", rank: rankForeign}, {key: "a", rank: rankRegion}, {key: "b", rank: rankRegion}}
	var got []string
	var done []func()
	for range 4 {
		i, d := f.take(list)
		got, done = append(got, list[i].key), append(done, d)
	}
	if !slices.Equal(got, []string{"a", "b", "a", "b"}) {
		t.Errorf("chosen %v", got)
	}
	done[0]()
	done[2]()
	if i, _ := f.take(list); list[i].key != "a" {
		t.Errorf("the idle one is not chosen")
	}
}
