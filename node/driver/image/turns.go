package image

import (
	"context"
	"sync"
)

// Turns lets one at a time look after each of many things, by their names, so that
// an image does not come twice at once; who wants another one does not wait. Its
// zero value is ready.
type Turns struct {
	mu   sync.Mutex
	held map[string]*turn // guarded by mu
}

// turn is one thing that is looked after.
type turn struct {
	free  chan struct{}
	users int // guarded by the Turns' mu
}

// Take waits for its turn, and fails with the context's error if that ends first.
func (t *Turns) Take(ctx context.Context, name string) (release func(), err error) {
	t.mu.Lock()
	if t.held == nil {
		t.held = make(map[string]*turn)
	}
	h := t.held[name]
	if h == nil {
		h = &turn{free: make(chan struct{}, 1)}
		t.held[name] = h
	}
	h.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if h.users--; h.users == 0 {
			delete(t.held, name)
		}
	}
	select {
	case h.free <- struct{}{}:
		return func() { <-h.free; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
