package state

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Bounds of a policy, so that a leaf that quotes it always fits a log entry.
const (
	maxLayers = 12
	maxTag    = 6 << 10  // wire form, bytes
	maxPolicy = 32 << 10 // all layers together
)

// PolicyOf is a job's effective policy under the active law pack, read for the
// day of ledger time.
func (v *View) PolicyOf(job *placement.Job) (residency.Policy, error) {
	p, err := v.policies.read(job.Policy, v.Pack(), residency.DateOf(v.Clock))
	if err != nil {
		return residency.Policy{}, err
	}
	return p.policy, nil
}

// Facts are what the ledger says of the place where a node stands.
func (v *View) Facts(n *placement.Node) residency.Site { return v.self.Facts.Site(v.self.ID, n.Site) }

// Law is by what this region judges a crossing on a day: its active pack, the
// packs that it holds, and policies as read before.
func (v *View) Law(on residency.Date) placement.Law {
	return placement.Law{
		Pack: v.Pack(), Held: v.PackByHash, On: on,
		Read: func(layers []placement.Layer) (residency.Policy, error) {
			p, err := v.policies.read(layers, v.Pack(), on)
			if err != nil {
				return residency.Policy{}, err
			}
			return p.policy, nil
		},
	}
}

// admit judges whether a policy may be held at all: readable, not empty, of
// known names, ANY only with its permission, not excluding itself.
func (s *State) admit(c *call, layers []placement.Layer, allowAny bool) (*policyRead, *Refused) {
	on := residency.DateOf(c.now)
	if refused := checkLayers(layers); refused != nil {
		return nil, refused
	}
	p, err := s.policies.read(layers, s.Pack(), on)
	if err != nil {
		return nil, refusedBy(err)
	}
	if p.policy.IsZero() {
		return nil, refuse("tag.empty", "give the job a residency tag, for example EEA", "no residency tag was given")
	}
	refused := s.admissible(p, allowAny)
	d := residency.Decision{Verdict: residency.Permitted, Rule: "tag.read", Pack: s.Active, On: on}
	if refused != nil {
		d.Verdict, d.Rule = residency.Refused, refused.Code
	}
	c.judged = []ledger.Judgement{judgement(p.policy.Canonical(), d, nil)}
	return p, refused
}

func checkLayers(layers []placement.Layer) *Refused {
	var size int
	for _, l := range layers {
		size += len(l.Tag)
		if !l.Origin.Known() {
			return refuse("tag.layer", "a layer is of job, token, tenant, export, dataset or import", "a layer of the policy comes from nobody known: %q", clip(string(l.Origin)))
		}
	}
	if len(layers) > maxLayers || size > maxPolicy {
		return refuse("tag.too-long", "name a group", "the policy has %d layers of %d bytes together", len(layers), size)
	}
	return nil
}

func (s *State) admissible(p *policyRead, allowAny bool) *Refused {
	if p.policy.UsesAny() && !allowAny {
		return refuse("residency.any", "name the places, or ask an administrator for a token with --allow-any", "the tag ANY needs a permission that this submitter does not have")
	}
	return p.never()
}

// conflictOf refuses a policy of which two layers surely leave nothing.
func conflictOf(p residency.Policy, pack *residency.Pack, on residency.Date) *Refused {
	a, b, empty := residency.Conflict(p, pack, on)
	if !empty {
		return nil
	}
	if a.Origin == b.Origin && a.Tag.Wire() == b.Tag.Wire() {
		return refuse("residency.never", "widen the tag", "the tag %q of the %s leaves no place", a.Tag.Canonical(), a.Origin)
	}
	return refuse("residency.never", "widen one of the two",
		"no place satisfies both the tag %q of the %s and the tag %q of the %s", a.Tag.Canonical(), a.Origin, b.Tag.Canonical(), b.Origin)
}

// unknownNames refuses names of regions and sites that nobody here knows.
func (s *State) unknownNames(p residency.Policy) *Refused {
	for _, l := range p.Layers() {
		regions, sites := l.Tag.Names()
		for _, name := range regions {
			if !s.regions.has(name) {
				return refuse("tag.unknown-place", "list the regions: sovmesh region list", "no region is called %q", name)
			}
		}
		for _, name := range sites {
			if !s.knowsSite(name) {
				return refuse("tag.unknown-place", "list the nodes with their sites: sovmesh node list", "no site of this region is called %q", name)
			}
		}
	}
	return nil
}

// knowsSite reports whether a node stands at the site. Sites of other regions
// are not known here: a tag that names one also names its region, where it is
// judged.
func (s *State) knowsSite(name string) (known bool) {
	s.nodes.ascend("", func(_ string, n *placement.Node) bool {
		known = strings.EqualFold(n.Site, name)
		return !known
	})
	return known
}

// judge asks whether a crossing is lawful, and notes every answer for the leaf.
func (s *State) judge(c *call, x placement.Crossing) *Refused {
	x.Law = s.Law(dateOf(c))
	r := x.Judge()
	tag := r.Policy.Canonical()
	for i := range r.Findings {
		c.judged = append(c.judged, judgement(tag, r.Findings[i].Decision, &r.Findings[i].Site))
	}
	return refusedBy(r.Err())
}

func judgement(tag string, d residency.Decision, site *residency.Site) ledger.Judgement {
	j := ledger.Judgement{Verdict: string(d.Verdict), Rule: d.Rule, Tag: tag, LawPack: d.Pack, On: d.On.String()}
	if site != nil {
		j.Facts = leafFacts(site)
	}
	return j
}

func leafFacts(site *residency.Site) *ledger.Facts {
	f := &ledger.Facts{
		Region: site.Region, Site: site.Site, Country: site.Country, Subdivision: site.Subdivision,
		Home: site.Operator.Home, Parent: site.Operator.Parent,
		Location: site.Assurance.Location, Operator: site.Assurance.Operator, AsOf: site.Assurance.AsOf,
	}
	for _, name := range slices.Sorted(maps.Keys(site.Claims)) {
		f.Claims = append(f.Claims, ledger.Claim{Name: name, Value: site.Claims[name]})
	}
	return f
}

// refusedBy is an error of residency as a refusal; nil for none.
func refusedBy(err error) *Refused {
	if err == nil {
		return nil
	}
	var r *residency.Refusal
	if errors.As(err, &r) {
		return &Refused{Code: r.Code(), Message: r.Error(), Advice: r.Hint(), Rule: r.Rule}
	}
	var e *residency.Error
	if errors.As(err, &e) {
		return &Refused{Code: e.Code, Message: e.Error(), Advice: e.Hint()}
	}
	return refuse("tag.syntax", "see: sovmesh residency explain TAG", "%v", err)
}

// policyRead is a policy as read under one pack for one day.
type policyRead struct {
	policy residency.Policy
	// never is why no place at all can satisfy it, nil if one might. It is found
	// out once, for the few who ask.
	never func() *Refused
}

// policyCache keeps policies as read: 100,000 jobs share a handful. What is in
// it never changes an answer.
type policyCache struct {
	mu    sync.Mutex
	known map[string]*policyRead
}

const maxCachedPolicies = 4096

func newPolicyCache() *policyCache { return &policyCache{known: map[string]*policyRead{}} }

func (pc *policyCache) read(layers []placement.Layer, pack *residency.Pack, on residency.Date) (*policyRead, error) {
	key := policyKey(layers, pack, on)
	pc.mu.Lock()
	p := pc.known[key]
	pc.mu.Unlock()
	if p != nil {
		return p, nil
	}
	policy, err := placement.ReadLayers(layers, pack, on)
	if err != nil {
		return nil, err
	}
	p = &policyRead{policy: policy, never: sync.OnceValue(func() *Refused { return conflictOf(policy, pack, on) })}
	pc.mu.Lock()
	defer pc.mu.Unlock()
	if len(pc.known) >= maxCachedPolicies {
		clear(pc.known)
	}
	pc.known[key] = p
	return p, nil
}

func policyKey(layers []placement.Layer, pack *residency.Pack, on residency.Date) string {
	key := make([]byte, 0, 128)
	key = append(key, pack.Hash()...)
	key = binary.BigEndian.AppendUint32(key, uint32(on))
	for _, l := range layers {
		key = append(key, 0)
		key = append(key, l.Origin...)
		key = append(key, 0)
		key = append(key, l.Tag...)
	}
	return string(key)
}
