package runner_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

const job = placement.JobID("fra-1.01jd0000000000000000000000")

// region is a committed state of one node's tasks, and the place to report to.
type region struct {
	mu      sync.Mutex
	index   uint64
	tasks   map[placement.TaskID]*runner.Want
	cut     bool // the node reaches nobody
	erased  map[placement.JobID]bool
	heard   []string
	also    func(*runner.Wanted) // what else a view says
	changed chan struct{}
}

func newRegion() *region {
	return &region{tasks: make(map[placement.TaskID]*runner.Want), changed: make(chan struct{})}
}

func (r *region) commit(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	r.index++
	close(r.changed)
	r.changed = make(chan struct{})
}

// isolate cuts the node off from everybody.
func (r *region) isolate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = true
}

// assign commits a task of kind fake.
func (r *region) assign(n int, change func(*runner.Want), command ...string) placement.TaskID {
	id := job.Task(n, 1)
	r.commit(func() {
		w := &runner.Want{
			Task: placement.Task{ID: id, Job: job, Kind: placement.KindFake, Status: placement.TaskAssigned, AssignedAt: time.Now(), Index: r.index + 1},
			Job:  placement.Job{ID: job, Spec: placement.JobSpec{Command: command, StopGrace: placement.Duration(10 * time.Second)}},
		}
		if change != nil {
			change(w)
		}
		r.tasks[id] = w
	})
	return id
}

func (r *region) Next(ctx context.Context, after uint64) (runner.Wanted, error) {
	for {
		r.mu.Lock()
		w, changed, cut := r.view(), r.changed, r.cut
		r.mu.Unlock()
		if w.Index > after && !cut {
			return w, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return runner.Wanted{}, ctx.Err()
		}
	}
}

func (r *region) view() runner.Wanted {
	w := runner.Wanted{Index: r.index, Erased: r.erased}
	for _, t := range r.tasks {
		w.Tasks = append(w.Tasks, *t)
	}
	if r.also != nil {
		r.also(&w)
	}
	return w
}

func (r *region) Report(_ context.Context, reports []placement.TaskReport) error {
	r.mu.Lock()
	cut := r.cut
	r.mu.Unlock()
	if cut {
		return errors.New("no leader is reachable")
	}
	r.commit(func() {
		for _, rep := range reports {
			line := fmt.Sprintf("%s %s", rep.Task[len(job)+1:], rep.Status)
			if rep.ExitCode != nil {
				line += fmt.Sprintf(" %d", *rep.ExitCode)
			}
			if rep.Reason != "" {
				line += ": " + rep.Reason
			}
			r.heard = append(r.heard, line)
			if w := r.tasks[rep.Task]; w != nil && w.Task.Status.Live() {
				w.Task.Status = rep.Status
				if rep.Status == placement.TaskRunning && w.Task.StartedAt.IsZero() {
					w.Task.StartedAt = rep.At
				}
			}
		}
	})
	return nil
}

func (r *region) said() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.heard)
}

// bed is a machine, its region, and the agent that runs on it now.
type bed struct {
	*testing.T
	region *region
	world  *fake.World
	store  runner.Store
	memory *runner.Memory
	gate   runner.Gate
	change func(*runner.Config)

	r    *runner.Runner
	end  context.CancelFunc
	done chan error
}

// run runs a test in virtual time.
func run(t *testing.T, test func(*bed)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bed{T: t, region: newRegion(), world: fake.NewWorld(), memory: runner.NewMemory()}
		b.store = b.memory
		b.gate = runner.ClockGate(time.Minute)
		test(b)
		b.kill()
		for id, n := range b.world.Starts() {
			if n > 1 {
				t.Errorf("%s was started %d times", id, n)
			}
		}
	})
}

// agent starts an agent; one that runs is killed first.
func (b *bed) agent() {
	b.Helper()
	b.kill()
	cfg := runner.DefaultConfig()
	cfg.Drivers = map[string]runner.Driver{"fake": b.world.Driver()}
	cfg.Assignments, cfg.Reporter, cfg.Gate, cfg.Store = b.region, b.region, b.gate, b.store
	if b.change != nil {
		b.change(&cfg)
	}
	r, err := runner.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.r, b.end, b.done = r, cancel, make(chan error, 1)
	go func() { b.done <- r.Run(ctx) }()
	synctest.Wait()
}

func (b *bed) kill() {
	b.Helper()
	if b.end == nil {
		return
	}
	b.end()
	if err := <-b.done; err != nil {
		b.Errorf("run: %v", err)
	}
	b.end = nil
}

// pass lets virtual time go by.
func (b *bed) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bed) heard(want ...string) {
	b.Helper()
	if got := b.region.said(); !slices.Equal(got, want) {
		b.Errorf("reported:\n  %q\nwant:\n  %q", got, want)
	}
}

func (b *bed) runs(want ...placement.TaskID) {
	b.Helper()
	if got := b.world.Running(); !slices.Equal(got, want) {
		b.Errorf("running: %v, want %v", got, want)
	}
}

func (b *bed) status(id placement.TaskID) runner.Status {
	for _, s := range b.r.Tasks() {
		if s.Task == id {
			return s
		}
	}
	return runner.Status{}
}
