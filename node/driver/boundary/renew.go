//go:build linux

package boundary

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/sovmesh/sovmesh/placement"
)

// Renew holds a task to another list while it runs, for what its names stand for
// changes. What is no longer on the list is refused from here on, also on
// connections that are there. What was counted stays counted, but for what is
// refused in the instant of the change. A task without a device keeps to none:
// its list was empty and stood for no name.
func (b *Boundary) Renew(_ context.Context, task placement.TaskID, p Policy) error {
	unlock, err := b.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s, err := load(b.statePath(task))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !s.stands() {
		return nil // it has ended
	}
	if err != nil || samePolicy(s.Policy, p) {
		return err
	}
	if s.Veth == "" {
		return fmt.Errorf("renew the network of task %s: it has no way out", task)
	}
	if err := b.collect(&s); err != nil {
		return err
	}
	s.Earlier, s.Inside, s.Outside = bounded(sum(s.Earlier, s.Inside, s.Outside)), nil, nil
	s.Policy.Allow, s.Policy.DNS = p.Allow, p.DNS
	if err := inside(b.host, func() error { return b.openLocked(&s) }); err != nil {
		return fmt.Errorf("renew the network of task %s: %w", task, err)
	}
	ns, err := os.Open(s.Path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := inside(ns, func() error { return b.ruleInside(s.Net) }); err != nil {
		return fmt.Errorf("renew the network of task %s: %w", task, err)
	}
	return nil
}

// union is both lists, in order, each once.
func union(a, b []string) []string {
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	return slices.Compact(all)
}
