package scheduler

import (
	"slices"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// wishes are what a job rather has of the lawful nodes, and whom it keeps away
// from: near and rank order nodes, avoid takes some away. Classes that differ in
// them differ.
type wishes struct {
	near string
	rank placement.Rank
	// alone is the job, if some other job of its tenant must not stand beside it:
	// then nobody shares its class.
	alone placement.JobID
}

func (p *planner) wishes(job *placement.Job) wishes {
	w := wishes{near: strings.Join(job.Spec.Near, "\x00"), rank: job.Spec.Rank}
	if len(job.Spec.Avoid) > 0 || len(p.apart(job)) > 0 {
		w.alone = job.ID
	}
	return w
}

// apart are the nodes that hold a job which this one must not stand beside, as
// the snapshot shows them and as this plan has placed them.
func (p *planner) apart(job *placement.Job) (out []placement.NodeID) {
	if !p.avoiding {
		return nil
	}
	if p.s.Apart != nil {
		out = p.s.Apart(job)
	}
	for _, a := range p.named {
		other := p.s.Jobs[a.Job]
		if other != nil && (avoids(job, other) || avoids(other, job)) {
			out = append(out, a.Node)
		}
	}
	return out
}

// keepApart takes from a class of one job the nodes that it must not share.
func (c *class) keepApart(job *placement.Job) {
	if c.alone == "" {
		return
	}
	g := *c.group
	g.fixed = slices.Clone(g.fixed)
	for _, id := range c.p.apart(job) {
		if at := c.p.nodes[id]; at != nil {
			g.fixed[at.index] |= failBeside
		}
	}
	g.open = slices.DeleteFunc(slices.Clone(g.open), func(i int32) bool { return g.fixed[i] != 0 })
	c.group = &g
}

// The wish of a node is four bits below the tag's preference: not being near
// weighs more than whatever it costs.
const (
	wishFar   = 8
	wishCosts = 7
)

// wish rates every node by what the class rather has, 0 the best; nil if it
// wishes for nothing. It orders nodes and takes none away.
func (p *planner) wish(w wishes) []uint8 {
	if w.near == "" && w.rank == (placement.Rank{}) {
		return nil
	}
	out := make([]uint8, len(p.spaces))
	near := strings.Split(w.near, "\x00")
	cost, carbon := p.labels(placement.LabelCost), p.labels(placement.LabelCarbon)
	for i := range p.spaces {
		n := p.spaces[i].node
		if w.near != "" && !slices.ContainsFunc(near, func(place string) bool { return stands(n, place) }) {
			out[i] = wishFar
		}
		if sum := w.rank.Cost + w.rank.Carbon; sum > 0 {
			out[i] += uint8((w.rank.Cost*cost[i] + w.rank.Carbon*carbon[i]) * wishCosts / (sum * 1000))
		}
	}
	return out
}

// stands reports whether a node is at a site or has a label KEY=VALUE.
func stands(n *placement.Node, place string) bool {
	if key, value, label := strings.Cut(place, "="); label {
		return n.Inventory.Labels[key] == value && value != ""
	}
	return n.Site == place
}

// labels are the nodes' values of a label in thousandths of the highest; a node
// that says nothing counts as the highest.
func (p *planner) labels(name string) []int {
	out := make([]int, len(p.spaces))
	highest := 0
	for i := range p.spaces {
		v, err := strconv.ParseUint(p.spaces[i].node.Inventory.Labels[name], 10, 31)
		out[i] = int(v)
		if err != nil {
			out[i] = -1
		}
		highest = max(highest, out[i])
	}
	for i, v := range out {
		switch {
		case v < 0:
			out[i] = 1000
		case highest > 0:
			out[i] = int(int64(v) * 1000 / int64(highest))
		}
	}
	return out
}
