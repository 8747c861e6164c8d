package consensus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// region is a few groups over a fabric.
type region struct {
	t     testing.TB
	net   *fabric
	mu    sync.Mutex
	nodes map[placement.NodeID]*server // guarded by mu
	dirs  map[placement.NodeID]Storage
	skew  sync.Map // of a node's clock, time.Duration
	jobs  atomic.Int64
	tune  func(*Config)
}

type server struct {
	*Group
	stop context.CancelFunc
	done chan error
}

func newRegion(t testing.TB, nodes int, tune func(*Config)) *region {
	r := &region{t: t, net: newFabric(), nodes: map[placement.NodeID]*server{}, dirs: map[placement.NodeID]Storage{}, tune: tune}
	t.TempDir() // removed after the groups have ended, with all others
	t.Cleanup(func() {
		r.mu.Lock()
		var all []*server
		for _, s := range r.nodes {
			all = append(all, s)
		}
		r.mu.Unlock()
		for _, s := range all {
			s.stop()
		}
		for _, s := range all {
			r.stopped(s)
		}
	})
	first := r.start("n1")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := first.Bootstrap(ctx, state.InitRegion{
		Region:  placement.Region{ID: "fra-1", Mesh: "mesh.example", Facts: placement.RegionFacts{Country: "FR", Operator: placement.Operator{Home: "FR", Parent: "none"}}, LogKey: logSigner().Verifier().String()},
		LawPack: residency.Embedded().Tables(), Node: aNode("n1"),
	}, "op"); err != nil {
		t.Fatalf("bootstrap: %v", err)
	}
	for i := 2; i <= nodes; i++ {
		r.join(placement.NodeID(fmt.Sprintf("n%d", i)))
	}
	if nodes > 1 {
		r.within("all vote", func() bool { return r.votes(r.leader()) == min(nodes, 3) })
	}
	return r
}

func (r *region) votes(s *server) (n int) {
	for _, m := range s.Peers() {
		if m.Voter {
			n++
		}
	}
	return n
}

func aNode(id placement.NodeID) placement.Node {
	return placement.Node{ID: id, QUIC: address(id), API: "https://" + address(id), Inventory: placement.Inventory{Version: 1, CPU: 64000, Memory: 64 * placement.GiB, States: state.MaxVersion}}
}

func (r *region) start(id placement.NodeID) *server {
	cfg := DefaultConfig()
	cfg.Self, cfg.Region, cfg.Advertise, cfg.Layer = id, "fra-1", address(id), r.net.layer(id)
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaseTimeout = 200*time.Millisecond, 200*time.Millisecond, 150*time.Millisecond
	cfg.DigestInterval = 0
	cfg.ClockInterval = 100 * time.Millisecond
	cfg.Clock = func() time.Time {
		d, _ := r.skew.Load(id)
		skew, _ := d.(time.Duration)
		return time.Now().Add(skew)
	}
	cfg.Forward = r.forward
	if os.Getenv("CONSENSUS_LOG") != "" {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", id)
	}
	if r.dirs[id] == nil {
		r.dirs[id] = Dir(r.t.TempDir())
	}
	cfg.Storage = r.dirs[id]
	if r.tune != nil {
		r.tune(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{g, cancel, make(chan error, 1)}
	go func() { s.done <- g.Run(ctx); close(s.done) }()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[id] = s
	return s
}

// kill stops a node as a crash would for the others: its links go first.
func (r *region) kill(id placement.NodeID) {
	r.net.isolate(id, true)
	r.mu.Lock()
	s := r.nodes[id]
	delete(r.nodes, id)
	r.mu.Unlock()
	s.stop()
	r.stopped(s)
}

// stopped waits for a node's end. A node that has none says where it hangs.
func (r *region) stopped(s *server) {
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		r.t.Fatalf("%s was stopped a minute ago and still runs", s.cfg.Self)
	}
}

func (r *region) restart(id placement.NodeID) *server {
	r.net.isolate(id, false)
	return r.start(id)
}

func (r *region) forward(ctx context.Context, leader Member, raw []byte) (state.Result, error) {
	r.mu.Lock()
	s := r.nodes[leader.Node]
	r.mu.Unlock()
	r.net.mu.Lock()
	cut := r.net.cut[leader.Node]
	r.net.mu.Unlock()
	if s == nil || cut {
		return state.Result{}, errors.New("no route to the leader")
	}
	return s.ProposeRaw(ctx, raw)
}

func (r *region) join(id placement.NodeID) *server {
	r.t.Helper()
	sum := sha256.Sum256([]byte(id))
	h := hex.EncodeToString(sum[:])
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l := r.leader()
	if _, err := l.Propose(ctx, state.CreateJoinToken{Hash: h, Expires: time.Now().Add(time.Minute)}, "op"); err != nil {
		r.t.Fatal(err)
	}
	s := r.start(id)
	if _, err := l.Propose(ctx, state.JoinNode{TokenHash: h, Node: aNode(id)}, "op"); err != nil {
		r.t.Fatal(err)
	}
	r.within(string(id)+" follows", func() bool { return s.View().Node(id) != nil })
	return s
}

// leader waits for a node that leads.
func (r *region) leader() (found *server) {
	r.t.Helper()
	r.within("a leader", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for id, s := range r.nodes {
			r.net.mu.Lock()
			cut := r.net.cut[id]
			r.net.mu.Unlock()
			if s.IsLeader() && !cut {
				found = s
				return true
			}
		}
		return false
	})
	return found
}

func (r *region) at(id placement.NodeID) *server {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes[id]
}

// within polls until a condition holds.
func (r *region) within(what string, cond func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within two minutes: %s", what)
		}
		<-tick.C
	}
}

func (r *region) job() state.SubmitJob {
	n := r.jobs.Add(1)
	return state.SubmitJob{Job: placement.Job{ID: placement.NewJobID("fra-1", time.Now()), Name: fmt.Sprint(n), Kind: placement.KindFake, Tenant: "default", Residency: "EU",
		Spec: placement.JobSpec{Kind: placement.KindFake, Type: placement.TypeBatch, Resources: placement.DefaultResources()}}}
}
