package state

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// reasonWaiting is what a job says of itself while nobody has looked at it.
const reasonWaiting = "waits for placement"

func (s *State) submitJob(c *call, k SubmitJob) *Refused {
	j := &k.Job
	c.subject = opaqueJob(j.ID)
	if done, refused := s.repeatedSubmit(c, k); done || refused != nil {
		return refused
	}
	if refused := s.checkJob(j); refused != nil {
		return refused
	}
	foreign := j.Origin != "" && j.Origin != s.self.ID
	if refused := s.checkOrigin(k, foreign); refused != nil {
		return refused
	}
	layers := placement.WithLayer(j.Policy, residency.OriginJob, j.Residency)
	for _, t := range s.TenantsOver(j.Tenant) {
		layers = placement.WithLayer(layers, residency.OriginTenant, t.Residency)
	}
	from := s.self
	if foreign {
		from = s.Region(j.Origin)
	}
	layers = placement.Across(layers, from, s.self)
	if refused := gangFits(j, layers); refused != nil {
		return refused
	}
	p, refused := s.admit(c, layers, k.AllowAny || foreign)
	if refused != nil {
		return refused
	}
	if refused := s.mayHold(c, p, placement.Crossing{Layers: layers, From: from, Under: []string{s.crossedUnder(k)}}, j.Spec.Gang()); refused != nil {
		return refused
	}
	if refused := s.mayReach(c, layers, j); refused != nil {
		return refused
	}
	if refused := s.room(j, c.size); refused != nil {
		return refused
	}
	s.consume(c, k)
	if foreign {
		c.showPeerLeaf(j.Origin, k.HomeLeaf)
	}
	j.Policy = layers
	s.accept(c, k)
	return nil
}

// opaqueJob is a job's id for a leaf: it is random and says nothing.
func opaqueJob(id placement.JobID) string {
	if id.Valid() {
		return string(id)
	}
	return ""
}

// repeatedSubmit answers a submit whose idempotency key is known.
func (s *State) repeatedSubmit(c *call, k SubmitJob) (bool, *Refused) {
	if k.IdempotencyKey == "" {
		return false, nil
	}
	if len(k.IdempotencyKey) > 256 || len(k.BodyHash) > 64 || !utf8.ValidString(k.IdempotencyKey) {
		return false, refuse("idempotency.key", "use at most 256 bytes", "the idempotency key is too long")
	}
	old, ok := s.idempotency.get(idempotencyKey(k))
	if !ok || s.Clock.Sub(old.At) > idempotencyWindow {
		return false, nil
	}
	if old.BodyHash != k.BodyHash {
		return false, refuse("idempotency.conflict", "use a new key for another job", "this idempotency key was used for another job, %s", old.Job)
	}
	c.id, c.repeated, c.subject = string(old.Job), true, opaqueJob(old.Job)
	return true, nil
}

// idempotencyKey is a hash: the key is what a client typed, and the state keeps it
// longer than the job's own words, which can be erased.
func idempotencyKey(k SubmitJob) string {
	sum := sha256.Sum256([]byte(string(k.Job.Tenant) + "\x00" + k.IdempotencyKey))
	return hex.EncodeToString(sum[:])
}

func (s *State) checkJob(j *placement.Job) *Refused {
	impossible, help := j.Spec.Resources.Problem()
	switch {
	case !j.ID.Valid():
		return refuse("job.id", "let the program choose it", "%q is no id of a job", clip(string(j.ID)))
	case s.jobs.has(string(j.ID)):
		return refuse("job.exists", "submit it under a new id", "job %s exists already", j.ID)
	case !j.Tenant.Valid():
		return refuse("tenant.name", "use lower-case letters, digits and hyphens", "%q is no name of a tenant", clip(string(j.Tenant)))
	case !validKind(Kind(j.Kind)) || j.Kind == "" || len(j.Kind) > maxKind:
		return refuse("job.kind", "choose of process, container, microvm, vm, inference", "%q is no kind of job", clip(string(j.Kind)))
	case j.Spec.Type != placement.TypeBatch && j.Spec.Type != placement.TypeService:
		return refuse("job.type", "choose of batch, service", "%q is no type of job", clip(string(j.Spec.Type)))
	case impossible != "":
		return refuse("job.resources", help, "the resources of the job are not possible: %s", impossible)
	case j.Spec.Priority < 0 || j.Spec.Priority > 100:
		return refuse("job.priority", "choose from 0 to 100", "priority %d is not possible", j.Spec.Priority)
	case len(j.Name) > 256:
		return refuse("job.name", "use at most 256 bytes", "the job's name is too long")
	case j.Spec.Members < 0 || j.Spec.Members > placement.MaxMembers || j.Spec.Gang() && (j.Spec.Singleton || j.Kind == placement.KindInference):
		return refuse("job.gang", "choose from 1 to 64 members, of a job that is neither a singleton nor inference", "a gang of %d is not possible for this job", j.Spec.Members)
	case j.Spec.Gang() && j.Name != "" && slices.Contains(j.Spec.Avoid, j.Name):
		return refuse("job.neighbours", "spread its members instead: spread node", "a gang that avoids its own name could never start on one node")
	case j.Spec.MaxRuntime < 0 || time.Duration(j.Spec.MaxRuntime) > placement.LongestRun || j.Spec.MaxRuntime > 0 && j.Spec.Type != placement.TypeBatch:
		return refuse("job.max-runtime", "bound a batch job, to a year at most", "a max_runtime of %s is not possible for this job", time.Duration(j.Spec.MaxRuntime))
	case len(j.Spec.Avoid) > maxNeighbours || len(j.Spec.Near) > maxNeighbours || !inWords(j.Spec.Avoid, 256) || !inWords(j.Spec.Near, 128):
		return refuse("job.neighbours", "name at most 16 jobs to avoid, and 16 places to be near", "the job's wishes for its neighbours are not possible")
	case j.Spec.Rank.Cost < 0 || j.Spec.Rank.Cost > 100 || j.Spec.Rank.Carbon < 0 || j.Spec.Rank.Carbon > 100:
		return refuse("job.rank", "choose weights from 0 to 100", "the weights of the job are not possible")
	case j.Spec.Spread != "" && j.Spec.Spread != placement.SpreadNode && j.Spec.Spread != placement.SpreadSite:
		return refuse("job.spread", "choose of node, site", "%q is nothing to spread over", clip(string(j.Spec.Spread)))
	}
	return nil
}

// maxNeighbours bounds the names in avoid, and the places in near.
const maxNeighbours = 16

// inWords reports whether every item is there and has at most that many bytes.
func inWords(list []string, most int) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return s == "" || len(s) > most })
}

// checkOrigin judges where a job comes from: its home is this region, or it
// carries a reservation or a grant that this region has not consumed yet.
func (s *State) checkOrigin(k SubmitJob, foreign bool) *Refused {
	j := &k.Job
	if !foreign {
		if j.ID.Home() != s.self.ID || strings.Contains(string(j.Tenant), "/") {
			return refuse("job.home", "submit it to its own region", "job %s of tenant %s is not of this region", j.ID, j.Tenant)
		}
		if k.Grant != "" || k.Reservation != "" {
			return refuse("job.home", "leave grant and reservation out", "a job of this region needs neither grant nor reservation")
		}
		return nil
	}
	peer := s.Region(j.Origin)
	switch {
	case peer == nil || peer.State != placement.PeerActive:
		return refuse("peer.unknown", "federate with it first: sovmesh region invite NAME", "region %s is no active peer", j.Origin)
	case j.Tenant.Region() != j.Origin:
		return refuse("tenant.foreign", "name it region/tenant", "tenant %s is not one of region %s", j.Tenant, j.Origin)
	case k.Reservation != "":
		return s.checkReservation(k)
	case k.Grant != "":
		return s.checkGrant(k)
	}
	return refuse("job.unannounced", "reserve first, or bring a grant", "region %s sent a job without reservation or grant", j.Origin)
}

func (s *State) checkReservation(k SubmitJob) *Refused {
	r := s.Reservation(k.Reservation)
	switch {
	case r == nil:
		return refuse("reservation.expired", "reserve again under the next attempt", "nothing is held under reservation %s: it expired, was given back or never was", clip(k.Reservation))
	case r.Consumed:
		return refuse("reservation.spent", "reserve again under the next attempt", "reservation %s was used already", r.Key)
	case r.Home != k.Job.Origin || r.Job != k.Job.ID:
		return refuse("reservation.foreign", "use the reservation made for this job", "reservation %s is not for job %s of region %s", r.Key, k.Job.ID, k.Job.Origin)
	}
	return nil
}

func (s *State) checkGrant(k SubmitJob) *Refused {
	switch {
	case !validID(k.Grant):
		return refuse("grant.id", "ask home for a grant", "%q is no id of a grant", clip(k.Grant))
	case s.grants.has(grantKey(k.Job.Origin, k.Grant)):
		return refuse("grant.spent", "ask home for another", "this grant was used already")
	case !s.Clock.Before(k.GrantExpires):
		return refuse("grant.expired", "ask home for another", "this grant expired at %s", k.GrantExpires.UTC().Format(time.RFC3339))
	case k.LawPack == "" || len(k.LawPack) > maxFact:
		return refuse("law.unnamed", "ask home for another grant", "this grant does not say by which law pack region %s decided", k.Job.Origin)
	case k.Job.ID.Home() != s.self.ID:
		return refuse("job.home", "let the region that takes the body choose the id", "a granted job's home is the region that takes its body")
	}
	return nil
}

// Grants of one region cannot spend those of another.
func grantKey(origin placement.RegionID, id string) string { return string(origin) + "\x00" + id }

// mayHold judges the region itself: a foreign job must be lawful here under
// both regions' packs; a job of this region must be lawful here, or at least
// may pass through on its way.
func (s *State) mayHold(c *call, p *policyRead, x placement.Crossing, gang bool) *Refused {
	x.To, x.Sites, x.Use = s.self, s.sites, placement.UseEnter
	if gang {
		x.Use = placement.UseRun // it is not sent on
	}
	if x.From != s.self {
		x.Use = placement.UseRun
	} else if refused := s.unknownNames(p.policy); refused != nil {
		return refused
	}
	return s.judge(c, x)
}

// crossedUnder is the pack that the other region named when it let the job go.
func (s *State) crossedUnder(k SubmitJob) string {
	if r := s.Reservation(k.Reservation); k.Reservation != "" && r != nil {
		return r.LawPack
	}
	return k.LawPack
}

// sites are those where a node stands, in the order of nodes.
func (s *State) sites() (out []string) {
	seen := map[string]bool{"": true}
	s.nodes.ascend("", func(_ string, n *placement.Node) bool {
		if !seen[n.Site] {
			seen[n.Site] = true
			out = append(out, n.Site)
		}
		return true
	})
	return out
}

// consume spends what admitted a foreign job, and remembers its key.
func (s *State) consume(c *call, k SubmitJob) {
	if k.Reservation != "" {
		r := *s.Reservation(k.Reservation)
		r.Consumed = true
		s.reservations.put(r.Key, &r)
		s.expiries.delete(expiryKey(&r))
	}
	if k.Grant != "" {
		s.putGrant(grantKey(k.Job.Origin, k.Grant), &Grant{ID: k.Grant, Tenant: k.Job.Tenant, LawPack: k.LawPack, Expires: k.GrantExpires.UTC(),
			Job: k.Job.ID, Leaf: s.tree.Size(), Index: c.index})
	}
	if k.IdempotencyKey != "" {
		s.Fifo++
		if old, ok := s.idempotency.get(idempotencyKey(k)); ok {
			s.fifoKeys.delete(seqKey(old.Seq)) // its day is over
		}
		s.idempotency.put(idempotencyKey(k), &idempotent{k.Job.ID, k.BodyHash, s.Clock, s.Fifo})
		s.fifoKeys.put(seqKey(s.Fifo), idempotencyKey(k))
		s.trimKeys()
	}
}

// trimKeys drops the oldest idempotency keys beyond the bound.
func (s *State) trimKeys() {
	for s.fifoKeys.len() > maxKeys {
		seq, key, _ := s.fifoKeys.min()
		s.fifoKeys.delete(seq)
		if i, ok := s.idempotency.get(key); ok && seqKey(i.Seq) == seq {
			s.idempotency.delete(key)
		}
	}
}

// accept makes the job as it stands in the queue.
func (s *State) accept(c *call, k SubmitJob) {
	s.JobSeq++
	r := &jobRecord{Job: s.shared(k.Job), Seq: s.JobSeq, Reserved: k.Reservation, LawPack: s.crossedUnder(k), Bytes: c.size}
	j := &r.Job
	j.Grant = k.Grant
	j.Region, j.Node, j.Status, j.Reason, j.Code = "", "", placement.JobPending, reasonWaiting, ""
	j.SubmittedAt, j.StartedAt, j.EndedAt, j.ExitCode = s.Clock, time.Time{}, time.Time{}, nil
	j.QueuedAt = s.Clock
	j.Attempts, j.Restarts, j.NotBefore = 0, 0, time.Time{}
	j.StopRequested, j.StopReason, j.Forward, j.Index = false, "", nil, c.index
	j.Receipt = s.ReceiptID(s.tree.Size())
	if j.EntryRegion == "" {
		j.EntryRegion = s.self.ID
	}
	s.putJob(c, r)
	c.id = string(j.ID)
}

func (s *State) stopJob(c *call, k StopJob) *Refused {
	c.subject = opaqueJob(k.Job)
	old, ok := s.jobs.get(string(k.Job))
	switch {
	case !ok:
		return refuse("job.unknown", "list them: sovmesh job list", "there is no job %q", clip(string(k.Job)))
	case len(k.Reason) > 1024:
		return refuse("job.reason", "shorten it", "the reason for the stop is too long")
	}
	c.id = string(k.Job)
	if old.Status.Terminal() || old.StopRequested {
		return nil
	}
	r := *old
	r.StopRequested, r.StopReason = true, k.Reason
	away := r.Forward != nil && r.Forward.State != placement.ForwardWaiting
	live := s.liveTasks(k.Job)
	for _, t := range live {
		s.stopTask(t, orText(k.Reason, "its job was stopped"), false)
	}
	if len(live) == 0 && !away {
		s.end(c, &r, placement.JobStopped, orText(k.Reason, "stopped before it ran"), "")
	}
	s.putJob(c, &r)
	return nil
}

func orText(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// putJob replaces a job and keeps what is derived from it: the queue, the
// counts, the tenant's usage, and how many ended jobs are kept.
func (s *State) putJob(c *call, r *jobRecord) {
	old, known := s.jobs.get(string(r.ID))
	if known {
		s.account(old, -1)
	}
	if !known || old.Status != r.Status {
		c.showJob(r)
	}
	s.noteLeaf(r)
	r.Index = c.index
	if r.Status.Terminal() && r.End == 0 {
		s.EndSeq++
		r.End = s.EndSeq
		s.ended.put(seqKey(r.End), r.ID)
		s.releaseFor(r)
	}
	s.jobs.put(string(r.ID), r)
	s.account(r, 1)
	for s.ended.len() > s.Limits.Terminal || s.endedBytes > s.Limits.Bytes {
		seq, id, _ := s.ended.min()
		s.ended.delete(seq)
		s.dropJob(id)
	}
}

// account adds or takes away what one job counts.
func (s *State) account(r *jobRecord, sign int) {
	if wantsTask(&r.Job) {
		key := queueKey(r.Spec.Priority, r.Tenant, r.Seq)
		if sign > 0 {
			s.queue.put(key, r.ID)
			s.byAge.put(ageKey(r), r.ID)
		} else {
			s.queue.delete(key)
			s.byAge.delete(ageKey(r))
		}
	}
	if r.Status.Terminal() {
		s.endedBytes += int64(sign) * r.Bytes
		return
	}
	s.liveBytes += int64(sign) * r.Bytes
	if isAway(&r.Job) {
		if sign > 0 {
			s.away.put(string(r.ID), r.ID)
		} else {
			s.away.delete(string(r.ID))
		}
	}
	if r.Status == placement.JobPending {
		s.Waiting += sign
	}
	s.charge(r.Tenant, r, sign)
	if peer := r.Tenant.Region(); peer != "" {
		s.charge(placement.EveryTenant(peer), r, sign)
		s.charge(allPeers, r, sign)
	}
}

// charge adds or takes away what one job counts for a tenant.
func (s *State) charge(t placement.TenantID, r *jobRecord, sign int) {
	u, _ := s.usage.get(string(t))
	u.jobs += sign
	u.gpus += sign * r.Spec.Resources.GPUs * r.Spec.Size()
	u.bytes += int64(sign) * r.Bytes
	if r.Status == placement.JobPending {
		u.pending += sign
	}
	if u == (tenantUsage{}) {
		s.usage.delete(string(t))
	} else {
		s.usage.put(string(t), u)
	}
}

func (s *State) dropJob(id placement.JobID) {
	if r, ok := s.jobs.get(string(id)); ok {
		s.account(r, -1)
	}
	for _, t := range s.tasksOf(id) {
		s.tasks.delete(string(t.ID))
	}
	s.jobs.delete(string(id))
}

// end makes a job terminal; the caller puts it.
func (s *State) end(c *call, r *jobRecord, status placement.JobStatus, reason, code string) {
	r.Status, r.Reason, r.Code, r.EndedAt, r.NotBefore = status, reason, code, c.now, time.Time{}
}

// shared replaces words that many jobs have in common by one copy of each.
func (s *State) shared(j placement.Job) placement.Job {
	word := func(w string) string {
		if known, ok := s.words[w]; ok {
			return known
		}
		if len(s.words) > 10_000 || len(w) > 256 {
			return w
		}
		w = strings.Clone(w)
		s.words[w] = w
		return w
	}
	j.Kind, j.Tenant = placement.Kind(word(string(j.Kind))), placement.TenantID(word(string(j.Tenant)))
	j.Residency, j.Origin = word(j.Residency), placement.RegionID(word(string(j.Origin)))
	j.EntryRegion = placement.RegionID(word(string(j.EntryRegion)))
	policy := make([]placement.Layer, len(j.Policy))
	for i, l := range j.Policy {
		policy[i] = placement.Layer{Origin: residency.Origin(word(string(l.Origin))), Tag: word(l.Tag)}
	}
	j.Policy = policy
	sp := &j.Spec
	sp.Kind, sp.Type = j.Kind, placement.JobType(word(string(sp.Type)))
	sp.Evidence, sp.OnDrain = placement.Evidence(word(string(sp.Evidence))), placement.OnDrain(word(string(sp.OnDrain)))
	sp.Spread = placement.Spread(word(string(sp.Spread)))
	sp.Restart.Policy, sp.Resources.GPUModel = word(sp.Restart.Policy), word(sp.Resources.GPUModel)
	if sp.Name == j.Name {
		sp.Name = j.Name
	}
	return j
}
