package scheduler

import (
	"cmp"
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
	classes := make(map[deviceClass]*capacity)
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
	for _, class := range slices.SortedFunc(maps.Keys(classes), compareClasses) {
		out.Classes = append(out.Classes, classes[class].summary(class, facts.Previous))
	}
	return out
}

// deviceClass is what a summary counts apart: model (or [ClassCPU]), MIG profile
// and confidential-computing mode.
type deviceClass struct {
	model, profile string
	confidential   bool
}

func classOf(d *placement.Device) deviceClass {
	return deviceClass{d.Model, d.Profile, d.Confidential}
}

func compareClasses(a, b deviceClass) int {
	mode := func(c deviceClass) int {
		if c.confidential {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.model, b.model), cmp.Compare(a.profile, b.profile), cmp.Compare(mode(a), mode(b)))
}

// capacity adds a class up.
type capacity struct{ nodes, free, largest int }

// freeByClass is what a node has wholly free of every class that it has.
func freeByClass(n *placement.Node) map[deviceClass]int {
	out := map[deviceClass]int{{model: ClassCPU}: int(max(0, n.Inventory.CPU-n.Used.CPU) / 1000)}
	for i := range n.Inventory.Devices {
		if d := &n.Inventory.Devices[i]; !d.Partitioned {
			out[classOf(d)] += 0
		}
	}
	for _, d := range n.FreeDevices() {
		out[classOf(&d)]++
	}
	return out
}

func (c *capacity) summary(class deviceClass, previous *placement.RegionSummary) placement.ClassSummary {
	out := placement.ClassSummary{Class: class.model, Profile: class.profile, Confidential: class.confidential}
	if c.nodes < withheldBelow {
		out.Withheld = true
		return out
	}
	out.Free, out.Largest = placement.BucketOf(c.free), placement.BucketOf(c.largest)
	if previous == nil {
		return out
	}
	same := func(s placement.ClassSummary) bool { return deviceClass{s.Class, s.Profile, s.Confidential} == class }
	if i := slices.IndexFunc(previous.Classes, same); i >= 0 && !previous.Classes[i].Withheld {
		out.Free, out.Largest = sticky(c.free, previous.Classes[i].Free), sticky(c.largest, previous.Classes[i].Largest)
	}
	return out
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
