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
	"net"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Want is one task of this node as the committed state has it.
type Want struct {
	Task placement.Task
	Job  placement.Job
	// Hosts are those of the nodes of a gang's members, by rank; empty for any
	// other job.
	Hosts []string
	// MovesTo is the task on another node that is to take over what this one runs,
	// for as long as that is not decided.
	MovesTo *placement.Task
}

// Wanted is the node's part of a committed view. It holds every task of the
// node that is live at Index; tasks that are over may be in it or not.
type Wanted struct {
	Index uint64
	Tasks []Want
	// Erased are jobs of which nothing may be kept any more: what this node has of
	// their tasks goes at once. It is read, never written, and may be nil.
	Erased map[placement.JobID]bool
	// Over reports whether a job has ended for good, and whether the region knows it
	// at all; nil keeps for ever what drivers keep of jobs.
	Over func(placement.JobID) (over, known bool) `json:"-"`
	// Whole is set if Over knows every job of the region. A worker is told of jobs
	// that have a live task on it and of no other: what it does not know may live.
	Whole bool `json:"-"`
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
	// Starts is how many tasks are started at once, and Fetches for how many of one
	// tenant there is fetched at once what they need.
	Starts, Fetches int
	// A singleton is told to end LeaseMargin + LeaseGrace before its lease does
	// and killed LeaseMargin before. LeaseMargin is the error allowed to clocks.
	LeaseMargin, LeaseGrace time.Duration
	// Output and records of tasks that are over are kept for KeepFor, those of
	// the last KeepFinished tasks at most.
	KeepFor      time.Duration
	KeepFinished int
	// Secrets opens those of a task that is to start; they are laid down in
	// SecretsDir, which must be in memory and this node's own. Without either, tasks
	// with secrets are not started.
	Secrets    func(ctx context.Context, id placement.TaskID, job *placement.Job) (map[string][]byte, error)
	SecretsDir string
	// Inputs fetches what a job names by digest; without it, tasks of jobs that need
	// files are not started.
	Inputs Inputs
	// Outputs keeps what tasks leave to be fetched; without it, tasks of jobs that
	// leave any are not started.
	Outputs Outputs
	// Noter, if set, is told of drift, looked for every DriftEvery, and of traffic
	// that tasks were refused, looked for every DeniedEvery.
	Noter                   Noter
	DriftEvery, DeniedEvery time.Duration
	// Moves, if set, is how running tasks get to other nodes. A move is given up
	// after MoveWithin, and when nothing of it got on for MoveStall.
	Moves                 Moves
	MoveWithin, MoveStall time.Duration
	// MovesOut and MovesIn are how many tasks are moved away, and here, at once.
	MovesOut, MovesIn int
	// Resolve tells what names in jobs' lists stand for; lists are renewed every
	// DeniedEvery. It may be nil.
	Resolve Resolver
	// Connect reaches a port of a service for a task whose list names it. Without
	// it, tasks with services in their lists are not started.
	Connect func(ctx context.Context, id placement.TaskID, service string, port int) (net.Conn, error)
	// Retry is the first pause after a failure, RetryMax the longest.
	Retry, RetryMax time.Duration
}

// Inputs is where the files of jobs come from.
type Inputs interface {
	// Lay has a task's in a directory of its own, of files that its tenant has shown
	// to have. What can never be had is a *StartError.
	Lay(ctx context.Context, id placement.TaskID, tenant placement.TenantID, inputs []placement.Input) (dir string, err error)
	// Drop removes it, once the task is over. Nothing may be there.
	Drop(id placement.TaskID) error
}

// Outputs is where the files go that tasks leave to be fetched.
type Outputs interface {
	// Make is the directory that a task that is to start writes to.
	Make(id placement.TaskID) (dir string, err error)
	// Gather keeps what a task that has ended left there; asked again it gives the
	// same list.
	Gather(ctx context.Context, id placement.TaskID, most placement.Outputs) (*placement.OutputList, error)
	// Open reads the kept file of a digest.
	Open(id placement.TaskID, digest string) (io.ReadCloser, error)
	// Sweep removes what was not kept, and Drop all of a task's. Both may take long,
	// and nothing may be there.
	Sweep(ctx context.Context, id placement.TaskID) error
	Drop(ctx context.Context, id placement.TaskID) error
}

// DefaultConfig has every limit set and nothing else.
func DefaultConfig() Config {
	return Config{
		Starts: 16, Fetches: 16, LeaseMargin: 2 * time.Second, LeaseGrace: 3 * time.Second,
		KeepFor: 24 * time.Hour, KeepFinished: 500,
		DriftEvery: 5 * time.Minute, DeniedEvery: 30 * time.Second,
		MoveWithin: 30 * time.Minute, MoveStall: time.Minute, MovesOut: 2, MovesIn: 2,
		Retry: 20 * time.Millisecond, RetryMax: 500 * time.Millisecond,
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
	if c.Starts < 1 || c.Fetches < 1 || c.LeaseMargin < 0 || c.LeaseGrace < 0 || c.Retry <= 0 || c.RetryMax < c.Retry || c.KeepFinished < 0 ||
		c.DriftEvery <= 0 || c.DeniedEvery <= 0 || c.MoveWithin <= 0 || c.MoveStall <= 0 || c.MovesOut < 1 || c.MovesIn < 1 {
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
	turns   turns         // of what is fetched
	giving  chan struct{} // one token per task that is moved away
	wake    chan struct{} // tells the loop that a lease or a record changed
	secrets sync.Mutex    // held while the directory of secrets is made or removed
	moved   moveCounts

	forgot       time.Time // guarded by mu: when what is kept of jobs was last looked through
	forgotErased int       // guarded by mu: how many jobs were erased then
	forgetting   bool      // guarded by mu: it is looked through now

	mu       sync.Mutex
	tasks    map[placement.TaskID]*task     // guarded by mu
	incoming map[placement.TaskID]*incoming // guarded by mu: tasks that are taken in
	taking   int                            // guarded by mu: how many of those have their turn
	strays   map[string][]Observed          // guarded by mu; by driver
	changed  chan struct{}                  // guarded by mu; closed and replaced at every change
	last     Wanted                         // guarded by mu: the newest view acted upon
	again    bool                           // guarded by mu: last is to be acted upon once more
	floor    uint64                         // guarded by mu: see [Store]
	storeErr error                          // guarded by mu: why records cannot be kept, nil when they can
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
		starts: make(chan struct{}, cfg.Starts), turns: turns{most: cfg.Fetches}, giving: make(chan struct{}, cfg.MovesOut), wake: make(chan struct{}, 1),
		tasks: make(map[placement.TaskID]*task), strays: make(map[string][]Observed),
		changed: make(chan struct{}), incoming: make(map[placement.TaskID]*incoming),
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
	helpers.Go(func() { r.audit(ctx) })
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
	pause, seen := r.cfg.Retry, false
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
		if w.Index <= after && seen {
			// A source that answers with what is known would spin here.
			if !sleep(ctx, r.cfg.Retry) {
				return
			}
			continue
		}
		after, seen = w.Index, true
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
