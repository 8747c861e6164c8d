package controller

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// day is when every test begins: the law packs are dated, and a bubble's own
// clock begins in the year 2000.
var day = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// world is a region of one replica: the true state machine without raft, a
// gossip pool that the test moves, and a clock that begins at day.
type world struct {
	t     *testing.T
	began time.Time

	mu      sync.Mutex
	s       *state.State
	view    *state.View
	index   uint64
	news    chan struct{} // closed at the next change
	said    []said
	silent  map[placement.NodeID]bool
	doubted map[placement.NodeID]bool
	// before is asked before a controller's command is applied; its error is
	// what the controller gets, and then nothing is applied.
	before func(ctx context.Context, cmd state.Command) error

	cfg  Config
	stop func()
}

// said is one command that the controller proposed and what came of it.
type said struct {
	cmd     state.Command
	refused *state.Refused
	at      time.Duration // since the test began
}

// inWorld runs a test of a region in France in virtual time. Its first node is
// n1, on which the controller runs: it has room for nothing.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, began: time.Now(), s: state.New(), news: make(chan struct{}),
			silent: map[placement.NodeID]bool{}, doubted: map[placement.NodeID]bool{}, stop: func() {}}
		w.cfg = DefaultConfig()
		w.cfg.Self, w.cfg.Region, w.cfg.Log, w.cfg.Members, w.cfg.Now = "n1", "fra-1", w, w, w.now
		w.ok(state.InitRegion{
			Region:  placement.Region{ID: "fra-1", Mesh: "mesh.example", Facts: factsOf("FR"), Bundle: []byte(`{"spiffe_sequence":1}`), Fingerprint: "f-fra-1"},
			LawPack: residency.Embedded().Tables(), Node: nodeOf("n1", 0),
		})
		defer func() { w.stop() }()
		test(t, w)
	})
}

func (w *world) now() time.Time { return day.Add(time.Since(w.began)) }

func factsOf(country string) placement.RegionFacts {
	return placement.RegionFacts{Country: country, Operator: placement.Operator{Home: country, Parent: "none"},
		Assurance: placement.Assurance{Location: "documented", Operator: "documented", AsOf: "2026-10-01"}}
}

// nodeOf has room for so many tasks of the default size.
func nodeOf(id string, tasks int) placement.Node {
	r := placement.DefaultResources()
	return placement.Node{ID: placement.NodeID(id), QUIC: "127.0.0.1:7" + id[1:], API: "https://127.0.0.1:8" + id[1:],
		Inventory: placement.Inventory{Version: 1, CPU: r.CPU * placement.MilliCPU(tasks), Memory: r.Memory * placement.Bytes(tasks),
			Drivers: []string{"process"}, States: state.MaxVersion}}
}

// apply is a command of somebody else than the controller.
func (w *world) apply(cmd state.Command, actor string) state.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, w.index))
	raw, err := state.Encode(state.Head{Version: w.s.StateVersion(), Time: w.now(), Salt: [16]byte(sum[:16]), Actor: actor}, cmd)
	if err != nil {
		w.t.Errorf("encode %T: %v", cmd, err)
		return state.Result{}
	}
	res := w.s.Apply(w.index, raw)
	w.view = w.s.Freeze()
	close(w.news)
	w.news = make(chan struct{})
	return res
}

func (w *world) ok(cmd state.Command) state.Result {
	w.t.Helper()
	res := w.apply(cmd, "tok-1")
	if res.Refused != nil {
		w.t.Fatalf("%T was refused: %s %s", cmd, res.Refused.Code, res.Refused.Message)
	}
	return res
}

// Propose, View and Wait are the controller's [Log].
func (w *world) Propose(ctx context.Context, cmd state.Command, actor string) (state.Result, error) {
	w.mu.Lock()
	before := w.before
	w.mu.Unlock()
	if before != nil {
		if err := before(ctx, cmd); err != nil {
			return state.Result{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return state.Result{}, err
	}
	if actor != "node:n1" {
		w.t.Errorf("%T is proposed in the name of %q", cmd, actor)
	}
	res := w.apply(cmd, actor)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, said{cmd, res.Refused, time.Since(w.began)})
	return res, nil
}

func (w *world) View() *state.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view
}

func (w *world) Wait(ctx context.Context, after uint64) (*state.View, error) {
	for {
		w.mu.Lock()
		view, news := w.view, w.news
		w.mu.Unlock()
		if view.Index() > after {
			return view, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-news:
		}
	}
}

// Alive and Suspect are the controller's [Members].
func (w *world) Alive(node placement.NodeID) (alive, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.silent[node], true
}

func (w *world) Suspect(node placement.NodeID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.doubted[node]
}

// set changes what the test moves.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// lead begins a term; w.stop ends it and returns once Lead has.
func (w *world) lead() {
	w.t.Helper()
	c, err := New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Lead(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("the term ended with %v", err)
		}
		w.stop = func() {}
	}
}

// pass lets d go by and everything that follows from it happen.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) node(id string, tasks int) {
	w.t.Helper()
	w.join(nodeOf(id, tasks))
}

func (w *world) join(n placement.Node) {
	w.t.Helper()
	sum := sha256.Sum256([]byte("join " + n.ID))
	hash := hex.EncodeToString(sum[:])
	w.ok(state.CreateJoinToken{Hash: hash, Expires: w.now().Add(time.Minute)})
	w.ok(state.JoinNode{TokenHash: hash, Node: n})
}

func (w *world) peer(id, country string) {
	w.t.Helper()
	w.ok(state.PutPeer{Region: placement.Region{ID: placement.RegionID(id), Mesh: "mesh.example", Facts: factsOf(country),
		Bundle: []byte(`{"spiffe_sequence":3}`), Fingerprint: "f-" + id, LawPack: residency.Embedded().Hash()}})
	w.ok(state.ApprovePeer{Region: placement.RegionID(id), Fingerprint: "f-" + id})
}

// submit puts job number n (1 to 9) into the queue.
func (w *world) submit(n int, tag string, change ...func(*placement.Job)) placement.JobID {
	w.t.Helper()
	j := placement.Job{ID: placement.JobID(fmt.Sprintf("fra-1.01kb%s%d", strings.Repeat("0", 21), n)), Name: "work", Kind: placement.KindProcess,
		Tenant: "default", Residency: tag, Spec: placement.JobSpec{Name: "work", Kind: placement.KindProcess, Type: placement.TypeBatch,
			Command: []string{"/bin/work"}, Resources: placement.DefaultResources(), Evidence: placement.EvidenceRequired}}
	for _, c := range change {
		c(&j)
	}
	w.ok(state.SubmitJob{Job: j})
	return j.ID
}

func service(j *placement.Job)   { j.Spec.Type = placement.TypeService }
func singleton(j *placement.Job) { j.Spec.Type, j.Spec.Singleton = placement.TypeService, true }

// obey does what the nodes that answer would: it runs what is assigned to them
// and ends what shall stop.
func (w *world) obey() {
	w.t.Helper()
	view := w.View()
	for _, n := range view.Nodes() {
		if alive, _ := w.Alive(n.ID); !alive {
			continue
		}
		for _, t := range view.TasksOn(n.ID) {
			report := placement.TaskReport{Task: t.ID, Status: placement.TaskRunning, At: w.now()}
			if t.Stop {
				report.Status = placement.TaskStopped
			} else if t.Status == placement.TaskRunning {
				continue
			}
			w.ok(state.ReportTasks{Node: n.ID, Reports: []placement.TaskReport{report}})
		}
	}
	synctest.Wait()
}

// live are the nodes of a job's live tasks, oldest first.
func (w *world) live(job placement.JobID) (on []placement.NodeID) {
	for _, t := range w.View().TasksOf(job) {
		if t.Status.Live() {
			on = append(on, t.Node)
		}
	}
	return on
}

func (w *world) wantLive(job placement.JobID, want ...placement.NodeID) {
	w.t.Helper()
	if got := w.live(job); fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Fatalf("after %s, job %s has live tasks on %v, want %v; the job: %+v", time.Since(w.began), job, got, want, w.View().Job(job))
	}
}

// heard are the controller's commands of one type, refused ones too.
func heard[C state.Command](w *world) (out []said) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.said {
		if _, ok := s.cmd.(C); ok {
			out = append(out, s)
		}
	}
	return out
}
