package gateway

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// residencyHeader carries the tag of one request.
const residencyHeader = "X-Data-Residency"

// effective is a policy that was judged for one target.
type effective struct{ policy residency.Policy }

// judge decides residency on one view, one pack and one day.
type judge struct {
	view *state.View
	self *placement.Region
	pack *residency.Pack
	on   residency.Options
}

// judge is nil when this region has no state yet.
func (g *Gateway) judge() *judge {
	v := g.cfg.Views.View()
	if v == nil || v.Self() == nil || v.Pack() == nil {
		return nil
	}
	return &judge{v, v.Self(), v.Pack(), residency.Options{On: residency.DateOf(g.cfg.Now())}}
}

func (j *judge) tag(wire string) (residency.Tag, error) {
	return residency.ParseWire(wire, j.pack, j.on.On)
}

// request is the policy of a request before its model is known: header, key and
// tenant, each a layer, all of which must permit. A header therefore narrows and
// cannot widen.
func (j *judge) request(c Caller, header []string) (residency.Policy, *Error) {
	var layers []residency.Layer
	if len(header) > 1 {
		// Joined with a comma, as any proxy may do, two tags would be their union.
		return residency.Policy{}, badRequest("tag.syntax", residencyHeader, fmt.Errorf("%s stands there %d times; send it once", residencyHeader, len(header)))
	}
	if len(header) == 1 {
		tag, err := j.tag(header[0])
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
		layers = append(layers, residency.Layer{Origin: residency.OriginJob, Tag: tag})
	}
	own := []string{c.Tag}
	if t := j.view.Tenant(c.Tenant); t != nil {
		own = append(own, t.Residency)
	}
	for _, wire := range own {
		if wire == "" {
			continue
		}
		tag, err := j.tag(wire)
		if err != nil {
			return residency.Policy{}, &Error{
				Status: 403, Code: "residency_not_permitted", NoRetry: true,
				Message: fmt.Sprintf("the residency of this key or its tenant cannot be read under the law pack in force: %v", err),
			}
		}
		layers = append(layers, residency.Layer{Origin: residency.OriginTenant, Tag: tag})
	}
	if len(layers) == 0 {
		return residency.Policy{}, &Error{
			Status: 400, Code: "residency_required", Param: residencyHeader, NoRetry: true,
			Message: "the request says nowhere where it may run: it has no " + residencyHeader + ", and its key and tenant have no residency",
			Advice:  "send the header, for example " + residencyHeader + ": EEA",
		}
	}
	return residency.NewPolicy(layers...), nil
}

func unreadableTag(err error) *Error {
	e := badRequest("tag.syntax", residencyHeader, err)
	if known, ok := err.(*residency.Error); ok {
		e.Code, e.Advice = known.Code, known.Help
	}
	return e
}

// received reads a policy as it stands in the head of an inference stream.
func (j *judge) received(canonical string) (residency.Policy, error) {
	var layers []residency.Layer
	for wire := range strings.SplitSeq(canonical, " & ") {
		tag, err := j.tag(wire)
		if err != nil {
			return residency.Policy{}, err
		}
		layers = append(layers, residency.Layer{Origin: residency.OriginJob, Tag: tag})
	}
	return residency.NewPolicy(layers...), nil
}

// with adds a rule of a region, in wire form; an empty one is no rule.
func (j *judge) with(p residency.Policy, origin residency.Origin, wire string) (residency.Policy, error) {
	if wire == "" {
		return p, nil
	}
	tag, err := j.tag(wire)
	if err != nil {
		return residency.Policy{}, fmt.Errorf("the %s rule of %s: %w", origin, j.self.ID, err)
	}
	return p.Meet(residency.NewPolicy(residency.Layer{Origin: origin, Tag: tag})), nil
}

// here is nil when the policy permits execution at a site of this region.
func (j *judge) here(p residency.Policy, site string) error {
	return residency.Check(p.ForScope("compute"), j.self.Facts.Site(j.self.ID, site), j.pack, j.on)
}

// there is the policy for a foreign region, export rule included, and nil when
// that permits both to execute there and to pass through here.
func (j *judge) there(p residency.Policy, r *placement.Region, site string) (residency.Policy, error) {
	p, err := j.with(p, residency.OriginExport, j.self.Export)
	if err != nil {
		return p, err
	}
	if err := residency.Check(p.ForScope("compute"), r.Facts.Site(r.ID, ""), j.pack, j.on); err != nil {
		return p, err
	}
	return p, j.through(p, j.self, site)
}

// through is nil when the prompt may pass a region that does not execute it.
func (j *judge) through(p residency.Policy, r *placement.Region, site string) error {
	return residency.CheckTransit(p, r.Facts.Site(r.ID, site), j.pack, j.on)
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
	inside := slices.ContainsFunc(sites, func(s string) bool { return j.here(p, s) == nil })
	var lawful []placement.RegionID
	var doors []Door
	if inside {
		lawful = append(lawful, j.self.ID)
	}
	for _, r := range j.foreign() {
		if exported, err := j.with(p, residency.OriginExport, j.self.Export); err != nil ||
			residency.Check(exported.ForScope("compute"), r.Facts.Site(r.ID, ""), j.pack, j.on) != nil {
			continue
		}
		lawful = append(lawful, r.ID)
		for _, d := range r.FrontDoors {
			doors = append(doors, Door{r.ID, d.API})
		}
	}
	if len(lawful) == 0 {
		return j.notPermitted(p, "no region of this mesh satisfies")
	}
	if inside || j.through(p, j.self, own) == nil {
		return nil
	}
	return &Error{
		Status: 421, Code: "residency.misdirected", NoRetry: true, Regions: lawful, Doors: doors,
		Message: fmt.Sprintf("%s lies outside of %s, so the request was refused before its body was read", j.self.ID, p.Canonical()),
		Advice:  "send it to a front door of a region inside, with a key of that region",
	}
}

// notPermitted says which regions would satisfy the policy, and why this one
// does not.
func (j *judge) notPermitted(p residency.Policy, what string) *Error {
	e := &Error{
		Status: 403, Code: "residency_not_permitted", Param: residencyHeader, NoRetry: true,
		Message: fmt.Sprintf("%s %s", what, p.Canonical()), Regions: j.satisfying(p),
	}
	if a, b, empty := residency.Conflict(p, j.pack, j.on.On); empty {
		e.Message += fmt.Sprintf(": %q of the %s and %q of the %s exclude each other", a.Tag.Canonical(), said(a.Origin), b.Tag.Canonical(), said(b.Origin))
	} else if err := j.here(p, ""); err != nil {
		e.Message += fmt.Sprintf(" (%v)", err)
	}
	e.Advice = "no region would satisfy it"
	if len(e.Regions) > 0 {
		e.Advice = fmt.Sprintf("these regions would satisfy it: %s", joined(e.Regions))
	}
	return e
}

// said names a layer's origin as the caller of an inference request knows it.
func said(o residency.Origin) string {
	switch o {
	case residency.OriginJob:
		return "request"
	case residency.OriginTenant:
		return "key or tenant"
	}
	return string(o)
}

// satisfying are the regions that the policy permits, whoever serves there.
func (j *judge) satisfying(p residency.Policy) []placement.RegionID {
	out := []placement.RegionID{}
	for _, r := range append([]*placement.Region{j.self}, j.foreign()...) {
		if residency.Check(p.ForScope("compute"), r.Facts.Site(r.ID, ""), j.pack, j.on) == nil {
			out = append(out, r.ID)
		}
	}
	return out
}

func joined(ids []placement.RegionID) string {
	words := make([]string, 0, len(ids))
	for _, id := range ids {
		words = append(words, string(id))
	}
	return strings.Join(words, ", ")
}
