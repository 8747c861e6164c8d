package mesh

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// served is a region whose last node is a worker and runs a model.
func served(t *testing.T, nodes int, worker placement.NodeID) *Mesh {
	t.Helper()
	m := New(t, Region("fra-1", "FR", nodes), Region("ber-1", "DE", 1))
	if rec := m.region("fra-1").newest().Node(worker); rec.Role != placement.RoleWorker {
		t.Fatalf("%s is a %s", worker, rec.Role)
	}
	m.modelServer("127.0.0.1:8000")
	job := m.At("fra-1").Submit(`{"kind":"inference","type":"service","restart":{"policy":"on-failure"},"residency":"FR","node":"` + string(worker) + `","models":["m"],"upstream":"http://127.0.0.1:8000","command":["run","1h"]}`)
	m.Within(20*time.Second, "the model server runs", job.Is(placement.JobRunning))
	return m
}

// proven asks until a node answers with a receipt of required evidence.
func (m *Mesh) proven(node placement.NodeID) (id string) {
	m.t.Helper()
	m.Within(20*time.Second, string(node)+" answers with a receipt", func() bool {
		var status int
		status, id = m.chat("fra-1", node, "m", "required")
		return status == http.StatusOK && id != "" && id != "dropped"
	})
	return id
}

func (m *Mesh) chainOf(node placement.NodeID) state.Segment {
	if s := m.region("fra-1").newest().Segment(node); s != nil {
		return *s
	}
	return state.Segment{}
}

// A worker keeps receipts like every node: asked for anywhere they verify
// offline, a pack has them, and a start continues the chain.
func TestAWorkerKeepsReceipts(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := served(t, 8, "n8")
		ids := []string{m.proven("n8"), m.proven("n1")}
		time.Sleep(2 * time.Second)
		first := m.chainOf("n8")
		if first.Seq < 2 || !strings.HasPrefix(ids[0], "fra-1."+strings.TrimPrefix(first.Chain, "h:")+".") {
			t.Fatalf("the chain %+v of %s", first, ids[0])
		}
		m.Kill("fra-1", "n8")
		m.Restart("fra-1", "n8")
		m.host("fra-1", "n8").waitReady()
		ids = append(ids, m.proven("n8"))
		m.Within(10*time.Second, "the chain goes on", func() bool { return m.chainOf("n8").Seq > first.Seq })
		if now := m.chainOf("n8"); now.Chain != first.Chain {
			t.Errorf("another chain: %+v after %+v", now, first)
		}
		m.Within(30*time.Second, "all is signed and witnessed", m.cosigned("fra-1"))
		for _, node := range []placement.NodeID{"n8", "n2"} {
			for _, id := range ids {
				data, d, err := m.AtNode("fra-1", node).InferenceReceipt(t.Context(), id, 10*time.Second)
				m.must(err)
				if rep := m.audited("fra-1", data); !rep.OK() || d.State != receipt.Committed || rep.Receipt.ID != id {
					t.Errorf("%s at %s: %s %+v", id, node, d.State, rep.Verdicts)
				}
			}
		}
		if _, _, err := m.AtNode("fra-1", "n8").InferenceReceipt(t.Context(), "fra-1."+strings.Repeat("ab", 32)+".2.0", 0); Code(err) != "receipt_not_found" {
			t.Errorf("a chain that nobody has: %v", err)
		}
		m.Within(30*time.Second, "all is signed and witnessed", m.cosigned("fra-1"))
		rep := m.audited("fra-1", m.exported(m.AtNode("fra-1", "n1").Client, evidence.Filter{}))
		if r := rep.Regions[0]; !rep.OK() || r.Receipts < len(ids) || r.Requests != uint64(r.Receipts) || r.Missing != 0 || r.Absent != 0 {
			t.Errorf("%+v\n%+v", r, rep.Verdicts)
		}
	})
}

// A worker that was taken over speaks of its own chain alone, and is told of no
// other; nor does a voter continue the chain of another under its own name.
func TestAWorkerSpeaksOfItsOwnChainAlone(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := served(t, 8, "n8")
		m.proven("n1")
		m.proven("n8")
		time.Sleep(2 * time.Second)
		r := m.rogue(m.stolen("fra-1", "n8"), outside(1))
		to := m.peer("fra-1", m.Leader("fra-1"))
		next := func(node placement.NodeID) state.CommitSegment {
			last := m.chainOf(node)
			return state.CommitSegment{Node: node, Seq: last.Seq + 1, Prev: last.Root, Root: ledger.Hash{1}, Count: 1, From: time.Now(), To: time.Now()}
		}
		before := m.chainOf("n1")
		if _, err := r.propose(to, next("n1"), time.Now()); Code(err) != api.CodeRole {
			t.Errorf("a worker continues the chain of a voter: %v", err)
		}
		end, err := r.mesh.Chain(t.Context(), to)
		m.must(err)
		if end.Segment == nil || end.Segment.Node != "n8" {
			t.Errorf("the end of its own chain: %+v", end.Segment)
		}
		for _, leaf := range []uint64{0, before.Leaf, 1 << 40} {
			if _, err := r.mesh.ChainProof(t.Context(), to, leaf); Code(err) != api.CodeRole {
				t.Errorf("a worker reads leaf %d: %v", leaf, err)
			}
		}
		voter := m.rogue(m.stolen("fra-1", "n2"), outside(2))
		if res, err := voter.propose(to, next("n8"), time.Now()); err != nil || res.Refused == nil || res.Refused.Code != "segment.actor" {
			t.Errorf("a voter continues the chain of a worker: %+v %v", res, err)
		}
		if now := m.chainOf("n1"); now != before {
			t.Errorf("the chain of n1 went on: %+v", now)
		}
	})
}

// passOn lets another node answer a request that came to the attacker.
func (r *rogue) passOn(w http.ResponseWriter, q *http.Request, to transport.Peer) {
	req, err := http.NewRequestWithContext(q.Context(), q.Method, "https://"+to.Addr+q.URL.RequestURI(), nil)
	if err != nil {
		http.NotFound(w, q)
		return
	}
	req.Header = q.Header.Clone()
	res, err := r.endpoint.Do(q.Context(), to, transport.Cargo{Kind: transport.CargoStatus}, req)
	if err != nil {
		http.NotFound(w, q)
		return
	}
	defer res.Body.Close()
	w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
	w.WriteHeader(res.StatusCode)
	_, _ = io.Copy(w, res.Body)
}

// One voter was taken over: it tells the worker that it has no chain, or one that
// ends elsewhere, and says of what it is handed that it is committed. The worker
// neither begins anew nor believes it; the answers of before and after verify.
func TestAWorkerBelievesNoSingleVoterAboutItsChain(t *testing.T) {
	for name, lie := range map[string]func(state.Segment) *state.Segment{
		"no chain": func(state.Segment) *state.Segment { return nil },
		"longer":   func(s state.Segment) *state.Segment { s.Seq, s.Root = s.Seq+5, ledger.Hash{7}; return &s },
		"shorter":  func(s state.Segment) *state.Segment { s.Seq = 1; return &s },
	} {
		t.Run(name, func(t *testing.T) {
			Run(t, func(t *testing.T) {
				m := served(t, 8, "n8")
				ids := []string{m.proven("n8")}
				time.Sleep(2 * time.Second)
				first := m.chainOf("n8")
				voter := placement.NodeID("n1") // a worker asks it first
				cred := m.stolen("fra-1", voter)
				m.Kill("fra-1", "n8")
				m.Kill("fra-1", voter)
				told, handed := make(chan struct{}, 100), make(chan struct{}, 100)
				note := func(c chan struct{}) {
					select {
					case c <- struct{}{}:
					default:
					}
				}
				r, other := m.rogue(cred, m.host("fra-1", voter).addr), m.peer("fra-1", "n2")
				r.endpoint.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					switch q.URL.Path {
					case api.MeshPrefix + "/chain":
						note(told)
						_ = json.NewEncoder(w).Encode(api.ChainEnd{Segment: lie(first)})
					case api.MeshPrefix + "/propose":
						note(handed)
						_ = json.NewEncoder(w).Encode(state.Result{Leaf: 3})
					default: // of tokens and the like it says what another voter says
						r.passOn(w, q, other)
					}
				}))
				m.Restart("fra-1", "n8")
				m.host("fra-1", "n8").waitReady()
				ids = append(ids, m.proven("n8"))
				m.Within(40*time.Second, "the chain goes on", func() bool { return m.chainOf("n8").Seq > first.Seq })
				if len(told) == 0 || len(handed) == 0 {
					t.Errorf("the voter that lies was asked %d times, and handed %d commands", len(told), len(handed))
				}
				if now := m.chainOf("n8"); now.Chain != first.Chain {
					t.Errorf("another chain: %+v after %+v", now, first)
				}
				aside, err := filepath.Glob(filepath.Join(m.host("fra-1", "n8").dir, "receipts", "before-*"))
				m.must(err)
				if files, err := os.ReadDir(filepath.Join(m.host("fra-1", "n8").dir, "receipts")); err != nil || len(aside) > 0 || len(files) == 0 {
					t.Errorf("the worker gave its files up: %v %v %v", aside, files, err)
				}
				m.Within(30*time.Second, "all is signed and witnessed", m.cosigned("fra-1"))
				for _, id := range ids {
					data, _, err := m.AtNode("fra-1", "n8").InferenceReceipt(t.Context(), id, 10*time.Second)
					m.must(err)
					if rep := m.audited("fra-1", data); !rep.OK() {
						t.Errorf("%s: %+v", id, rep.Verdicts)
					}
				}
			})
		})
	}
}
