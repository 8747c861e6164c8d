//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/boundary"
	"github.com/sovmesh/sovmesh/node/runner"
)

// Share is a hold of the same networks for another driver, which closes it for
// itself.
func (h Hold) Share() (Hold, error) {
	if h.Network == nil {
		return h, nil
	}
	var err error
	h.Network, err = boundary.New(h.Network.Config())
	return h, err
}

// Policy reads what a job says of its network, with its names resolved, and has the
// services in it answered for as soon as the network is there. A list that cannot be
// held to is a *runner.StartError. It is for every driver whose tasks have their
// networks from a Hold.
func (h *Hold) Policy(s runner.Spec) (boundary.Policy, error) {
	if s.Setup == nil || s.Setup.Network == nil {
		return boundary.Policy{}, nil
	}
	var resolve boundary.Resolver
	if s.Resolve != nil {
		resolve = func(name string) (all []boundary.Destination, err error) {
			found, err := s.Resolve(name)
			for _, at := range found {
				a := at.Addr().Unmap()
				all = append(all, boundary.Destination{Prefix: netip.PrefixFrom(a, a.BitLen()), Port: at.Port()})
			}
			return all, err
		}
	}
	p, err := boundary.Parse(s.Setup.Network, resolve)
	if err != nil {
		return p, NetworkProblem(s, err)
	}
	for _, a := range p.DNS {
		if slices.Contains(h.Resolvers, a) {
			continue
		}
		if len(h.Resolvers) == 0 {
			return p, refused(s, fmt.Sprintf("network.dns: %s is not known to be in this region: its operator names no resolver", a),
				"leave network.dns out, or have the operator set tasks.resolvers in the agent's configuration")
		}
		return p, refused(s, fmt.Sprintf("network.dns: %s is no resolver of this region", a), "name one of its resolvers: "+join(h.Resolvers))
	}
	if len(p.Services) == 0 || h.Network == nil {
		return p, nil // without networks whoever starts the task refuses the list
	}
	if s.Connect == nil {
		return p, refused(s, "this node carries no connections to services", "leave service: out of network.allow, or ask the node's operator")
	}
	h.Network.Serve(s.Task, p.Services, boundary.Connect(s.Connect))
	return p, nil
}

// Renew holds a running task to what the names in its list stand for now.
func (h *Hold) Renew(ctx context.Context, s runner.Spec) error {
	if h.Network == nil {
		return nil
	}
	p, err := h.Policy(s)
	if err != nil {
		return err
	}
	return h.Network.Renew(ctx, s.Task, p)
}

// Renew is [runner.Renewer]'s.
func (d *Driver) Renew(ctx context.Context, _ runner.Handle, s runner.Spec) error {
	return d.cfg.Hold.Renew(ctx, s)
}

func join[T fmt.Stringer](all []T) string {
	var texts []string
	for _, a := range all {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ", ")
}

// NetworkProblem is an error of a task's network as its author is told it, if it
// is the author's or the operator's to mend.
func NetworkProblem(s runner.Spec, err error) error {
	var hinted interface{ Hint() string }
	switch {
	case errors.As(err, &hinted):
		return refused(s, err.Error(), hinted.Hint())
	case err != nil && strings.HasPrefix(err.Error(), "network: "):
		return refused(s, err.Error(), "see what network: may say")
	}
	return err
}

// forkWithin forks in a network namespace: on a thread of its own, which stays,
// since what it started ends with it.
func forkWithin(ns *os.File, fork func()) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network namespace of the task: %w", err)
			return
		}
		fork()
		done <- nil
		select {}
	}()
	return <-done
}
