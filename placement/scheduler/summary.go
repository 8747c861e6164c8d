package scheduler

import (
	"maps"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// ClassCPU is the class of a summary that counts whole cores; every other class
// is a device model.
const ClassCPU = "cpu"

// withheldBelow is how many nodes must have a class before a count of it may
// leave the region: a count of one names a machine and its tenant.
const withheldBelow = 3

// SummaryFacts are the parts of a summary that do not come from its nodes.
type SummaryFacts struct {
	Region  placement.RegionID
	Epoch   uint64 // coarse
	Now     time.Time
	TTL     time.Duration
	LawPack string
	Models  []string // model names that tenants export
	// Previous is the last summary sent, nil for none: a count near the edge
	// of a bucket keeps its old bucket, so that one job does not flip it.
	Previous *placement.RegionSummary
}

// Summarise is all that a region tells others about the capacity of its nodes.
// A class that fewer than three nodes have is withheld, whatever is free of it.
func Summarise(nodes []*placement.Node, facts SummaryFacts) placement.RegionSummary {
	classes := make(map[string]*capacity)
	draining := len(nodes) > 0
	for _, n := range nodes {
		draining = draining && n.State != placement.NodeReady
		for class, free := range freeByClass(n) {
			c := classes[class]
			if c == nil {
				c = new(capacity)
				classes[class] = c
			}
			c.nodes++
			if n.Offers() {
				c.free += free
				c.largest = max(c.largest, free)
			}
		}
	}
	out := placement.RegionSummary{
		Region: facts.Region, Epoch: facts.Epoch, LawPack: facts.LawPack,
		Generated: facts.Now, Expires: facts.Now.Add(facts.TTL),
		Classes: []placement.ClassSummary{}, Draining: draining,
		Models: slices.Compact(slices.Sorted(slices.Values(facts.Models))),
	}
	for _, class := range slices.Sorted(maps.Keys(classes)) {
		out.Classes = append(out.Classes, classes[class].summary(class, facts.Previous))
	}
	return out
}

// capacity adds a class up.
type capacity struct{ nodes, free, largest int }

// freeByClass is what a node has free of every class that it has.
func freeByClass(n *placement.Node) map[string]int {
	out := map[string]int{ClassCPU: int(max(0, n.Inventory.CPU-n.Used.CPU) / 1000)}
	for _, d := range n.Inventory.Devices {
		out[d.Model] += 0
	}
	for _, d := range n.FreeDevices() {
		out[d.Model]++
	}
	return out
}

func (c *capacity) summary(class string, previous *placement.RegionSummary) placement.ClassSummary {
	if c.nodes < withheldBelow {
		return placement.ClassSummary{Class: class, Withheld: true}
	}
	var old placement.ClassSummary
	known := false
	if previous != nil {
		if i := slices.IndexFunc(previous.Classes, func(s placement.ClassSummary) bool { return s.Class == class }); i >= 0 {
			old, known = previous.Classes[i], !previous.Classes[i].Withheld
		}
	}
	if !known {
		return placement.ClassSummary{Class: class, Free: placement.BucketOf(c.free), Largest: placement.BucketOf(c.largest)}
	}
	return placement.ClassSummary{Class: class, Free: sticky(c.free, old.Free), Largest: sticky(c.largest, old.Largest)}
}

// sticky keeps the old bucket while the count is within a quarter of its
// edges. None and some are never mixed up.
func sticky(n int, old placement.Bucket) placement.Bucket {
	if n == 0 || old == 0 {
		return placement.BucketOf(n)
	}
	low, high := int(old)*3/4, int(old)*4*5/4
	if old == 256 {
		high = n + 1
	}
	if n >= max(1, low) && n < high {
		return old
	}
	return placement.BucketOf(n)
}
