package api

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// A granted job that cannot be placed says so to its owner, and what to do; of
// nodes, and of how many there are, it says nothing.
func TestALandedJobSaysWhyItWaits(t *testing.T) {
	_, _, _, iad := mesh3(t)
	c := iad.admin()
	out, err := c.Submit(t.Context(), readJob(t, strings.Replace(jobText("DE"), `"kind":"process"`, `"kind":"process","resources":{"gpus":64}`, 1)), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	j, err := c.Job(t.Context(), out.Job.ID)
	if err != nil || j.Code != CodeNoHardware || !strings.Contains(j.Reason, "no hardware") || j.Node != "" || j.Forward != nil {
		t.Errorf("%s %q %v", j.Code, j.Reason, err)
	}
	e, err := c.Explain(t.Context(), out.Job.ID)
	if err != nil || e.Hint == "" || e.Code != CodeNoHardware {
		t.Fatalf("%+v %v", e, err)
	}
	if e.Nodes != 0 || e.Fit != 0 || len(e.Failed) > 0 || len(e.Relax) > 0 || len(e.Tasks) > 0 || len(e.Regions) != 1 {
		t.Errorf("nodes are told of abroad: %+v", e)
	}
}

// Questions of a peer that wait take places, and one peer has only so many.
func TestAPeersWaitingQuestionsAreBounded(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	s := fra.server
	ask := func(peer placement.RegionID) (func(), error) {
		return s.peerWait(&call{s: s, caller: &Caller{Kind: CallerForeign, Region: peer}}, ListOptions{Wait: time.Minute})
	}
	var done []func()
	for range peerWaits {
		release, err := ask("ber-1")
		if err != nil {
			t.Fatal(err)
		}
		done = append(done, release)
	}
	if _, err := ask("ber-1"); CodeOf(err) != "streams.full" {
		t.Errorf("one more: %v", err)
	}
	release, err := ask("iad-1")
	if err != nil {
		t.Errorf("another peer: %v", err)
	}
	if len(s.streams) != peerWaits+1 {
		t.Errorf("%d places are taken", len(s.streams))
	}
	release()
	for _, release := range done {
		release()
	}
	if len(s.streams) != 0 || len(s.waits) != 0 {
		t.Errorf("%d places and %v are still taken", len(s.streams), s.waits)
	}
	// The door itself takes one.
	for len(s.streams) < cap(s.streams) {
		s.streams <- struct{}{}
	}
	as := identity.ID{Region: "ber-1", Mesh: testMesh, Node: "ber-1-n1"}
	if status, p, _ := fra.mesh(t, as, http.MethodGet, MeshPrefix+"/jobs?wait=30s", nil, ""); status != http.StatusTooManyRequests {
		t.Errorf("with every place taken: %d %s", status, p.Code)
	}
}

// A model's name crosses as its deployment's whole policy lets it.
func TestModelNamesCrossByTheWholePolicy(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	v := fra.ledger.View()
	for name, try := range map[string]struct {
		layers []placement.Layer
		want   bool
	}{
		"bound by its own tag":       {[]placement.Layer{{Origin: "job", Tag: "region:fra-1"}}, false},
		"bound by its tenant's tag":  {[]placement.Layer{{Origin: "job", Tag: "EU"}, {Origin: "tenant", Tag: "region:fra-1"}}, false},
		"names the peer":             {[]placement.Layer{{Origin: "job", Tag: "region:fra-1,region:ber-1"}}, true},
		"a country is no such bound": {[]placement.Layer{{Origin: "job", Tag: "FR"}}, true},
		"cannot be read":             {[]placement.Layer{{Origin: "job", Tag: "Europe"}}, false},
	} {
		if got := nameMayCross(v, &placement.Job{Policy: try.layers}, "ber-1"); got != try.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	rule := "EU"
	fra.ledger.must(t, state.SetRegionPolicy{Export: &rule})
	open := &placement.Job{Policy: []placement.Layer{{Origin: "job", Tag: "EU"}}}
	if v = fra.ledger.View(); nameMayCross(v, open, "iad-1") || !nameMayCross(v, open, "ber-1") {
		t.Error("the export rule does not count")
	}
}

// A worker reads no body of a caller whom no voter knows.
func TestAWorkerReadsNoBodyOfAStranger(t *testing.T) {
	w, fra, _, _ := mesh3(t)
	worker := w.worker(fra)
	viewer := bearer(fra.token(state.Token{Roles: []state.Role{state.RoleViewer}}))
	admin := bearer(fra.token(state.Token{Roles: everyRole()}))
	for _, try := range []struct {
		name   string
		auth   http.Header
		status []int
		read   bool
	}{
		{"nobody", http.Header{}, []int{http.StatusUnauthorized}, false},
		{"a stranger's token", bearer("nonsense"), []int{http.StatusUnauthorized}, false},
		{"one who may not", viewer, []int{http.StatusForbidden}, false},
		{"one who may", admin, []int{http.StatusBadRequest}, true},
	} {
		body := &countingBody{}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, Prefix+"/law", nil)
		req.Body, req.ContentLength, req.Header = body, MaxLawBytes, try.auth
		rec := httptest.NewRecorder()
		worker.App().ServeHTTP(rec, req)
		if !slices.Contains(try.status, rec.Code) || (body.reads > 0) != try.read {
			t.Errorf("%s: answered %d, the body was read %d times", try.name, rec.Code, body.reads)
		}
	}
}

// A forward that is refused for want of queue or quota gives its room back before
// home hears of it: no late repetition can be accepted any more.
func TestARefusedForwardGivesItsRoomBack(t *testing.T) {
	w, _, ber, _ := mesh3(t)
	m := NewMeshClient(speaker{w.net, identity.ID{Region: "fra-1", Mesh: testMesh, Node: "fra-1-n1"}, ber.ledger})
	peer := transport.Peer{ID: identity.ID{Region: "ber-1", Mesh: testMesh}, Addr: "127.0.0.1:1"}
	ber.ledger.must(t, state.SetTenant{Tenant: state.Tenant{ID: "fra-1/acme", Quota: state.Quota{GPUs: 1}}})
	id := placement.NewJobID("fra-1", w.clock.now())
	policy := []placement.Layer{{Origin: "job", Tag: "EU"}}
	ask := ReserveRequest{Job: id, Attempt: 1, Kind: "process", Resources: placement.Resources{CPU: 100, Memory: placement.MiB, GPUs: 2}, Policy: policy, LawPack: ber.ledger.View().Pack().Hash(), Expires: w.clock.now().Add(time.Minute)}
	held, err := m.Reserve(t.Context(), peer, ask)
	if err != nil || !held.Held {
		t.Fatalf("%+v %v", held, err)
	}
	j := ForwardedJob{Job: id, Tenant: "acme", Residency: "EU", Policy: policy, Reservation: held.Key, SubmittedAt: w.clock.now(), Hops: 1,
		Spec: placement.JobSpec{Kind: "process", Type: placement.TypeBatch, Command: []string{"x"}, Resources: ask.Resources}}
	if _, err := m.Forward(t.Context(), peer, residencyPolicy(t, "EU"), j); CodeOf(err) != "quota.gpus" {
		t.Fatalf("beyond its quota: %v", err)
	}
	if len(ber.ledger.View().Reservations()) != 0 {
		t.Error("the room is still held")
	}
	// A job that a third region landed at the peer is the peer's tenant here.
	j.Job, ask.Job = placement.NewJobID("fra-1", w.clock.now()), ""
	ask.Job, j.Tenant = j.Job, "iad-1/acme"
	if held, err = m.Reserve(t.Context(), peer, ask); err != nil || !held.Held {
		t.Fatalf("%+v %v", held, err)
	}
	j.Reservation = held.Key
	if _, err := m.Forward(t.Context(), peer, residencyPolicy(t, "EU"), j); err != nil {
		t.Fatal(err)
	}
	if got := ber.ledger.View().Job(j.Job); got.Tenant != "fra-1/iad-1/acme" || got.Origin != "fra-1" {
		t.Errorf("%+v", got)
	}
}

// However often a peer asks for room, the queue that comes before it is looked at
// once a second.
func TestAFloodOfQuestionsPlansTheQueueOnce(t *testing.T) {
	w, _, ber, _ := mesh3(t)
	m := NewMeshClient(speaker{w.net, identity.ID{Region: "fra-1", Mesh: testMesh, Node: "fra-1-n1"}, ber.ledger})
	peer := transport.Peer{ID: identity.ID{Region: "ber-1", Mesh: testMesh}, Addr: "127.0.0.1:1"}
	ask := func() *scheduler.Ahead {
		t.Helper()
		answer, err := m.Reserve(t.Context(), peer, ReserveRequest{Job: placement.NewJobID("fra-1", w.clock.now()), Attempt: 1, Kind: "process",
			Resources: placement.Resources{CPU: 100, Memory: placement.MiB}, Policy: []placement.Layer{{Origin: "job", Tag: "EU"}},
			LawPack: ber.ledger.View().Pack().Hash(), Expires: w.clock.now().Add(time.Minute), DryRun: true})
		if err != nil || answer.Outcome != string(scheduler.Fits) {
			t.Fatalf("%+v %v", answer, err)
		}
		return ber.server.ahead.newest
	}
	first := ask()
	if first == nil || ask() != first {
		t.Error("the queue is planned for each of two questions")
	}
	w.clock.add(2 * time.Second)
	if ask() == first {
		t.Error("the queue is not looked at again")
	}
}
