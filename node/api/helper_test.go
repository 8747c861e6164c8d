package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

const testMesh = "mesh.example"

// testMeshNet carries HTTP/3 requests between regions, in memory: the peer is
// whom the sender's certificate names.
type testMeshNet struct {
	mu    sync.Mutex
	nodes map[placement.RegionID]http.Handler // guarded by mu
	cut   map[placement.RegionID]bool         // guarded by mu
}

// speaker is the endpoint of one node.
type speaker struct {
	net    *testMeshNet
	id     identity.ID
	ledger *memLedger
}

// Permit is what the endpoint's own guard says.
func (s speaker) Permit(ctx context.Context, to placement.RegionID, cargo transport.Cargo) error {
	v := s.ledger.View()
	guard := &transport.ResidencyGuard{
		Home: s.id.Region, Region: v.Region,
		Law: func() placement.Law { return v.Law(residency.DateOf(s.ledger.now())) },
	}
	if err := guard.PermitEgress(ctx, s.id.Region, to, cargo); err != nil {
		return &transport.EgressError{From: s.id.Region, To: to, Kind: cargo.Kind, Err: err}
	}
	return nil
}

func (s speaker) Do(ctx context.Context, p transport.Peer, _ transport.Cargo, req *http.Request) (*http.Response, error) {
	s.net.mu.Lock()
	h, cut := s.net.nodes[p.ID.Region], s.net.cut[p.ID.Region]
	s.net.mu.Unlock()
	if h == nil || cut {
		return nil, &transport.UnreachableError{Peer: p, Class: "h3", Err: errors.New("cut")}
	}
	rec := httptest.NewRecorder()
	in := req.Clone(transport.WithPeer(ctx, s.id))
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/3.0", 3, 0
	if in.Body == nil {
		in.Body = http.NoBody
	}
	h.ServeHTTP(rec, in)
	res := rec.Result()
	res.Request = req
	return res, nil
}

type testLinks struct {
	mu   sync.Mutex
	down map[placement.RegionID]bool // guarded by mu
}

func (l *testLinks) Region(r placement.RegionID) Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Link{Up: !l.down[r], Since: time.Unix(0, 0)}
}

func (l *testLinks) set(r placement.RegionID, up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down[r] = !up
}

// region is one region of one node behind a real TLS listener.
type region struct {
	t       testing.TB
	id      placement.RegionID
	node    placement.NodeID
	ledger  *memLedger
	ca      *identity.CA
	cred    *identity.Credential
	bundles *identity.MapBundles
	links   *testLinks
	server  *Server
	web     *http.Server
	url     string
	logs    *lockedBuffer
	tasks   fakeTasks
	taken   atomic.Int64 // bytes that the app listener took from its sockets
}

// countingListener counts what a server takes out of its sockets.
type countingListener struct {
	net.Listener
	taken *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countingConn{c.(*net.TCPConn), l.taken}, nil
}

type countingConn struct {
	*net.TCPConn
	taken *atomic.Int64
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.taken.Add(int64(n))
	return n, err
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type fakeTasks map[placement.TaskID]string

func (f fakeTasks) Logs(_ context.Context, id placement.TaskID, from int64, _ bool) (io.ReadCloser, error) {
	text, ok := f[id]
	if !ok {
		return nil, fmt.Errorf("no task %s here", id)
	}
	return io.NopCloser(strings.NewReader(text[min(int(from), len(text)):])), nil
}

// left is what every task of a test left, by its name.
var left = map[string]string{"logs/one": "1\n", "model.bin": "weights"}

func (f fakeTasks) Outputs(_ context.Context, id placement.TaskID) (*placement.OutputList, error) {
	if _, ok := f[id]; !ok {
		return nil, noOutputs{}
	}
	list := &placement.OutputList{LeftOut: 1, Why: "more than 1GiB"}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		list.Files = append(list.Files, placement.Output{Name: name, Size: int64(len(left[name])), Digest: fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(left[name])))})
	}
	return list, nil
}

func (f fakeTasks) OpenOutput(ctx context.Context, id placement.TaskID, digest string) (io.ReadCloser, error) {
	list, err := f.Outputs(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, o := range list.Files {
		if o.Digest == digest {
			return io.NopCloser(strings.NewReader(left[o.Name])), nil
		}
	}
	return nil, noOutputs{}
}

type noOutputs struct{}

func (noOutputs) Error() string { return "it left nothing" }
func (noOutputs) Hint() string  { return "write outputs: true" }

// clock is a settable time.
type clock struct {
	mu sync.Mutex
	at time.Time // guarded by mu
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

type world struct {
	t       testing.TB
	clock   *clock
	net     *testMeshNet
	regions map[placement.RegionID]*region
	limits  state.Limits // of regions that are added; zero: the usual
}

func newWorld(t testing.TB) *world {
	return &world{
		t: t, clock: &clock{at: time.Now().UTC().Truncate(time.Second)},
		net:     &testMeshNet{nodes: map[placement.RegionID]http.Handler{}, cut: map[placement.RegionID]bool{}},
		regions: map[placement.RegionID]*region{},
	}
}

// add starts a region; its one node has 8 cores and the given GPUs.
func (w *world) add(id placement.RegionID, country string, gpus int) *region {
	t := w.t
	t.Helper()
	r := &region{t: t, id: id, node: placement.NodeID(string(id) + "-n1"), links: &testLinks{down: map[placement.RegionID]bool{}}, bundles: &identity.MapBundles{}, logs: &lockedBuffer{}, tasks: fakeTasks{}}
	var err error
	if r.ca, err = identity.NewCA(id, testMesh, w.clock.now()); err != nil {
		t.Fatal(err)
	}
	r.cred = w.credential(r, r.node)
	r.bundles.Set(r.ca.Bundle())
	r.ledger = newMemLedger(r.node, w.clock.now)
	cfg := DefaultConfig()
	cfg.WitnessWait = time.Millisecond // nobody signs here but where a test does
	cfg.Region, cfg.Mesh, cfg.Self = id, testMesh, r.node
	cfg.Ledger, cfg.Peers, cfg.Tasks, cfg.Links = r.ledger, speaker{w.net, identity.ID{Region: id, Mesh: testMesh, Node: r.node}, r.ledger}, r.tasks, r.links
	cfg.Keyring = testRing{}
	cfg.Votes = func(n placement.NodeID) bool { return n == r.node }
	cfg.Authority = func() Authority { return testCA{r.ca, w.clock.now} }
	cfg.Credential = identity.NewSource(r.cred)
	cfg.Verifier = &identity.Verifier{Home: id, Mesh: testMesh, Bundles: r.bundles, Clock: w.clock.now}
	cfg.Now, cfg.Log = w.clock.now, slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if r.server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	r.serve()
	w.net.nodes[id] = r.server.Mesh()
	r.init(country, gpus, w.limits)
	w.regions[id] = r
	return r
}

func (w *world) credential(r *region, node placement.NodeID) *identity.Credential {
	w.t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	csr, err := identity.NewCSR(key)
	if err != nil {
		w.t.Fatal(err)
	}
	chain, err := r.ca.IssueNode(csr, node, w.clock.now(), 0)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := identity.NewCredential(key, chain)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// serve starts the app listener with a proper serving certificate.
func (r *region) serve() {
	key, err := identity.NewKey()
	if err != nil {
		r.t.Fatal(err)
	}
	csr, err := identity.NewCSR(key)
	if err != nil {
		r.t.Fatal(err)
	}
	chain, err := r.ca.IssueServing(csr, []string{"127.0.0.1"}, r.server.now(), 0)
	if err != nil {
		r.t.Fatal(err)
	}
	serving, err := identity.NewServing(key, chain)
	if err != nil {
		r.t.Fatal(err)
	}
	src := &identity.ServingSource{}
	src.Swap(serving)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.web = NewAppServer(r.server.App(), slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() {
		done <- r.web.Serve(tls.NewListener(countingListener{l, &r.taken}, AppTLS(identity.ServingConfig(src))))
	}()
	r.url = "https://" + l.Addr().String()
	r.t.Cleanup(func() {
		_ = r.web.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			r.t.Errorf("serve: %v", err)
		}
	})
}

func (r *region) init(country string, gpus int, limits state.Limits) {
	bundle, err := r.ca.Bundle().Marshal()
	if err != nil {
		r.t.Fatal(err)
	}
	inv := placement.Inventory{Version: 1, CPU: 8000, Memory: 32 * placement.GiB, Drivers: []string{"fake", "process"}}
	for i := range gpus {
		inv.Devices = append(inv.Devices, placement.Device{UUID: fmt.Sprintf("GPU-%s-%d", r.id, i), Model: "NVIDIA H100", Memory: 80 * placement.GiB, Health: placement.DeviceOK, Simulated: true})
	}
	signer, cosigner := r.logKeys()
	r.ledger.must(r.t, state.InitRegion{
		Region: placement.Region{
			LogKey: signer.Verifier().String(), WitnessKey: cosigner.Verifier().String(),
			ID: r.id, Mesh: testMesh, Bundle: bundle, Fingerprint: r.ca.Bundle().Fingerprint(), ServingCA: string(r.ca.ServingRootPEM()),
			Facts: placement.RegionFacts{Country: country, Operator: placement.Operator{Name: "Op", Home: country, Parent: "none"}, Assurance: placement.Assurance{Location: "documented", Operator: "documented", AsOf: "2026-10-01"}},
		},
		LawPack: residency.Embedded().Tables(), Limits: limits,
		Node: placement.Node{ID: r.node, QUIC: "127.0.0.1:1", API: r.url, Inventory: inv},
	})
}

// federate makes every pair of regions active peers, as two operators would.
func (w *world) federate() {
	w.t.Helper()
	for _, a := range w.regions {
		for _, b := range w.regions {
			if a == b {
				continue
			}
			card, err := b.server.card(b.ledger.View())
			if err != nil {
				w.t.Fatal(err)
			}
			_, peer, err := card.read(testMesh, w.clock.now())
			if err != nil {
				w.t.Fatal(err)
			}
			a.ledger.must(w.t, state.PutPeer{Region: peer})
			a.ledger.must(w.t, state.ApprovePeer{Region: b.id, Fingerprint: peer.Fingerprint})
			a.bundles.Set(b.ca.Bundle())
		}
	}
}

// token makes a bearer token of the region.
func (r *region) token(t state.Token) string {
	r.t.Helper()
	secret := identity.NewBearer(r.id)
	hash := identity.HashBearer(secret)
	t.Hash = hex.EncodeToString(hash[:])
	if t.ID == "" {
		t.ID = newKey()[:16]
	}
	if t.Tenant == "" {
		t.Tenant = "default"
	}
	if t.Expires.IsZero() {
		t.Expires = r.server.now().Add(time.Hour)
	}
	r.ledger.must(r.t, state.CreateToken{Token: t})
	return secret
}

func everyRole() []state.Role {
	return []state.Role{state.RoleViewer, state.RoleSubmitter, state.RoleOperator, state.RoleAuditor, state.RoleAdmin}
}

func (r *region) client(token string) *Client {
	r.t.Helper()
	c, err := NewClient(ClientConfig{Addr: r.url, Token: token, CA: r.ca.ServingRootPEM(), Now: r.server.cfg.Now, Timeout: 30 * time.Second})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

func (r *region) admin() *Client {
	return r.client(r.token(state.Token{Roles: everyRole(), AllowAny: true}))
}

func (r *region) do(t testing.TB, method, path string, header http.Header, body string) (int, Problem, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := insecure().Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p Problem
	if res.StatusCode >= 400 {
		if err := json.Unmarshal(data, &p); err != nil {
			t.Fatalf("%s %s: %s is no problem document: %v", method, path, data, err)
		}
	}
	return res.StatusCode, p, res.Header
}

// insecure is a stranger's client: it looks at no certificate, and it pushes
// bodies without being asked.
func insecure() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}}
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// mesh asks the region over its mesh listener, as the given certificate.
func (r *region) mesh(t testing.TB, as identity.ID, method, path string, header http.Header, body string) (int, Problem, string) {
	t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req = req.WithContext(transport.WithPeer(t.Context(), as))
	req.ProtoMajor = 3
	for k, v := range header {
		req.Header[k] = v
	}
	rec := httptest.NewRecorder()
	r.server.Mesh().ServeHTTP(rec, req)
	var p Problem
	if rec.Code >= 400 {
		if err := json.Unmarshal(rec.Body.Bytes(), &p); err != nil {
			t.Fatalf("%s %s: %s is no problem document", method, path, rec.Body)
		}
	}
	return rec.Code, p, rec.Body.String()
}

// readJob reads a job file under the embedded pack.
func readJob(t testing.TB, text string) *JobFile {
	t.Helper()
	j, err := ReadJob([]byte(text), JobOptions{Pack: residency.Embedded(), On: residency.DateOf(time.Now())})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func residencyPolicy(t testing.TB, wire string) residency.Policy {
	t.Helper()
	tag, _, err := residency.Parse(wire, residency.Embedded())
	if err != nil {
		t.Fatal(err)
	}
	return residency.NewPolicy(residency.Layer{Origin: residency.OriginJob, Tag: tag})
}
