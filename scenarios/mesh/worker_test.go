package mesh

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// perjurer is a state of its own: it begins as what a voter knew, and takes commands
// that no group ever committed.
type perjurer struct {
	t *testing.T
	s *state.State
}

func newPerjurer(t *testing.T, from *state.View) *perjurer {
	t.Helper()
	var snap bytes.Buffer
	if err := from.Write(&snap); err != nil {
		t.Fatal(err)
	}
	s, err := state.Restore(&snap)
	if err != nil {
		t.Fatal(err)
	}
	return &perjurer{t, s}
}

func (l *perjurer) apply(cmd state.Command) {
	l.t.Helper()
	head := state.Head{Version: 1, Time: time.Now(), Actor: "node:n1"}
	_, _ = rand.Read(head.Salt[:])
	raw, err := state.Encode(head, cmd)
	if err != nil {
		l.t.Fatal(err)
	}
	if res := l.s.Apply(l.s.Freeze().Index()+1, raw); res.Refused != nil {
		l.t.Fatalf("even alone it does not hold: %v", res.Refused)
	}
}

// assign makes the region it tells of have a task that no group
// committed: on n9, of a job with the tag given.
func (l *perjurer) assign(job placement.JobID, tag string) {
	l.t.Helper()
	l.apply(state.SubmitJob{Job: placement.Job{
		ID: job, Kind: placement.KindFake, Tenant: "default", Residency: tag,
		Policy: []placement.Layer{{Origin: residency.OriginJob, Tag: tag}},
		Spec:   placement.JobSpec{Kind: placement.KindFake, Type: placement.TypeBatch, Restart: placement.Restart{Policy: "never"}, Command: []string{"run", "1s"}},
	}})
	l.apply(state.Assign{Assignments: []placement.Assignment{{Task: job.Task(0, 0), Job: job, Node: "n9"}}})
}

// tell serves the facts of one node as a voter does, with its jobs edited.
func (l *perjurer) tell(node placement.NodeID, edit *strings.Replacer) http.Handler {
	v := l.s.Freeze()
	out := api.Facts{Index: v.Index() + 1_000_000}
	for _, t := range append(v.SharedFacts(nil), v.FactsOf(node)...) {
		if t.Name == "jobs" {
			t.Data = []byte(edit.Replace(string(t.Data)))
			t.Digest = state.FactDigest(t.Data)
		}
		out.Tables = append(out.Tables, api.FactTable{Name: t.Name, Digest: t.Digest, Data: t.Data})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != api.MeshPrefix+"/facts" {
			http.NotFound(w, r)
			return
		}
		if r.URL.Query().Get("have") == out.Digests() && r.URL.Query().Get("want") == "" {
			select {
			case <-r.Context().Done():
				return
			case <-time.After(time.Second):
			}
		}
		_ = json.NewEncoder(w).Encode(out)
	})
}

// One voter of three is taken over, and tells a worker of a task that the region
// never committed, for a job whose tag it has widened. The worker does not start
// it; what the two others tell alike it goes on doing.
func TestAWorkerBelievesNoSingleVoter(t *testing.T) {
	Run(t, func(t *testing.T) {
		fra := Region("fra-1", "FR", 9)
		for range 8 {
			fra.Sites = append(fra.Sites, "par-a")
		}
		fra.Sites = append(fra.Sites, "par-b")
		m := New(t, fra)
		worker := m.host("fra-1", "n9")
		if rec := m.region("fra-1").newest().Node("n9"); rec.Role != placement.RoleWorker {
			t.Fatalf("n9 is a %s", rec.Role)
		}
		for i := range 8 {
			_, err := m.At("fra-1").Cordon(t.Context(), placement.NodeID(fmt.Sprintf("n%d", i+1)))
			m.must(err)
		}
		voter := m.follower("fra-1")
		lies := newPerjurer(t, m.region("fra-1").newest())
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR,!site:par-b","command":["run","1s"]}`)
		lies.assign(job.ID, "FR")

		cred := m.stolen("fra-1", voter)
		m.Kill("fra-1", voter)
		r := m.rogue(cred, m.host("fra-1", voter).addr)
		heard := make(chan struct{}, 1)
		tell := lies.tell("n9", strings.NewReplacer())
		r.endpoint.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if strings.HasSuffix(q.URL.Path, "/facts") {
				select {
				case heard <- struct{}{}:
				default:
				}
			}
			tell.ServeHTTP(w, q)
		}))
		select {
		case <-heard:
		case <-time.After(2 * time.Minute):
			t.Fatal("the worker never asked the voter that lies")
		}
		m.watch(20*time.Second, 50*time.Millisecond, "the worker starts nothing of what one voter says", func() bool { return len(worker.world.Starts()) == 0 })
		lawful, err := m.AtNode("fra-1", m.Leader("fra-1")).TrySubmit(`{"kind":"fake","residency":"FR","node":"n9","command":["run","1s"]}`)
		m.must(err)
		m.Within(20*time.Second, "what the others tell alike it does", lawful.Exited(0))
		if !job.Is(placement.JobPending)() {
			t.Errorf("the job without a lawful place: %s", job)
		}
		m.CheckInvariants()
	})
}

// Law 2's last check: even what most voters say is judged once more where it is
// to start, by the law and the facts that the node holds.
func TestAWorkerJudgesBeforeItStarts(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 9))
		worker := m.host("fra-1", "n9")
		lies := newPerjurer(t, m.region("fra-1").newest())
		lawful, unlawful := placement.NewJobID("fra-1", time.Now()), placement.NewJobID("fra-1", time.Now())
		lies.assign(lawful, "FR")
		lies.assign(unlawful, "EU")
		tell := lies.tell("n9", strings.NewReplacer(`"tag":"EU"`, `"tag":"DE"`))
		for _, voter := range []placement.NodeID{"n1", "n2"} {
			cred := m.stolen("fra-1", voter)
			m.Kill("fra-1", voter)
			m.rogue(cred, m.host("fra-1", voter).addr).endpoint.ServeH3(tell)
		}
		m.Within(40*time.Second, "what most voters say and the law allows starts", func() bool { return worker.world.Starts()[lawful.Task(0, 0)] == 1 })
		m.watch(5*time.Second, 50*time.Millisecond, "what the law does not allow is not started, whoever says so", func() bool { return worker.world.Starts()[unlawful.Task(0, 0)] == 0 })
	})
}

// modelServer answers chat completions on the loopback of every machine.
func (m *Mesh) modelServer(addr string) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"id":"c1","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"salut"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`))
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	l := m.tcp.listen(addr)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	m.t.Cleanup(func() { _ = srv.Close(); <-done })
}

// A worker serves the OpenAI surface like every node: for a model elsewhere in
// its region, and for one of its own; with a token that it has to ask about.
func TestAWorkerServesModels(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 8))
		m.modelServer("127.0.0.1:8000")
		for model, on := range map[string]string{"near": "n8", "far": "n2", "proven": "n8"} {
			evidence := "best-effort"
			if model == "proven" {
				evidence = "required"
			}
			job := m.At("fra-1").Submit(`{"kind":"inference","type":"service","evidence":"` + evidence + `","restart":{"policy":"on-failure"},"residency":"FR","node":"` + on + `","models":["` + model + `"],"upstream":"http://127.0.0.1:8000","command":["run","1h"]}`)
			m.Within(20*time.Second, "the model server runs", job.Is(placement.JobRunning))
		}
		tok, err := m.At("fra-1").CreateToken(t.Context(), api.TokenRequest{Roles: []state.Role{state.RoleSubmitter}, Residency: "FR"})
		m.must(err)
		ask := func(node placement.NodeID, method, path, token, body string) (int, string) {
			status, data := m.request(method, "fra-1", node, path, http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}, body)
			return status, string(data)
		}
		chat := func(node placement.NodeID, model, token string) (int, string) {
			return ask(node, http.MethodPost, "/v1/chat/completions", token, `{"model":"`+model+`","messages":[{"role":"user","content":"bonjour"}]}`)
		}
		for _, node := range []placement.NodeID{"n8", "n1"} {
			m.Within(10*time.Second, string(node)+" lists all models", func() bool {
				status, text := ask(node, http.MethodGet, "/v1/models", tok.Secret, "")
				return status == http.StatusOK && strings.Contains(text, `"near"`) && strings.Contains(text, `"far"`) && strings.Contains(text, `"proven"`)
			})
		}
		for _, c := range []struct {
			node  placement.NodeID
			model string
		}{{"n8", "near"}, {"n8", "far"}, {"n1", "near"}, {"n1", "proven"}, {"n8", "proven"}} {
			if status, text := chat(c.node, c.model, tok.Secret); status != http.StatusOK || !strings.Contains(text, "salut") {
				t.Errorf("%s through %s: %d %s", c.model, c.node, status, text)
			}
		}
		for name, token := range map[string]string{"nobody's token": tok.Secret + "x", "no token": ""} {
			if status, text := chat("n8", "near", token); status != http.StatusUnauthorized {
				t.Errorf("%s: %d %s", name, status, text)
			}
		}
		m.must(m.At("fra-1").RevokeToken(t.Context(), tok.ID))
		time.Sleep(6 * time.Second) // an acceptance is believed for five
		if status, text := chat("n8", "near", tok.Secret); status != http.StatusUnauthorized {
			t.Errorf("a revoked token: %d %s", status, text)
		}
	})
}

// A worker hears of revocations, also after it was away, and it knows its region
// again after a start with nothing but its directory.
func TestAWorkerRefusesARevokedCertificate(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 9))
		to := m.peer("fra-1", "n9")
		r := m.rogue(m.stolen("fra-1", "n8"), outside(1))
		classes := []identity.Class{identity.ClassHTTP, identity.ClassGossip}
		for _, class := range classes {
			m.must(r.knock(class, to))
		}
		m.host("fra-1", "n8").end(false)
		m.must(m.At("fra-1").RemoveNode(t.Context(), "n8"))
		time.Sleep(2 * time.Second)
		for _, class := range classes {
			mustRefuse(m, "a revoked certificate at a worker, on "+string(class), r.knock(class, to))
		}
		m.Kill("fra-1", "n9")
		m.Restart("fra-1", "n9")
		m.host("fra-1", "n9").waitReady()
		for _, class := range classes {
			mustRefuse(m, "a revoked certificate at a worker that was away, on "+string(class), r.knock(class, to))
		}
		if status, _ := m.Fetch("fra-1", "n9", "/readyz"); status != http.StatusOK {
			t.Errorf("readyz of a worker: %d", status)
		}
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","node":"n9","command":["run","1s"]}`)
		m.Within(20*time.Second, "the worker works", job.Exited(0))
		m.CheckInvariants()
	})
}
