// Package runner owns the tasks of one node, across restarts of its agent.
//
// It decides nothing: a task is started because the region's raft group
// committed an assignment that names it, its node and its devices, and it is
// ended because a newer committed view says so, because its singleton lease ran
// out, or by itself. Losing contact, a restart, an upgrade or a full disk ends
// no task.
//
// The composition root hands in the drivers, the source of assignments, the
// place to report to, and the gate that judges each assignment once more
// before anything of it is started. The API reads tasks and output from here.
package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Want is one task of this node as the committed state has it.
type Want struct {
	Task placement.Task
	Job  placement.Job
}

// Wanted is the node's part of a committed view. It holds every task of the
// node that is live at Index; tasks that are over may be in it or not.
type Wanted struct {
	Index uint64
	Tasks []Want
}

// Assignments is where a node learns what to run. Next blocks until the
// committed set of the node's tasks is newer than after. What it returns must
// be committed; an error means "ask again".
type Assignments interface {
	Next(ctx context.Context, after uint64) (Wanted, error)
}

// Reporter tells the region what became of tasks. A nil error means that the
// reports are committed; repeating a report, also about a task that is over or
// forgotten, must be harmless.
type Reporter interface {
	Report(ctx context.Context, reports []placement.TaskReport) error
}

// Gate judges an assignment before it is started. An error is the reason for
// refusing it; nothing of a refused task is ever started.
type Gate func(placement.Task, placement.Job) error

// Config is what a runner needs; Drivers, Assignments, Reporter, Gate and
// Store must be set.
type Config struct {
	Drivers     map[string]Driver // by kind of job
	Assignments Assignments
	Reporter    Reporter
	Gate        Gate
	Store       Store
	Log         *slog.Logger
	// Env is given to every task, under what its job says.
	Env map[string]string
	// StopOnExit ends all tasks when Run is told to end. Only a mesh that shall
	// leave nothing behind wants it.
	StopOnExit bool
	// Starts is how many tasks are started at once.
	Starts int
	// A singleton is told to end LeaseMargin + LeaseGrace before its lease does
	// and killed LeaseMargin before. LeaseMargin is the error allowed to clocks.
	LeaseMargin, LeaseGrace time.Duration
	// Output and records of tasks that are over are kept for KeepFor, those of
	// the last KeepFinished tasks at most.
	KeepFor      time.Duration
	KeepFinished int
	// Retry is the first pause after a failure, RetryMax the longest.
	Retry, RetryMax time.Duration
}

// DefaultConfig has every limit set and nothing else.
func DefaultConfig() Config {
	return Config{
		Starts: 16, LeaseMargin: 2 * time.Second, LeaseGrace: 3 * time.Second,
		KeepFor: 24 * time.Hour, KeepFinished: 500,
		Retry: 20 * time.Millisecond, RetryMax: 2 * time.Second,
	}
}

// Validate reports everything that is wrong with the configuration.
func (c Config) Validate() error {
	var problems []error
	for what, missing := range map[string]bool{
		"Assignments": c.Assignments == nil, "Reporter": c.Reporter == nil,
		"Gate": c.Gate == nil, "Store": c.Store == nil,
	} {
		if missing {
			problems = append(problems, fmt.Errorf("runner: %s is not set", what))
		}
	}
	if c.Starts < 1 || c.LeaseMargin < 0 || c.LeaseGrace < 0 || c.Retry <= 0 || c.RetryMax < c.Retry || c.KeepFinished < 0 {
		problems = append(problems, errors.New("runner: a limit is out of range; begin with DefaultConfig"))
	}
	return errors.Join(problems...)
}

// Runner runs the tasks of one node.
type Runner struct {
	cfg     Config
	log     *slog.Logger
	reports *reports
	starts  chan struct{} // one token per start in progress
	wake    chan struct{} // tells the loop that a lease or a record changed

	mu       sync.Mutex
	tasks    map[placement.TaskID]*task // guarded by mu
	strays   map[string][]Observed      // guarded by mu; by driver
	changed  chan struct{}              // guarded by mu; closed and replaced at every change
	last     Wanted                     // guarded by mu: the newest view acted upon
	again    bool                       // guarded by mu: last is to be acted upon once more
	floor    uint64                     // guarded by mu: see [Store]
	storeErr error                      // guarded by mu: why records cannot be kept, nil when they can
	lives    sync.WaitGroup
}

// New makes a runner and starts nothing.
func New(cfg Config) (*Runner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Runner{
		cfg: cfg, log: log, reports: newReports(cfg.Reporter, cfg.Retry, cfg.RetryMax, log),
		starts: make(chan struct{}, cfg.Starts), wake: make(chan struct{}, 1),
		tasks: make(map[placement.TaskID]*task), strays: make(map[string][]Observed),
		changed: make(chan struct{}),
	}, nil
}

// Run recovers what the node ran before, then follows the assignments until
// ctx ends. It fails only when its own records cannot be read. Tasks go on
// after it has returned, unless StopOnExit is set; a driver that is an
// io.Closer is closed.
func (r *Runner) Run(ctx context.Context) error {
	records, floor, err := r.cfg.Store.Load()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	views := make(chan Wanted)
	helpers.Go(func() { r.reports.run(ctx) })
	r.recover(ctx, records, floor)
	helpers.Go(func() { r.follow(ctx, views) })
	helpers.Go(func() { r.findStrays(ctx) })
	r.loop(ctx, views)
	cancel()
	r.lives.Wait()
	if r.cfg.StopOnExit {
		r.endAll(context.WithoutCancel(ctx))
	}
	helpers.Wait()
	for name, d := range r.cfg.Drivers {
		if c, ok := d.(io.Closer); ok {
			if err := c.Close(); err != nil {
				r.log.Warn("close a driver", "driver", name, "err", err)
			}
		}
	}
	return nil
}

// follow hands each newer view to the loop.
func (r *Runner) follow(ctx context.Context, views chan<- Wanted) {
	pause := r.cfg.Retry
	for after := uint64(0); ctx.Err() == nil; {
		w, err := r.cfg.Assignments.Next(ctx, after)
		if err != nil {
			if !sleep(ctx, pause) {
				return
			}
			pause = min(2*pause, r.cfg.RetryMax)
			continue
		}
		pause = r.cfg.Retry
		if w.Index <= after && after != 0 {
			// A source that answers with what is known would spin here.
			if !sleep(ctx, r.cfg.Retry) {
				return
			}
			continue
		}
		after = w.Index
		select {
		case views <- w:
		case <-ctx.Done():
			return
		}
	}
}

// loop acts on views and on time; it is the only place that does.
func (r *Runner) loop(ctx context.Context, views <-chan Wanted) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if next, ok := r.due(ctx); ok {
			timer.Reset(time.Until(next))
		} else {
			timer.Reset(time.Hour)
		}
		select {
		case <-ctx.Done():
			return
		case w := <-views:
			r.reconcile(ctx, w)
		case <-r.wake:
		case <-timer.C:
		}
	}
}

// poke makes the loop look at leases and unsaved records again.
func (r *Runner) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// notify wakes whoever waits for a change. The caller holds mu.
func (r *Runner) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// endAll stops every task and waits for it, for a mesh that leaves nothing.
func (r *Runner) endAll(ctx context.Context) {
	var all sync.WaitGroup
	r.mu.Lock()
	for _, t := range r.tasks {
		if t.over() || t.rec.Handle == nil {
			continue
		}
		d, h, grace := r.cfg.Drivers[string(t.rec.Kind)], *t.rec.Handle, time.Duration(t.rec.Grace)
		if d == nil {
			continue
		}
		all.Go(func() {
			if err := d.Stop(ctx, h, grace); err != nil {
				r.log.Error("stop a task on exit", "task", h.Task, "err", err)
			}
		})
	}
	r.mu.Unlock()
	all.Wait()
}

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

// sleep waits, or reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
