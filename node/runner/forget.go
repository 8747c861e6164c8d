package runner

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Keeper is a driver that keeps things of a job on its node beyond its tasks:
// volumes, disks.
type Keeper interface {
	// Kept are the jobs of which something is kept, with when it was last used.
	Kept() (map[placement.JobID]time.Time, error)
	// Forget removes all that is kept of a job, of which no task is here any more.
	Forget(job placement.JobID) error
}

// forgetEvery is how often it is seen what is kept and nobody's any more.
const forgetEvery = 10 * time.Minute

// keepUnknown is how long something is kept of a job that its region does not
// know: it forgets jobs that ended long ago, and may itself have been set back.
// A worker, which knows few of its region's jobs, keeps it until it is told of the
// job's end or erasure.
const keepUnknown = 30 * 24 * time.Hour

// forget removes what drivers keep of jobs whose tasks are all removed here: of
// one that was erased at once, of one that is over with its last task. The caller
// holds mu.
func (r *Runner) forget(ctx context.Context) {
	due := time.Since(r.forgot) >= forgetEvery || len(r.last.Erased) != r.forgotErased
	if r.forgetting || !due || r.last.Over == nil {
		return
	}
	here := make(map[placement.JobID]bool, len(r.tasks))
	for _, t := range r.tasks {
		here[t.rec.Job] = true
	}
	for _, w := range r.last.Tasks {
		here[w.Task.Job] = true
	}
	view := r.last
	r.forgetting = true
	r.lives.Go(func() {
		again := false
		for _, d := range r.cfg.Drivers {
			k, ok := d.(Keeper)
			if !ok || ctx.Err() != nil {
				continue
			}
			if err := forgetIn(k, view, here, &again); err != nil {
				r.log.Warn("forget what is kept of jobs that are over", "driver", d.Name(), "err", err)
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.forgetting, r.forgot = false, time.Now()
		if !again { // what was erased and is still here is looked at with the next view
			r.forgotErased = len(view.Erased)
		}
	})
}

// forgetIn does it for one driver; again is set if tasks of an erased job hold
// something yet.
func forgetIn(k Keeper, view Wanted, here map[placement.JobID]bool, again *bool) error {
	all, err := k.Kept()
	if err != nil {
		return err
	}
	var problems []error
	for job, last := range all {
		over, known := view.Over(job)
		switch {
		case here[job]:
			*again = *again || view.Erased[job]
		case view.Erased[job], known && over, view.Whole && !known && time.Since(last) > keepUnknown:
			problems = append(problems, k.Forget(job))
		}
	}
	problems = slices.DeleteFunc(problems, func(err error) bool { return err == nil })
	return errors.Join(problems...)
}
