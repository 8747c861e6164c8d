package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

func TestMeshWithinTheRegion(t *testing.T) {
	w, fra, ber, _ := mesh3(t)
	fra.ledger.must(t, state.CreateJoinToken{Hash: strings.Repeat("a", 64), Expires: w.clock.now().Add(time.Hour)})
	fra.ledger.must(t, state.JoinNode{TokenHash: strings.Repeat("a", 64), Node: placement.Node{ID: "w1", QUIC: "x:1", API: "https://x:1"}})
	fra.ledger.must(t, state.SetRole{Node: "w1", Role: placement.RoleWorker})
	peer := transport.Peer{ID: identity.ID{Region: "fra-1", Mesh: testMesh}, Addr: "127.0.0.1:1"}
	voter := NewMeshClient(speaker{w.net, identity.ID{Region: "fra-1", Mesh: testMesh, Node: "fra-1-n1"}, fra.ledger})
	worker := NewMeshClient(speaker{w.net, identity.ID{Region: "fra-1", Mesh: testMesh, Node: "w1"}, fra.ledger})
	actor := "node:w1"
	encode := func(c state.Command) []byte {
		raw, err := state.Encode(state.Head{Version: 1, Time: w.clock.now(), Salt: [16]byte{byte(time.Now().UnixNano())}, Actor: actor}, c)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if _, err := worker.Propose(t.Context(), peer, encode(state.CordonNode{Node: "w1"})); CodeOf(err) != CodeRole {
		t.Errorf("a worker cordons: %v", err)
	}
	if _, err := worker.Propose(t.Context(), peer, encode(state.ReportInventory{Node: "fra-1-n1"})); CodeOf(err) != CodeRole {
		t.Errorf("a worker speaks of another: %v", err)
	}
	if res, err := worker.Propose(t.Context(), peer, encode(state.ReportInventory{Node: "w1", Inventory: placement.Inventory{Version: 7, CPU: 1}})); err != nil || res.Refused != nil {
		t.Errorf("a worker reports itself: %+v %v", res, err)
	}
	if _, err := worker.Propose(t.Context(), peer, encode(state.RenewLeases{Node: "w1", Until: w.clock.now().Add(time.Minute)})); CodeOf(err) != CodeRole {
		t.Errorf("a worker renews its own leases: %v", err)
	}
	segment := func(n placement.NodeID) []byte {
		return encode(state.CommitSegment{Node: n, Seq: 1, From: w.clock.now(), To: w.clock.now()})
	}
	if end, err := worker.Chain(t.Context(), peer); err != nil || end.Segment != nil {
		t.Errorf("a worker without a chain: %+v %v", end, err)
	}
	if _, err := worker.Propose(t.Context(), peer, segment("fra-1-n1")); CodeOf(err) != CodeRole {
		t.Errorf("a worker begins the chain of another: %v", err)
	}
	if res, err := worker.Propose(t.Context(), peer, segment("w1")); err != nil || res.Refused != nil {
		t.Errorf("a worker begins its chain: %+v %v", res, err)
	}
	end, err := worker.Chain(t.Context(), peer)
	if err != nil || end.Segment == nil || end.Segment.Node != "w1" || end.Segment.Seq != 1 {
		t.Fatalf("the end of its chain: %+v %v", end, err)
	}
	if k, err := voter.ChainKeeper(t.Context(), peer, end.Segment.Chain); err != nil || k.Node != "w1" {
		t.Errorf("who keeps the chain: %+v %v", k, err)
	}
	if own, err := voter.Chain(t.Context(), peer); err != nil || own.Segment != nil {
		t.Errorf("another is told of the worker's chain: %+v %v", own, err)
	}
	actor = "founder"
	if _, err := worker.Propose(t.Context(), peer, encode(state.ReportInventory{Node: "w1", Inventory: placement.Inventory{Version: 8, CPU: 1}})); CodeOf(err) != CodeRole {
		t.Errorf("a worker signs as the founder: %v", err)
	}
	if res, err := voter.Propose(t.Context(), peer, encode(state.CordonNode{Node: "w1"})); err != nil || res.Refused != nil {
		t.Errorf("a voter: %+v %v", res, err)
	}
	// A role in the ledger alone gives nothing: raft's configuration must have it.
	fra.ledger.must(t, state.SetRole{Node: "w1", Role: placement.RoleVoter})
	if _, err := worker.Authority(t.Context(), peer); CodeOf(err) != CodeRole {
		t.Errorf("a node that does not vote yet got the CA: %v", err)
	}
	fra.ledger.must(t, state.SetRole{Node: "w1", Role: placement.RoleWorker})
	if got, err := worker.Authority(t.Context(), peer); CodeOf(err) != CodeRole || got != nil {
		t.Errorf("a worker got the CA and the keys of the log: %v", err)
	}
	if ca, err := voter.Authority(t.Context(), peer); err != nil || len(ca.CA) == 0 || len(ca.LogKeys) == 0 {
		t.Errorf("a voter: %v", err)
	}
	if ring, err := worker.Keyring(t.Context(), peer); err != nil || len(ring.Keys) != 1 {
		t.Errorf("keyring: %v", err)
	}
	if _, err := worker.OfferKeyring(t.Context(), peer, testRing{}.Ring()); CodeOf(err) != CodeRole {
		t.Errorf("a worker hands out gossip keys: %v", err)
	}
	if _, err := voter.OfferKeyring(t.Context(), peer, testRing{}.Ring()); err != nil {
		t.Errorf("a voter hands out gossip keys: %v", err)
	}
	if _, err := voter.Propose(t.Context(), peer, []byte("garbage")); CodeOf(err) != CodeBody {
		t.Errorf("garbage: %v", err)
	}
	out, err := fra.admin().Submit(t.Context(), readJob(t, jobText("FR")), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fra.place(t, out.Job.ID)
	told := func(m *MeshClient) map[string]string {
		f, err := m.Facts(t.Context(), peer, "", nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, table := range f.Tables {
			out[table.Name] = string(table.Data)
			if table.Data != nil && state.FactDigest(table.Data) != table.Digest {
				t.Errorf("table %s is not what its digest says", table.Name)
			}
		}
		return out
	}
	if got := told(voter)["jobs"]; !strings.Contains(got, string(out.Job.ID)) {
		t.Errorf("a node's own jobs: %q", got)
	}
	if got := told(worker); got["jobs"] != "" || got["tasks"] != "" || got["nodes"] == "" {
		t.Errorf("another node's: %v", got)
	}
	now, err := worker.Facts(t.Context(), peer, "", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := worker.Facts(t.Context(), peer, now.Digests(), nil, time.Minute/1000); err != nil || again.Digests() != now.Digests() {
		t.Errorf("after a wait without news: %v", err)
	}
	abroad := NewMeshClient(speaker{w.net, identity.ID{Region: "ber-1", Mesh: testMesh, Node: "ber-1-n1"}, fra.ledger})
	s, err := abroad.Summary(t.Context(), peer, ber.server.cfg.Verifier, w.clock.now())
	if err != nil || s.Summary.Region != "fra-1" || len(s.FrontDoors) == 0 || s.FrontDoors[0].Node != "" {
		t.Errorf("summary: %+v %v", s, err)
	}
}

// worker is a server of a node of fra-1 without a replica, w1, that has joined.
func (w *world) worker(fra *region) *Server {
	t := fra.t
	t.Helper()
	fra.ledger.must(t, state.CreateJoinToken{Hash: strings.Repeat("a", 64), Expires: w.clock.now().Add(time.Hour)})
	fra.ledger.must(t, state.JoinNode{TokenHash: strings.Repeat("a", 64), Node: placement.Node{ID: "w1", QUIC: "x:1", API: "https://x:1"}})
	cfg := fra.server.cfg
	cfg.Self, cfg.Ledger, cfg.Authority = "w1", nil, nil
	cfg.Peers = speaker{w.net, identity.ID{Region: "fra-1", Mesh: testMesh, Node: "w1"}, fra.ledger}
	cfg.Voters = func() []transport.Peer {
		return []transport.Peer{{ID: identity.ID{Region: "fra-1", Mesh: testMesh, Node: "fra-1-n1"}, Addr: "127.0.0.1:1"}}
	}
	worker, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return worker
}

// A worker holds no state: it passes requests on, and asks before it reads.
func TestAWorkerRelaysAndReadsNothingThatIsRefused(t *testing.T) {
	w, fra, _, _ := mesh3(t)
	worker := w.worker(fra)
	r := &region{t: t, id: "fra-1", node: "w1", ca: fra.ca, server: worker, ledger: fra.ledger}
	r.serve()
	token := fra.token(state.Token{Roles: everyRole(), AllowAny: true})
	out, err := r.client(token).Submit(t.Context(), readJob(t, jobText("EU")), SubmitOptions{})
	if err != nil || fra.ledger.View().Job(out.Job.ID) == nil {
		t.Fatalf("%+v %v", out, err)
	}
	if _, err := r.client(token).Status(t.Context()); err != nil {
		t.Error(err)
	}
	if status, p, _ := r.do(t, http.MethodGet, "/api/v1/status", nil, ""); status != http.StatusUnauthorized || p.Code != CodeNoToken {
		t.Errorf("without a token: %d %s", status, p.Code)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/jobs", nil)
	body := &countingBody{}
	req.Body, req.ContentLength, req.Header = body, 100, bearer(token)
	req.Header.Set(HeaderResidency, "US")
	rec := &plainWriter{h: http.Header{}}
	worker.App().ServeHTTP(rec, req)
	if rec.status != http.StatusMisdirectedRequest || body.reads != 0 {
		t.Errorf("answered %d, and the body was read %d times", rec.status, body.reads)
	}
}

// A serving certificate for the host of another node would hand over that node's
// tokens and bodies, however the host is written and by whichever door it is
// asked for.
func TestNoCertificateForTheHostOfAnotherNode(t *testing.T) {
	w, fra, _, _ := mesh3(t)
	for id, host := range map[placement.NodeID]string{"w1": "w1.example", "w2": "w2.example", "w3": "[2001:db8::1]"} {
		hash := strings.Repeat(string(id[1]), 64)
		fra.ledger.must(t, state.CreateJoinToken{Hash: hash, Expires: w.clock.now().Add(time.Hour)})
		fra.ledger.must(t, state.JoinNode{TokenHash: hash, Node: placement.Node{ID: id, QUIC: "x:1", API: "https://" + host + ":7443"}})
	}
	peer := transport.Peer{ID: identity.ID{Region: "fra-1", Mesh: testMesh}, Addr: "127.0.0.1:1"}
	w1 := NewMeshClient(speaker{w.net, identity.ID{Region: "fra-1", Mesh: testMesh, Node: "w1"}, fra.ledger})
	made, err := fra.admin().CreateNodeToken(t.Context(), NodeTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"w2.example", "W2.Example", "2001:db8::1", "2001:0db8:0:0::1"} {
		in := joinRequest(t, made.Token, "w4")
		in.Hosts = []string{"w4.example", host}
		if _, err := fra.client("").JoinNode(t.Context(), in); CodeOf(err) != CodeRole || !strings.Contains(err.Error(), "address of another node") {
			t.Errorf("a joiner gets %s: %v", host, err)
		}
		_, err := w1.Certificate(t.Context(), peer, CertificateRequest{CSR: in.CSR, ServingCSR: in.ServingCSR, Hosts: in.Hosts})
		if CodeOf(err) != CodeRole {
			t.Errorf("a worker gets %s: %v", host, err)
		}
	}
	in := joinRequest(t, made.Token, "w4")
	if got, err := w1.Certificate(t.Context(), peer, CertificateRequest{CSR: in.CSR, ServingCSR: in.ServingCSR, Hosts: []string{"w1.example", "alias.example"}}); err != nil || len(got.ServingChain) == 0 {
		t.Errorf("its own names: %v", err)
	}
	if _, err := fra.client("").JoinNode(t.Context(), in); err != nil {
		t.Errorf("a host that two nodes share from the start: %v", err)
	}
}
