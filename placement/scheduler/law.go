package scheduler

import (
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// partitionMax is how long a service's node may be silent before a second copy
// starts, when the tag's on_change.partition.max says nothing.
const partitionMax = 60 * time.Second

// court reads policies and judges sites for one snapshot; every policy is
// read once, every (policy, site) judged once.
type court struct {
	self *placement.Region // its facts
	pack *residency.Pack
	on   residency.Date
	held map[string]*policy
}

// policy is an effective policy with what was judged under it.
type policy struct {
	c       *court
	read    residency.Policy
	prefer  []residency.Policy // one for each entry of the tag's list, in order
	patient time.Duration      // on_change.partition.max
	tag     string             // canonical short form of its first layer
	fault   error              // a layer that cannot be read: nothing is lawful
	sites   map[string]*verdict
}

// verdict is what the law says of one site of this region.
type verdict struct {
	constraint Constraint // none when permitted
	rule       string
	reason     string
	prefer     uint8 // place in the tag's list of preferences, least first
}

func newCourt(s *placement.Snapshot) *court {
	return &court{
		self: &placement.Region{ID: s.Region, Facts: s.Facts, Self: true}, pack: s.Pack,
		on:   residency.DateOf(s.Now),
		held: make(map[string]*policy),
	}
}

// policyKey is equal for jobs whose layers say the same.
func policyKey(layers []placement.Layer) string {
	if len(layers) == 1 {
		return layers[0].Tag
	}
	var b strings.Builder
	for _, l := range layers {
		b.WriteString(string(l.Origin))
		b.WriteByte('=')
		b.WriteString(l.Tag)
		b.WriteByte(' ')
	}
	return b.String()
}

// policy reads a job's layers. A layer that cannot be read makes every place
// unlawful: the API refused such a job, so only a changed law pack leads here.
func (c *court) policy(layers []placement.Layer) *policy {
	key := policyKey(layers)
	if p, ok := c.held[key]; ok {
		return p
	}
	p := &policy{c: c, patient: partitionMax, sites: make(map[string]*verdict)}
	c.held[key] = p
	parts := make([]residency.Layer, 0, len(layers))
	limited := false
	if c.pack == nil {
		return p
	}
	for _, l := range layers {
		tag, err := residency.ParseWire(l.Tag, c.pack, c.on)
		if err != nil {
			p.fault = err
			return p
		}
		parts = append(parts, residency.Layer{Origin: l.Origin, Tag: tag})
		if p.tag == "" {
			p.tag = tag.Canonical()
		}
		long := tag.Long()
		if part := long.OnChange.Partition; part != nil && part.Max > 0 && (!limited || part.Max < p.patient) {
			p.patient, limited = part.Max, true
		}
		if len(p.prefer) == 0 {
			p.prefer = c.preferences(long.Prefer)
		}
	}
	// A tag's scope may narrow where it is computed further than the tag does.
	p.read = residency.NewPolicy(parts...).ForScope("compute")
	return p
}

// preferences reads the entries of a tag's prefer list; an entry that cannot
// be read prefers nothing.
func (c *court) preferences(list []string) []residency.Policy {
	var out []residency.Policy
	for _, word := range list {
		tag, err := residency.ParseWire(word, c.pack, c.on)
		if err != nil {
			continue
		}
		out = append(out, residency.NewPolicy(residency.Layer{Tag: tag}))
	}
	return out
}

// at judges a site of this region; the empty site is the region as a whole.
func (p *policy) at(site string) *verdict {
	if v, ok := p.sites[site]; ok {
		return v
	}
	v := p.c.judge(p, site)
	p.sites[site] = v
	return v
}

// law is by what the court judges.
func (c *court) law() placement.Law { return placement.Law{Pack: c.pack, On: c.on} }

// judge asks the one function of the law about a site of this region. What came
// from another region has the rules of that border among its layers already.
func (c *court) judge(p *policy, site string) *verdict {
	if p.fault != nil {
		return &verdict{constraint: ResidencyUnknown, rule: "law.unknown", reason: p.fault.Error()}
	}
	d := placement.Crossing{Policy: p.read, To: c.self, Site: site, Law: c.law()}.Judge()
	v := &verdict{rule: d.Rule, reason: d.Reason}
	switch d.Verdict {
	case residency.Permitted:
		v.prefer = c.preference(p.prefer, c.self, site)
	case residency.Refused:
		v.constraint = ResidencyRefused
	default:
		v.constraint = ResidencyUnknown
	}
	return v
}

// preference is the place's rank in a prefer list; what the list does not name
// comes last.
func (c *court) preference(list []residency.Policy, to *placement.Region, site string) uint8 {
	for i, one := range list {
		if r := (placement.Crossing{Policy: one, To: to, Site: site, Law: c.law()}).Judge(); r.Permitted() {
			return uint8(min(i, 254))
		}
	}
	if len(list) == 0 {
		return 0
	}
	return 255
}

// why is the record of a decision under this policy.
func (p *policy) why(site string) placement.Why {
	return placement.Why{Rule: p.at(site).rule, LawPack: p.c.packHash(), On: p.c.on.String()}
}

// packHash is empty for a region that holds no pack, where nothing is lawful.
func (c *court) packHash() string {
	if c.pack == nil {
		return ""
	}
	return c.pack.Hash()
}
