package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// summary is what an active peer may know of this region, signed.
func summary(s *Server, c *call) error {
	doors := s.frontDoors(c.view)
	out := SummaryStatement{Summary: s.summarise(c.view, c.caller.Region), FrontDoors: doors, LawPack: c.view.Pack().Hash(), Bundle: c.view.Self().Bundle}
	payload, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("summary: %w", err)
	}
	statement, err := s.sign(ContextSummary, payload)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/vnd.sovmesh.statement")
	_, _ = c.w.Write([]byte(statement)) // the caller is gone: nobody to tell
	return nil
}

// epochEvery makes the epoch of a summary coarse: how busy a region's ledger
// is stays its own.
const epochEvery = 1024

// summarise is what one peer may know.
func (s *Server) summarise(v *state.View, peer placement.RegionID) placement.RegionSummary {
	return scheduler.Summarise(v.Nodes(), scheduler.SummaryFacts{
		Region: s.cfg.Region, Epoch: v.Index() / epochEvery, Now: s.now(), TTL: summaryLife, LawPack: v.Pack().Hash(), Models: modelsOf(v, peer),
	})
}

// modelsOf are the names of the models that running deployments serve and that
// callers of that peer may use: those of the tenant "default", as the gateway
// shares them, and those of its own tenants, whose jobs landed here because
// their tag said so; of both, those that [nameMayCross] lets go.
func modelsOf(v *state.View, peer placement.RegionID) []string {
	shared := func(t placement.TenantID) bool { return t == "default" || t.Region() == peer }
	var out []string
	for _, n := range v.Nodes() {
		for _, t := range v.TasksOn(n.ID) {
			if t.Kind != placement.KindInference || t.Status != placement.TaskRunning || !shared(t.Tenant) {
				continue
			}
			if j := v.Job(t.Job); j != nil && nameMayCross(v, j, peer) {
				out = append(out, j.Spec.Models...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// nameMayCross judges a deployment's whole policy, every layer of it, and not
// its own tag alone. A layer that is bound to regions or sites by name keeps the
// model there, unless it names the peer; the region's export rule must permit the
// peer, as for anything that leaves.
func nameMayCross(v *state.View, j *placement.Job, peer placement.RegionID) bool {
	rec := v.Region(peer)
	policy, err := v.PolicyOf(j)
	if rec == nil || err != nil {
		return false
	}
	for _, l := range policy.Layers() {
		regions, sites := l.Tag.Names()
		if len(sites) > 0 || len(regions) > 0 && !slices.Contains(regions, string(peer)) {
			return false
		}
	}
	rule := v.Self().Export
	if rule == "" {
		return true
	}
	// The rule alone is the tag here: a name is no work, and what it may be asked
	// for is judged again, whole, with each request.
	layers := []placement.Layer{{Origin: residency.OriginExport, Tag: rule}}
	r := placement.Crossing{Layers: layers, From: v.Self(), To: rec, Law: v.Law(residency.DateOf(v.Time()))}.Judge()
	return r.Permitted()
}

// Bounds of a reservation's life.
const (
	reserveLife    = 30 * time.Second
	reserveLifeMax = 2 * time.Minute
	reserveTries   = 3
)

// reserve holds room for a job of another region. Whoever asks is the home: the
// certificate says so. The scheduler chooses on this node's state, and Apply
// judges again; a race lost there is tried again on the newer state.
func reserve(s *Server, c *call) error {
	var in ReserveRequest
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	if err := in.validate(c.caller.Region); err != nil {
		return err
	}
	key := reservationKey(c.caller.Region, in)
	layers := c.arriving(in.Policy)
	for range reserveTries {
		v, err := s.fresh(c.r.Context())
		if err != nil {
			return err
		}
		if held := v.Reservation(key); held != nil && !in.DryRun {
			return c.writeJSON(http.StatusOK, ReserveAnswer{Key: key, Held: true, Expires: held.Expires, Leaf: s.leafRef(held.Leaf)})
		}
		if j := v.Job(in.Job); j != nil && j.Origin == c.caller.Region && !in.DryRun {
			// It came here before home lost sight of it, and has its room. A refusal
			// would let home start it a second time elsewhere.
			return c.writeJSON(http.StatusOK, ReserveAnswer{Key: key, Held: true, Leaf: s.jobLeaf(v, in.Job)})
		}
		answer, again, err := s.tryReserve(c, v, in, key, layers)
		if err != nil {
			return err
		}
		if !again {
			return c.writeJSON(http.StatusOK, answer)
		}
	}
	return newProblem(http.StatusServiceUnavailable, CodeNoCapacity, "the room was taken meanwhile, several times", "ask again").retry(time.Second)
}

func (in ReserveRequest) validate(home placement.RegionID) error {
	why, help := in.Resources.Problem()
	switch {
	case !in.Job.Valid() || in.Job.Home() != home:
		return &InputError{Code: CodeBody, Message: fmt.Sprintf("job %s is not one of region %s", quoteWord(string(in.Job)), home), Help: "reserve for a job of your own"}
	case in.Attempt < 1 || in.Attempt > 1<<20 || in.Kind == "" || len(in.Policy) == 0 || len(in.Policy) > 16:
		return &InputError{Code: CodeBody, Message: "the reservation has no attempt, kind or policy", Help: "send attempt from 1, kind, and the layers of the policy"}
	case in.Gang < 0 || in.Gang > placement.MaxMembers || in.Gang > 1 && !in.DryRun:
		return &InputError{Code: CodeBody, Message: fmt.Sprintf("room is not held for a gang of %d", in.Gang), Help: "hold room for single tasks; a dry run may ask for a gang of up to 64"}
	case why != "":
		return &InputError{Code: CodeBody, Message: "the resources are not possible: " + why, Help: help}
	}
	return nil
}

func reservationKey(home placement.RegionID, in ReserveRequest) string {
	return fmt.Sprintf("%s/%s/%d", home, in.Job, in.Attempt)
}

// arriving are the layers under which what a peer sends is judged here: its own,
// the rules of the border, and the tag that was set for all tenants of that peer.
func (c *call) arriving(layers []placement.Layer) []placement.Layer {
	return arriving(c.view, c.from(), layers)
}

func arriving(v *state.View, from *placement.Region, layers []placement.Layer) []placement.Layer {
	layers = placement.Across(layers, from, v.Self())
	if t := v.Tenant(placement.EveryTenant(from.ID)); t != nil {
		layers = placement.WithLayer(layers, residency.OriginTenant, t.Residency)
	}
	return layers
}

// tryReserve plans and proposes once. A refusal is committed too, so that home
// may rely on it; again means that the chosen room was taken meanwhile.
func (s *Server) tryReserve(c *call, v *state.View, in ReserveRequest, key string, layers []placement.Layer) (*ReserveAnswer, bool, error) {
	job := &placement.Job{
		ID: in.Job, Kind: in.Kind, Policy: layers, Status: placement.JobPending, Origin: c.caller.Region,
		Spec: placement.JobSpec{Kind: in.Kind, Type: placement.TypeBatch, Resources: in.Resources, Site: in.Site, Members: in.Gang},
	}
	place, e := s.ahead.place(v, s.now(), job)
	answer := &ReserveAnswer{Key: key, Outcome: string(e.Outcome), Code: string(e.Code)}
	answer.Reason, answer.Hint = outcomeAbroad(s.cfg.Region, e.Outcome)
	if in.DryRun {
		return answer, false, nil
	}
	cmd := state.Reserve{
		Home: c.caller.Region, Job: in.Job, Attempt: in.Attempt, JobKind: in.Kind, Resources: in.Resources, Site: in.Site,
		Policy: in.Policy, LawPack: in.LawPack, Expires: s.reserveUntil(in.Expires),
		HomeLeaf: in.HomeLeaf,
	}
	if place != nil {
		cmd.Node, cmd.Devices = place.Node, place.Devices
	}
	res, v, err := c.propose(cmd, c.caller.Actor)
	answer.Leaf = s.leafOf(res)
	if err == nil {
		answer.Held, answer.Code, answer.Reason, answer.Hint, answer.Expires = true, "", "", "", cmd.Expires
		if held := v.Reservation(key); held != nil {
			answer.Expires = held.Expires
		}
		return answer, false, nil
	}
	if res.Refused == nil {
		return nil, false, err
	}
	if place != nil && strings.HasPrefix(res.Refused.Code, "capacity.") {
		return nil, true, nil
	}
	if place != nil {
		answer.Code = res.Refused.Code
		answer.Reason, answer.Hint = refusalAbroad(s.cfg.Region, res.Refused.Code)
	}
	fresh := s.summarise(s.cfg.Ledger.View(), c.caller.Region)
	answer.Summary = &fresh
	return answer, false, nil
}

func (s *Server) reserveUntil(asked time.Time) time.Time {
	now := s.now()
	if asked.IsZero() || asked.Before(now) {
		return now.Add(reserveLife)
	}
	if latest := now.Add(reserveLifeMax); asked.After(latest) {
		return latest
	}
	return asked.UTC()
}

// release gives room back; only the region that holds it may.
func release(s *Server, c *call) error {
	key := c.r.PathValue("key")
	if home, _, _ := strings.Cut(key, "/"); placement.RegionID(home) != c.caller.Region {
		return newProblem(http.StatusForbidden, CodeForeignVerb, "the reservation is not of region "+string(c.caller.Region), "release your own")
	}
	if c.view.Reservation(key) != nil {
		if _, _, err := c.propose(state.ReleaseReservation{Key: key}, c.caller.Actor); err != nil {
			return err
		}
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// takeForwarded accepts the body of a job that another region forwards to the
// room it holds here. The header is judged before the body; the tenant is what
// the certificate makes of it, whatever the body says.
func takeForwarded(s *Server, c *call) error {
	wire := c.r.Header.Get(HeaderResidency)
	if wire == "" {
		return newProblem(http.StatusBadRequest, CodeHeaderMissing, "the job has no "+HeaderResidency+" header: its body was not read", "send the job's whole policy as that header")
	}
	at := s.court(c.view)
	tag, err := s.tags.parse(wire, at.law.Pack, at.law.On)
	if err != nil {
		return err
	}
	// The import rule and the sender's pack count here as in Apply, which is
	// asked when the body was read.
	layers := c.arriving([]placement.Layer{{Origin: residency.OriginJob, Tag: tag.Wire()}})
	if d := at.ask(layers, c.from(), at.home, placement.UseRun); !d.Permitted() {
		return s.misdirected(at, layers, c.view, d)
	}
	var in ForwardedJob
	if err := c.readJSON(&in, MaxJobBytes); err != nil {
		return err
	}
	if in.Residency != wire {
		return newProblem(http.StatusBadRequest, CodeHeaderDiffers, "the header and the body have different policies", "send the body's policy as the header")
	}
	// A tenant there may be one of a third region that granted the job: here it is
	// one of the region that speaks, whatever the body says.
	tenant := placement.TenantID(string(c.caller.Region) + "/" + in.Tenant)
	if !in.Job.Valid() || in.Job.Home() != c.caller.Region || !tenant.Valid() || in.Reservation == "" {
		return &InputError{Code: CodeBody, Message: "the forwarded job's id, tenant or reservation is not acceptable", Help: "forward a job of your own, to the room that you hold"}
	}
	if err := s.reread(&in, at); err != nil {
		return err
	}
	// The answer to an earlier forward may have been lost, with the leader that
	// gave it: only a view that holds every acknowledged write can say so.
	view, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	if j := view.Job(in.Job); j != nil && j.Origin == c.caller.Region { // it arrived before
		return c.writeJSON(http.StatusOK, foreignStatus(s, view, j))
	}
	job := placement.Job{
		ID: in.Job, Name: in.Spec.Name, Kind: in.Spec.Kind, Tenant: tenant,
		Residency: wire, Policy: c.arriving(in.Policy), Spec: in.Spec, EntryRegion: c.caller.Region,
		Hops: max(in.Hops, 1), SubmittedAt: in.SubmittedAt, Origin: c.caller.Region,
	}
	if err := sealSecrets(view, &job); err != nil {
		return err
	}
	_, v, err := c.propose(state.SubmitJob{Job: job, AllowAny: in.AllowAny, Reservation: in.Reservation, HomeLeaf: in.HomeLeaf}, c.caller.Actor)
	if err != nil {
		return s.giveUp(c, in, err)
	}
	j := v.Job(in.Job)
	if j == nil {
		return newProblem(http.StatusConflict, "job.ended", "the job ended long ago and was dropped", "forward another")
	}
	return c.writeJSON(http.StatusCreated, foreignStatus(s, v, j))
}

// reread reads a forwarded job as if its author had sent it here: what stands in
// its setup becomes paths, addresses and arguments on a node of this region.
func (s *Server) reread(in *ForwardedJob, at court) error {
	if in.Spec.Setup == nil && in.Spec.Image == "" {
		return nil
	}
	body, err := json.Marshal(wireJob{Residency: in.Residency, JobSpec: in.Spec})
	if err != nil {
		return fmt.Errorf("read a forwarded job: %w", err)
	}
	job, err := ReadJob(body, JobOptions{Pack: at.law.Pack, On: at.law.On, Parse: s.tags.parse})
	if err != nil {
		return err
	}
	in.Spec = job.Spec
	return nil
}

// giveUp ends a reservation whose job was refused for want of queue or quota,
// before home hears of it: home may then ask another region, as no late repetition
// of this forward can be accepted any more.
func (s *Server) giveUp(c *call, in ForwardedJob, refused error) error {
	var r *state.Refused
	if !errors.As(refused, &r) || r.Code != CodeQueueFull && !strings.HasPrefix(r.Code, "quota.") {
		return refused
	}
	held := s.cfg.Ledger.View().Reservation(in.Reservation)
	if held == nil || held.Home != c.caller.Region || held.Job != in.Job {
		return refused
	}
	if _, _, err := c.propose(state.ReleaseReservation{Key: in.Reservation}, c.caller.Actor); err != nil {
		return newProblem(http.StatusServiceUnavailable, CodeUnavailable, "the job was refused, and its room could not be given back", "ask again").retry(time.Second)
	}
	return refused
}

// foreignStatus is all that the job's home learns.
func foreignStatus(s *Server, v *state.View, j *placement.Job) ForeignStatus {
	return ForeignStatus{
		Job: j.ID, Region: s.cfg.Region, Status: j.Status, Reason: reasonAbroad(j), ExitCode: j.ExitCode,
		StartedAt: j.StartedAt, EndedAt: j.EndedAt, Index: j.Index, Leaf: s.jobLeaf(v, j.ID),
	}
}

// reasonAbroad is a job's state in words of a closed list: a reason as its node
// gave it may hold paths, names of nodes and words of its output, and none of
// them crosses the border.
func reasonAbroad(j *placement.Job) string {
	switch {
	case j.Status == placement.JobFailed && j.ExitCode != nil:
		return fmt.Sprintf("exit code %d", *j.ExitCode)
	case j.Status == placement.JobFailed:
		return "it could not be started, or not be kept running"
	case j.Status == placement.JobPending && j.Restarts > 0:
		return "restarts"
	case j.Status == placement.JobPending:
		return "waits for placement"
	case j.Status == placement.JobStopped && j.StopReason != "":
		return j.StopReason // what whoever stopped it has to say to its owner
	case j.Status == placement.JobStopped:
		return "stopped"
	case j.Status == placement.JobLost:
		return "its node is lost"
	case j.Status == placement.JobUnknown:
		return "its node cannot be reached"
	}
	return ""
}

// foreignJob is the status of a job that the caller forwarded or granted.
func foreignJob(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	done, err := s.peerWait(c, o)
	if err != nil {
		return err
	}
	defer done()
	v, err := c.jobView(o)
	if err != nil {
		return err
	}
	j, err := c.ownForeign(v)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, foreignStatus(s, v, j))
}

// ownForeign is a job by its whole id, if the caller is its origin.
func (c *call) ownForeign(v *state.View) (*placement.Job, error) {
	j := v.Job(placement.JobID(c.r.PathValue("id")))
	if j == nil || !c.caller.sees(j) {
		return nil, newProblem(http.StatusNotFound, CodeNotFound, "region "+string(c.caller.Region)+" has no such job here", "ask about a job that you forwarded")
	}
	return j, nil
}

func stopForeign(s *Server, c *call) error {
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	j, err := c.ownForeign(v)
	if err != nil {
		return err
	}
	_, v, err = c.propose(state.StopJob{Job: j.ID, Reason: "stopped by its home"}, c.caller.Actor)
	if err != nil {
		return err
	}
	if now := v.Job(j.ID); now != nil {
		j = now
	}
	return c.writeJSON(http.StatusOK, foreignStatus(s, v, j))
}
