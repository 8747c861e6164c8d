package scheduler

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// lossPer10s is how many tenths of the free capacity told are reckoned lost
// for every second of a summary's age: lambda of p = min(1, free/(1+lambda*age)).
const lossPer10s = 1

// Prospect is what a summary says of a job's chance in a region.
type Prospect string

// The prospects. Only ProspectFull advises against asking; the destination
// alone decides.
const (
	ProspectLikely  Prospect = "likely"
	ProspectAsk     Prospect = "ask"     // withheld or not told: ask, it is not none
	ProspectUnknown Prospect = "unknown" // no summary that has not expired
	ProspectFull    Prospect = "full"    // told to have nothing that would do, or to be draining
)

// Candidate is a lawful region to ask for a place.
type Candidate struct {
	Region   placement.RegionID `json:"region"`
	Prospect Prospect           `json:"prospect"`
	Chance   int                `json:"chance"` // in thousandths, a guess
	prefer   uint8
}

// Foreign is a region that a job might be sent to: the crossing, by the facts
// pinned for it, and what it last told, nil for nothing.
type Foreign struct {
	placement.Crossing
	Summary *placement.RegionSummary
}

// Rank orders the regions that a job may lawfully run in, best first; one whose
// verdict is refused or unknown is left out. The first place is the better of
// two drawn by the job's id from the best few, so that not everybody runs to the
// same region.
func Rank(job *placement.Job, asked []Foreign, now time.Time) []Candidate {
	var out []Candidate
	var c *court
	var prefer []residency.Policy
	for i := range asked {
		at := &asked[i]
		if r := at.Judge(); !r.Permitted() {
			continue
		}
		if c == nil {
			c = &court{pack: at.Law.Pack, on: at.Law.On, held: make(map[string]*policy)}
			prefer = c.policy(job.Policy).prefer
		}
		one := Candidate{Region: at.To.ID, prefer: c.preference(prefer, at.To, "")}
		one.Prospect, one.Chance = prospect(job, at.Summary, now)
		out = append(out, one)
	}
	slices.SortFunc(out, compareCandidates)
	drawFirst(out, job.ID)
	return out
}

// compareCandidates: the full ones last, then the tag's preference, then chance.
func compareCandidates(a, b Candidate) int {
	full := func(c Candidate) int {
		if c.Prospect == ProspectFull {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(full(a), full(b)), cmp.Compare(a.prefer, b.prefer),
		cmp.Compare(b.Chance, a.Chance), cmp.Compare(a.Region, b.Region))
}

// drawFirst moves the better of two, drawn from the (at most four) best that
// are about equal, to the front.
func drawFirst(list []Candidate, job placement.JobID) {
	few := 0
	for few < min(4, len(list)) && list[few].prefer == list[0].prefer &&
		list[few].Prospect != ProspectFull && list[few].Chance*2 >= list[0].Chance {
		few++
	}
	if few < 2 {
		return
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(job))
	sum := h.Sum64()
	i := int(sum % uint64(few))
	j := int(sum / uint64(few) % uint64(few-1))
	if j >= i {
		j++
	}
	// The better has the higher chance; between equals, the one drawn first.
	best := i
	if list[j].Chance > list[i].Chance {
		best = j
	}
	chosen := list[best]
	copy(list[1:best+1], list[:best])
	list[0] = chosen
}

// prospect reads a summary for a job.
func prospect(job *placement.Job, s *placement.RegionSummary, now time.Time) (Prospect, int) {
	if s == nil || !now.Before(s.Expires) {
		return ProspectUnknown, unknownChance
	}
	if s.Draining {
		return ProspectFull, 0
	}
	need, free, largest, told := demandIn(job.Spec.Resources, s.Classes)
	switch {
	case !told, job.Spec.Resources.GPUShare > 0 && free == 0:
		return ProspectAsk, askChance // parts of devices are not told
	// The top of a bucket is just below the next one.
	case free == 0, largest < 256 && largest*4 <= need:
		return ProspectFull, 0
	}
	age := max(0, int(now.Sub(s.Generated)/time.Second))
	chance := free * 1000 / need * 10 / (10 + lossPer10s*age)
	if largest < need {
		chance /= 2 // the bucket may or may not hold a hole that large
	}
	return ProspectLikely, min(1000, chance)
}

// What is reckoned for regions that say nothing, in thousandths.
const (
	askChance     = 400
	unknownChance = 100
)

// demandIn finds what a job needs in a summary: devices of its model, or whole
// cores. told is false when the classes that count are withheld or missing.
func demandIn(r placement.Resources, classes []placement.ClassSummary) (need, free, largest int, told bool) {
	need = max(1, r.GPUs)
	if r.GPUs == 0 {
		need = max(1, int((r.CPU+999)/1000))
	}
	for _, c := range classes {
		if !counts(r, &c) {
			continue
		}
		if c.Withheld {
			return need, 0, 0, false
		}
		told = true
		free += int(c.Free)
		largest = max(largest, int(c.Largest))
	}
	return need, free, largest, told
}

// counts reports whether a class of a summary serves the request. How much
// memory its devices have is not told.
func counts(r placement.Resources, c *placement.ClassSummary) bool {
	if r.GPUs == 0 || c.Class == ClassCPU {
		return r.GPUs == 0 && c.Class == ClassCPU
	}
	r.GPUMemory = 0
	return (&placement.Device{Model: c.Class, Profile: c.Profile, Confidential: c.Confidential}).Matches(r)
}
