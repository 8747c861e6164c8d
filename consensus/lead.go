package consensus

import (
	"context"
	"sync"

	"github.com/hashicorp/raft"
)

// leadership says whether this node leads, and tells when that changes.
type leadership struct {
	mu      sync.Mutex
	leading bool          // guarded by mu
	changed chan struct{} // closed at the next change; guarded by mu
}

func newLeadership() *leadership { return &leadership{changed: make(chan struct{})} }

func (l *leadership) set(leading bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = leading
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *leadership) is() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leading
}

func (l *leadership) changes() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *leadership) now() (bool, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leading, l.changed
}

// watchLeadership follows raft's word. Leading begins once everything of
// earlier terms is applied here, and ends at once.
func (g *Group) watchLeadership(ctx context.Context, r *raft.Raft, notify <-chan bool) {
	var barriers sync.WaitGroup
	defer barriers.Wait()
	end := func() {} // ends the term under way
	defer func() { end() }()
	for {
		select {
		case leading := <-notify:
			end()
			if !leading {
				g.log.Info("leads no longer", "region", g.cfg.Region, "node", g.cfg.Self, "term", r.CurrentTerm())
				g.lead.set(false)
				continue
			}
			term, cancel := context.WithCancel(ctx)
			end = cancel
			barriers.Go(func() {
				if g.barrierOnce(term, r) != nil || term.Err() != nil {
					return
				}
				g.log.Info("leads", "region", g.cfg.Region, "node", g.cfg.Self, "term", r.CurrentTerm())
				g.lead.set(true)
				if term.Err() != nil {
					g.lead.set(false) // lost between the barrier and here
				}
			})
		case <-ctx.Done():
			g.lead.set(false)
			return
		}
	}
}

// Lead runs f whenever this node leads, with a context that ends when it no
// longer does, until ctx ends. f must return soon after its context.
func (g *Group) Lead(ctx context.Context, f func(context.Context)) error {
	for {
		leading, changed := g.lead.now()
		if leading && ctx.Err() == nil {
			g.leadOnce(ctx, f)
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// leadOnce runs f for one leadership.
func (g *Group) leadOnce(ctx context.Context, f func(context.Context)) {
	term, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f(term)
	}()
	for {
		leading, changed := g.lead.now()
		if !leading {
			break
		}
		select {
		case <-changed:
			continue
		case <-ended:
			// Done early: wait for the next leadership, or the end.
			select {
			case <-changed:
			case <-ctx.Done():
			}
			return
		case <-ctx.Done():
		}
		break
	}
	cancel()
	<-ended
}
