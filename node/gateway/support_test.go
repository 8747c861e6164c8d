package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
)

// today is the day on which the law is read in these tests.
var today = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// book is a region's state, changed by commands like a real one.
type book struct {
	t     *testing.T
	id    placement.RegionID
	mu    sync.Mutex
	state *state.State // guarded by mu
	index uint64       // guarded by mu
	views *state.View  // guarded by mu
	jobs  int
}

func facts(country string) placement.RegionFacts {
	return placement.RegionFacts{
		Country: country, Operator: placement.Operator{Home: country, Parent: "none"},
		Assurance: placement.Assurance{Location: "documented", Operator: "documented", AsOf: "2026-10-01"},
	}
}

func region(id, country string) placement.Region {
	return placement.Region{
		ID: placement.RegionID(id), Mesh: "mesh.test", Facts: facts(country),
		FrontDoors: []placement.FrontDoor{{QUIC: id + "-n1:7443", API: "https://" + id + "-n1:7443"}},
	}
}

// newBook makes a region of nodes n1, n2 and so on.
func newBook(t *testing.T, id, country string, nodes int) *book {
	b := &book{t: t, id: placement.RegionID(id), state: state.New()}
	node := func(i int) placement.Node {
		name := fmt.Sprintf("n%d", i)
		return placement.Node{ID: placement.NodeID(name), QUIC: id + "-" + name + ":7443", API: "https://" + id + "-" + name + ":7443"}
	}
	b.do(state.InitRegion{Region: region(id, country), LawPack: residency.Embedded().Tables(), Node: node(1)})
	for i := 2; i <= nodes; i++ {
		hash := hash(fmt.Sprint("join ", i))
		b.do(state.CreateJoinToken{Hash: hash, Expires: today.Add(time.Hour)})
		b.do(state.JoinNode{TokenHash: hash, Node: node(i)})
	}
	for i := 1; i <= nodes; i++ {
		b.do(state.ReportInventory{Node: node(i).ID, Inventory: placement.Inventory{
			Version: 1, CPU: 64000, Memory: 256 * placement.GiB, Drivers: []string{"inference"}, States: 1, Reported: today,
		}})
	}
	return b
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// do applies a command that must be accepted.
func (b *book) do(c state.Command) state.Result {
	b.t.Helper()
	r := b.try(c)
	if r.Refused != nil {
		b.t.Fatalf("%s: %T was refused: %s: %s", b.id, c, r.Refused.Code, r.Refused.Message)
	}
	return r
}

func (b *book) try(c state.Command) state.Result {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index++
	h := state.Head{Version: 1, Time: today, Actor: "test"}
	copy(h.Salt[:], fmt.Sprintf("%016d", b.index))
	raw, err := state.Encode(h, c)
	if err != nil {
		b.t.Fatal(err)
	}
	r := b.state.Apply(b.index, raw)
	b.views = b.state.Freeze()
	return r
}

func (b *book) View() *state.View {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.views
}

// deploy runs a model on nodes, one job each, and gives the first job's id;
// without nodes the job waits. Its tag is the job's own.
func (b *book) deploy(tenant, tag, model, upstream string, nodes ...string) placement.JobID {
	b.t.Helper()
	if len(nodes) > 1 {
		b.deploy(tenant, tag, model, upstream, nodes[1:]...)
	}
	b.jobs++
	id := placement.NewJobID(b.id, today.Add(time.Duration(b.jobs)*time.Millisecond))
	b.do(state.SubmitJob{AllowAny: true, Job: placement.Job{
		ID: id, Kind: placement.KindInference, Tenant: placement.TenantID(tenant), Residency: tag, SubmittedAt: today, EntryRegion: b.id,
		Policy: []placement.Layer{{Origin: residency.OriginJob, Tag: tag}},
		Spec: placement.JobSpec{
			Kind: placement.KindInference, Type: placement.TypeService, Resources: placement.DefaultResources(),
			Restart: placement.Restart{Policy: "always"}, Models: []string{model}, Upstream: upstream,
		},
	}})
	if len(nodes) > 0 {
		b.start(id, nodes[0])
	}
	return id
}

// start commits a task of a job and reports it running.
func (b *book) start(id placement.JobID, node string) placement.TaskID {
	b.t.Helper()
	task := id.Task(0, 1)
	b.do(state.Assign{Assignments: []placement.Assignment{{
		Task: task, Job: id, Node: placement.NodeID(node),
		Why: placement.Why{Rule: "tag.allow", LawPack: b.View().Pack().Hash(), On: "2026-11-21", Reason: "new"},
	}}})
	b.report(task, node, placement.TaskRunning)
	return task
}

func (b *book) report(task placement.TaskID, node string, s placement.TaskStatus) {
	b.t.Helper()
	b.do(state.ReportTasks{Node: placement.NodeID(node), Reports: []placement.TaskReport{{Task: task, Status: s, At: today}}})
}

// federate makes two regions active peers of each other.
func federate(books ...*book) {
	for _, a := range books {
		for _, b := range books {
			if a == b {
				continue
			}
			self := *b.View().Self()
			r := region(string(b.id), self.Facts.Country)
			r.Bundle, r.Fingerprint, r.LawPack = []byte(`{"keys":[]}`), "fp-"+string(b.id), b.View().Pack().Hash()
			secret := hash("invite " + string(a.id) + string(b.id))
			a.do(state.InviteRegion{Region: b.id, Hash: secret, Expires: today.Add(time.Hour)})
			a.do(state.PutPeer{Region: r, InviteHash: secret})
			a.do(state.ApprovePeer{Region: b.id, Fingerprint: r.Fingerprint})
		}
	}
}

// net is a mesh in memory: every stream asks a guard first, as the transport
// does, and every head takes the way over the wire's encoding.
type meshNet struct {
	t        *testing.T
	mu       sync.Mutex
	gateways map[string]*Gateway // by address; guarded by mu
	books    map[placement.RegionID]*book
	down     map[string]bool // addresses that do not answer; guarded by mu
	crossed  []string        // borders that prompts crossed; guarded by mu
}

func newNet(t *testing.T, books ...*book) *meshNet {
	n := &meshNet{t: t, gateways: map[string]*Gateway{}, books: map[placement.RegionID]*book{}, down: map[string]bool{}}
	for _, b := range books {
		n.books[b.id] = b
	}
	return n
}

func (n *meshNet) cut(addr string, down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[addr] = down
}

// side is the mesh as one node sees it.
type side struct {
	net  *meshNet
	from sender
}

// Permit is what the endpoint's own guard says.
func (s side) Permit(ctx context.Context, to placement.RegionID, cargo transport.Cargo) error {
	if to == s.from.region || s.net.books[s.from.region] == nil { // a stranger asks no guard
		return nil
	}
	v := s.net.books[s.from.region].View()
	g := &transport.ResidencyGuard{Home: s.from.region, Region: v.Region, Law: func() placement.Law { return v.Law(residency.DateOf(today)) }}
	if err := g.PermitEgress(ctx, s.from.region, to, cargo); err != nil {
		return &transport.EgressError{From: s.from.region, To: to, Kind: cargo.Kind, Err: err}
	}
	return nil
}

func (s side) OpenInfer(ctx context.Context, to transport.Peer, cargo transport.Cargo, head transport.Head, body []byte) (Hop, error) {
	n := s.net
	if err := s.Permit(ctx, to.ID.Region, cargo); err != nil {
		return nil, err
	}
	n.mu.Lock()
	g, down := n.gateways[to.Addr], n.down[to.Addr]
	if to.ID.Region != s.from.region {
		n.crossed = append(n.crossed, fmt.Sprintf("%s>%s", s.from.region, to.ID.Region))
	}
	n.mu.Unlock()
	if g == nil || down {
		return nil, &transport.UnreachableError{Peer: to, Err: errors.New("nobody there")}
	}
	head.BodySize = uint64(len(body))
	wire, err := transport.MarshalHead(head)
	if err != nil {
		return nil, err
	}
	if head, err = transport.ReadHead(bytes.NewReader(wire)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	c := &pipeCall{body: bytes.NewReader(body), w: w, r: r, cancel: cancel, answered: make(chan struct{})}
	over := make(chan struct{})
	go func() {
		defer close(over)
		g.serve(ctx, s.from, head, c)
		c.Cut()
	}()
	stop := context.AfterFunc(ctx, func() { _ = r.CloseWithError(context.Cause(ctx)) })
	c.stop = stop
	select {
	case <-c.answered:
		return c, nil
	case <-over:
		select {
		case <-c.answered:
			return c, nil
		default:
		}
		cancel()
		return nil, &transport.CutError{Err: errors.New("no answer")}
	case <-ctx.Done():
		cancel()
		return nil, &transport.CutError{Err: context.Cause(ctx)}
	}
}

// pipeCall is both ends of a stream in memory.
type pipeCall struct {
	body     io.Reader
	r        *io.PipeReader
	w        *io.PipeWriter
	cancel   context.CancelFunc
	stop     func() bool
	head     transport.Answer
	answered chan struct{}
	once     sync.Once
}

func (c *pipeCall) Body() io.Reader { return c.body }

func (c *pipeCall) Answer(a transport.Answer) error {
	if _, err := transport.MarshalAnswer(a); err != nil {
		return err
	}
	c.head = a
	return nil
}

func (c *pipeCall) begin() { c.once.Do(func() { close(c.answered) }) }

func (c *pipeCall) Refuse(a transport.Answer) error {
	if a.Code == "" {
		return errors.New("a refusal needs a code")
	}
	if err := c.Answer(a); err != nil {
		return err
	}
	return c.finish()
}

func (c *pipeCall) Write(p []byte) (int, error) {
	c.begin()
	return c.w.Write(p)
}

func (c *pipeCall) finish() error {
	c.begin()
	return c.w.Close()
}

func (c *pipeCall) Cut() { _ = c.w.CloseWithError(&transport.CutError{Err: errors.New("reset")}) }

// Hop: the other end.
func (c *pipeCall) Head() transport.Answer     { return c.head }
func (c *pipeCall) Read(p []byte) (int, error) { return c.r.Read(p) }

// Close serves both ends: the one that answers closes its writer, the one that
// asked cancels.
func (c *pipeCall) Close() error { return c.finish() }

// asked is the asking end, whose Close cancels.
type asked struct{ *pipeCall }

func (a asked) Close() error {
	a.stop()
	a.cancel()
	return a.r.Close()
}

// peersOf tells a node of the others' models and doors, as summaries would.
type peersOf struct {
	mu     sync.Mutex
	models map[placement.RegionID][]string         // guarded by mu
	doors  map[placement.RegionID][]transport.Peer // guarded by mu
	up     map[placement.RegionID]bool             // guarded by mu
}

func (p *peersOf) Models(r placement.RegionID) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.models[r]
}

func (p *peersOf) Doors(r placement.RegionID) []transport.Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.doors[r]
}

func (p *peersOf) Link(r placement.RegionID) Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Link{Up: p.up[r], RTT: 10 * time.Millisecond}
}

// learn takes over what a region would say in its summary.
func (p *peersOf) learn(b *book, addrs ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.models[b.id] = announced(b.View())
	p.up[b.id] = true
	p.doors[b.id] = nil
	for _, a := range addrs {
		d := transport.Peer{Addr: a}
		d.ID.Region = b.id
		p.doors[b.id] = append(p.doors[b.id], d)
	}
}

func (p *peersOf) set(r placement.RegionID, up bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up[r] = up
}

// keys are the bearer tokens of these tests.
var keys = map[string]Caller{
	"sk-eu":    {ID: "t1", Tenant: "default", Tag: "EEA"},
	"sk-plain": {ID: "t2", Tenant: "default"},
	"sk-any":   {ID: "t3", Tenant: "default", Tag: "ANY", AllowAny: true},
	"sk-acme":  {ID: "t4", Tenant: "acme", Tag: "EEA"},
}

func auth(r *http.Request) (Caller, *Error) {
	key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if key == "sk-busy" {
		return Caller{}, &Error{Status: 429, Code: "rate_limit_exceeded", Message: "too many requests", RetryAfter: time.Second}
	}
	c, ok := keys[key]
	if !ok {
		return c, &Error{Status: 401, Code: "invalid_api_key", Message: "the key is not known here", NoRetry: true}
	}
	return c, nil
}

// node is a gateway with its surroundings.
type node struct {
	*Gateway
	peers *peersOf
	url   string
	http  *http.Client
}

// start makes the gateway of a node and an HTTPS server for it.
func (n *meshNet) start(b *book, name string, change func(*Config)) *node {
	n.t.Helper()
	peers := &peersOf{models: map[placement.RegionID][]string{}, doors: map[placement.RegionID][]transport.Peer{}, up: map[placement.RegionID]bool{}}
	cfg := DefaultConfig()
	cfg.Region, cfg.Node, cfg.Views, cfg.Peers, cfg.Auth = b.id, placement.NodeID(name), b, peers, auth
	cfg.Mesh = asking{side{n, sender{b.id, placement.NodeID(name)}}}
	cfg.Models = func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
	cfg.Now = func() time.Time { return today }
	cfg.Log = slog.New(slog.DiscardHandler)
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.mu.Lock()
	n.gateways[fmt.Sprintf("%s-%s:7443", b.id, name)] = g
	n.mu.Unlock()
	return serve(n.t, g, peers, false)
}

// serve runs a gateway behind an HTTPS server until the test ends.
func serve(t *testing.T, g *Gateway, peers *peersOf, h2 bool) *node {
	t.Helper()
	s := httptest.NewUnstartedServer(g.Handler())
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.EnableHTTP2 = h2
	s.StartTLS()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.CloseClientConnections()
		s.Close()
	})
	return &node{g, peers, s.URL, s.Client()}
}

// asking gives the asking end of streams in memory.
type asking struct{ side }

func (a asking) OpenInfer(ctx context.Context, to transport.Peer, cargo transport.Cargo, head transport.Head, body []byte) (Hop, error) {
	h, err := a.side.OpenInfer(ctx, to, cargo, head, body)
	if c, ok := h.(*pipeCall); ok {
		return asked{c}, err
	}
	return h, err
}

// server is a model server that does what a test wants.
type server struct {
	url string
	mu  sync.Mutex
	got []seen // guarded by mu
	// left gets one value for each request whose client went away.
	left chan struct{}
}

type seen struct {
	path, body string
	header     http.Header
}

func newServer(t *testing.T, h func(w http.ResponseWriter, r *http.Request)) *server {
	s := &server{left: make(chan struct{}, 64)}
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.got = append(s.got, seen{r.URL.Path, string(body), r.Header})
		s.mu.Unlock()
		ctx := r.Context()
		r.Body = io.NopCloser(bytes.NewReader(body))
		defer func() {
			if ctx.Err() != nil {
				s.left <- struct{}{}
			}
		}()
		h(w, r)
	}))
	ts.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(func() { ts.CloseClientConnections(); ts.Close() })
	s.url = ts.URL
	return s
}

func (s *server) requests() []seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// chunkOf is one event of a chat stream.
func chunkOf(word string) string {
	return fmt.Sprintf(`data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":%q},"finish_reason":null}]}`+"\n\n", word)
}

const usageChunk = `data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}` + "\n\n"

// talk answers as a well-behaved model server does, saying name.
func talk(name string) func(w http.ResponseWriter, r *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Stream  bool `json:"stream"`
			Options struct {
				Usage bool `json:"include_usage"`
			} `json:"stream_options"`
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		w.Header().Set("X-Request-Id", "up-1")
		if in.Stream {
			events := []string{chunkOf(name), chunkOf(" says"), chunkOf(" hello")}
			if in.Options.Usage {
				events = append(events, usageChunk)
			}
			stream(append(events, "data: [DONE]\n\n")...)(w, r)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/embeddings") {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"object":"list","model":"m","data":[{"object":"embedding","index":0,"embedding":[0.5,0.25]}],"usage":{"prompt_tokens":2,"total_tokens":2}}`)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"c1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}`, name)
	}
}

// stream answers with events, each flushed by itself.
func stream(events ...string) func(w http.ResponseWriter, r *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, e := range events {
			fmt.Fprint(w, e)
			w.(http.Flusher).Flush()
		}
	}
}

// announced are the models that a region's summary names: those of running
// deployments that every tenant may call.
func announced(v *state.View) []string {
	names := []string{}
	for model, list := range newCatalog(v).models {
		if slices.ContainsFunc(list, func(d deployment) bool { return DefaultConfig().Shared(d.job) && d.running() }) {
			names = append(names, model)
		}
	}
	slices.Sort(names)
	return names
}
