//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"

	"github.com/sovmesh/sovmesh/node/runner"
)

// holdFacts say how tasks are held in on this machine.
func (d *Driver) holdFacts() map[string]string {
	if d.cfg.Hold.Off {
		return map[string]string{"isolation": "none: a task is a process of the agent's user"}
	}
	facts := map[string]string{"isolation": "what this machine can: see the facts of root, user, files, system_calls and network"}
	a := d.able()
	facts["root"] = "a root, processes and a host name of each task's own"
	if a.namespaces != nil {
		facts["root"] = "the node's own: " + a.namespaces.Error()
	}
	facts["task_user"] = "the agent's"
	if a.namespaces == nil && d.cfg.Hold.Users > 0 && os.Geteuid() == 0 {
		facts["task_user"] = fmt.Sprintf("one of each task's own, of this agent's part of the %d from %d on", d.cfg.Hold.Users, d.cfg.Hold.FirstUser)
	}
	facts["files"] = "no Landlock in this kernel"
	if v := landlockVersion(); v > 0 {
		facts["files"] = "Landlock " + strconv.Itoa(v)
	}
	facts["system_calls"] = "filtered by seccomp"
	if a.network == nil {
		facts["network"] = "one of each task's own, deny by default, counted, held on the node's side too"
		facts["network_beyond"] = d.cfg.Hold.Network.Beyond()
	} else {
		facts["network"] = "the node's own: " + a.network.Error()
	}
	facts["network_host"] = "refused"
	if d.cfg.Hold.HostNetwork {
		facts["network_host"] = "allowed to jobs that ask"
	}
	return facts
}

// Inspect says what holds a task in.
func (d *Driver) Inspect(_ context.Context, h runner.Handle) (runner.Actual, error) {
	var what child
	var how held
	t := d.dir(h.Task)
	if err := t.readJSON("child", &what); err != nil {
		return runner.Actual{}, fmt.Errorf("look into task %s: %w", h.Task, err)
	}
	a := runner.Actual{Boundary: what.Boundary}
	switch err := t.readJSON("held", &how); {
	case errors.Is(err, fs.ErrNotExist):
		a.Boundary = append(a.Boundary, runner.Boundary{What: "processes", How: "this node holds processes in by nothing"})
		return a, nil
	case err != nil:
		return a, fmt.Errorf("look into task %s: %w", h.Task, err)
	}
	for _, v := range how.Volumes {
		a.Mounts = append(a.Mounts, v.To)
	}
	if how.Net != "" && d.cfg.Hold.Network != nil {
		words, err := d.cfg.Hold.Network.Words(h.Task)
		if err != nil {
			return a, err
		}
		a.Boundary = append(a.Boundary, words...)
	}
	return a, nil
}

// Denied says what the task tried to reach and was refused. A task on the node's
// own network is refused nothing.
func (d *Driver) Denied(_ context.Context, h runner.Handle) ([]runner.Denial, error) {
	if d.cfg.Hold.Network == nil {
		return nil, nil
	}
	all, err := d.cfg.Hold.Network.Denied(h.Task)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return all, err
}

// Dial reaches a TCP port of the task on its own loopback, which is the node's
// for a task on the node's network.
func (d *Driver) Dial(ctx context.Context, h runner.Handle, port int) (net.Conn, error) {
	var how held
	err := d.dir(h.Task).readJSON("held", &how)
	switch {
	case err == nil && how.Net != "" && d.cfg.Hold.Network != nil:
		return d.cfg.Hold.Network.Dial(ctx, h.Task, port)
	case err == nil && how.Alone:
		return nil, fmt.Errorf("reach task %s: it has no network, not even a loopback", h.Task)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reach task %s: %w", h.Task, err)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}
