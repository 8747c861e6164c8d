package runner

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/sovmesh/sovmesh/placement"
)

// Resolver tells what the name of a region in a job's list ("region:NAME")
// stands for now: addresses and their ports. None is a name that stands for
// nothing now, an error one that never will.
type Resolver func(name string) ([]netip.AddrPort, error)

// Connector reaches a port of a service in a job's list ("service:NAME"), wherever
// it runs. A refusal by the rules has a method Refused that says so.
type Connector func(ctx context.Context, service string, port int) (net.Conn, error)

// Renewer is a driver that holds a running task to what the names in its list
// stand for now, as spec's Resolve tells it, and answers for its services, also
// after a restart of the agent. Of spec it reads Task, Setup's Network, Resolve and
// Connect.
type Renewer interface {
	Renew(ctx context.Context, h Handle, spec Spec) error
}

// namedList is the network of a job whose list has names; nil for any other.
func namedList(n *placement.Network) *placement.Network {
	if n == nil || !slices.ContainsFunc(n.Allow, isName) {
		return nil
	}
	return n
}

func isName(entry string) bool {
	r, err := placement.ParseReach(entry)
	return err == nil && (r.Region != "" || r.Service != "")
}

// renewLists has the lists of running tasks mean what their names stand for now.
// A name that cannot be resolved any more stands for nothing: what it meant is
// reached no longer.
func (r *Runner) renewLists(ctx context.Context) {
	for _, t := range r.live() {
		r.renewList(ctx, t)
	}
}

func (r *Runner) renewList(ctx context.Context, t *task) {
	if r.cfg.Resolve == nil {
		return
	}
	r.mu.Lock()
	list := t.rec.List
	var d Driver
	var h Handle
	if t.rec.Handle != nil {
		d, h = behind(r.cfg.Drivers[string(t.rec.Kind)], *t.rec.Handle)
	}
	id := t.rec.Task
	r.mu.Unlock()
	renewer, ok := d.(Renewer)
	if list == nil || !ok || ctx.Err() != nil {
		return
	}
	spec := Spec{Task: id, Setup: &placement.Setup{Network: list}, Connect: r.connector(id), Resolve: func(name string) ([]netip.AddrPort, error) {
		all, err := r.cfg.Resolve(name)
		if err != nil {
			r.log.Warn("a name in a task's list stands for nothing any more", "task", id, "name", name, "err", err)
		}
		return all, nil
	}}
	asked, cancel := context.WithTimeout(ctx, inspectWithin)
	defer cancel()
	if err := renewer.Renew(asked, h, spec); err != nil && ctx.Err() == nil {
		r.log.Warn("hold a task to what its list stands for now", "task", id, "err", err)
	}
}

// connector is a task's way to the services in its list; nil where there is none.
func (r *Runner) connector(id placement.TaskID) Connector {
	if r.cfg.Connect == nil {
		return nil
	}
	return func(ctx context.Context, service string, port int) (net.Conn, error) {
		return r.cfg.Connect(ctx, id, service, port)
	}
}
