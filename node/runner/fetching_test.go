package runner_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// slow is where inputs never come from.
type slow struct {
	mu     sync.Mutex
	comes  []placement.TaskID // guarded by mu: fetched now
	broken int                // guarded by mu: fetches that were broken off
}

func (s *slow) Lay(ctx context.Context, id placement.TaskID, _ placement.TenantID, _ []placement.Input) (string, error) {
	s.mu.Lock()
	s.comes = append(s.comes, id)
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.comes = slices.DeleteFunc(s.comes, func(other placement.TaskID) bool { return other == id })
	s.broken++
	return "", ctx.Err()
}

func (s *slow) Drop(placement.TaskID) error { return nil }

func (s *slow) coming() []placement.TaskID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.comes)
}

// TestWhoFetchesKeepsNobodyFromStarting, but others of the same tenant from
// fetching, and is broken off when the job is stopped.
func TestWhoFetchesKeepsNobodyFromStarting(t *testing.T) {
	run(t, func(b *bed) {
		s := &slow{}
		b.change = func(c *runner.Config) { c.Inputs, c.Starts, c.Fetches = s, 1, 1 }
		b.agent()
		of := func(tenant placement.TenantID, fetches bool) func(*runner.Want) {
			return func(w *runner.Want) {
				w.Task.Tenant = tenant
				if fetches {
					w.Job.Spec.Setup = &placement.Setup{Inputs: []placement.Input{{Name: "model", Digest: "sha256:aa", Source: "/model"}}}
				}
			}
		}
		first := b.region.assign(0, of("x", true), "sleep")
		synctest.Wait()
		second, other := b.region.assign(1, of("x", true), "sleep"), b.region.assign(2, of("y", true), "sleep")
		plain := b.region.assign(3, of("x", false), "sleep")
		synctest.Wait()
		b.runs(plain)
		if now := s.coming(); len(now) != 2 || !slices.Contains(now, first) || !slices.Contains(now, other) {
			b.Errorf("fetched at once: %v; each tenant has one turn", now)
		}
		b.region.commit(func() { b.region.tasks[first].Task.Stop, b.region.tasks[first].Task.StopReason = true, "not wanted" })
		synctest.Wait()
		if got := b.status(first); got.Status != placement.TaskStopped || got.Reason != "not wanted" {
			b.Errorf("the one that was stopped is %s: %s", got.Status, got.Reason)
		}
		if now := s.coming(); !slices.Contains(now, second) || slices.Contains(now, first) {
			b.Errorf("after that are fetched: %v", now)
		}
		b.kill()
		if b.status(second).Status != placement.TaskStarting {
			b.Errorf("an agent that ends gives a task the status %s", b.status(second).Status)
		}
	})
}

// disks is a driver that makes disks of inputs, and is never done with it.
type disks struct {
	runner.Driver
	*slow
}

func (d disks) PrepareInputs(ctx context.Context, spec runner.Spec) error {
	if spec.InputsDir == "" {
		return errors.New("it has no inputs")
	}
	_, err := d.Lay(ctx, spec.Task, spec.Tenant, nil)
	return err
}

// TestWhoMakesADiskOfInputsKeepsNobodyFromStarting, and is broken off when the job
// is stopped.
func TestWhoMakesADiskOfInputsKeepsNobodyFromStarting(t *testing.T) {
	needs := func(w *runner.Want) {
		w.Job.Spec.Setup = &placement.Setup{Inputs: []placement.Input{{Name: "model", Digest: "sha256:aa", Source: "/model"}}}
	}
	run(t, func(b *bed) {
		s := &slow{}
		b.change = func(c *runner.Config) {
			c.Inputs, c.Starts = &shelf{there: map[placement.TaskID]bool{}}, 1
			c.Drivers = map[string]runner.Driver{"fake": disks{b.world.Driver(), s}}
		}
		b.agent()
		first := b.region.assign(0, needs, "sleep")
		synctest.Wait()
		plain := b.region.assign(1, nil, "sleep")
		synctest.Wait()
		b.runs(plain)
		if now := s.coming(); len(now) != 1 || now[0] != first {
			b.Errorf("disks are made of %v", now)
		}
		b.region.commit(func() { b.region.tasks[first].Task.Stop, b.region.tasks[first].Task.StopReason = true, "not wanted" })
		synctest.Wait()
		if got := b.status(first); got.Status != placement.TaskStopped || len(s.coming()) != 0 {
			b.Errorf("the one that was stopped is %s: %s", got.Status, got.Reason)
		}
	})
}

// comes is a driver that takes tasks in, once their inputs are on a disk.
type comes struct {
	runner.Migrator
	done chan struct{}
}

func (c comes) PrepareInputs(ctx context.Context, _ runner.Spec) error {
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The other side of a move sends nothing before the disk is there: it would give up.
func TestATaskComesWhenTheDiskOfItsInputsIsMade(t *testing.T) {
	run(t, func(b *bed) {
		b.moves()
		set, done := b.change, make(chan struct{})
		b.change = func(c *runner.Config) {
			set(c)
			c.Inputs, c.Drivers = &shelf{there: map[placement.TaskID]bool{}}, map[string]runner.Driver{"fake": comes{b.world.Driver(), done}}
		}
		b.agent()
		id := b.region.assign(0, func(w *runner.Want) {
			w.Task.Move, w.Task.Replaces = placement.MoveLive, job.Task(0, 0)
			w.Job.Spec.Setup = &placement.Setup{Inputs: []placement.Input{{Name: "model", Digest: "sha256:aa", Source: "/model"}}}
		}, "sleep")
		b.pass(time.Hour)
		if b.r.Expects(id) {
			b.Error("it is expected before its inputs are on a disk")
		}
		close(done)
		synctest.Wait()
		if !b.r.Expects(id) {
			b.Errorf("it is not expected: %+v", b.status(id))
		}
	})
}

// loading is a driver whose tasks run and are not ready.
type loading struct {
	runner.Driver
	ready chan struct{}
}

func (l loading) Start(ctx context.Context, spec runner.Spec) (runner.Handle, error) {
	h, err := l.Driver.Start(ctx, spec)
	if err == nil && spec.Command[0] == "stubborn" {
		spec.Begun()
		spec.Begun() // as often as a driver likes
		<-l.ready
	}
	return h, err
}

func TestWhatLoadsItsModelKeepsNobodyFromStarting(t *testing.T) {
	run(t, func(b *bed) {
		l := loading{b.world.Driver(), make(chan struct{})}
		b.change = func(c *runner.Config) { c.Starts, c.Drivers = 1, map[string]runner.Driver{"fake": l} }
		b.agent()
		server := b.region.assign(0, nil, "stubborn")
		synctest.Wait()
		task := b.region.assign(1, nil, "sleep")
		synctest.Wait()
		b.runs(server, task)
		if got := b.status(task).Status; got != placement.TaskRunning {
			b.Errorf("a task beside a server that loads is %s", got)
		}
		if got := b.status(server).Status; got == placement.TaskRunning {
			b.Error("the server is said to run before it is ready")
		}
		close(l.ready)
		synctest.Wait()
		if got := b.status(server).Status; got != placement.TaskRunning {
			b.Errorf("the server is %s", got)
		}
	})
}
