package runner

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Noter keeps notes about tasks of this node in its region's ledger. A nil error
// means that they are committed, or never can be.
type Noter interface {
	Note(ctx context.Context, notes []placement.TaskNote) error
}

// inspectWithin bounds one question to a driver about a running task: a guest
// that hangs holds up nobody else's audit for longer.
const inspectWithin = 30 * time.Second

// Noted is what was noted of a running task, so that an agent that comes back
// does not say it again.
type Noted struct {
	Drift  map[string]string `json:"drift,omitempty"`  // text by subject
	Denied map[string]uint64 `json:"denied,omitempty"` // packets by destination
}

// alreadyNoted is what was noted of a task so far; the maps may be changed.
func (r *Runner) alreadyNoted(t *task) Noted {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := Noted{Drift: map[string]string{}, Denied: map[string]uint64{}}
	if t.rec.Noted != nil {
		maps.Copy(n.Drift, t.rec.Noted.Drift)
		maps.Copy(n.Denied, t.rec.Noted.Denied)
	}
	return n
}

// keepNoted keeps in the task's record what change makes of it; two may note at once.
func (r *Runner) keepNoted(t *task, change func(n *Noted)) {
	r.mu.Lock()
	var n Noted
	if t.rec.Noted != nil {
		n = *t.rec.Noted
	}
	change(&n)
	t.rec.Noted = &n
	over := t.over()
	r.mu.Unlock()
	if !over { // nothing is looked at any more
		_ = r.save(t) // kept as a problem and tried again
	}
}

// Drift says how a running task differs from what was declared, now. It is a
// *[UnknownTaskError] for a task that this node does not run, and an error if its
// driver cannot look.
func (r *Runner) Drift(ctx context.Context, id placement.TaskID) (Declared, Actual, []Finding, error) {
	r.mu.Lock()
	t := r.tasks[id]
	running := t != nil && t.rec.Status == placement.TaskRunning && t.rec.Handle != nil
	r.mu.Unlock()
	if !running {
		return Declared{}, Actual{}, nil, &UnknownTaskError{id}
	}
	return r.inspect(ctx, t)
}

func (r *Runner) inspect(ctx context.Context, t *task) (Declared, Actual, []Finding, error) {
	r.mu.Lock()
	if t.rec.Handle == nil {
		r.mu.Unlock()
		return Declared{}, Actual{}, nil, &UnknownTaskError{t.rec.Task}
	}
	d, h := behind(r.cfg.Drivers[string(t.rec.Kind)], *t.rec.Handle)
	r.mu.Unlock()
	look, ok := d.(Inspector)
	if !ok {
		return Declared{}, Actual{}, nil, fmt.Errorf("the %s driver does not look into its tasks", t.rec.Kind)
	}
	ctx, cancel := context.WithTimeout(ctx, inspectWithin)
	defer cancel()
	seen, err := look.Inspect(ctx, h)
	if err != nil {
		return Declared{}, Actual{}, nil, fmt.Errorf("look into task %s: %w", h.Task, err)
	}
	keeper, keeps := d.(Rememberer)
	var before *Actual
	if keeps {
		if was, known := keeper.Remembered(h); known {
			before = &was
		}
	}
	declared, changed := r.compared(t, &seen, before)
	if changed {
		_ = r.save(t) // kept as a problem and tried again
	}
	if keeps && before == nil && declared.Inside {
		if err := keeper.Remember(h, declared.Want); err != nil {
			r.log.Warn("keep with its disk what a task was found to be", "task", h.Task, "err", err)
		}
	}
	return declared, seen, Compare(&declared.Want, &seen), nil
}

// compared is what the task is held against: what it was, what is known of its disk
// from before, and what was just seen of what nothing was known of yet.
func (r *Runner) compared(t *task, seen, before *Actual) (declared Declared, changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.rec.Declared != nil {
		declared = *t.rec.Declared
	}
	if before != nil && !declared.Kept {
		if !declared.Inside {
			declared.Want.Packages, declared.Want.Services = before.Packages, before.Services
		}
		declared.Inside, declared.Kept, changed = true, true, true
	}
	if declared.settle(seen, time.Now()) {
		changed = true
	}
	if changed {
		kept := declared
		t.rec.Declared = &kept
	}
	return declared, changed
}

// audit looks at what runs, now and then, until ctx ends.
func (r *Runner) audit(ctx context.Context) {
	if r.cfg.Noter == nil && r.cfg.Resolve == nil {
		return
	}
	var looks sync.WaitGroup
	defer looks.Wait()
	if r.cfg.Noter != nil {
		looks.Go(func() { r.lookInside(ctx) }) // a guest that hangs holds up nothing else
	}
	denied := time.NewTicker(r.cfg.DeniedEvery)
	defer denied.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-denied.C:
			r.renewLists(ctx)
			if r.cfg.Noter != nil {
				r.auditDenied(ctx)
			}
		}
	}
}

// lookInside looks into tasks, now and then, until ctx ends.
func (r *Runner) lookInside(ctx context.Context) {
	drift, settle := time.NewTicker(r.cfg.DriftEvery), time.NewTicker(r.cfg.DeniedEvery)
	defer drift.Stop()
	defer settle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-drift.C:
			r.auditDrift(ctx)
		case <-settle.C:
			r.settleNew(ctx)
		}
	}
}

// live are the tasks that run, in order of their ids.
func (r *Runner) live() (out []*task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tasks {
		if t.rec.Status == placement.TaskRunning && t.rec.Handle != nil && !t.stopping {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *task) int { return cmp.Compare(a.rec.Task, b.rec.Task) })
	return out
}

// inspects reports whether whoever runs the task can look into it.
func (r *Runner) inspects(t *task) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.rec.Handle == nil {
		return false
	}
	d, _ := behind(r.cfg.Drivers[string(t.rec.Kind)], *t.rec.Handle)
	_, ok := d.(Inspector)
	return ok
}

func (r *Runner) auditDrift(ctx context.Context) {
	for _, t := range r.live() {
		if !r.inspects(t) || ctx.Err() != nil {
			continue
		}
		declared, _, findings, err := r.inspect(ctx, t)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				r.log.Warn("look for drift", "task", t.rec.Task, "err", err)
			}
		case declared.Mode != placement.DriftOff:
			r.noteDrift(ctx, t, declared, findings)
		}
	}
}

// settleWithin bounds how long a task that began is looked at often; after that
// its guest is asked with every look for drift.
const settleWithin = 15 * time.Minute

// settleNew looks at tasks that nobody has looked at, soon after their start:
// what changes from then on is drift.
func (r *Runner) settleNew(ctx context.Context) {
	for _, t := range r.live() {
		r.mu.Lock()
		settled := t.rec.Declared != nil && t.rec.Declared.Settled && !t.settling || time.Now().Before(t.lookAfter)
		r.mu.Unlock()
		if settled || !r.inspects(t) || ctx.Err() != nil {
			continue
		}
		declared, seen, _, err := r.inspect(ctx, t)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("look into a task that began", "task", t.rec.Task, "err", err)
		}
		r.mu.Lock()
		t.lookPause = min(max(2*t.lookPause, r.cfg.DeniedEvery), r.cfg.DriftEvery)
		if err == nil {
			t.lookPause = 0
		}
		t.lookAfter = time.Now().Add(t.lookPause)
		t.settling = err == nil && declared.settling(&seen) && time.Since(t.rec.StartedAt) < settleWithin
		r.mu.Unlock()
	}
}

// noteDrift tells the region what is new, and ends a task that its job wants as
// it was declared: it has failed, and its restart policy starts it anew.
func (r *Runner) noteDrift(ctx context.Context, t *task, declared Declared, findings []Finding) {
	id := t.rec.Task
	known := r.alreadyNoted(t).Drift
	now := make(map[string]string, len(findings))
	var notes []placement.TaskNote
	for _, f := range findings {
		now[f.Subject] = f.Text
		if known[f.Subject] != f.Text {
			notes = append(notes, placement.TaskNote{Task: id, What: placement.NoteDrift, Subject: f.Subject, Text: f.Text, Count: uint64(f.Count), At: time.Now()})
		}
	}
	for subject := range known {
		if _, still := now[subject]; !still {
			notes = append(notes, placement.TaskNote{Task: id, What: placement.NoteResolved, Subject: subject, At: time.Now()})
		}
	}
	if len(notes) > 0 {
		slices.SortFunc(notes, func(a, b placement.TaskNote) int { return cmp.Compare(a.Subject, b.Subject) })
		if err := r.cfg.Noter.Note(ctx, notes); err != nil {
			return // said again at the next look
		}
		r.log.Warn("a task differs from what was declared", "task", id, "job", t.rec.Job, "findings", len(findings))
	}
	if len(notes) > 0 {
		r.keepNoted(t, func(n *Noted) { n.Drift = now })
	}
	if again := declared.remedied(findings); declared.Mode == placement.DriftEnforce && len(again) > 0 {
		r.mu.Lock()
		t.order("it differed from what was declared: "+again[0].Subject, time.Duration(t.rec.Grace), false)
		t.broken = true
		r.mu.Unlock()
		r.carryOut(ctx, t)
	}
}

// deniedNotes bounds the notes that one task makes in one round.
const deniedNotes = 8

// mostDenied bounds the destinations that are remembered of a task, each; those
// beyond are told of together, as otherDenied.
const (
	mostDenied  = 512
	otherDenied = "*"
)

func (r *Runner) auditDenied(ctx context.Context) {
	for _, t := range r.live() {
		r.noteDenied(ctx, t)
	}
}

// noteDenied tells the region of what a task was refused: each destination at
// once, and again when it has doubled, so that a loop in a workload fills no ledger;
// nor does one that goes through addresses.
func (r *Runner) noteDenied(ctx context.Context, t *task) {
	r.mu.Lock()
	var d Driver
	var h Handle
	id := t.rec.Task
	if t.rec.Handle != nil {
		d, h = behind(r.cfg.Drivers[string(t.rec.Kind)], *t.rec.Handle)
	}
	r.mu.Unlock()
	counter, ok := d.(Counter)
	if !ok || r.cfg.Noter == nil {
		return
	}
	asked, cancel := context.WithTimeout(ctx, inspectWithin)
	defer cancel()
	all, err := counter.Denied(asked, h)
	if err != nil {
		if ctx.Err() == nil {
			r.log.Warn("count what a task was refused", "task", id, "err", err)
		}
		return
	}
	known := r.alreadyNoted(t).Denied
	var notes []placement.TaskNote
	note := func(at string, packets uint64, last time.Time) {
		if was := known[at]; packets > 0 && (was == 0 || packets >= 2*was) && len(notes) < deniedNotes {
			notes = append(notes, placement.TaskNote{Task: id, What: placement.NoteDenied, Subject: "network", Text: at, Count: packets, At: last})
		}
	}
	var others uint64
	var latest time.Time
	full := len(known) >= mostDenied
	for _, x := range all {
		at := clipText(x.Destination)
		if _, there := known[at]; full && (!there || at == otherDenied) { // drivers say it so too
			others += x.Packets
			latest = later(latest, x.Last)
			continue
		}
		note(at, x.Packets, x.Last)
	}
	note(otherDenied, others, latest)
	if len(notes) == 0 || r.cfg.Noter.Note(ctx, notes) != nil {
		return
	}
	r.log.Warn("a task tried to reach what its job does not allow", "task", id, "job", t.rec.Job, "destinations", len(notes))
	for _, n := range notes {
		known[n.Text] = n.Count // at most deniedNotes beyond mostDenied, once
	}
	r.keepNoted(t, func(n *Noted) { n.Denied = known })
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
