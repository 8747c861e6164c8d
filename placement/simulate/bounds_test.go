package simulate

import (
	"context"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/sovmesh/sovmesh/placement/engine"
)

// traceOr is a trace of openb named by [tracesEnv], or our own small one, over
// four regions.
func traceOr(b *testing.B, jobs string) ([]Machine, []Job) {
	dir := os.Getenv(tracesEnv)
	if dir == "" {
		return small(b, 4)
	}
	machines := readTrace(b, dir, "openb_node_list_gpu_node.csv.gz", ReadMachines)
	list := readTrace(b, dir, jobs, func(r io.Reader, name string) ([]Job, error) { return ReadJobs(r, name, machines, false) })
	Place(machines, list, 4)
	return machines, list
}

// alone is a cluster that nobody uses but the jobs of one tag.
type alone struct{ placer }

func (p alone) learn(j *Job) {
	if j.Tag == BoundEU {
		p.placer.learn(j)
	}
}

func (p alone) refused(j *Job) {
	if j.Tag == BoundEU {
		p.placer.refused(j)
	}
}

func (p alone) decide(j *Job) (place, bool) {
	if j.Tag != BoundEU {
		return place{}, false
	}
	return p.placer.decide(j)
}

// elsewhere sends who may run anywhere to the regions outside the EU while
// there is any room for it.
type elsewhere struct{ *ours }

func (p elsewhere) decide(j *Job) (place, bool) {
	if j.Tag != BoundEU {
		d := p.demands[j.Name]
		d.Zones = engine.SetOf(2, 3)
		if at, ok := p.cluster.Decide(d); ok {
			return place{node: at.Node, gpus: at.Devices, cost: at.Cost}, ok
		}
	}
	return p.ours.decide(j)
}

// fluid is no placement but what the best one could hope for: only jobs for
// exactly one model exist, nodes have no walls, and who may run anywhere takes
// the EU's devices only once no others are left. What the EU's jobs are refused
// here is refused by whoever turns nobody away that fits, unless the walls
// between nodes happen to keep out others and not them.
func fluid(machines []Machine, jobs []Job, arrivals []int, most int64) float64 {
	left := make(map[string][2]int64) // by model: in the EU, elsewhere
	for _, m := range machines {
		at := left[m.Model]
		at[m.Region/2] += int64(m.GPUs) * 1000
		left[m.Model] = at
	}
	asked, refused, all := int64(0), int64(0), int64(0)
	for _, i := range arrivals {
		j := &jobs[i]
		eu := j.Tag == BoundEU
		if all += j.amount(); eu {
			asked += j.amount()
		}
		if len(j.Models) == 1 {
			at := left[j.Models[0]]
			switch {
			case !eu && at[1] >= j.amount():
				at[1] -= j.amount()
			case at[0] >= j.amount():
				at[0] -= j.amount()
			case eu:
				refused += j.amount()
			}
			left[j.Models[0]] = at
		}
		if all >= most {
			break
		}
	}
	return float64(refused) / float64(max(asked, 1))
}

// BenchmarkBounds tells how far any price by jurisdiction could go: the share of
// the EU-only demand that is refused when 95 % of the GPUs were asked for,
// medians of ten seeds, with the reach (half of what it is without that price)
// beside bounds and oracles. See DESIGN.md.
func BenchmarkBounds(b *testing.B) {
	for _, list := range []string{"default", "gpuspec33"} {
		b.Run(list, func(b *testing.B) {
			machines, jobs := traceOr(b, "openb_pod_list_"+list+".csv.gz")
			for b.Loop() {
				benchBounds(b, machines, jobs)
			}
		})
	}
}

func benchBounds(b *testing.B, machines []Machine, jobs []Job) {
	found := make(map[string][]float64)
	for seed := uint64(42); seed < 52; seed++ {
		share := func(name, policy string, wrap func(*ours) placer) {
			o := Options{Policy: policy, Seed: seed, Demand: 0.96}
			p, err := newPlacer(o, machines, jobs)
			if err != nil {
				b.Fatal(err)
			}
			r := &run{o: o, machines: machines, jobs: jobs, placer: wrap(p.(*ours)), tally: newTally()}
			for _, m := range machines {
				r.capacity += int64(m.GPUs) * 1000
			}
			if err := r.fill(context.Background()); err != nil {
				b.Fatal(err)
			}
			at := slices.IndexFunc(r.out.Marks, func(m Mark) bool { return m.Demand == 0.95 })
			if at < 0 {
				b.Fatal("95 % of the GPUs were never asked for")
			}
			group := slices.IndexFunc(r.out.Marks[at].Rejected, func(g Group) bool { return g.Tag == BoundEU })
			found[name] = append(found[name], r.out.Marks[at].Rejected[group].Share())
			if policy == PolicyNoJurisdiction {
				order := workload(jobs, r.capacity, 0.96, seed)
				found["fluid"] = append(found["fluid"], fluid(machines, jobs, order, int64(0.95*float64(r.capacity))))
			}
		}
		share("without", PolicyNoJurisdiction, func(p *ours) placer { return p })
		share("with", PolicySovmesh, func(p *ours) placer { return p })
		share("elsewhere-first", PolicySovmesh, func(p *ours) placer { return elsewhere{p} })
		share("alone", PolicySovmesh, func(p *ours) placer { return alone{p} })
	}
	found["reach"] = []float64{Median(found["without"]) / 2}
	for _, name := range []string{"without", "reach", "with", "elsewhere-first", "alone", "fluid"} {
		b.ReportMetric(100*Median(found[name]), "%-"+name)
	}
}
