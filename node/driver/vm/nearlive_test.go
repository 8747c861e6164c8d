//go:build linux

package vm

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// smallRegion is a region of two nodes, reduced to what a move needs of it.
type smallRegion struct {
	mu      sync.Mutex
	index   uint64                                                // guarded by mu
	wants   map[placement.NodeID]map[placement.TaskID]runner.Want // guarded by mu
	changed chan struct{}                                         // guarded by mu; closed and replaced
	ends    []runner.MoveEnd                                      // guarded by mu
}

func (l *smallRegion) commit(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index++
	change()
	close(l.changed)
	l.changed = make(chan struct{})
}

// until waits until something is so.
func (l *smallRegion) until(t *testing.T, is func() bool) {
	t.Helper()
	for late := time.After(patience); ; {
		l.mu.Lock()
		so, changed := is(), l.changed
		l.mu.Unlock()
		if so {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatal("it never came to that")
		}
	}
}

// member is one of its nodes.
type member struct {
	*smallRegion
	id    placement.NodeID
	other func() *runner.Runner
	// opens is told of each stream before it is opened, and may cut it after so many bytes.
	opens func(mode placement.MoveMode, name string) (after int)
}

func (m *member) Next(ctx context.Context, after uint64) (runner.Wanted, error) {
	for {
		m.mu.Lock()
		w, changed := runner.Wanted{Index: m.index}, m.changed
		for _, want := range m.wants[m.id] {
			w.Tasks = append(w.Tasks, want)
		}
		m.mu.Unlock()
		if w.Index > after {
			return w, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return w, ctx.Err()
		}
	}
}

func (m *member) Report(_ context.Context, reports []placement.TaskReport) error {
	m.commit(func() {
		for _, r := range reports {
			want, known := m.wants[m.id][r.Task]
			switch {
			case !known || want.Task.Moving() && r.Status == placement.TaskRunning:
				continue
			case !r.Status.Live() && want.Task.Moving():
				delete(m.wants[m.id], r.Task)
				continue
			}
			want.Task.Status = r.Status
			if r.Status == placement.TaskRunning && want.Task.StartedAt.IsZero() {
				want.Task.StartedAt = r.At
			}
			m.wants[m.id][r.Task] = want
		}
	})
	return nil
}

func (m *member) Ready(_ context.Context, to placement.Task) (bool, error) {
	return m.other().Expects(to.ID), nil
}

func (m *member) Lawful(placement.Task) error { return nil }

func (m *member) Open(_ context.Context, to placement.Task, name string) (net.Conn, error) {
	after := m.opens(to.Move, name)
	here, there := net.Pipe()
	if err := m.other().Deliver(to.ID, name, there); err != nil {
		return nil, err
	}
	if after > 0 {
		return &cutConn{Conn: here, line: &line{stop: func() { _ = here.Close() }}, left: after}, nil
	}
	return here, nil
}

func (m *member) Decide(_ context.Context, from, to placement.TaskID, end runner.MoveEnd) error {
	m.commit(func() {
		m.ends = append(m.ends, end)
		old, next := m.wants["n1"][from], m.wants["n2"][to]
		old.MovesTo = nil
		if end.Commit {
			old.Task.Status = placement.TaskStopped
			next.Task.Status, next.Task.StartedAt = placement.TaskRunning, time.Now()
			m.wants["n2"][to] = next
		} else {
			delete(m.wants["n2"], to)
		}
		m.wants["n1"][from] = old
	})
	return nil
}

// TestNearLive moves a machine by the runners of two nodes: its live move breaks
// off in the middle of its memory, and it goes on where it is; the next one is
// near-live, and it stands before the first byte of a disk is copied. It is one
// boot, and one count, at the new place.
func TestNearLive(t *testing.T) {
	n := twoNodes(t, smallGuest(t), nil)
	s := spec(48, "count", func(s *runner.Spec) { s.Service = true })
	l := &smallRegion{wants: map[placement.NodeID]map[placement.TaskID]runner.Want{"n1": {}, "n2": {}}, changed: make(chan struct{})}
	runners := make(map[placement.NodeID]*runner.Runner)
	var mu sync.Mutex
	stood := make(map[placement.MoveMode][]bool)
	opens := func(mode placement.MoveMode, name string) int {
		if strings.HasPrefix(name, "disk") {
			still := !runs(t.Context(), n.from, s.Task)
			mu.Lock()
			stood[mode] = append(stood[mode], still)
			mu.Unlock()
		}
		if mode == placement.MoveLive && name == streamMemory {
			return 20 << 20
		}
		return 0
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for i, id := range []placement.NodeID{"n1", "n2"} {
		m := &member{smallRegion: l, id: id, opens: opens, other: func() *runner.Runner { return runners["n2"] }}
		cfg := runner.DefaultConfig()
		cfg.Drivers = map[string]runner.Driver{string(placement.KindVM): []*Driver{n.from, n.to}[i]}
		cfg.Assignments, cfg.Reporter, cfg.Moves, cfg.Store = m, m, m, runner.NewMemory()
		cfg.Gate = func(placement.Task, placement.Job) error { return nil }
		var err error
		if runners[id], err = runner.New(cfg); err != nil {
			t.Fatal(err)
		}
	}
	job := placement.Job{ID: s.Job, Name: s.Name, Kind: placement.KindVM, Spec: placement.JobSpec{
		Type: placement.TypeService, Image: s.Image, Setup: s.Setup, Resources: s.Resources, StopGrace: placement.Duration(s.Grace),
	}}
	task := func(id placement.TaskID, node placement.NodeID) placement.Task {
		return placement.Task{ID: id, Job: s.Job, Kind: placement.KindVM, Node: node, Resources: s.Resources, Status: placement.TaskAssigned, AssignedAt: time.Now()}
	}
	moves := func(attempt int, mode placement.MoveMode) (to placement.TaskID, end runner.MoveEnd) {
		next := task(s.Job.Task(48, attempt), "n2")
		next.Move, next.Replaces = mode, s.Task
		destroyed(t, n.to, next.ID)
		before := 0
		l.commit(func() {
			before = len(l.ends)
			old := l.wants["n1"][s.Task]
			old.MovesTo = &next
			l.wants["n1"][s.Task], l.wants["n2"][next.ID] = old, runner.Want{Task: next, Job: job}
		})
		l.until(t, func() bool {
			if len(l.ends) > before {
				end = l.ends[before]
			}
			return len(l.ends) > before
		})
		return next.ID, end
	}
	l.commit(func() { l.wants["n1"][s.Task] = runner.Want{Task: task(s.Task, "n1"), Job: job} })
	t.Cleanup(func() {
		if err := n.from.Destroy(context.Background(), runner.Handle{Task: s.Task}); err != nil {
			t.Error(err)
		}
	})
	for _, r := range runners {
		running.Go(func() { _ = r.Run(ctx) })
	}
	l.until(t, func() bool { return l.wants["n1"][s.Task].Task.Status == placement.TaskRunning })
	h := runner.Handle{Task: s.Task}
	awaits(t, n.from, h, "count 3\n")

	if _, end := moves(2, placement.MoveLive); end.Commit || end.Blameless || end.Reason == "" {
		t.Fatalf("the broken move ends with %+v", end)
	}
	countsOn(t, n.from, h)
	to, end := moves(3, placement.MoveNearLive)
	if !end.Commit {
		t.Fatalf("the near-live move ends with %+v", end)
	}
	h2 := runner.Handle{Task: to}
	awaits(t, n.to, h2, fmt.Sprintf("count %d\n", counted(t, printed(t, n.from, h))+3))
	counted(t, printed(t, n.to, h2)) // one boot, no number lost or twice
	mu.Lock()
	defer mu.Unlock()
	if len(stood[placement.MoveLive]) == 0 || slices.Contains(stood[placement.MoveLive], true) {
		t.Errorf("as its disks are copied in a live move it stands: %v", stood)
	}
	if len(stood[placement.MoveNearLive]) == 0 || slices.Contains(stood[placement.MoveNearLive], false) {
		t.Errorf("as its disks are copied in a near-live move it stands: %v", stood)
	}
	var still time.Duration
	for deadline := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		var all []runner.Moved
		all, still = runners["n1"].MoveCounts()
		if slices.Contains(all, runner.Moved{Mode: placement.MoveNearLive, Outcome: "given", Count: 1}) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("moves %+v", all)
		}
	}
	if still == 0 {
		t.Error("nobody knows how long it stood")
	}
	t.Logf("near-live it stood for %v", still)
	cancel() // before what they have is destroyed
	running.Wait()
}
