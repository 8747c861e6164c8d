package simulate

import (
	"fmt"
	"hash/fnv"
)

// RegionRule is how regions and tags, which no trace has, are added. Jobs bound
// to the EU ask for nine tenths of its half of the cluster: with much less,
// nothing would be scarce there.
const RegionRule = `region of a node: its index, by name, within the nodes of equal model, GPU count
and processor, mod N; the first half of the regions lies in the EU.
tag of a job: h = FNV-1a (64 bit) of its name; h mod 100 < 45: EU only; else
anywhere. Its tenant is h/10000 mod 8.`

// RegionsMax is how many regions a replay may have.
const RegionsMax = 64

// The groups of jobs by what binds them.
const (
	BoundNowhere = "any"
	BoundEU      = "eu"
)

// Bound is where the law lets a job run.
type Bound struct {
	Tag     string // any or eu
	Tenant  string
	Regions uint64 // bit i: region i
}

// RegionName is how the log calls a region.
func RegionName(i int) string { return fmt.Sprintf("region-%d", i) }

// Place gives machines, which are sorted by name, their regions and jobs their
// tags, by [RegionRule]; with one region everything is there, and nothing is
// bound.
func Place(machines []Machine, jobs []Job, regions int) {
	type alike struct {
		model string
		gpus  int
		cpu   int64
	}
	dealt := make(map[alike]int)
	for i := range machines {
		m := &machines[i]
		group := alike{m.Model, m.GPUs, m.CPU}
		m.Region = dealt[group] % regions
		dealt[group]++
	}
	for i := range jobs {
		jobs[i].Bound = boundOf(jobs[i].Name, regions)
	}
}

func boundOf(name string, regions int) Bound {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // a hash takes everything
	sum := h.Sum64()
	all := uint64(1)<<regions - 1
	b := Bound{Tag: BoundNowhere, Regions: all, Tenant: fmt.Sprintf("tenant-%d", sum/10000%8)}
	if regions < 2 {
		return b
	}
	if sum%100 < 45 {
		b.Tag, b.Regions = BoundEU, uint64(1)<<((regions+1)/2)-1
	}
	return b
}
