package scheduler

import (
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/engine"
)

// classKey is what makes two demands equal.
type classKey struct {
	groupKey
	res    placement.Resources
	tenant placement.TenantID
	size   int // members of a gang; 1
	wishes
	barred string        // classes of devices of which the tenant holds all that it may
	lasts  time.Duration // what it takes at the most, while room may be kept; 0 if nobody knows
}

// groupKey is the part of a demand that the fixed filters look at.
type groupKey struct {
	layers string
	kind   placement.Kind
	server placement.Kind // of the model server that the job brings; empty for none
	site   string
	node   placement.NodeID
	dns    string // the resolvers that its tasks ask, sorted, with spaces between them
}

// resolversOf are those that a job's tasks ask.
func resolversOf(job *placement.Job) string {
	s := job.Spec.Setup
	if s == nil || s.Network == nil || len(s.Network.DNS) == 0 {
		return ""
	}
	all := make([]string, 0, len(s.Network.DNS))
	for _, text := range s.Network.DNS {
		all = append(all, placement.CanonicalResolver(text))
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), " ")
}

// resolves reports whether tasks on a node may be let ask all of them.
func (k *groupKey) resolves(n *placement.Node) bool {
	for _, one := range strings.Fields(k.dns) {
		if !slices.Contains(n.Inventory.Resolvers, one) {
			return false
		}
	}
	return true
}

// driver names what a node has to be able to run.
func (k *groupKey) driver() string {
	if k.server != "" {
		return string(k.kind) + " and " + string(k.server)
	}
	return string(k.kind)
}

// group is what classes share whose fixed filters are the same: they run once
// per node.
type group struct {
	policy *policy
	fixed  []faults // by node
	prefer []uint8  // by number of the site
	open   []int32  // the nodes that pass
}

func (p *planner) group(key classKey, layers []placement.Layer) *group {
	if g, ok := p.groups[key.groupKey]; ok {
		return g
	}
	g := &group{policy: p.court.policy(layers), fixed: make([]faults, len(p.spaces))}
	p.groups[key.groupKey] = g
	verdicts := make([]*verdict, len(p.mind.sites))
	for i, site := range p.mind.sites {
		verdicts[i] = g.policy.at(site)
		g.prefer = append(g.prefer, verdicts[i].prefer)
	}
	drives := make([]bool, len(p.mind.drivers))
	for i, list := range p.mind.drivers {
		// A driver has its kind's name.
		drives[i] = slices.Contains(list, string(key.kind)) && (key.server == "" || slices.Contains(list, string(key.server)))
	}
	for i := range p.spaces {
		at := &p.spaces[i]
		g.fixed[i] = key.filter(at.node, verdicts[at.site], drives[at.drivers])
		if g.fixed[i] == 0 {
			g.open = append(g.open, int32(i))
		}
	}
	return g
}

// class is all demands that are equal: the filters run once for it.
type class struct {
	classKey
	*group
	p          *planner
	fits       []fit   // what each shape satisfies
	neighbours []int32 // the tenant's tasks by node
	wished     []uint8 // how far each node is from what it rather has

	scanned bool    // a linear scan served it once; the second demand builds the index
	built   bool    // the index holds every node that fits
	full    bool    // no node fits, and within a plan none will again
	index   entries // best first; entries of an old version are dropped when met
	seen    int     // how much of planner.log the index knows

	rated bool
	rates *engine.Rater // nil if the engine has no opinion
	known []uint16      // by number of a node's state: its cost and 1, 0 if it was not rated yet

	told *Explanation
}

// class finds the class of a job's demand.
func (p *planner) class(job *placement.Job) *class { return p.classBut(job, "") }

// classBut is that class without the devices that are barred to its tenant.
func (p *planner) classBut(job *placement.Job, barred string) *class {
	key := classKey{
		groupKey: groupKey{policyKey(job.Policy), job.Kind, job.Spec.ServerKind(), job.Spec.Site, job.Spec.NodeName, resolversOf(job)},
		res:      job.Spec.Resources, tenant: job.Tenant, size: job.Spec.Size(), barred: barred, wishes: p.wishes(job),
	}
	if p.promises {
		key.lasts = job.Spec.Lasts()
	}
	if c, ok := p.classes[key]; ok {
		return c
	}
	c := &class{classKey: key, p: p, group: p.group(key, job.Policy), neighbours: p.tenant(key.tenant)}
	c.wished = p.wish(c.wishes)
	c.keepApart(job)
	p.classes[key] = c
	return c
}

// score ranks a node for the class, least first: the tag's preference, then the
// job's wishes, then what the engine says that it costs. Of equal nodes the first
// takes a job with devices, which keeps whole nodes free; jobs without any go to
// the fuller node by eighths of its processor, then where the tenant and
// everybody has fewer tasks, so that what is about equally full shares the load.
func (c *class) score(at *space) uint64 {
	prefer := uint64(c.prefer[at.site]) << 4
	if c.wished != nil {
		prefer |= uint64(c.wished[at.index])
	}
	score := prefer<<scoreWish | c.cost(at)<<scoreCost
	if c.res.GPUs > 0 {
		return score
	}
	eighth := uint64(0)
	if at.total > 0 {
		eighth = uint64(max(0, at.cpu-c.res.CPU) * 8 / at.total)
	}
	tenant := uint64(c.neighbours[at.index])
	return score | min(eighth, 15)<<scoreCPU | min(tenant, 1<<16-1)<<scoreTenant | min(uint64(at.tasks), 1<<16-1)
}

// Where the parts of a score lie: 48 bits, 4 of wishes and 8 of the tag's
// preference above them fit an int64.
const (
	scoreTenant = 16
	scoreCPU    = 32
	scoreCost   = 36
	scoreWish   = 48
	scorePrefer = 52

	costMax = 1<<12 - 1
)
