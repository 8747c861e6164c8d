package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// checkJob is a dry run: nothing is submitted, nothing is held. Regions that
// the policy permits are asked for themselves, within one short deadline.
func checkJob(s *Server, c *call) error {
	body, err := c.readBody(MaxBodyBytes)
	if err != nil {
		return err
	}
	in, err := s.readCheck(c, body)
	if err != nil {
		return err
	}
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	c.view = v
	at := s.court(v)
	tag, err := s.tags.parse(in.Residency, at.law.Pack, at.law.On)
	if err != nil {
		return err
	}
	if err := checkNames(tag, v); err != nil {
		return err
	}
	layers := c.layers(tag)
	found := at.survey(layers, s.places(v))
	out := &CheckReport{Residency: tag.Wire(), Regions: found.checks, LawPack: at.law.Pack.Hash(), AsOf: at.law.On.String()}
	if tag.UsesAny() && !s.mayAny(c.caller) {
		out.Warnings = append(out.Warnings, "the tag ANY needs a permission that your token does not have: a submit would be refused")
	}
	if len(found.lawful) == 0 {
		checkUnlawful(out, at.refusal(layers, found))
		return c.writeJSON(http.StatusOK, out)
	}
	quota := quotaLines(v, c.caller.Tenant, 1, in.Resources, max(1, in.Gang))
	out.Warnings = append(out.Warnings, quotaWarnings(quota)...)
	s.checkRoom(c.r.Context(), v, out, found, in.jobOf(s.cfg.Region, c.caller.Tenant, layers))
	if out.Local != nil {
		out.Local.Quota = quota
		out.Local.mayKnow(c.caller, v)
		out.Local.summarise()
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, out)
}

// readCheck takes what our client sends, or a job document as a submit does: of
// that the command and the environment are read and forgotten.
func (s *Server) readCheck(c *call, body []byte) (CheckRequest, error) {
	var in CheckRequest
	if strictJSON(body, &in) == nil && in.Type != "" {
		return in, in.validate()
	}
	job, err := ReadJob(body, JobOptions{Pack: c.view.Pack(), On: residency.DateOf(s.now()), Parse: s.tags.parse})
	if err == nil {
		return checkOf(job), nil
	}
	in = CheckRequest{}
	if strictJSON(body, &in) == nil { // a few fields, without a type
		return in, in.validate()
	}
	return in, err
}

// checkUnlawful answers what a submit would be refused with.
func checkUnlawful(out *CheckReport, p *Problem) {
	out.Answer, out.Code, out.Reason, out.Hint = CheckUnlawful, p.Code, p.Detail, p.Advice
	if ExitOf(p) == ExitUnknown {
		out.Answer = CheckUnknown
	}
}

// checkRoom asks the scheduler here and that of every lawful region in reach.
func (s *Server) checkRoom(ctx context.Context, v *state.View, out *CheckReport, found finding, job *placement.Job) {
	answers := s.askAll(ctx, v, found, job)
	best, why, limited := "", []string(nil), false
	home := found.lawful[0].self
	bounded := home && answers[found.lawful[0].ID].Code == string(scheduler.QuotaLimit)
	rank := map[string]int{string(scheduler.Fits): 4, string(scheduler.Full): 3, string(scheduler.Unknown): 2, string(scheduler.Impossible): 1}
	for _, at := range found.lawful {
		a := answers[at.ID]
		if a.Outcome == string(scheduler.Refused) {
			continue
		}
		s.noteRoom(out, at.ID, a)
		if home && !at.self && (bounded || job.Spec.Gang()) {
			if what := pick(job.Spec.Gang(), "the whole gang", "it"); a.Outcome == string(scheduler.Fits) {
				out.Warnings = append(out.Warnings, fmt.Sprintf("region %s has room for %s, but it would stay here: submit it there", at.ID, what))
			}
			continue // where it is taken it stays; a limit is not gone around either
		}
		limited = limited || a.Outcome == string(scheduler.Impossible) && a.Code == string(scheduler.QuotaLimit)
		if rank[a.Outcome] == rank[best] {
			why = append(why, regional(at.ID, a.Reason))
		}
		if rank[a.Outcome] > rank[best] {
			best, why = a.Outcome, []string{regional(at.ID, a.Reason)}
			out.Region, out.Code, out.Reason, out.Hint = at.ID, a.Code, a.Reason, a.Hint
		}
		if at.self {
			out.Local = a.local
			if a.Outcome == string(scheduler.Fits) {
				out.Node = a.node
				break // home is tried first
			}
		}
	}
	switch best {
	case string(scheduler.Fits):
		out.Answer, out.Code, out.Hint = CheckPlaceable, "", ""
		return
	case string(scheduler.Full):
		out.Answer, out.Code = CheckNoCapacity, CodeNoCapacity
	case string(scheduler.Impossible):
		out.Answer, out.Code = CheckNoHardware, CodeNoHardware
		if limited { // the hardware is there
			out.Answer, out.Code = CheckOverLimit, CodeOverLimit
		}
	default:
		out.Answer, out.Code = CheckUnknown, CodePeerUnknown
	}
	out.Region = ""
	if len(why) > 1 { // one region's reason would read as if the others had room
		out.Reason = strings.Join(why, "; ")
	}
}

// regional puts the region's name before a reason that does not say it.
func regional(region placement.RegionID, reason string) string {
	if strings.Contains(reason, "region "+string(region)) {
		return reason
	}
	return "region " + string(region) + ": " + reason
}

func (s *Server) noteRoom(out *CheckReport, region placement.RegionID, a regionAnswer) {
	for i := range out.Regions {
		if out.Regions[i].Region != region {
			continue
		}
		switch a.Outcome {
		case string(scheduler.Fits):
			out.Regions[i].Room = RegionPlaceable
		case string(scheduler.Full), string(scheduler.Impossible):
			out.Regions[i].Room = RegionFull
		default:
			out.Regions[i].Room = RegionNoContact
		}
	}
}

type regionAnswer struct {
	ReserveAnswer
	local *Explanation
	node  placement.NodeID
}

// askAll gathers every lawful region's own answer; who does not answer in time
// is unknown.
func (s *Server) askAll(ctx context.Context, v *state.View, found finding, job *placement.Job) map[placement.RegionID]regionAnswer {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ForeignTimeout)
	defer cancel()
	out := make(map[placement.RegionID]regionAnswer, len(found.lawful))
	var mu sync.Mutex // guards out
	var wg sync.WaitGroup
	for _, at := range found.lawful {
		if at.self {
			a := s.askHere(v, job)
			mu.Lock()
			out[at.ID] = a
			mu.Unlock()
			continue
		}
		wg.Go(func() {
			a := s.askThere(ctx, v, at, job)
			mu.Lock()
			out[at.ID] = a
			mu.Unlock()
		})
	}
	wg.Wait()
	return out
}

func (s *Server) askHere(v *state.View, job *placement.Job) regionAnswer {
	a, e := scheduler.Place(v.Snapshot(s.now()), job)
	out := regionAnswer{local: s.explain(v, job)}
	out.Outcome, out.Code, out.Reason, out.Hint = string(e.Outcome), string(e.Code), e.Reason, e.Hint
	if a != nil {
		out.node = a.Node
	}
	return out
}

func (s *Server) askThere(ctx context.Context, v *state.View, at place, job *placement.Job) regionAnswer {
	silent := regionAnswer{}
	silent.Outcome, silent.Code = string(scheduler.Unknown), CodePeerUnknown
	silent.Reason = "there is no contact with region " + string(at.ID)
	silent.Hint = "try again soon; see the links: sovmesh region list"
	peer, ok := s.doorOf(at.Region)
	if at.link != LinkUp || !ok {
		return silent
	}
	answer, err := s.mesh.Reserve(ctx, peer, ReserveRequest{
		Job: placement.NewJobID(s.cfg.Region, s.now()), Attempt: 1, Kind: job.Kind, Resources: job.Spec.Resources, Site: job.Spec.Site,
		Policy: placement.Across(job.Policy, v.Self(), at.Region), LawPack: v.Pack().Hash(), DryRun: true, Gang: job.Spec.Members,
	})
	if err != nil {
		return silent
	}
	return regionAnswer{ReserveAnswer: *answer}
}
