package runner_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// shelf lays inputs down, or says why not.
type shelf struct {
	mu    sync.Mutex
	there map[placement.TaskID]bool // guarded by mu
	err   error
}

func (s *shelf) Lay(_ context.Context, id placement.TaskID, _ placement.TenantID, _ []placement.Input) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.there[id] = s.err == nil
	return "/shelf", s.err
}

func (s *shelf) Drop(id placement.TaskID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.there, id)
	return nil
}

func TestInputsAreThereBeforeTheTaskAndGoWithIt(t *testing.T) {
	needs := func(w *runner.Want) {
		w.Job.Spec.Setup = &placement.Setup{Inputs: []placement.Input{{Name: "model", Digest: "sha256:aa", Source: "/model"}}}
	}
	run(t, func(b *bed) {
		s, specs := &shelf{there: map[placement.TaskID]bool{}}, make(chan runner.Spec, 8)
		b.change = func(c *runner.Config) {
			c.Inputs, c.Drivers = s, map[string]runner.Driver{"fake": spying{b.world.Driver(), specs}}
		}
		b.agent()
		id := b.region.assign(0, needs, "sleep")
		synctest.Wait()
		if spec := <-specs; spec.InputsDir != "/shelf" || !s.there[id] {
			b.Errorf("it is started with %q, %v", spec.InputsDir, s.there)
		}
		b.world.Finish(id, 0)
		synctest.Wait()
		if len(s.there) != 0 {
			b.Errorf("left: %v", s.there)
		}
		s.err = &runner.StartError{Task: id, Reason: "its input model: it is another file", Advice: "name it"}
		id = b.region.assign(1, needs, "sleep")
		synctest.Wait()
		if got := b.status(id); got.Status != placement.TaskFailed || !strings.Contains(got.Reason, "another file; name it") {
			b.Errorf("it is %s: %s", got.Status, got.Reason)
		}
		if len(specs) != 0 {
			b.Error("it was started without its input")
		}
	})
	run(t, func(b *bed) { // one that is moved here has its own, from here
		b.moves()
		s, change := &shelf{there: map[placement.TaskID]bool{}}, b.change
		b.change = func(c *runner.Config) { change(c); c.Inputs = s }
		b.agent()
		id := b.region.assign(0, func(w *runner.Want) {
			needs(w)
			w.Task.Move, w.Task.Replaces = placement.MoveLive, job.Task(0, 0)
		}, "sleep")
		synctest.Wait()
		if !s.there[id] {
			b.Errorf("it waits for its guest with %v", s.there)
		}
	})
	run(t, func(b *bed) {
		b.agent()
		id := b.region.assign(0, needs, "sleep")
		synctest.Wait()
		if got := b.status(id); got.Status != placement.TaskFailed || !strings.Contains(got.Reason, "fetches no inputs") {
			b.Errorf("on a node that fetches none it is %s: %s", got.Status, got.Reason)
		}
	})
}
