package runner

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Status is what the runner knows of one task.
type Status struct {
	Task      placement.TaskID     `json:"task"`
	Job       placement.JobID      `json:"job"`
	Kind      placement.Kind       `json:"kind"`
	Tenant    placement.TenantID   `json:"tenant,omitempty"`
	Devices   []string             `json:"devices,omitempty"`
	Status    placement.TaskStatus `json:"status"`
	Reason    string               `json:"reason,omitempty"`
	Exit      *Exit                `json:"exit,omitempty"`
	StartedAt time.Time            `json:"started_at,omitzero"`
	EndedAt   time.Time            `json:"ended_at,omitzero"`
	// Stopping: it was told to end.
	Stopping bool `json:"stopping,omitempty"`
	// Unsaved: the node's disk does not take the task's record; the task goes on.
	Unsaved bool `json:"unsaved,omitempty"`
}

// Tasks are all tasks whose record is kept, in order of their ids.
func (r *Runner) Tasks() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Status, 0, len(r.tasks))
	for _, t := range r.tasks {
		all = append(all, t.public())
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(string(a.Task), string(b.Task)) })
	return all
}

// Strays are what the drivers have on this machine that no record names. They
// are shown, never ended: a person decides.
func (r *Runner) Strays() []Observed {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Observed
	for _, list := range r.strays {
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b Observed) int { return strings.Compare(string(a.Handle.Task), string(b.Handle.Task)) })
	return all
}

// Problem is why the node cannot keep its records, or nil.
func (r *Runner) Problem() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.storeErr
}

// UnknownTaskError is the answer about a task that this node has no record of.
type UnknownTaskError struct{ Task placement.TaskID }

func (e *UnknownTaskError) Error() string {
	return fmt.Sprintf("task %s is not known to this node: it never ran here, or its output was removed after its time", e.Task)
}

// Logs reads a task's output from the given byte on. With follow it waits for
// a task that has not started yet and goes on until the task has ended. A task
// that ended before it started has an empty output.
func (r *Runner) Logs(ctx context.Context, id placement.TaskID, from int64, follow bool) (io.ReadCloser, error) {
	for {
		r.mu.Lock()
		t, changed := r.tasks[id], r.changed
		if t == nil {
			r.mu.Unlock()
			return nil, &UnknownTaskError{id}
		}
		h, d, over, began := t.rec.Handle, r.cfg.Drivers[string(t.rec.Kind)], t.over(), !t.rec.StartedAt.IsZero()
		r.mu.Unlock()
		switch {
		case h != nil && d != nil && (began || over):
			return d.Logs(ctx, *h, from, follow)
		case over || !follow:
			return io.NopCloser(strings.NewReader("")), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Stats is what a running task uses, or an error if its driver cannot tell.
func (r *Runner) Stats(ctx context.Context, id placement.TaskID) (Stats, error) {
	r.mu.Lock()
	t := r.tasks[id]
	var h *Handle
	var d Driver
	if t != nil {
		h, d = t.rec.Handle, r.cfg.Drivers[string(t.rec.Kind)]
	}
	r.mu.Unlock()
	if h == nil || d == nil {
		return Stats{}, &UnknownTaskError{id}
	}
	m, ok := d.(Measurer)
	if !ok {
		return Stats{}, fmt.Errorf("the %s driver does not measure its tasks", d.Name())
	}
	return m.Stats(ctx, *h)
}
