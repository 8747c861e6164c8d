package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

const (
	// pollWait is how long one waiting read may take.
	pollWait = 20 * time.Second
	// placeLook is how long a job may be pending before we ask why.
	placeLook = 2 * time.Second
	// placeMost bounds --wait-placed while regions are still being asked.
	placeMost = 2 * time.Minute
)

func (p *program) jobRun() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "submit a job", ArgsUsage: "FILE",
		Description: `FILE is a job in YAML or JSON; - reads standard input. The body goes to a region
that the job's tag permits: this client judges by itself, and where home is
outside it sends the body straight to a front door inside. No byte of it leaves
before that region has accepted the tag.

A job has a kind (process, container, microvm, vm, inference) and a residency, and
what else it needs. Of what runs: name, type, command, env, image, image_digest,
user, workdir, models, upstream, server. Of size and place: resources, gang, site,
node, spread, avoid, near, rank, priority, preemptible, max_runtime, singleton. Of
what it has: volumes, inputs, outputs, secrets, disks, root_size, ports, network,
capabilities, pids, writable_root, cloud_init, cloud_network, boot. Of its course: restart, health,
drift, on_drain, stop_grace, evidence. Beside a tag in the long form: control,
transit, assurance, on_change, confidential. A field that cannot be read is answered
with its line and how it is written.

--wait ends at a final status (a service: running): exit 0 if it is complete,
else 1. It ends with 11 or 20 where the job will not start as things are.
--wait-placed ends once the job has a place, or with 10, 11, 20 or 30 saying why
it has none. The job stays submitted either way.`,
		UsageText: "sovmesh job run job.yaml --wait\nsovmesh job run - --residency 'EEA,!HU' --json < job.yaml",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "residency", Usage: "`TAG` used in the place of the file's own residency"},
			&cli.BoolFlag{Name: "wait", Usage: "until it ends (a service: until it runs)"},
			&cli.BoolFlag{Name: "wait-placed", Usage: "until it has a place, or a reason why not"},
			&cli.BoolFlag{Name: "follow", Usage: "print its output until it ends (with --json: on stderr)"},
			&cli.StringFlag{Name: "idempotency-key", Usage: "`KEY`: a repetition with the same key is the same job"},
		}, connectionFlags()...),
		Action: p.runJob,
	}
}

func (p *program) runJob(c *cli.Context) error {
	args, err := arguments(c, "FILE")
	if err != nil {
		return err
	}
	if c.Bool("wait") && c.Bool("wait-placed") {
		return usage("choose one of them", "--wait and --wait-placed stand together")
	}
	job, err := p.readJob(c, args[0])
	if err != nil {
		return err
	}
	client, _, err := p.writer(c)
	if err != nil {
		return err
	}
	defer client.Close()
	sent, err := client.Submit(c.Context, job, api.SubmitOptions{IdempotencyKey: c.String("idempotency-key")})
	if err != nil {
		return err
	}
	if sent.Granted {
		fmt.Fprintf(p.err, "landed in region %s: its body never entered this one\n", clean(string(sent.Landed)))
	}
	w := waiter{p: p, client: client, file: job, job: &sent.Job}
	var end error
	switch {
	case c.Bool("follow"):
		end = w.follow(c.Context)
	case c.Bool("wait"):
		end = w.ended(c.Context)
	case c.Bool("wait-placed"):
		end = w.placed(c.Context)
	}
	if err := p.show(w.job.Document(), func(out io.Writer) { p.writeJob(out, w.job) }); err != nil {
		return err
	}
	return end
}

// waiter follows one submitted job.
type waiter struct {
	p      *program
	client *api.Client
	file   *api.JobFile
	job    *placement.Job // as last read

	// lookAt is when a pending job is asked about next, lookEvery how long after
	// that again.
	lookAt    time.Time
	lookEvery time.Duration
}

// next waits for a change of the job.
func (w *waiter) next(ctx context.Context, wait time.Duration) error {
	j, err := w.client.WaitJob(ctx, w.job.ID, w.job.Index, wait)
	if err != nil {
		return err
	}
	w.job = j
	return nil
}

// ended waits for the end of a batch job, or for a service to run. A job that
// stays pending for a reason that will not pass is not waited for.
func (w *waiter) ended(ctx context.Context) error {
	line := w.p.progress()
	defer line.done()
	for {
		j := w.job
		line.say("%s: %s%s", j.ID, j.Status, prefixed(", ", j.Reason))
		running := j.Spec.Type == placement.TypeService && j.Status == placement.JobRunning
		if running || j.Status.Terminal() {
			return w.verdict()
		}
		if err := firstOf(w.nextOrRetry(ctx, line), w.hopeless(ctx)); err != nil {
			return err
		}
	}
}

// hopeless asks now and then, ever less often, whether a pending job can start
// at all.
func (w *waiter) hopeless(ctx context.Context) error {
	now := time.Now()
	switch {
	case w.job.Status != placement.JobPending:
		w.lookAt = time.Time{}
		return nil
	case w.lookAt.IsZero():
		w.lookAt, w.lookEvery = now.Add(placeLook), placeLook
		return nil
	case w.asking() || now.Before(w.lookAt):
		return nil
	}
	w.lookEvery = min(2*w.lookEvery, pollWait)
	w.lookAt = now.Add(w.lookEvery)
	return w.never(ctx)
}

// never says why a pending job will not get a place, by a dry run of the same
// job: no hardware for it or above its limit (exit 11), or not lawful (exit 20). Anything else may
// pass by itself, a node that does not answer included.
func (w *waiter) never(ctx context.Context) error {
	report, err := w.client.Check(ctx, w.file)
	if err != nil || report.Answer != api.CheckNoHardware && report.Answer != api.CheckOverLimit && report.Answer != api.CheckUnlawful {
		return nil
	}
	return &outcome{
		checkExit(report.Answer), "job " + string(w.job.ID) + " will not start as things are: " + nonEmpty(report.Reason, report.Answer),
		nonEmpty(report.Hint, "see why: sovmesh job explain "+string(w.job.ID)) + "; it stays submitted: sovmesh job stop " + string(w.job.ID),
	}
}

// nextOrRetry waits for a change; a node that does not answer for a while is no
// end of the job.
func (w *waiter) nextOrRetry(ctx context.Context, line *progress) error {
	wait := pollWait
	if w.job.Status == placement.JobPending {
		wait = placeLook
	}
	err := w.next(ctx, wait)
	var problem *api.Problem
	if err == nil || ctx.Err() != nil || !errors.As(err, &problem) || problem.Status < 500 {
		return firstOf(ctx.Err(), err)
	}
	line.say("no answer, asking again: %s", problem.Detail)
	return pause(ctx, time.Second)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// verdict is the exit code of an ended job, or of a service that runs.
func (w *waiter) verdict() error {
	j := w.job
	if j.Status == placement.JobComplete || j.Status == placement.JobRunning {
		return nil
	}
	reason := j.Reason
	if j.ExitCode != nil && reason == "" {
		reason = fmt.Sprintf("exit code %d", *j.ExitCode)
	}
	return &outcome{1, fmt.Sprintf("job %s: %s%s", j.ID, j.Status, prefixed(", ", reason)), "see its output: sovmesh job logs " + string(j.ID)}
}

// placed waits until the job has a place. One that stays pending is explained
// by a dry run of the same job.
func (w *waiter) placed(ctx context.Context) error {
	line := w.p.progress()
	defer line.done()
	until := time.Now().Add(placeMost)
	for {
		j := w.job
		line.say("%s: %s%s", j.ID, j.Status, prefixed(", ", j.Reason))
		switch {
		case j.Status == placement.JobUnknown:
			return &outcome{api.ExitUnknown, "job " + string(j.ID) + ": " + nonEmpty(j.Reason, "whoever runs it does not answer"), "it stays submitted; look again: sovmesh job show " + string(j.ID)}
		case j.Status != placement.JobPending:
			return nil
		}
		if err := w.next(ctx, placeLook); err != nil {
			return err
		}
		if w.job.Status != placement.JobPending || w.asking() {
			continue
		}
		report, err := w.client.Check(ctx, w.file)
		if err != nil {
			return err
		}
		switch {
		case report.Answer != api.CheckPlaceable:
			return checkOutcome(report)
		case time.Now().After(until):
			return &outcome{api.ExitNoCapacity, "job " + string(j.ID) + " still waits: " + nonEmpty(w.job.Reason, "no reason yet"), "sovmesh job explain " + string(j.ID)}
		}
	}
}

// asking: another region was asked for room and has not answered.
func (w *waiter) asking() bool {
	return w.job.Forward != nil && w.job.Forward.State == placement.ForwardAsking
}

// follow prints the job's output until it ends.
func (w *waiter) follow(ctx context.Context) error {
	line := w.p.progress()
	defer line.done()
	for w.job.Status == placement.JobPending || w.job.Status == placement.JobStarting {
		if err := firstOf(w.nextOrRetry(ctx, line), w.hopeless(ctx)); err != nil {
			return err
		}
	}
	out := w.p.out
	if w.p.json {
		out = w.p.err
	}
	if err := w.p.copyLogs(ctx, w.client, w.job.ID, api.LogOptions{Follow: true}, out); err != nil {
		return err
	}
	for !w.job.Status.Terminal() {
		if err := w.next(ctx, pollWait); err != nil {
			return err
		}
	}
	return w.verdict()
}
