package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// place is a region as both ends judge it: the server from its view, the
// client from the directory.
type place struct {
	*placement.Region
	doors []string // https://host:port
	link  string
	self  bool
	sites func() []string // of the own region, asked on need only
}

// court judges places by the law of one region, today.
type court struct {
	law  placement.Law
	home place
}

// run asks whether work may run in a region, or in one of its sites where those
// are known, coming from home.
func (c court) run(layers []placement.Layer, at place) placement.Ruling {
	return c.ask(layers, c.home.Region, at, placement.UseRun)
}

// enter asks whether payload may come to home at all: because it may run there,
// or because the path may lead through it.
func (c court) enter(layers []placement.Layer, from *placement.Region, under ...string) placement.Ruling {
	return c.ask(layers, from, c.home, placement.UseEnter, under...)
}

func (c court) ask(layers []placement.Layer, from *placement.Region, to place, use placement.Use, under ...string) placement.Ruling {
	return placement.Crossing{Layers: layers, From: from, To: to.Region, Sites: to.sites, Use: use, Law: c.law, Under: under}.Judge()
}

// finding is what a policy means for every known region.
type finding struct {
	checks  []RegionCheck
	lawful  []place // permitted, best first: home, then as the tag prefers, then by name
	unknown []residency.Decision
	refused []residency.Decision
}

// survey judges every region for running the job.
func (c court) survey(layers []placement.Layer, places []place) finding {
	var f finding
	for _, at := range places {
		d := c.run(layers, at)
		f.note(at, d.Decision)
	}
	rank := c.preference(layers)
	slices.SortStableFunc(f.lawful, func(a, b place) int {
		if a.self != b.self {
			return pick(a.self, -1, 1)
		}
		if x, y := rank(a), rank(b); x != y {
			return x - y
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return f
}

func (f *finding) note(at place, d residency.Decision) {
	f.checks = append(f.checks, RegionCheck{Region: at.ID, Verdict: string(d.Verdict), Rule: d.Rule, Reason: d.Reason, Link: at.link})
	switch d.Verdict {
	case residency.Permitted:
		f.lawful = append(f.lawful, at)
	case residency.Refused:
		f.refused = append(f.refused, d)
	default:
		f.unknown = append(f.unknown, d)
	}
}

// preference ranks a place by the job's own list of preferences.
func (c court) preference(layers []placement.Layer) func(place) int {
	var order [][]placement.Layer
	for _, l := range layers {
		if l.Origin != residency.OriginJob {
			continue
		}
		tag, err := residency.ParseWire(l.Tag, c.law.Pack, c.law.On)
		if err != nil {
			continue
		}
		for _, word := range tag.Long().Prefer {
			order = append(order, []placement.Layer{{Origin: residency.OriginJob, Tag: word}})
		}
	}
	return func(at place) int {
		for i, one := range order {
			if d := c.ask(one, nil, at, placement.UseRun); d.Permitted() {
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
			out = append(out, at.ID)
		}
	}
	return out
}

// refusal says why no region can take the policy: unknown, never, or not here.
// Every door asks it, so that one tag has one answer: the check, the submit, the
// client and what forwards.
func (c court) refusal(layers []placement.Layer, f finding) *Problem {
	if silent := f.silent(); len(silent) > 0 {
		return newProblem(http.StatusServiceUnavailable, CodePeerUnknown,
			fmt.Sprintf("it is not known whether %s can take it: there is no contact", joinIDs(silent)),
			"try again soon; see the links: sovmesh region list").retry(5 * time.Second)
	}
	p, err := placement.ReadLayers(layers, c.law.Pack, c.law.On)
	if err != nil {
		return problemOf(err)
	}
	if a, b, ok := residency.Conflict(p, c.law.Pack, c.law.On); ok {
		detail := layerWords(a.Origin) + " " + a.Tag.Canonical() + " matches nothing"
		if a.Origin != b.Origin || a.Tag.Wire() != b.Tag.Wire() {
			detail = fmt.Sprintf("%s %s and %s %s exclude each other", layerWords(a.Origin), a.Tag.Canonical(), layerWords(b.Origin), b.Tag.Canonical())
		}
		return newProblem(http.StatusForbidden, CodeNever, "not lawful anywhere: "+detail, "change one of the two; see what a tag means: sovmesh residency explain TAG").final()
	}
	see := "see every region's reason: sovmesh residency check '" + firstTag(p) + "'"
	if len(f.unknown) > 0 {
		d := f.unknown[0]
		if d.Rule == residency.RuleNotHeld { // what to do is known, and it is not to look at the tag
			see = (&residency.Refusal{Decision: d}).Hint()
		}
		return problemOfDecision(d, "no region is known to satisfy the tag: "+d.Reason, see)
	}
	detail, d := "no region of this mesh satisfies the tag "+firstTag(p), residency.Decision{Verdict: residency.Refused}
	if len(f.refused) > 0 {
		d = f.refused[0]
		detail += ": " + d.Reason
		if d.Layer != "" && d.Layer != residency.OriginJob {
			detail += " (by " + layerWords(d.Layer) + " " + d.Tag + ")"
		}
	}
	return problemOfDecision(d, detail, see)
}

// layerWords says whose tag a layer is.
func layerWords(o residency.Origin) string {
	switch o {
	case residency.OriginExport, residency.OriginImport:
		return "the " + string(o) + " rule"
	}
	return "the " + string(o) + "'s tag"
}

// problemOfDecision is what a decision that does not permit is told as: not
// lawful is final, not known may be asked again once more is known.
func problemOfDecision(d residency.Decision, detail, hint string) *Problem {
	status := http.StatusForbidden
	if d.Verdict == residency.Unknown {
		status = http.StatusServiceUnavailable
	}
	p := newProblem(status, d.Code(), detail, hint).final()
	p.Rule = d.Rule
	if status == http.StatusServiceUnavailable {
		p.retry(MaxRetryAfter)
	}
	return p
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
