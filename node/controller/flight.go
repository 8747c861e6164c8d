package controller

import (
	"context"
	"sync"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// flight is what one term has proposed and the view does not show yet. The next
// plan counts it as held room (scheduler.Assume), so that it gives nothing away
// twice and waits for no commit. It dies with the term: what is committed all the
// same is in the view that the next leader begins with.
type flight struct {
	slots  chan struct{} // one for each proposal that is not answered
	flying sync.WaitGroup

	mu      sync.Mutex
	out     []*proposed // guarded by mu
	landed  int         // guarded by mu: since the last tally
	failed  int         // guarded by mu: since the last tally
	refused bool        // guarded by mu: since the last tally the state refused one
	wake    func()      // guarded by mu: called when it does; may be nil
}

// proposed is one job's assignments on their way.
type proposed struct {
	all   []scheduler.Flying
	index uint64 // where they were committed; 0 while that is not known
}

func newFlight(most int) *flight { return &flight{slots: make(chan struct{}, most)} }

// launch proposes assignments of one job that belong together, once fewer than
// the most are under way. It does not wait for the answer.
func (f *flight) launch(ctx context.Context, put func(context.Context, state.Command) (state.Result, outcome), unit []scheduler.Flying) {
	select {
	case f.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	p := &proposed{all: unit}
	f.mu.Lock()
	f.out = append(f.out, p)
	f.mu.Unlock()
	f.flying.Go(func() {
		res, what := put(ctx, assign(unit))
		f.answered(p, res.Index, what)
		<-f.slots
	})
}

// answered keeps what was committed until a view shows it, and forgets what was
// not: its room is free again.
func (f *flight) answered(p *proposed, index uint64, what outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if what == done {
		p.index = index
		f.landed++
		return
	}
	f.failed++
	f.forget(func(o *proposed) bool { return o == p })
	if what == refused {
		f.refused = true
		if f.wake != nil {
			f.wake()
		}
	}
}

// forget drops what is not in flight any more. It is called with mu held.
func (f *flight) forget(gone func(*proposed) bool) {
	rest := f.out[:0]
	for _, p := range f.out {
		if !gone(p) {
			rest = append(rest, p)
		}
	}
	clear(f.out[len(rest):])
	f.out = rest
}

// over is the view's snapshot with what it does not show yet.
func (f *flight) over(view *state.View, s placement.Snapshot) placement.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget(func(p *proposed) bool {
		return p.index != 0 && p.index <= view.Index() || view.Task(p.all[0].Task) != nil
	})
	var all []scheduler.Flying
	for _, p := range f.out {
		all = append(all, p.all...)
	}
	return scheduler.Assume(s, all)
}

// tally says what came back since it was last asked, and how much has not.
func (f *flight) tally() (landed, failed, flying int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	landed, failed = f.landed, f.failed
	f.landed, f.failed, f.refused = 0, 0, false
	for _, p := range f.out {
		if p.index == 0 {
			flying++
		}
	}
	return landed, failed, flying
}

// onRefusal has refusals call wake from now on, and at once if one came since the
// last tally: its room is free, and no newer view may follow it.
func (f *flight) onRefusal(wake func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wake = wake
	if f.refused && wake != nil {
		wake()
	}
}
