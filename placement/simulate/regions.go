package simulate

import (
	"fmt"
	"hash/fnv"
)

// Regions and tags, which no trace has, are added by this rule.
//
// Machines: in the order of their names, the machines of equal model, number of
// GPUs and processor are dealt out over the regions: region = index within that
// group mod N. The first half of the regions (rounded up) lies in the EU.
//
// Jobs: h is the 64-bit FNV-1a hash of the job's name. h mod 100 below 30: the
// job may run in the EU only; 30 to 39: in region (h/100 mod N) only; else
// anywhere. Its tenant is tenant-(h/10000 mod 8).
const RegionRule = `region of a node: its index, by name, within the nodes of equal model, GPU count
and processor, mod N; the first half of the regions lies in the EU.
tag of a job: h = FNV-1a (64 bit) of its name; h mod 100 < 30: EU only; 30-39:
region h/100 mod N only; else anywhere. Its tenant is h/10000 mod 8.`

// RegionsMax is how many regions a replay may have.
const RegionsMax = 64

// The groups of jobs by what binds them.
const (
	BoundNowhere = "any"
	BoundEU      = "eu"
	BoundRegion  = "region"
)

// Bound is where the law lets a job run.
type Bound struct {
	Tag     string // any, eu or region
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
	switch sum % 100 / 10 {
	case 0, 1, 2:
		b.Tag, b.Regions = BoundEU, uint64(1)<<((regions+1)/2)-1
	case 3:
		b.Tag, b.Regions = BoundRegion, 1<<(sum/100%uint64(regions))
	}
	return b
}
