package gateway

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// residencyHeader carries the tag of one request.
const residencyHeader = "X-Data-Residency"

// effective is a policy that was judged for one target.
type effective struct{ policy residency.Policy }

// judge decides residency on one view, for one day.
type judge struct {
	view *state.View
	self *placement.Region
	law  placement.Law
	// from is the region that a request came from over the mesh, with the law
	// pack by which it was decided there; own requests have none.
	from *placement.Region
}

// judge is nil when this region has no state yet.
func (g *Gateway) judge() *judge {
	v := g.cfg.Views.View()
	if v == nil || v.Self() == nil || v.Pack() == nil {
		return nil
	}
	return &judge{view: v, self: v.Self(), law: v.Law(residency.DateOf(g.cfg.Now()))}
}

// tag reads a tag; what is read once is remembered.
func (j *judge) tag(origin residency.Origin, wire string) (residency.Policy, error) {
	return j.law.Read([]placement.Layer{{Origin: origin, Tag: wire}})
}

// request is the policy of a request before its model is known: header, key and
// tenant, each a layer, all of which must permit. A header therefore narrows and
// cannot widen.
func (j *judge) request(c Caller, header []string) (residency.Policy, *Error) {
	var policy residency.Policy
	if len(header) > 1 {
		// Joined with a comma, as any proxy may do, two tags would be their union.
		return residency.Policy{}, badRequest("tag.syntax", residencyHeader, fmt.Errorf("%s stands there %d times; send it once", residencyHeader, len(header)))
	}
	if len(header) == 1 {
		tag, err := j.tag(residency.OriginJob, header[0])
		if err != nil {
			return residency.Policy{}, unreadableTag(err)
		}
		if tag.UsesAny() && !c.AllowAny {
			return residency.Policy{}, &Error{
				Status: 403, Code: "residency_any_not_permitted", Param: residencyHeader, NoRetry: true,
				Message: "this key may not use ANY",
				Advice:  "name the places where the request may run, for example EEA",
			}
		}
		policy = tag
	}
	own := []placement.Layer{{Origin: residency.OriginToken, Tag: c.Tag}}
	if t := j.view.Tenant(c.Tenant); t != nil {
		own = append(own, placement.Layer{Origin: residency.OriginTenant, Tag: t.Residency})
	}
	for _, l := range own {
		if l.Tag == "" {
			continue
		}
		tag, err := j.tag(l.Origin, l.Tag)
		if err != nil {
			return residency.Policy{}, &Error{
				Status: 403, Code: "residency_not_permitted", NoRetry: true,
				Message: fmt.Sprintf("the residency of this %s cannot be read under the law pack in force: %v", said(l.Origin), err),
			}
		}
		policy = policy.Meet(tag)
	}
	if policy.IsZero() {
		return residency.Policy{}, &Error{
			Status: 400, Code: "residency_required", Param: residencyHeader, NoRetry: true,
			Message: "the request says nowhere where it may run: it has no " + residencyHeader + ", and its key and tenant have no residency",
			Advice:  "send the header, for example " + residencyHeader + ": EEA",
		}
	}
	return policy, nil
}

func unreadableTag(err error) *Error {
	e := badRequest("tag.syntax", residencyHeader, err)
	if known, ok := err.(*residency.Error); ok {
		e.Code, e.Advice = known.Code, known.Help
	}
	return e
}

// here judges execution at a site of this region, by the border over which the
// request came.
func (j *judge) here(p residency.Policy, site string) placement.Ruling {
	return placement.Crossing{Policy: p, From: j.from, To: j.self, Site: site, Law: j.law}.Judge()
}

// there judges a foreign region: its export rule and both packs must permit to
// execute there, and the path to pass through here, at this node's site. The
// ruling has the policy that goes with the request.
func (j *judge) there(p residency.Policy, r *placement.Region, site string) placement.Ruling {
	return placement.Crossing{Policy: p, From: j.self, To: r, Via: j.self, ViaSite: site, Law: j.law}.Judge()
}

// beyond is there for a client that goes to the region by itself.
func (j *judge) beyond(p residency.Policy, r *placement.Region) placement.Ruling {
	return placement.Crossing{Policy: p, From: j.self, To: r, Law: j.law}.Judge()
}

// enter judges whether a prompt may come to a site of this region at all: to be
// answered there, or to pass.
func (j *judge) enter(p residency.Policy, site string) placement.Ruling {
	return placement.Crossing{Policy: p, From: j.from, To: j.self, Site: site, Use: placement.UseEnter, Law: j.law}.Judge()
}

// foreign are the regions that this one exchanges anything with.
func (j *judge) foreign() []*placement.Region {
	return slices.DeleteFunc(slices.Clone(j.view.Regions()), func(r *placement.Region) bool {
		return r.ID == j.self.ID || r.State != placement.PeerActive
	})
}

// place judges a request from its headers alone: whether its body may enter this
// region at all. sites are those of this region, own is that of this node.
func (j *judge) place(p residency.Policy, own string, sites []string) *Error {
	inside := slices.ContainsFunc(sites, func(s string) bool { r := j.here(p, s); return r.Permitted() })
	f := j.survey(p)
	lawful := f.regions()
	if inside && !slices.Contains(lawful, j.self.ID) {
		lawful = append([]placement.RegionID{j.self.ID}, lawful...)
	}
	if len(lawful) == 0 {
		return j.notPermitted(p, f, "no region of this mesh satisfies")
	}
	if inside {
		return nil
	}
	if r := j.enter(p, own); r.Permitted() {
		return nil
	}
	var doors []Door
	for _, r := range f.lawful {
		if r != j.self {
			for _, d := range r.FrontDoors {
				doors = append(doors, Door{r.ID, d.API})
			}
		}
	}
	return &Error{
		Status: 421, Code: "residency.misdirected", NoRetry: true, Regions: lawful, Doors: doors,
		Message: fmt.Sprintf("%s lies outside of %s, so the request was refused before its body was read", j.self.ID, p.Canonical()),
		Advice:  "send it to a front door of a region inside, with a key of that region",
	}
}

// finding is what a policy means for this region and its peers.
type finding struct {
	lawful  []*placement.Region
	unknown []placement.Ruling
	refused []placement.Ruling
}

func (j *judge) survey(p residency.Policy) finding {
	var f finding
	note := func(at *placement.Region, r placement.Ruling) {
		switch r.Verdict {
		case residency.Permitted:
			f.lawful = append(f.lawful, at)
		case residency.Refused:
			f.refused = append(f.refused, r)
		default:
			f.unknown = append(f.unknown, r)
		}
	}
	note(j.self, j.here(p, ""))
	for _, r := range j.foreign() {
		note(r, j.beyond(p, r))
	}
	return f
}

// regions are those that the policy permits, whoever serves there.
func (f finding) regions() []placement.RegionID {
	out := make([]placement.RegionID, len(f.lawful))
	for i, r := range f.lawful {
		out[i] = r.ID
	}
	return out
}

// notPermitted says why nothing may answer, as the control plane says it of a
// job: not lawful is 403, and what is not known is 503 with its cause as code.
func (j *judge) notPermitted(p residency.Policy, f finding, what string) *Error {
	e := &Error{
		Status: 403, Code: "residency_not_permitted", Param: residencyHeader, NoRetry: true,
		Message: fmt.Sprintf("%s %s", what, p.Canonical()), Regions: f.regions(), Advice: "no region would satisfy it",
	}
	if len(e.Regions) > 0 {
		e.Advice = fmt.Sprintf("these regions would satisfy it: %s", joined(e.Regions))
	}
	switch a, b, empty := residency.Conflict(p, j.law.Pack, j.law.On); {
	case empty:
		e.Message += fmt.Sprintf(": %q of the %s and %q of the %s exclude each other", a.Tag.Canonical(), said(a.Origin), b.Tag.Canonical(), said(b.Origin))
	case len(e.Regions) == 0 && len(f.unknown) > 0:
		return unknownLaw(f.unknown[0].Decision)
	case len(f.refused) > 0 && f.refused[0].Site.Region == string(j.self.ID):
		e.Message += fmt.Sprintf(" (%v; by the tag of the %s)", f.refused[0].Err(), said(f.refused[0].Layer))
	}
	return e
}

// refusedBy is the error of a ruling that does not permit.
func refusedBy(r placement.Ruling) *Error {
	if r.Verdict == residency.Unknown {
		return unknownLaw(r.Decision)
	}
	return &Error{Status: 403, Code: "residency_not_permitted", NoRetry: true, Message: r.Err().Error()}
}

// unknownLaw refuses for what is not known: unknown is never permitted, and not
// the same as forbidden.
func unknownLaw(d residency.Decision) *Error {
	refusal := &residency.Refusal{Decision: d}
	return &Error{
		Status: 503, Code: d.Code(), Param: residencyHeader, NoRetry: true, RetryAfter: time.Minute,
		Message: "no region is known to satisfy the tag: " + d.Reason, Advice: refusal.Hint(),
	}
}

// said names a layer's origin as the caller of an inference request knows it.
func said(o residency.Origin) string {
	switch o {
	case residency.OriginJob, "policy": // as read back from a head, where nobody is named
		return "request"
	case residency.OriginToken:
		return "key"
	}
	return string(o)
}

func joined(ids []placement.RegionID) string {
	words := make([]string, 0, len(ids))
	for _, id := range ids {
		words = append(words, string(id))
	}
	return strings.Join(words, ", ")
}
