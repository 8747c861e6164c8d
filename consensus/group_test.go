package consensus

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestThreeNodesAgree(t *testing.T) {
	r := newRegion(t, 3, nil)
	l := r.leader()
	var follower *server
	for id, s := range r.nodes {
		if s != l {
			follower = r.at(id)
		}
	}
	job := r.job()
	if _, err := follower.Propose(timeout(t), job, "tok"); err != nil {
		t.Fatal(err)
	}
	if follower.View().Job(job.Job.ID) == nil {
		t.Error("a proposer does not read its own write")
	}
	view, err := l.ReadIndex(timeout(t))
	if err != nil || view.Job(job.Job.ID) == nil {
		t.Errorf("the leader's read: %v", err)
	}
	var no *NotLeader
	if _, err := follower.ReadIndex(timeout(t)); !errors.As(err, &no) || no.Leader != l.cfg.Self || !errors.Is(err, ErrNoLeader) {
		t.Errorf("a follower's read: %v", err)
	}
	var refused *state.Refused
	if _, err := follower.Propose(timeout(t), job, "tok"); !errors.As(err, &refused) || refused.Code != "job.exists" {
		t.Errorf("a second job of the same id: %v", err)
	}
	if err := l.CompareReplicas(timeout(t)); err != nil {
		t.Fatal(err)
	}
	index := l.View().Index()
	for _, s := range r.nodes {
		if _, err := s.Wait(timeout(t), index-1); err != nil {
			t.Fatal(err)
		}
	}
	r.within("equal digests", func() bool {
		want := l.View().Digest()
		for _, s := range r.nodes {
			if s.View().Digest() != want {
				return false
			}
		}
		return true
	})
}

// The leader is killed under a stream of submits: none acknowledged is lost,
// none takes effect twice, none fails within its client's deadline.
func TestALeaderIsKilledUnderLoad(t *testing.T) {
	r := newRegion(t, 3, nil)
	old := r.leader()
	var survivors []*server
	for _, s := range r.nodes {
		if s != old {
			survivors = append(survivors, s)
		}
	}
	var mu sync.Mutex
	acknowledged := map[placement.JobID]bool{}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i := range 8 {
		s := survivors[i%2]
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				job := r.job()
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				_, err := s.Propose(ctx, job, "tok")
				cancel()
				if err != nil {
					t.Errorf("submit: %v", err)
					return
				}
				mu.Lock()
				acknowledged[job.Job.ID] = true
				mu.Unlock()
			}
		})
	}
	count := func(n int) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return len(acknowledged) >= n }
	}
	r.within("100 submits", count(100))
	r.kill(old.cfg.Self)
	mu.Lock()
	n := len(acknowledged)
	mu.Unlock()
	r.within("100 more after the kill", count(n+100))
	close(stop)
	writers.Wait()
	view, err := r.leader().ReadIndex(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	for id := range acknowledged {
		if view.Job(id) == nil {
			t.Errorf("job %s was acknowledged and is lost", id)
		}
	}
	if got := view.JobCount(); got != int(r.jobs.Load()) {
		t.Errorf("%d jobs of %d submits", got, r.jobs.Load())
	}
	back := r.restart(old.cfg.Self)
	r.within("the killed node catches up", func() bool { return back.View().JobCount() == view.JobCount() })
	if back.View().LedgerRoot() != r.leader().View().LedgerRoot() {
		r.within("equal roots", func() bool { return back.View().LedgerRoot() == r.leader().View().LedgerRoot() })
	}
}

func TestRestartFromDisk(t *testing.T) {
	r := newRegion(t, 1, func(c *Config) { c.SnapshotThreshold, c.SnapshotInterval, c.Trailing = 20, 20*time.Millisecond, 5 })
	for range 60 {
		if _, err := r.leader().Propose(timeout(t), r.job(), "tok"); err != nil {
			t.Fatal(err)
		}
	}
	r.within("a snapshot", func() bool { return r.leader().raft.Load().Stats()["last_snapshot_index"] != "0" })
	root, digest := r.leader().View().LedgerRoot(), r.leader().View().Digest()
	r.kill("n1")
	s := r.restart("n1")
	r.leader()
	if s.View().LedgerRoot() != root || s.View().Digest() != digest {
		t.Errorf("after the restart %d jobs, root %x", s.View().JobCount(), s.View().LedgerRoot())
	}
}

func TestAFreshReplicaGetsASnapshot(t *testing.T) {
	r := newRegion(t, 1, func(c *Config) {
		c.SnapshotThreshold, c.SnapshotInterval, c.Trailing = 20, 20*time.Millisecond, 1
		if c.Self == "n2" { // takes none of its own: what it has was sent to it
			c.SnapshotThreshold = 1 << 30
			return
		}
		// Raft-wal goes on giving entries of its open segment that were compacted,
		// and the replica would replay those.
		c.Storage = Memory()
	})
	for range 60 {
		if _, err := r.leader().Propose(timeout(t), r.job(), "tok"); err != nil {
			t.Fatal(err)
		}
	}
	snapshot := func(s *server) uint64 {
		at, err := strconv.ParseUint(s.raft.Load().Stats()["last_snapshot_index"], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	r.within("a compacted log", func() bool { return snapshot(r.leader()) > 40 })
	s := r.join("n2")
	r.within("equal states", func() bool {
		return s.View().LedgerRoot() == r.leader().View().LedgerRoot() && s.View().Digest() == r.leader().View().Digest()
	})
	if s.View().JobCount() != 60 {
		t.Errorf("%d jobs", s.View().JobCount())
	}
	// Raft notes the index just after the state machine has the state.
	r.within("the replica to have begun with a snapshot", func() bool { return snapshot(s) > 40 })
}

// Commands of one caller are applied in its order, and those of many at once
// share log entries.
func TestGroupCommit(t *testing.T) {
	r := newRegion(t, 1, nil)
	l := r.leader()
	before := l.raft.Load().LastIndex()
	var all sync.WaitGroup
	var mu sync.Mutex
	leaves := map[uint64]bool{}
	const callers, each = 64, 20
	for range callers {
		all.Go(func() {
			last := uint64(0)
			for range each {
				res, err := l.Propose(timeout(t), r.job(), "tok")
				if err != nil || res.Leaf <= last {
					t.Errorf("leaf %d after %d: %v", res.Leaf, last, err)
					return
				}
				last = res.Leaf
				mu.Lock()
				leaves[res.Leaf] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(leaves) != callers*each {
		t.Errorf("%d leaves for %d commands", len(leaves), callers*each)
	}
	if entries := l.raft.Load().LastIndex() - before; entries > callers*each*3/4 {
		t.Errorf("%d commands took %d log entries", callers*each, entries)
	}
}

func TestAStandbyTakesTheVoteOfTheDead(t *testing.T) {
	r := newRegion(t, 4, func(c *Config) { c.ReplaceAfter = 50 * time.Millisecond })
	if n := r.leader().View().Node("n4"); n.Role != placement.RoleStandby {
		t.Fatalf("n4 is %s", n.Role)
	}
	l := r.leader()
	var dead placement.NodeID
	for _, m := range l.Peers() {
		if m.Voter && m.Node != l.cfg.Self {
			dead = m.Node
		}
	}
	r.kill(dead)
	if _, err := l.Propose(timeout(t), state.SetContact{Nodes: []placement.NodeID{dead}, Contact: placement.ContactUnknown}, "op"); err != nil {
		t.Fatal(err)
	}
	r.within("n4 votes, and the dead does not", func() bool {
		votes := map[placement.NodeID]bool{}
		for _, m := range r.leader().Peers() {
			votes[m.Node] = m.Voter
		}
		return votes["n4"] && !votes[dead]
	})
	if _, err := r.leader().Propose(timeout(t), state.RemoveNode{Node: dead}, "op"); err != nil {
		t.Fatal(err)
	}
	r.within("the removed node is out", func() bool { return len(r.leader().Peers()) == 3 })
}

func TestADrainedNodesLeadMoves(t *testing.T) {
	r := newRegion(t, 3, nil)
	old := r.leader()
	if _, err := old.Propose(timeout(t), state.DrainNode{Node: old.cfg.Self, Drain: placement.Drain{Deadline: time.Now().Add(time.Hour)}}, "op"); err != nil {
		t.Fatal(err)
	}
	r.within("another leads", func() bool { id, ok := r.leader().Leader(); return ok && id != old.cfg.Self })
}

func TestLeadRunsPerLeadership(t *testing.T) {
	r := newRegion(t, 3, nil)
	old := r.leader()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	began, ended := make(chan placement.NodeID, 8), make(chan placement.NodeID, 8)
	for _, s := range r.nodes {
		go s.Lead(ctx, func(ctx context.Context) {
			began <- s.cfg.Self
			<-ctx.Done()
			ended <- s.cfg.Self
		})
	}
	if got := <-began; got != old.cfg.Self {
		t.Fatalf("%s began, %s leads", got, old.cfg.Self)
	}
	if err := old.TransferLeadership(timeout(t), ""); err != nil {
		t.Fatal(err)
	}
	if got := <-ended; got != old.cfg.Self {
		t.Errorf("%s ended", got)
	}
	if got := <-began; got == old.cfg.Self {
		t.Errorf("%s began again", got)
	}
}

// A node that stops while commands are committed and not yet applied comes to
// its end: raft, shut down, drops what waits for its state machine and never
// answers it.
func TestStopsWithCommandsInFlight(t *testing.T) {
	for range 6 {
		r := newRegion(t, 1, nil)
		s := r.leader()
		held := &s.machine.mu // a state machine that takes its time
		held.Lock()
		var writers sync.WaitGroup
		for range batchesInFlight {
			before := s.raft.Load().LastIndex()
			job := r.job()
			writers.Go(func() { _, _ = s.Propose(timeout(t), job, "tok") })
			r.within("it is in the log", func() bool { return s.raft.Load().LastIndex() > before })
		}
		s.stop()
		r.within("it leads no longer", func() bool { return !s.lead.is() })
		held.Unlock()
		r.within("it has stopped", func() bool {
			select {
			case <-s.done:
				return true
			default:
				return false
			}
		})
		writers.Wait()
	}
}

// What a group that ended at its start refuses says so: its own end says why.
func TestBootstrapOfAGroupThatEnded(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Self, cfg.Region, cfg.Advertise, cfg.Layer = "n1", "fra-1", address("n1"), newFabric().layer("n1")
	cfg.Storage = Dir("/dev/null/nowhere")
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err == nil {
		t.Fatal("it ran without a directory")
	}
	if _, err := g.Bootstrap(timeout(t), state.InitRegion{}, "op"); !errors.Is(err, ErrStopped) {
		t.Errorf("got %v", err)
	}
}
