package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// task is one task in this process. All fields but saving are guarded by Runner.mu.
// Exactly one goroutine, its life, brings it up and sees its end.
type task struct {
	rec Record
	job placement.Job // set while the task is to be started
	// hosts are those of its gang's members, set with job.
	hosts []string
	seen  uint64 // index of the newest view that had it

	alive    bool // it has a life
	absent   bool // the region has it as over, or not at all
	mismatch bool // the region shows another status than ours

	stop       string        // why it is to end; set once
	broken     bool          // it ends because its device did: it has failed
	note       string        // what its device told of meanwhile
	grace      time.Duration // what it is given to end
	stopping   bool          // the order to end was given to the driver
	unwant     func()        // while it is not started: ends the wait for what it needs
	quiet      bool          // nobody waits for news of it
	collecting bool          // it is being removed
	move       moving        // while rec.Move is set
	dead       bool          // it has ended, which the end of its move is waited for to tell

	served map[*servedConn]bool // what other tasks have open to it

	// leaseEnds is when a singleton is told to end, by this process' monotonic
	// clock; the wall clock may be set back meanwhile.
	leaseEnds   time.Time
	leasePassed bool       // the driver was told of this lease
	runEnds     time.Time  // when it has run for its max_runtime, by the same clock; zero for no bound
	saving      sync.Mutex // held around a save, before mu, so that the newest record wins
	unsaved     bool       // rec is newer than the store's copy
	saveAfter   time.Time  // when an unsaved record is tried again
	reported    time.Time  // when its status was last queued
	settling    bool       // its inside is looked at often: see settleNew
	// lookAfter is when settleNew asks again after an error, lookPause how long it
	// waited for that.
	lookAfter time.Time
	lookPause time.Duration
}

func (t *task) over() bool { return !t.rec.Status.Live() }

func (t *task) public() Status {
	return Status{
		Task: t.rec.Task, Job: t.rec.Job, Kind: t.rec.Kind, Tenant: t.rec.Tenant, Devices: t.rec.Devices,
		Status: t.rec.Status, Reason: t.rec.Reason, Exit: t.rec.Exit,
		StartedAt: t.rec.StartedAt, EndedAt: t.rec.EndedAt, Stopping: t.stop != "" && !t.over(), Unsaved: t.unsaved,
	}
}

// begin is the life of a task that was never started.
func (r *Runner) begin(ctx context.Context, t *task) {
	h, err := r.bringUp(ctx, t)
	var exists *ExistsError
	switch {
	case errors.As(err, &exists):
		if err := r.keep(t, exists.Handle); err != nil {
			r.log.Warn("keep the handle of a task that was found", "task", t.rec.Task, "err", err)
		}
		r.resume(ctx, t)
	case ctx.Err() != nil:
		// The agent ends; the next one sees what became of it.
	case errors.Is(err, errUnwanted):
		status, reason := r.stopStatus(t)
		r.finish(t, status, reason, nil)
	case err != nil && r.stopReason(t) != "":
		status, reason := r.stopStatus(t)
		r.finish(t, status, reason, nil)
	case err != nil:
		r.finish(t, placement.TaskFailed, startFailure(err), nil)
	default:
		r.running(ctx, t, h, time.Now())
		r.watch(ctx, t, h)
	}
}

var errUnwanted = errors.New("no longer wanted")

// bringUp prepares and starts the task, unless it was stopped meanwhile. Only so
// many are started at once; one that waits for what it needs, or that runs and is
// not ready yet, keeps nobody from starting.
func (r *Runner) bringUp(ctx context.Context, t *task) (Handle, error) {
	d := r.cfg.Drivers[string(t.rec.Kind)]
	if d == nil {
		return Handle{}, fmt.Errorf("this node has no driver for jobs of kind %s", t.rec.Kind)
	}
	wanted, done := r.whileWanted(ctx, t)
	defer done()
	spec := r.spec(t)
	if err := r.fetch(wanted, t, d, &spec); err != nil {
		return Handle{}, err
	}
	if err := r.makeOutputs(t, d, &spec); err != nil {
		return Handle{}, err
	}
	select {
	case r.starts <- struct{}{}:
	case <-wanted.Done():
		return Handle{}, errUnwanted
	}
	spec.Begun = sync.OnceFunc(func() { <-r.starts })
	defer spec.Begun()
	if r.stopReason(t) != "" {
		return Handle{}, errUnwanted
	}
	var err error
	if spec.SecretsDir, err = r.bringSecrets(ctx, t); err != nil {
		return Handle{}, err
	}
	return d.Start(ctx, spec)
}

// spec is what the driver is told; it needs no lock but mu's for the lease.
func (r *Runner) spec(t *task) Spec {
	r.mu.Lock()
	defer r.mu.Unlock()
	env := make(map[string]string, len(r.cfg.Env)+len(t.job.Spec.Env)+2)
	for k, v := range r.cfg.Env {
		env[k] = v
	}
	env["SOVMESH_JOB"], env["SOVMESH_TASK"] = string(t.rec.Job), string(t.rec.Task)
	if rank, _, _ := t.rec.Task.Member(); t.job.Spec.Gang() {
		env["SOVMESH_GANG_SIZE"], env["SOVMESH_GANG_RANK"] = strconv.Itoa(t.job.Spec.Size()), strconv.Itoa(rank)
		if len(t.hosts) > 0 && !slices.Contains(t.hosts, "") { // a worker may not know all of them
			env["SOVMESH_GANG_HOSTS"] = strings.Join(t.hosts, ",")
		}
	}
	s := t.job.Spec
	if s.Setup != nil {
		for _, one := range s.Setup.Network.Services() {
			env[one.Env()] = one.Addr.String()
		}
	}
	for k, v := range s.Env {
		env[k] = v
	}
	spec := Spec{
		Task: t.rec.Task, Job: t.rec.Job, Name: s.Name, Command: s.Command, Env: env, Resources: s.Resources,
		Devices: t.rec.Devices, Image: s.Image, Models: s.Models, Upstream: s.Upstream, Grace: time.Duration(t.rec.Grace),
		Tenant: t.rec.Tenant, Region: t.job.Region, Tag: effectiveTag(t.job.Policy),
		Setup: s.Setup, Unwanted: func() bool { return r.stopReason(t) != "" }, Service: s.Type == placement.TypeService, Keep: func(h Handle) error { return r.keep(t, h) },
	}
	if spec.Setup == nil {
		spec.Setup = &placement.Setup{}
	}
	t.rec.Declared = declare(&spec)
	spec.Resolve, spec.Connect, t.rec.List = r.cfg.Resolve, r.connector(t.rec.Task), namedList(spec.Setup.Network)
	if spec.Setup.Secrets != nil { // drivers keep specs on disk
		open := *spec.Setup
		open.Secrets, spec.Setup = nil, &open
	}
	if !t.rec.LeaseUntil.IsZero() {
		spec.LeaseUntil, t.leasePassed = t.rec.LeaseUntil.Add(-r.cfg.LeaseMargin), true
	}
	return spec
}

func startFailure(err error) string {
	var start *StartError
	if !errors.As(err, &start) {
		return "it could not be started: " + err.Error()
	}
	if start.Advice == "" {
		return start.Reason
	}
	return start.Reason + "; " + start.Advice
}

// resume is the life of a task that has a handle: what became of it is asked
// until its driver can tell.
func (r *Runner) resume(ctx context.Context, t *task) {
	h, d := *t.rec.Handle, r.cfg.Drivers[string(t.rec.Kind)]
	pause := r.cfg.Retry
	for {
		err := fmt.Errorf("this node has no driver for jobs of kind %s any more", t.rec.Kind)
		var seen Observed
		if d != nil {
			seen, err = d.Recover(ctx, h)
		}
		if err == nil {
			r.settle(ctx, t, d, h, seen)
			return
		}
		if ctx.Err() != nil {
			return
		}
		r.log.Warn("recover a task; trying again", "task", t.rec.Task, "err", err)
		r.explain(t, "its node cannot tell what it does: "+err.Error())
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, r.cfg.RetryMax)
	}
}

// settle acts on what a driver found of a recovered task. Nothing here starts
// a task that may have run before.
func (r *Runner) settle(ctx context.Context, t *task, d Driver, h Handle, seen Observed) {
	if r.endsInMove(t, seen) {
		r.endInMove(ctx, t, h, seen)
		return
	}
	switch seen.State {
	case StateRunning:
		if r.resumeMove(ctx, t, h, seen) {
			return
		}
		r.log.Info("recovered a running task", "task", t.rec.Task, "job", t.rec.Job)
		r.running(ctx, t, h, seen.StartedAt)
		r.renewList(ctx, t) // its services are answered for by the agent, which is another one
		r.watch(ctx, t, h)
	case StateExited:
		r.log.Info("a task ended while the agent was away", "task", t.rec.Task, "job", t.rec.Job)
		r.mu.Lock()
		t.rec.StartedAt = seen.StartedAt
		r.mu.Unlock()
		if r.gather(ctx, t) {
			r.ended(t, *seen.Exit)
		}
	case StateAbsent:
		if t.rec.Move != nil && t.rec.Move.Away {
			r.finish(t, placement.TaskFailed, "it was being moved, and nothing of it is here any more", nil)
			return
		}
		// Crashed between keeping the handle and starting: the next committed
		// view that still wants it starts it, as if it were new.
		r.rest(t)
	default:
		if err := d.Stop(ctx, h, 0); err != nil && ctx.Err() == nil {
			r.log.Error("end what is left of a task", "task", t.rec.Task, "err", err)
		}
		if ctx.Err() == nil && r.gather(ctx, t) {
			r.finish(t, placement.TaskFailed, "it ended while the agent was away and how is not known (the machine restarted, or its supervisor was killed)", nil)
		}
	}
}

// endsInMove reports that a task has ended whose move is not decided.
func (r *Runner) endsInMove(t *task, seen Observed) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return t.rec.Move != nil && seen.State != StateRunning && seen.State != StateAbsent
}

// watch waits for the end of a running task. One that is moved away has no end
// here.
func (r *Runner) watch(ctx context.Context, t *task, h Handle) {
	d := r.cfg.Drivers[string(t.rec.Kind)]
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	t.move.unwatch = cancel
	r.mu.Unlock()
	pause := r.cfg.Retry
	for {
		exit, err := d.Wait(wait, h)
		if r.movedAway(t) {
			return
		}
		if err == nil {
			if r.awaitMove(ctx, t); r.movedAway(t) || ctx.Err() != nil {
				return
			}
			if !r.gather(ctx, t) {
				return
			}
			r.ended(t, exit)
			r.lives.Go(func() { r.noteDenied(ctx, t) })
			return
		}
		if ctx.Err() != nil {
			return
		}
		if seen, again := d.Recover(ctx, h); again == nil && seen.State == StateGone && !r.movedAway(t) {
			if r.awaitMove(ctx, t); r.movedAway(t) || ctx.Err() != nil {
				return
			}
			r.settle(ctx, t, d, h, seen)
			return
		}
		r.log.Warn("wait for a task; trying again", "task", t.rec.Task, "err", err)
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, r.cfg.RetryMax)
	}
}

// running notes that the task runs, and carries out an order to end it that
// came while it was brought up.
func (r *Runner) running(ctx context.Context, t *task, h Handle, since time.Time) {
	r.mu.Lock()
	t.rec.Handle = &h
	if t.rec.StartedAt.IsZero() {
		t.rec.StartedAt = since
	}
	if t.rec.MaxRuntime > 0 {
		t.setRunEnds()
		r.poke()
	}
	r.mu.Unlock()
	r.report(t, placement.TaskRunning, "")
	r.carryOut(ctx, t)
}

// setRunEnds bounds the time of a task that has a max_runtime, which began where
// the task did. The caller holds mu.
func (t *task) setRunEnds() {
	began := t.rec.StartedAt
	if !t.rec.RunsSince.IsZero() {
		began = t.rec.RunsSince
	}
	t.runEnds = time.Now().Add(time.Duration(t.rec.MaxRuntime) - time.Since(began))
}

// ended notes how the task ended.
func (r *Runner) ended(t *task, exit Exit) {
	status, reason := placement.TaskFailed, exit.String()
	stop := r.stopReason(t)
	switch {
	case stop != "":
		status, reason = r.stopStatus(t)
	case exit.Stopped:
		status = placement.TaskStopped
		if exit.Reason == "" {
			reason = "it was told to end"
		}
	case exit.Code == 0:
		status, reason = placement.TaskComplete, ""
	default:
		reason = r.noted(t, reason)
	}
	r.finish(t, status, reason, &exit)
}

// finish gives the task its last status: reported first, since the driver
// remembers the end until the task is collected, then kept.
func (r *Runner) finish(t *task, status placement.TaskStatus, reason string, exit *Exit) {
	r.mu.Lock()
	t.rec.Exit, t.rec.EndedAt = exit, time.Now()
	if exit != nil && !exit.At.IsZero() {
		t.rec.EndedAt = exit.At
	}
	reason = t.rec.Gathered.said(reason)
	r.mu.Unlock()
	r.dropSecrets(t.rec.Task)
	r.dropInputs(t.rec.Task)
	r.log.Info("task is over", "task", t.rec.Task, "job", t.rec.Job, "status", string(status)) // why is with the job: see end
	r.report(t, status, reason)
	r.unserve(t)
	_ = r.save(t) // kept as a problem and tried again
	r.poke()
}

// report sets and sends a status.
func (r *Runner) report(t *task, status placement.TaskStatus, reason string) {
	r.mu.Lock()
	if t.over() && status.Live() { // word of how far it got, which comes late
		r.mu.Unlock()
		return
	}
	t.rec.Status, t.rec.Reason, t.reported = status, reason, time.Now()
	rep, quiet := t.saying(), t.quiet
	r.notify()
	r.mu.Unlock()
	if !quiet {
		r.reports.add(rep)
	}
}

// reasonMax bounds a reason in bytes, well below what the ledger refuses.
const reasonMax = 1024

// saying is the report of the task's present status.
func (t *task) saying() placement.TaskReport {
	rep := placement.TaskReport{Task: t.rec.Task, Status: t.rec.Status, Reason: t.rec.Reason, At: time.Now()}
	if len(rep.Reason) > reasonMax { // a word of the job's, a path: the ledger takes no more
		rep.Reason = strings.ToValidUTF8(rep.Reason[:reasonMax], "") + "..."
	}
	rep.Refused = t.rec.Status == placement.TaskFailed && strings.HasPrefix(t.rec.Reason, RefusedPrefix)
	switch {
	case t.over():
		rep.At = t.rec.EndedAt
	case t.rec.Status == placement.TaskRunning && !t.rec.StartedAt.IsZero():
		rep.At = t.rec.StartedAt
	}
	if t.unsaved && !t.over() {
		rep.Reason = "its node's disk does not take its record; it goes on"
	}
	if t.rec.Exit != nil {
		code := t.rec.Exit.Code
		rep.ExitCode = &code
	}
	return rep
}

// explain changes the reason shown here without telling the region.
func (r *Runner) explain(t *task, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.over() {
		return
	}
	t.rec.Reason = reason
	r.notify()
}

// keep stores the handle, before anything of the task runs.
func (r *Runner) keep(t *task, h Handle) error {
	r.mu.Lock()
	t.rec.Handle = &h
	r.mu.Unlock()
	return r.save(t)
}

// save writes the record. A failure is remembered, shown and tried again; it
// never changes what the task does.
func (r *Runner) save(t *task) error {
	t.saving.Lock()
	defer t.saving.Unlock()
	r.mu.Lock()
	rec := t.rec
	r.mu.Unlock()
	err := r.cfg.Store.Save(rec)
	r.mu.Lock()
	defer r.mu.Unlock()
	if (r.storeErr == nil) != (err == nil) {
		r.log.Warn("the disk's taking of task records changed", "err", err)
	}
	r.storeErr = err
	if t.unsaved = err != nil; t.unsaved {
		t.saveAfter = time.Now().Add(r.cfg.RetryMax)
	}
	r.notify()
	return err
}

// rest notes that nothing of the task ever ran: the newest view is looked at
// again, and starts it if it is wanted.
func (r *Runner) rest(t *task) {
	r.mu.Lock()
	t.rec.Handle, t.rec.Status, t.rec.Reason = nil, placement.TaskAssigned, ""
	t.alive, r.again = false, true
	if t.stop != "" {
		t.rec.Status, t.rec.Reason, t.rec.EndedAt = placement.TaskStopped, t.stop, time.Now()
		if t.broken {
			t.rec.Status = placement.TaskFailed
		}
	}
	r.notify()
	r.mu.Unlock()
	r.dropSecrets(t.rec.Task)
	r.dropInputs(t.rec.Task)
	r.poke()
}

func (r *Runner) stopReason(t *task) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return t.stop
}

// effectiveTag is the policy in canonical form: all of its layers must permit.
func effectiveTag(layers []placement.Layer) string {
	tags := make([]string, 0, len(layers))
	for _, l := range layers {
		tags = append(tags, l.Tag)
	}
	slices.Sort(tags)
	return strings.Join(slices.Compact(tags), " & ")
}
