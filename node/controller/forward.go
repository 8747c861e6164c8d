package controller

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

const (
	// triesMax is how many regions are asked before a job waits at home again.
	// For a job that a client landed here, this region was the first of them.
	triesMax = 3
	// askAgain is how long a job waits at home before other regions are asked anew.
	askAgain = 10 * time.Second
	// reserveFor is how long a destination holds room, in its own ledger's time.
	reserveFor = 30 * time.Second
	// answerWithin bounds one question to another region.
	answerWithin = 5 * time.Second
	// errandsInFlight bounds the jobs that are being taken a step further at once.
	errandsInFlight = 64
	// lookEvery bounds how long a change waits to be seen, and how often the
	// ledger is looked through.
	lookEvery = 20 * time.Millisecond
)

// ErrNoContact says that a region did not answer: nothing is known about what
// it did, so nothing else may be tried until it answers or its reservation has
// expired there.
var ErrNoContact = errors.New("no answer from the region")

// Declined is a region's committed answer that it has no lawful place: only
// after such an answer is another region asked.
type Declined struct {
	Answer placement.RegionAnswer
	// Leaf is the refusal in that region's ledger, zero if it did not say.
	Leaf state.LeafRef
}

func (d *Declined) Error() string { return string(d.Answer.Region) + ": " + d.Answer.Reason }

// Theirs is a job of ours as the region that runs it tells of it, with the newest
// leaf about it in that region's ledger: the half that this region's leaf quotes.
// One with a Grant is a client's that landed there by it: it has no status, and
// its leaf is the one that admitted it.
type Theirs struct {
	placement.Job
	Leaf state.LeafRef
}

// Regions is how the controller reaches other regions. What crosses is listed
// in DESIGN.md: a reservation, the job's bytes once it is granted, and the
// status of one's own forwarded jobs.
type Regions interface {
	// Candidates are the lawful regions that may hold the job, best first;
	// those without contact are left out.
	Candidates(view *state.View, job *placement.Job) []placement.RegionID
	// Reserve asks for room. It returns nil when room is held, a *Declined when
	// the region committed a refusal, and ErrNoContact when there was no answer.
	// Asking twice with the same attempt gives the same answer.
	Reserve(ctx context.Context, region placement.RegionID, job *placement.Job, attempt int, expires time.Time) error
	// Forward sends the job's bytes under the reservation; errors as Reserve. It
	// returns the leaf by which the region took the job.
	Forward(ctx context.Context, region placement.RegionID, job *placement.Job, attempt int) (state.LeafRef, error)
	// Changes waits until some job of ours changed there after index, or landed
	// there by a grant of ours, and returns those that did with the index to ask after next.
	Changes(ctx context.Context, region placement.RegionID, after uint64) ([]Theirs, uint64, error)
	// Look asks for one of our jobs there; nil means that the region answered that
	// it has no such job.
	Look(ctx context.Context, region placement.RegionID, job placement.JobID) (*Theirs, error)
	Stop(ctx context.Context, region placement.RegionID, job placement.JobID, reason string) error
}

// homeless are the jobs that the last plan found no place for in this region.
// It belongs to one term: a new leader's first plan finds them again.
type homeless struct {
	mu   sync.Mutex
	jobs []placement.JobID // guarded by mu
	// rest holds back jobs that nobody else could take either; guarded by mu.
	rest map[placement.JobID]time.Time
}

func (h *homeless) set(jobs []placement.JobID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.jobs = jobs
}

func (h *homeless) hold(job placement.JobID, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rest[job] = until
}

func (h *homeless) due(now time.Time) []placement.JobID {
	h.mu.Lock()
	defer h.mu.Unlock()
	var due []placement.JobID
	for _, id := range h.jobs {
		if until, ok := h.rest[id]; ok && now.Before(until) {
			continue
		}
		delete(h.rest, id)
		due = append(due, id)
	}
	return due
}

// forward runs one errand at a time for every job that may leave, is leaving,
// or shall be stopped elsewhere, and one mirror for every region that runs
// some of ours.
func (c *Controller) forward(ctx context.Context, h *homeless) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(errandsInFlight)
	var mirrors sync.WaitGroup
	defer mirrors.Wait()
	mirrored := map[placement.RegionID]bool{}
	var busy sync.Map // placement.JobID -> struct{}

	for sleep(ctx, lookEvery) {
		view, now := c.cfg.Log.View(), c.cfg.Now()
		if !hasPeers(view) && len(mirrored) == 0 {
			continue // nobody to send anything to
		}
		for _, peer := range view.Regions() {
			if peer.State == placement.PeerActive && !peer.Self && !mirrored[peer.ID] {
				mirrored[peer.ID] = true
				mirrors.Go(func() { c.mirror(ctx, peer.ID) })
			}
		}
		due := h.due(now)
		for _, job := range view.Forwarding() {
			if job.Forward.State == placement.ForwardPlaced && !job.StopRequested {
				continue
			}
			due = append(due, job.ID)
		}
		for _, id := range due {
			if _, running := busy.LoadOrStore(id, struct{}{}); running {
				continue
			}
			if !g.TryGo(func() error {
				defer busy.Delete(id)
				c.errand(ctx, h, id)
				return nil
			}) {
				busy.Delete(id)
				break
			}
		}
	}
	return g.Wait()
}

func hasPeers(view *state.View) bool {
	return slices.ContainsFunc(view.Regions(), func(r *placement.Region) bool { return !r.Self && r.State == placement.PeerActive })
}

// errand takes one job one step further, from whatever the ledger says.
func (c *Controller) errand(ctx context.Context, h *homeless, id placement.JobID) {
	job := c.cfg.Log.View().Job(id)
	if job == nil || job.Status.Terminal() || job.ID.Home() != c.cfg.Region {
		return // a job of another region goes no further: only its home may send it on
	}
	if job.Spec.Gang() {
		return // room is reserved for one task: a gang runs in the region that took it
	}
	switch f := job.Forward; {
	case f == nil || f.State == placement.ForwardWaiting:
		c.ask(ctx, h, job)
	case f.State == placement.ForwardPlaced:
		if job.StopRequested {
			c.stopThere(ctx, job)
		}
	default:
		c.settle(ctx, h, job, *f)
	}
}

// ask chooses the next region for a job that has no place here. The intention
// is committed before anything is sent, so that a new leader asks the same
// region with the same attempt.
func (c *Controller) ask(ctx context.Context, h *homeless, job *placement.Job) {
	if job.StopRequested {
		return
	}
	now := c.cfg.Now()
	var f placement.Forward
	if job.Forward != nil {
		f = *job.Forward
	}
	if !f.ExpiresAt.IsZero() {
		if now.Before(f.ExpiresAt) {
			h.hold(job.ID, f.ExpiresAt)
			return
		}
		f.Refusals = nil
	}
	for _, region := range c.cfg.Regions.Candidates(c.cfg.Log.View(), job) {
		refused := slices.ContainsFunc(f.Refusals, func(a placement.RegionAnswer) bool { return a.Region == region })
		if refused || len(f.Refusals) >= tries(job) {
			continue
		}
		f.Region, f.Attempt, f.State, f.ExpiresAt = region, f.Attempt+1, placement.ForwardAsking, now.Add(reserveFor)
		if _, ok := c.propose(ctx, state.SetForward{Job: job.ID, Forward: f}); ok {
			c.settle(ctx, h, job, f)
		} else {
			h.hold(job.ID, now.Add(askAgain)) // the ledger's own refusal is not asked for at once again
		}
		return
	}
	h.hold(job.ID, now.Add(askAgain))
	if len(f.Refusals) > 0 {
		f.State, f.Region, f.ExpiresAt = placement.ForwardWaiting, "", now.Add(askAgain)
		c.propose(ctx, state.SetForward{Job: job.ID, Forward: f})
	}
}

func tries(job *placement.Job) int {
	if job.Origin != "" {
		return triesMax - 1
	}
	return triesMax
}

// settle asks the chosen region until it answers. A region that does not
// answer keeps the job: the answer may be on its way, and asking another one
// could run the job twice. Once the reservation has expired there, the region
// itself says so.
func (c *Controller) settle(ctx context.Context, h *homeless, job *placement.Job, f placement.Forward) {
	asked, cancel := context.WithTimeout(ctx, answerWithin)
	var half state.LeafRef
	err := c.cfg.Regions.Reserve(asked, f.Region, job, f.Attempt, f.ExpiresAt)
	if err == nil {
		half, err = c.cfg.Regions.Forward(asked, f.Region, job, f.Attempt)
	}
	cancel()
	var declined *Declined
	switch {
	case err == nil:
		f.State = placement.ForwardPlaced
	case errors.As(err, &declined):
		f.Refusals = append(slices.Clone(f.Refusals), declined.Answer)
		half = declined.Leaf
		f.State, f.Region, f.ExpiresAt = placement.ForwardWaiting, "", time.Time{}
	case f.State == placement.ForwardUnknown:
		sleep(ctx, time.Second)
		return
	default:
		f.State = placement.ForwardUnknown
		c.cfg.Logger.Info("region does not answer", "region", f.Region, "job", job.ID, "err", err)
	}
	if _, ok := c.propose(ctx, state.SetForward{Job: job.ID, Forward: f, PeerLeaf: half}); !ok || f.State != placement.ForwardWaiting {
		return
	}
	if next := c.cfg.Log.View().Job(job.ID); next != nil {
		c.ask(ctx, h, next)
	}
}

func (c *Controller) stopThere(ctx context.Context, job *placement.Job) {
	asked, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if err := c.cfg.Regions.Stop(asked, job.Forward.Region, job.ID, job.StopReason); err != nil {
		c.cfg.Logger.Info("stop did not reach the region", "region", job.Forward.Region, "job", job.ID, "err", err)
	}
	sleep(ctx, time.Second)
}
