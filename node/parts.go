package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// part is something that runs until its context ends. ready, if set, is closed
// by the part once the next one may start.
type part struct {
	name  string
	run   func(ctx context.Context) error
	ready <-chan struct{}
}

// runInOrder starts the parts one after the other and, when ctx ends or a part
// fails, ends them in the reverse order, each before the one below it. A part
// has a context of its own: one that shared ctx would be cut off before it
// could say goodbye to what it stands on.
func runInOrder(ctx context.Context, parts ...part) error {
	failed := make(chan error, len(parts))
	var stops []func()
	for _, p := range parts {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.run(own); err != nil && own.Err() == nil {
				failed <- fmt.Errorf("%s: %w", p.name, err)
			} else if own.Err() == nil {
				failed <- fmt.Errorf("%s ended by itself", p.name)
			}
		})
		stops = append(stops, func() { cancel(); wg.Wait() })
		if p.ready == nil {
			continue
		}
		select {
		case <-p.ready:
			continue
		case <-ctx.Done():
		case err := <-failed:
			failed <- err
		}
		break
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	for i := len(stops) - 1; i >= 0; i-- {
		stops[i]()
	}
	for {
		select {
		case more := <-failed:
			err = errors.Join(err, more)
		default:
			return err
		}
	}
}
