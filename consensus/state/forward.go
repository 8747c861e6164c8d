package state

import (
	"fmt"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// maxHold is the longest that a reservation may hold room.
const maxHold = 10 * time.Minute

// ReservationKey is the key of a reservation.
func ReservationKey(home placement.RegionID, job placement.JobID, attempt int) string {
	return fmt.Sprintf("%s/%s/%d", home, job, attempt)
}

// reserve holds room for another region's job, judged like a placement.
func (s *State) reserve(c *call, k Reserve) *Refused {
	c.subject = opaqueJob(k.Job)
	c.showPeerLeaf(k.Home, k.HomeLeaf)
	key := ReservationKey(k.Home, k.Job, k.Attempt)
	if r := s.Reservation(key); r != nil {
		c.id, c.repeated = key, true
		return nil
	}
	peer := s.Region(k.Home)
	n := s.Node(k.Node)
	impossible, _ := k.Resources.Problem()
	switch {
	case peer == nil || peer.Self || peer.State != placement.PeerActive:
		return refuse("peer.unknown", "federate first", "region %s is no active peer", clip(string(k.Home)))
	case !k.Job.Valid() || k.Job.Home() != k.Home || k.Attempt < 1 || k.Attempt > 1_000_000:
		return refuse("reservation.key", "use home/job/attempt", "the reservation is not for a job of region %s", k.Home)
	case s.jobs.has(string(k.Job)):
		return refuse("job.exists", "ask for its status", "job %s is here already", k.Job)
	case impossible != "" || len(k.LawPack) > maxFact:
		return refuse("reservation.resources", "ask for amounts that a node can have", "the resources of the reservation are not possible: %s", impossible)
	case !k.Expires.After(s.Clock) || k.Expires.Sub(s.Clock) > maxHold:
		return refuse("reservation.expires", "ask for at most ten minutes", "a reservation until %s is not possible", k.Expires.UTC().Format(time.RFC3339))
	case n == nil || !n.Offers():
		return refuse("capacity.none", "try another region, or again later", "no node of region %s can take it", s.self.ID)
	}
	if refused := s.mayHoldMore(&k); refused != nil {
		return refused
	}
	if refused := s.reserveLawful(c, &k, n, peer); refused != nil {
		return refused
	}
	if refused := s.fits(n, k.Resources, k.Devices); refused != nil {
		return refused
	}
	r := &Reservation{Reserve: k, Key: key, Index: c.index, Leaf: s.tree.Size()}
	r.Expires = k.Expires.UTC()
	s.reservations.put(key, r)
	s.expiries.put(expiryKey(r), key)
	s.holdFor(r, 1)
	s.use(r.Node, r.Resources, r.Devices, 1, 0)
	c.id = key
	return nil
}

// reserveLawful judges the node under this region's pack, that of the peer, and
// the one that the peer says it decided by.
func (s *State) reserveLawful(c *call, k *Reserve, n *placement.Node, peer *placement.Region) *Refused {
	layers := placement.Across(k.Policy, peer, s.self)
	if t := s.Tenant(placement.EveryTenant(k.Home)); t != nil {
		layers = placement.WithLayer(layers, residency.OriginTenant, t.Residency)
	}
	if _, refused := s.admit(c, layers, true); refused != nil {
		return refused
	}
	c.judged = nil
	refused := s.judge(c, placement.Crossing{Layers: layers, From: peer, To: s.self, Site: n.Site, Under: []string{k.LawPack}})
	c.about(opaqueJob(k.Job), ledger.Opaque(c.head.Salt, string(n.ID)))
	return refused
}

// about says in all that was judged what it was judged for.
func (c *call) about(subject, place string) {
	for i := range c.judged {
		c.judged[i].Subject, c.judged[i].Place = subject, place
	}
}

func expiryKey(r *Reservation) string { return timeKey(r.Expires) + r.Key }

func timeKey(t time.Time) string { return seqKey(uint64(t.UnixNano())) }

// expire gives back what ledger time has passed. It costs a look at the first
// row when there is nothing.
func (s *State) expire() {
	for {
		when, key, ok := s.expiries.min()
		if !ok || when >= timeKey(s.Clock) {
			return
		}
		s.dropReservation(s.Reservation(key))
	}
}

func (s *State) dropReservation(r *Reservation) {
	s.reservations.delete(r.Key)
	s.expiries.delete(expiryKey(r))
	s.holdFor(r, -1)
	s.use(r.Node, r.Resources, r.Devices, -1, 0)
}

// releaseFor ends the hold of a job that was placed or is over.
func (s *State) releaseFor(r *jobRecord) {
	if r.Reserved == "" {
		return
	}
	if held := s.Reservation(r.Reserved); held != nil && held.Job == r.ID {
		s.dropReservation(held)
	}
}

func (s *State) releaseReservation(c *call, k ReleaseReservation) *Refused {
	r := s.Reservation(k.Key)
	if r == nil {
		return nil // given back already
	}
	c.subject, c.id = opaqueJob(r.Job), r.Key
	if r.Consumed {
		return refuse("reservation.spent", "stop the job", "reservation %s was used: its job is here", r.Key)
	}
	s.dropReservation(r)
	return nil
}

// setForward records a job's way to another region, judged before it leaves.
func (s *State) setForward(c *call, k SetForward) *Refused {
	c.subject = opaqueJob(k.Job)
	old, refused := s.awayJob(k.Job)
	if refused != nil {
		return refused
	}
	f := k.Forward
	speaks := f.Region
	if n := len(f.Refusals); speaks == "" && n > 0 {
		speaks = f.Refusals[n-1].Region // its refusal brought the job back
	}
	c.showPeerLeaf(speaks, k.PeerLeaf)
	f.ExpiresAt = f.ExpiresAt.UTC()
	switch {
	case f.State != placement.ForwardWaiting && f.State != placement.ForwardAsking && f.State != placement.ForwardPlaced && f.State != placement.ForwardUnknown:
		return refuse("forward.state", "choose of asking, placed, unknown", "%q is no state of a forward", clip(f.State))
	case len(f.Refusals) > 8 || slices.ContainsFunc(f.Refusals, func(a placement.RegionAnswer) bool { return len(a.Code) > maxFact || len(a.Reason) > 2048 }):
		return refuse("forward.refusals", "keep the newest, and shorten them", "%d refusals are too many, or one is too long", len(f.Refusals))
	case old.Forward != nil && f.Attempt < old.Forward.Attempt:
		return refuse("forward.stale", "look again", "job %s is at attempt %d already", k.Job, old.Forward.Attempt)
	case len(s.liveTasks(k.Job)) > 0:
		return refuse("job.placed", "look again", "job %s has a task here", k.Job)
	case old.Forward != nil && old.Forward.State == placement.ForwardPlaced && f.State != placement.ForwardPlaced:
		// Region and attempt were told to have it: what is asked of them later
		// cannot take that back, or the job could run twice.
		return refuse("forward.placed", "ask region "+string(old.Forward.Region)+" to stop it", "job %s is placed in region %s", k.Job, old.Forward.Region)
	}
	if f.State == placement.ForwardAsking || f.State == placement.ForwardPlaced {
		if refused := s.mayLeave(c, old, f.Region); refused != nil {
			return refused
		}
	}
	c.id = string(k.Job)
	if was := old.Forward; f.State == placement.ForwardPlaced && was != nil && was.State == f.State && was.Region == f.Region && was.Attempt == f.Attempt {
		return nil // the region has spoken of the job already: its word is newer
	}
	r := *old
	r.Forward = &f
	s.followForward(&r)
	if r.StopRequested && f.State == placement.ForwardWaiting {
		// Nobody has it, and nobody shall.
		s.end(c, &r, placement.JobStopped, orText(r.StopReason, "stopped"), "")
	}
	s.putJob(c, &r)
	return nil
}

func (s *State) followForward(r *jobRecord) {
	f := r.Forward
	r.Region, r.Node = "", ""
	switch f.State {
	case placement.ForwardPlaced:
		r.Region, r.Status, r.Reason, r.Code = f.Region, placement.JobStarting, "", ""
		r.Hops = max(r.Hops, 1)
	case placement.ForwardUnknown:
		r.Region, r.Status, r.Reason, r.Code = f.Region, placement.JobUnknown, "region "+string(f.Region)+" does not answer", "region.unknown"
	case placement.ForwardAsking:
		r.Status, r.Reason, r.Code = placement.JobPending, "asks region "+string(f.Region)+" for room", "region.asking"
	default:
		r.Status, r.Reason, r.Code = placement.JobPending, reasonWaiting, ""
		if n := len(f.Refusals); n > 0 {
			r.Reason, r.Code = string(f.Refusals[n-1].Region)+": "+f.Refusals[n-1].Reason, f.Refusals[n-1].Code
		}
	}
}

func (s *State) awayJob(id placement.JobID) (*jobRecord, *Refused) {
	r, ok := s.jobs.get(string(id))
	switch {
	case !ok:
		return nil, refuse("job.unknown", "list them: sovmesh job list", "there is no job %q", clip(string(id)))
	case r.Status.Terminal():
		return nil, refuse("job.over", "look again", "job %s is over", id)
	case r.ID.Home() != s.self.ID:
		return nil, refuse("job.foreign", "its home forwards it", "job %s is of region %s and goes no further", id, r.ID.Home())
	}
	return r, nil
}

// mayLeave judges the destination by the facts pinned for it, with the export
// rule, and under its pack too if it is another.
func (s *State) mayLeave(c *call, r *jobRecord, to placement.RegionID) *Refused {
	peer := s.Region(to)
	if peer == nil || peer.Self || peer.State != placement.PeerActive {
		return refuse("peer.unknown", "federate with it first", "region %s is no active peer", clip(string(to)))
	}
	if to == r.Origin {
		return refuse("forward.back", "choose another region", "job %s came from region %s and does not go back", r.ID, to)
	}
	p, err := s.policies.read(placement.Across(r.Policy, s.self, peer), s.Pack(), dateOf(c))
	if err != nil {
		return refusedBy(err)
	}
	if refused := p.never(); refused != nil {
		return refused
	}
	x := placement.Crossing{Layers: r.Policy, From: s.self, To: peer, Via: s.self}
	if s.PackByHash(r.LawPack) != nil { // that of the region that let the job come here
		x.Under = []string{r.LawPack}
	}
	refused := s.judge(c, x)
	c.about(opaqueJob(r.ID), "")
	return refused
}

// peerPack is the pack that a peer decides by, nil if it is this region's own.
// A pack that is not held cannot be asked, and so refuses new crossings.
func (s *State) peerPack(peer *placement.Region) (*residency.Pack, *Refused) {
	if peer.LawPack == "" || peer.LawPack == s.Active {
		return nil, nil
	}
	pack := s.PackByHash(peer.LawPack)
	if pack == nil {
		return nil, refuse("law.not-held", "import it: sovmesh law import FILE", "region %s decides by law pack %s, which this region does not hold", peer.ID, clip(peer.LawPack))
	}
	return pack, nil
}

// mirrorJob takes over what the region that runs a forwarded job says of it.
func (s *State) mirrorJob(c *call, k MirrorJob) *Refused {
	c.subject = opaqueJob(k.Job)
	old, ok := s.jobs.get(string(k.Job))
	switch {
	case !ok:
		return refuse("job.unknown", "list them: sovmesh job list", "there is no job %q", clip(string(k.Job)))
	case old.Forward == nil || old.Forward.State == placement.ForwardWaiting || old.Forward.Region != k.Region:
		return refuse("forward.foreign", "only the region that runs a job speaks for it", "job %s was not forwarded to region %s", k.Job, clip(string(k.Region)))
	case !validStatus(k.Status):
		return refuse("job.status", "send a status of a job", "%q is no status of a job", clip(string(k.Status)))
	case len(k.Reason) > 2048:
		return refuse("job.reason", "shorten it", "the reason is too long")
	}
	c.id = string(k.Job)
	c.showPeerLeaf(k.Region, k.PeerLeaf)
	if old.Status.Terminal() {
		return nil
	}
	r := *old
	f := *r.Forward
	f.State = placement.ForwardPlaced // it is there, also while nobody can say how it stands
	r.Forward, r.Region, r.Hops = &f, k.Region, max(r.Hops, 1)
	r.Status, r.Reason, r.Code, r.ExitCode = k.Status, k.Reason, "", k.ExitCode
	if k.Status == placement.JobUnknown {
		r.Code = "region.unknown"
	}
	if !k.StartedAt.IsZero() {
		r.StartedAt = k.StartedAt.UTC()
	}
	if k.Status.Terminal() {
		r.EndedAt = stamp(k.EndedAt, c.now)
	}
	s.putJob(c, &r)
	return nil
}

func validStatus(st placement.JobStatus) bool {
	switch st {
	case placement.JobPending, placement.JobStarting, placement.JobRunning, placement.JobUnknown:
		return true
	}
	return st.Terminal()
}
