package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// abroad is the other regions as a test moves them: each answers a request for
// room with what answer holds for it, and with a refusal if that is nothing.
type abroad struct {
	mu       sync.Mutex
	order    []placement.RegionID
	answer   map[placement.RegionID]error
	held     map[placement.RegionID]bool
	asked    []string // "region/attempt" as they were asked for room, repetitions left out
	forwards []placement.RegionID
	stops    int
	dropped  map[placement.JobID]bool
	changes  func(region placement.RegionID, after uint64) ([]Theirs, uint64, error)
}

func (a *abroad) Candidates(*state.View, *placement.Job) []placement.RegionID {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.order)
}

func (a *abroad) Reserve(_ context.Context, region placement.RegionID, _ *placement.Job, attempt int, _ time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if question := fmt.Sprintf("%s/%d", region, attempt); !slices.Contains(a.asked, question) {
		a.asked = append(a.asked, question)
	}
	if a.held[region] {
		return nil
	}
	if err := a.answer[region]; err != nil {
		return err
	}
	return &Declined{Answer: placement.RegionAnswer{Region: region, Code: "capacity", Reason: "no room"}}
}

func (a *abroad) Forward(_ context.Context, region placement.RegionID, _ *placement.Job, _ int) (state.LeafRef, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forwards = append(a.forwards, region)
	return state.LeafRef{}, nil
}

func (a *abroad) Changes(ctx context.Context, region placement.RegionID, after uint64) ([]Theirs, uint64, error) {
	a.mu.Lock()
	changes := a.changes
	a.mu.Unlock()
	if changes == nil {
		<-ctx.Done() // nothing changes there
		return nil, after, nil
	}
	sleep(ctx, time.Second)
	return changes(region, after)
}

// Look: the region has every job that was forwarded, unless it dropped it.
func (a *abroad) Look(_ context.Context, _ placement.RegionID, id placement.JobID) (*Theirs, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dropped[id] {
		return nil, nil
	}
	return &Theirs{Job: placement.Job{ID: id, Status: placement.JobStarting}}, nil
}

func (a *abroad) Stop(context.Context, placement.RegionID, placement.JobID, string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stops++
	return nil
}

func (a *abroad) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

func (a *abroad) questions() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.asked, " ")
}

// inMesh is a region without room at home and with four peers.
func inMesh(t *testing.T, test func(t *testing.T, w *world, a *abroad)) {
	inWorld(t, func(t *testing.T, w *world) {
		a := &abroad{order: []placement.RegionID{"ber-1", "mad-1", "rom-1", "vie-1"},
			answer: map[placement.RegionID]error{}, held: map[placement.RegionID]bool{}}
		for i, country := range []string{"DE", "ES", "IT", "AT"} {
			w.peer(string(a.order[i]), country)
		}
		w.cfg.Regions = a
		w.node("n2", 0)
		test(t, w, a)
	})
}

// After a committed refusal at most two further regions are asked, one at a
// time; then the job waits at home with the reason, and is asked for again.
func TestAtMostThreeRegionsAreAskedInARow(t *testing.T) {
	inMesh(t, func(t *testing.T, w *world, a *abroad) {
		w.lead()
		job := w.submit(1, "EU")
		w.pass(askAgain - time.Second)
		if got := a.questions(); got != "ber-1/1 mad-1/2 rom-1/3" {
			t.Fatalf("asked %q", got)
		}
		if j := w.View().Job(job); j.Status != placement.JobPending || !strings.Contains(j.Reason, "rom-1: no room") {
			t.Errorf("it waits as %s: %q", j.Status, j.Reason)
		}
		a.set(func() { a.held["vie-1"], a.order = true, []placement.RegionID{"vie-1", "ber-1"} })
		w.pass(askAgain + time.Second)
		if got := a.questions(); got != "ber-1/1 mad-1/2 rom-1/3 vie-1/4" {
			t.Errorf("asked %q", got)
		}
		if j := w.View().Job(job); j.Region != "vie-1" || j.Forward.State != placement.ForwardPlaced {
			t.Errorf("the job is in %q, %s", j.Region, j.Status)
		}
	})
}

// A job that waits at home takes a place at home.
func TestAWaitingJobTakesAPlaceAtHome(t *testing.T) {
	inMesh(t, func(t *testing.T, w *world, a *abroad) {
		w.lead()
		job := w.submit(1, "EU")
		w.pass(time.Second)
		w.node("n3", 1)
		w.pass(time.Second)
		w.wantLive(job, "n3")
		w.pass(time.Minute)
		if got := a.questions(); got != "ber-1/1 mad-1/2 rom-1/3" {
			t.Errorf("regions were asked for a job that runs: %q", got)
		}
	})
}

// No answer is not a refusal: the region may have taken the job. Nobody else is
// asked and nothing runs at home until it has spoken.
func TestARegionThatDoesNotAnswerKeepsTheJob(t *testing.T) {
	inMesh(t, func(t *testing.T, w *world, a *abroad) {
		a.answer["ber-1"] = ErrNoContact
		w.lead()
		job := w.submit(1, "EU")
		w.pass(time.Second)
		w.node("n3", 4)
		w.pass(time.Hour)
		if got := a.questions(); got != "ber-1/1" {
			t.Fatalf("asked %q while the first region may hold the job", got)
		}
		w.wantLive(job)
		if j := w.View().Job(job); j.Status != placement.JobUnknown {
			t.Errorf("the job is %s", j.Status)
		}
		a.set(func() { delete(a.answer, "ber-1") }) // it says no
		w.pass(3 * time.Second)
		if got := a.questions(); !strings.HasPrefix(got, "ber-1/1 mad-1/2") && len(w.live(job)) != 1 {
			t.Errorf("after its refusal: asked %q, runs on %v", got, w.live(job))
		}
	})
}

// A new leader asks the same region with the same attempt: what the old one had
// begun is found again, and no second region comes to hold the job.
func TestANewTermAsksTheSameRegion(t *testing.T) {
	inMesh(t, func(t *testing.T, w *world, a *abroad) {
		a.answer["ber-1"] = ErrNoContact
		w.lead()
		job := w.submit(1, "EU")
		w.pass(time.Second)
		w.stop()
		a.set(func() {
			a.held["ber-1"], a.held["mad-1"] = true, true
			a.order = []placement.RegionID{"mad-1", "ber-1"}
		})
		w.lead()
		w.pass(5 * time.Second)
		if got := a.questions(); got != "ber-1/1" || len(a.forwards) != 1 {
			t.Errorf("asked %q, forwarded to %v", got, a.forwards)
		}
		if j := w.View().Job(job); j.Region != "ber-1" || j.Forward.State != placement.ForwardPlaced {
			t.Errorf("the job is in %q, forward %+v", j.Region, j.Forward)
		}
	})
}

// The intention is in the ledger before the question is asked: a term that
// cannot commit it asks nobody.
func TestNobodyIsAskedBeforeItIsCommitted(t *testing.T) {
	inMesh(t, func(t *testing.T, w *world, a *abroad) {
		w.before = func(_ context.Context, cmd state.Command) error {
			if _, ok := cmd.(state.SetForward); ok {
				return context.DeadlineExceeded
			}
			return nil
		}
		w.lead()
		w.submit(1, "EU")
		w.pass(time.Minute)
		if got := a.questions(); got != "" {
			t.Errorf("asked %q", got)
		}
	})
}

// A region out of contact has its jobs unknown, not started again; its word
// brings them back, and a stop reaches it.
func TestJobsAbroadAreMirrored(t *testing.T) {
	inMesh(t, func(t *testing.T, w *world, a *abroad) {
		a.held["ber-1"] = true
		w.lead()
		job := w.submit(1, "EU")
		w.pass(time.Second)
		status := placement.JobRunning
		a.set(func() {
			a.changes = func(_ placement.RegionID, after uint64) ([]Theirs, uint64, error) {
				return []Theirs{{Job: placement.Job{ID: job, Status: status}}}, after + 1, nil
			}
		})
		want := func(s placement.JobStatus) {
			t.Helper()
			w.pass(15 * time.Second)
			if j := w.View().Job(job); j.Status != s || j.Region != "ber-1" {
				t.Fatalf("the job is %s in %q, want %s", j.Status, j.Region, s)
			}
		}
		want(placement.JobRunning)
		a.set(func() {
			a.changes = func(placement.RegionID, uint64) ([]Theirs, uint64, error) { return nil, 0, ErrNoContact }
		})
		want(placement.JobUnknown)
		w.node("n3", 4)
		w.pass(time.Hour)
		w.wantLive(job)
		if a.questions() != "ber-1/1" || len(a.forwards) != 1 {
			t.Fatalf("a job out of sight was sent on: %q", a.questions())
		}
		w.ok(state.StopJob{Job: job, Reason: "enough"})
		w.pass(2 * time.Second)
		a.set(func() {
			if a.stops == 0 {
				t.Error("the stop was not passed on")
			}
			status = placement.JobStopped
			a.changes = func(_ placement.RegionID, after uint64) ([]Theirs, uint64, error) {
				return []Theirs{{Job: placement.Job{ID: job, Status: status}}}, after + 1, nil
			}
		})
		want(placement.JobStopped)
	})
}
