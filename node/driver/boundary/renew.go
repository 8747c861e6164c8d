//go:build linux

package boundary

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
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
	if err != nil || samePolicy(s.Policy, p) && !s.Renewing {
		return err
	}
	if s.Veth == "" {
		return fmt.Errorf("renew the network of task %s: it has no way out", task)
	}
	ns, err := os.Open(s.Path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if !s.Renewing { // else it was collected, by a renewal that was cut off
		if err := b.collect(&s); err != nil {
			return err
		}
		s.Earlier, s.Inside, s.Outside = bounded(sum(s.Earlier, s.Inside, s.Outside)), nil, nil
		s.Renewing = true
		if err := b.save(s); err != nil {
			return err
		}
	}
	if err = b.holdTo(s, ns, p); err != nil {
		err = fmt.Errorf("renew the network of task %s: %w", task, err)
		// What is on the list no more does not wait for what stands against the rest.
		return errors.Join(err, b.holdTo(s, ns, p.within(s.Policy)))
	}
	return nil
}

// holdTo replaces the rules on both sides. Until the state says that they stand,
// every renewal sets them once more.
func (b *Boundary) holdTo(s state, ns *os.File, p Policy) error {
	s.Policy.Allow, s.Policy.DNS, s.Policy.Services = p.Allow, p.DNS, p.Services
	if err := inside(b.host, func() error { return b.openLocked(&s) }); err != nil {
		return err
	}
	if err := inside(ns, func() error { return b.ruleInside(s.Net) }); err != nil {
		return err
	}
	s.Renewing = false
	return b.save(s)
}

// within is what of the policy another one allows already.
func (p Policy) within(other Policy) Policy {
	p.Allow = slices.DeleteFunc(slices.Clone(p.Allow), func(d Destination) bool { return !slices.Contains(other.Allow, d) })
	p.DNS = slices.DeleteFunc(slices.Clone(p.DNS), func(a netip.Addr) bool { return !slices.Contains(other.DNS, a) })
	return p
}

// union is both lists, in order, each once.
func union(a, b []string) []string {
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	return slices.Compact(all)
}
