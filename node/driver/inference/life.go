package inference

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Endpoint is one server that serves models for a task.
type Endpoint struct {
	Task     placement.TaskID
	Upstream string // http URL on this node's loopback
	Models   []string
}

// Endpoints are those of all running tasks, in order of the tasks' ids.
func (d *Driver) Endpoints() []Endpoint {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Endpoint
	for id, t := range d.tasks {
		if t.exit == nil {
			all = append(all, Endpoint{Task: id, Upstream: t.Upstream, Models: slices.Clone(t.Models)})
		}
	}
	slices.SortFunc(all, func(a, b Endpoint) int { return strings.Compare(string(a.Task), string(b.Task)) })
	return all
}

// Recover takes the promise up again; whether the server still answers is for
// Wait to find out, so that a restart of the agent ends nothing.
func (d *Driver) Recover(_ context.Context, h runner.Handle) (runner.Observed, error) {
	d.mu.Lock()
	t := d.tasks[h.Task]
	d.mu.Unlock()
	if t == nil {
		var p promise
		if err := json.Unmarshal(h.Data, &p); err != nil {
			return runner.Observed{}, fmt.Errorf("read the handle of task %s: %w", h.Task, err)
		}
		t = d.adopt(h.Task, p)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return t.observe(h), nil
}

func (t *task) observe(h runner.Handle) runner.Observed {
	o := runner.Observed{Handle: h, State: runner.StateRunning, StartedAt: t.Since, Facts: map[string]string{"upstream": t.Upstream}}
	if t.exit != nil {
		o.State, o.Exit = runner.StateExited, t.exit
	}
	return o
}

// List is what this driver has taken up: nothing of it outlives the driver.
func (d *Driver) List(context.Context) ([]runner.Observed, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []runner.Observed
	for id, t := range d.tasks {
		h, err := d.handle(id, t.promise)
		if err != nil {
			return nil, err
		}
		all = append(all, t.observe(h))
	}
	return all, nil
}

// Wait keeps asking the server until the task is stopped or the server is gone.
func (d *Driver) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	d.mu.Lock()
	t := d.tasks[h.Task]
	d.mu.Unlock()
	if t == nil {
		return runner.Exit{}, fmt.Errorf("task %s is not known here; recover it first", h.Task)
	}
	ticker := time.NewTicker(d.cfg.ProbeEvery)
	defer ticker.Stop()
	for silent := 0; ; {
		select {
		case <-t.ended:
			return *t.exit, nil
		case <-ctx.Done():
			return runner.Exit{}, ctx.Err()
		case <-ticker.C:
		}
		err := d.probe(ctx, t.promise)
		switch {
		case ctx.Err() != nil:
			return runner.Exit{}, ctx.Err()
		case err == nil:
			silent = 0
		default:
			if silent++; silent >= d.cfg.Failures {
				d.end(h.Task, runner.Exit{Code: 1, Reason: err.Error(), At: time.Now()})
			}
		}
	}
}

// end gives the task its exit, once.
func (d *Driver) end(id placement.TaskID, e runner.Exit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.tasks[id]; t != nil && t.exit == nil {
		t.exit = &e
		close(t.ended)
	}
}

// Stop ends the promise; the server goes on.
func (d *Driver) Stop(_ context.Context, h runner.Handle, _ time.Duration) error {
	d.end(h.Task, runner.Exit{Code: 0, Stopped: true, At: time.Now()})
	return nil
}

// Destroy ends the promise and forgets it.
func (d *Driver) Destroy(ctx context.Context, h runner.Handle) error {
	if err := d.Stop(ctx, h, 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.tasks, h.Task)
	return nil
}

// Logs are empty: the server's output belongs to whoever started it.
func (d *Driver) Logs(context.Context, runner.Handle, int64, bool) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("")), nil
}
