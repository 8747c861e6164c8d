package controller

import (
	"context"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// lookThrough is how often a mirror asks for all of a region's jobs again: what
// it missed, for whatever reason, is put right then.
const lookThrough = 10 * time.Minute

const (
	// grantsFor is how far back a new leader asks what became of grants.
	grantsFor = 24 * time.Hour
	// grantsAfter is how long after its end a grant is still asked for: clocks
	// differ, and the node that answers may be behind its leader.
	grantsAfter = 3 * time.Minute
)

// mirror is what one term knows of our jobs in one other region.
type mirror struct {
	c      *Controller
	region placement.RegionID
	index  uint64 // what to ask after next; 0 asks for all
	// told are the jobs that the region has spoken of since all were asked for,
	// and since when; nil once those it left out were asked for by name.
	told  map[placement.JobID]bool
	whole time.Time
	// sure: of grants that ended before, the region has told all that it will.
	sure time.Time
}

// mirror keeps the home's record of its jobs in one other region up to date.
// Without contact they are unknown: not gone, and not started again.
func (c *Controller) mirror(ctx context.Context, region placement.RegionID) {
	m := &mirror{c: c, region: region, sure: c.cfg.Now().Add(-grantsFor)}
	m.begin()
	for ctx.Err() == nil {
		peer := c.cfg.Log.View().Region(region)
		if peer == nil || peer.State != placement.PeerActive || !c.hasJobsIn(region) && !c.cfg.Log.View().GrantOpen(region, m.sure) {
			sleep(ctx, time.Second)
			continue
		}
		if !m.round(ctx) {
			sleep(ctx, time.Second)
		}
	}
}

// begin asks for all of the region's jobs anew.
func (m *mirror) begin() {
	m.index, m.told, m.whole = 0, map[placement.JobID]bool{}, m.c.cfg.Now()
}

// round takes over one answer. It goes on to the next only when all of this one
// is in the ledger: what was not recorded is asked for again.
func (m *mirror) round(ctx context.Context) bool {
	if m.c.cfg.Now().Sub(m.whole) >= lookThrough {
		m.begin()
	}
	// Before the question: a job that is placed there meanwhile is not missing.
	placed, began := m.c.placedIn(m.region), m.c.cfg.Now()
	asked, cancel := context.WithTimeout(ctx, answerWithin)
	jobs, next, err := m.c.cfg.Regions.Changes(asked, m.region, m.index)
	cancel()
	if err != nil {
		m.begin() // all of them are unknown now, so all are asked about again
		m.c.loseSight(ctx, m.region)
		return false
	}
	for i := range jobs {
		if jobs[i].Grant != "" {
			if !m.c.quote(ctx, m.region, &jobs[i]) {
				return false
			}
			continue
		}
		if !m.c.reflect(ctx, m.region, &jobs[i]) {
			return false
		}
		if m.told != nil {
			m.told[jobs[i].ID] = true
		}
	}
	m.index = next
	if sure := began.Add(-grantsAfter); len(jobs) == 0 && sure.After(m.sure) {
		m.sure = sure
	}
	if m.told == nil || len(jobs) > 0 {
		return true // there may be more to come
	}
	if !m.lookFor(ctx, placed) {
		return false
	}
	m.told = nil
	return true
}

// lookFor asks by name for the jobs that should be there and that the region has
// not spoken of. One that it does not know ended so long ago that its record was
// dropped: nobody will ever say more of it.
func (m *mirror) lookFor(ctx context.Context, placed []placement.JobID) bool {
	for _, id := range placed {
		if m.told[id] {
			continue
		}
		asked, cancel := context.WithTimeout(ctx, answerWithin)
		theirs, err := m.c.cfg.Regions.Look(asked, m.region, id)
		cancel()
		if err != nil {
			return false
		}
		if theirs == nil {
			theirs = &Theirs{Job: placement.Job{ID: id, Status: placement.JobLost, Reason: "region " + string(m.region) + " has no record of it any more: it ended there, and how is not known"}}
		}
		if !m.c.reflect(ctx, m.region, theirs) {
			return false
		}
		m.told[id] = true
	}
	return true
}

func (c *Controller) hasJobsIn(region placement.RegionID) bool {
	return slices.ContainsFunc(c.cfg.Log.View().Forwarding(), func(j *placement.Job) bool { return j.Forward.Region == region })
}

// placedIn are our jobs that the region has taken.
func (c *Controller) placedIn(region placement.RegionID) (ids []placement.JobID) {
	for _, j := range c.cfg.Log.View().Forwarding() {
		if j.Forward.Region == region && j.Forward.State == placement.ForwardPlaced {
			ids = append(ids, j.ID)
		}
	}
	return ids
}

// reflect takes over one job's status as the region that runs it tells it. It is
// false if that could not be recorded now; what the ledger itself refuses stays
// refused, and is not tried again.
func (c *Controller) reflect(ctx context.Context, region placement.RegionID, theirs *Theirs) bool {
	mine := c.cfg.Log.View().Job(theirs.ID)
	if mine == nil || mine.Status.Terminal() || mine.Forward == nil || mine.Forward.Region != region {
		return true
	}
	if mine.Status == theirs.Status && mine.Reason == theirs.Reason {
		return true
	}
	res, ok := c.propose(ctx, state.MirrorJob{Job: theirs.ID, Region: region, Status: theirs.Status, Reason: theirs.Reason,
		ExitCode: theirs.ExitCode, StartedAt: theirs.StartedAt, EndedAt: theirs.EndedAt, PeerLeaf: theirs.Leaf})
	return ok || res.Refused != nil
}

// quote records by which leaf a job came into the region under a grant of ours,
// once. What was not issued for that region is not proposed at all: nobody fills
// this ledger with the refusals of what they made up. It is false as reflect is.
func (c *Controller) quote(ctx context.Context, region placement.RegionID, theirs *Theirs) bool {
	g := c.cfg.Log.View().Grant(theirs.Grant)
	if g == nil || !g.Issued || g.Audience != region || g.Job != "" {
		return true
	}
	if !theirs.ID.Valid() || theirs.ID.Home() != region || theirs.Leaf.IsZero() {
		return true
	}
	res, ok := c.propose(ctx, state.UseGrant{ID: g.ID, Region: region, Job: theirs.ID, PeerLeaf: theirs.Leaf})
	return ok || res.Refused != nil
}

// loseSight marks the jobs in a silent region as unknown, once.
func (c *Controller) loseSight(ctx context.Context, region placement.RegionID) {
	for _, job := range c.cfg.Log.View().Forwarding() {
		if job.Forward.Region == region && job.Forward.State == placement.ForwardPlaced && job.Status != placement.JobUnknown {
			c.propose(ctx, state.MirrorJob{Job: job.ID, Region: region, Status: placement.JobUnknown,
				Reason: "no contact with " + string(region) + "; it keeps what it runs"})
		}
	}
}
