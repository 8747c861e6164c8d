package runner

import (
	"context"
	"sync"

	"github.com/sovmesh/sovmesh/placement"
)

// whileWanted is a context that ends when the task is told to end. It is for what
// may be broken off at any instant: a driver's Start is not.
func (r *Runner) whileWanted(ctx context.Context, t *task) (context.Context, func()) {
	wanted, cancel := context.WithCancel(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.unwant = cancel; t.stop != "" {
		cancel()
	}
	return wanted, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		t.unwant = nil
		cancel()
	}
}

// fetch has on this node what the task needs: its image, its inputs. It takes its
// tenant's turn for that, and ends with the want of it.
func (r *Runner) fetch(ctx context.Context, t *task, d Driver, spec *Spec) error {
	p, prepares := d.(Preparer)
	if !prepares && len(spec.Setup.Inputs) == 0 {
		return nil
	}
	done, err := r.turns.take(ctx, spec.Tenant)
	if err != nil {
		return errUnwanted
	}
	defer done()
	if prepares {
		r.report(t, placement.TaskStarting, "preparing")
		err = p.Prepare(ctx, *spec)
	}
	if err == nil && ctx.Err() == nil {
		err = r.bringInputs(ctx, t, d, spec)
	}
	if ctx.Err() != nil {
		return errUnwanted
	}
	return err
}

// turns bounds how much is fetched at once for each tenant: whose sources are slow
// waits for nobody else's, and makes nobody else wait.
type turns struct {
	most int
	mu   sync.Mutex
	of   map[placement.TenantID]*turn // guarded by mu; those that somebody has or waits for
}

type turn struct {
	places chan struct{}
	users  int // guarded by turns.mu
}

// take waits for a turn; done ends it.
func (s *turns) take(ctx context.Context, tenant placement.TenantID) (done func(), err error) {
	s.mu.Lock()
	if s.of == nil {
		s.of = make(map[placement.TenantID]*turn)
	}
	t := s.of[tenant]
	if t == nil {
		t = &turn{places: make(chan struct{}, s.most)}
		s.of[tenant] = t
	}
	t.users++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(s.of, tenant)
		}
	}
	select {
	case t.places <- struct{}{}:
		return func() { <-t.places; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
