package api

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// place is a region as both ends judge it: the server from its view, the
// client from the directory.
type place struct {
	region          placement.RegionID
	facts           placement.RegionFacts
	doors           []string // https://host:port
	link            string
	self            bool
	sites           func() []string // of the own region, asked on need only
	export, import_ string
	packHash        string
}

// court judges places under one pack on one day.
type court struct {
	pack *residency.Pack
	on   residency.Date
	home place
}

func newCourt(pack *residency.Pack, at time.Time, home place) court {
	return court{pack: pack, on: residency.DateOf(at), home: home}
}

func (c court) options() residency.Options { return residency.Options{On: c.on} }

// inside judges whether the policy permits to run in the region, or in one of
// its sites where those are known.
func (c court) inside(p residency.Policy, at place) residency.Decision {
	p = p.ForScope("compute")
	d := residency.Evaluate(p, at.facts.Site(at.region, ""), c.pack, c.options())
	if d.Verdict != residency.Unknown {
		return d
	}
	if at.sites == nil {
		return d
	}
	for _, site := range at.sites() {
		if one := residency.Evaluate(p, at.facts.Site(at.region, site), c.pack, c.options()); one.Verdict == residency.Permitted {
			return one
		}
	}
	return d
}

// mayEnter judges whether payload may come to the region at all: because it may
// run there, or because the path may lead through it.
func (c court) mayEnter(p residency.Policy, at place) residency.Decision {
	d := c.inside(p, at)
	if d.Verdict == residency.Permitted {
		return d
	}
	if err := residency.CheckTransit(p, at.facts.Site(at.region, ""), c.pack, c.options()); err == nil {
		d.Verdict, d.Rule, d.Reason = residency.Permitted, "transit.via", "the path may lead through "+string(at.region)
	}
	return d
}

// across is the policy with the rules of a border: what home lets out and what
// the region takes in. A rule that cannot be read permits nothing.
func (c court) across(p residency.Policy, to place) residency.Policy {
	if to.region == c.home.region {
		return p
	}
	for _, rule := range []placement.Layer{{Origin: residency.OriginExport, Tag: c.home.export}, {Origin: residency.OriginImport, Tag: to.import_}} {
		if rule.Tag == "" {
			continue
		}
		tag, err := residency.ParseWire(rule.Tag, c.pack, c.on)
		if err != nil {
			tag = residency.Tag{}
		}
		p = p.Meet(residency.NewPolicy(residency.Layer{Origin: rule.Origin, Tag: tag}))
	}
	return p
}

// finding is what a policy means for every known region.
type finding struct {
	checks  []RegionCheck
	lawful  []place // permitted, best first: home, then as the tag prefers, then by name
	unknown []residency.Decision
	refused []residency.Decision
}

// survey judges every region for running the job.
func (c court) survey(p residency.Policy, places []place) finding {
	var f finding
	for _, at := range places {
		d := c.inside(c.across(p, at), at)
		f.checks = append(f.checks, RegionCheck{Region: at.region, Verdict: string(d.Verdict), Rule: d.Rule, Reason: d.Reason, Link: at.link})
		switch d.Verdict {
		case residency.Permitted:
			f.lawful = append(f.lawful, at)
		case residency.Refused:
			f.refused = append(f.refused, d)
		default:
			f.unknown = append(f.unknown, d)
		}
	}
	rank := c.preference(p)
	slices.SortStableFunc(f.lawful, func(a, b place) int {
		if a.self != b.self {
			return pick(a.self, -1, 1)
		}
		if x, y := rank(a), rank(b); x != y {
			return x - y
		}
		return strings.Compare(string(a.region), string(b.region))
	})
	return f
}

// preference ranks a place by the job's own list of preferences.
func (c court) preference(p residency.Policy) func(place) int {
	var order []residency.Policy
	for _, l := range p.Layers() {
		if l.Origin != residency.OriginJob {
			continue
		}
		for _, word := range l.Tag.Long().Prefer {
			if tag, err := residency.ParseWire(word, c.pack, c.on); err == nil {
				order = append(order, residency.NewPolicy(residency.Layer{Origin: residency.OriginJob, Tag: tag}))
			}
		}
	}
	return func(at place) int {
		for i, one := range order {
			if c.inside(one, at).Verdict == residency.Permitted {
				return i
			}
		}
		return len(order)
	}
}

// reachable are the lawful places that were heard of lately.
func (f finding) reachable() []place {
	var out []place
	for _, at := range f.lawful {
		if at.link == LinkUp || at.link == LinkSelf {
			out = append(out, at)
		}
	}
	return out
}

// silent are the lawful places out of contact.
func (f finding) silent() []placement.RegionID {
	var out []placement.RegionID
	for _, at := range f.lawful {
		if at.link == LinkUnknown {
			out = append(out, at.region)
		}
	}
	return out
}

// refusal says why no region can take the policy: never, not here, or unknown.
func (c court) refusal(p residency.Policy, f finding) *Problem {
	if silent := f.silent(); len(silent) > 0 {
		return newProblem(503, CodePeerUnknown,
			fmt.Sprintf("it is not known whether %s can take it: there is no contact", joinIDs(silent)),
			"try again soon; see the links: sovmesh region list").retry(5 * time.Second)
	}
	if a, b, ok := residency.Conflict(p, c.pack, c.on); ok {
		detail := fmt.Sprintf("the tag %s of the %s matches nothing", a.Tag.Canonical(), a.Origin)
		if a.Origin != b.Origin || a.Tag.Wire() != b.Tag.Wire() {
			detail = fmt.Sprintf("the %s's tag %s and the %s's tag %s exclude each other", a.Origin, a.Tag.Canonical(), b.Origin, b.Tag.Canonical())
		}
		return newProblem(403, CodeNever, "not lawful anywhere: "+detail, "change one of the two; see what a tag means: sovmesh residency explain TAG").final()
	}
	if len(f.unknown) > 0 {
		d := f.unknown[0]
		out := newProblem(403, CodeNotLawful, "no region is known to satisfy the tag: "+d.Reason, "see every region's reason: sovmesh residency check '"+firstTag(p)+"'").final()
		out.Rule = d.Rule
		return out
	}
	detail, rule := "no region of this mesh satisfies the tag "+firstTag(p), ""
	if len(f.refused) > 0 {
		detail, rule = detail+": "+f.refused[0].Reason, f.refused[0].Rule
	}
	out := newProblem(403, CodeNotLawful, detail, "see every region's reason: sovmesh residency check '"+firstTag(p)+"'").final()
	out.Rule = rule
	return out
}

func firstTag(p residency.Policy) string {
	for _, l := range p.Layers() {
		return l.Tag.Canonical()
	}
	return ""
}

func joinIDs[S ~string](ids []S) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = string(id)
	}
	return strings.Join(words, ", ")
}
