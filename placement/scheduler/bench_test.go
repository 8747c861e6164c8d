package scheduler

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// bigRegion is 10,000 nodes, three in four with eight GPUs, and 1,000 jobs in
// the given number of classes.
func bigRegion(classes int) placement.Snapshot {
	var nodes []*placement.Node
	for i := range 10_000 {
		n := node(fmt.Sprintf("n%05d", i), used(placement.MilliCPU(i%7)*1000, 0))
		if i%4 != 0 {
			gpus(8, h100, 80*placement.GiB)(n)
			for d := range i % 8 {
				n.Used.Devices = append(n.Used.Devices, n.Inventory.Devices[d].UUID)
			}
		}
		nodes = append(nodes, n)
	}
	var jobs []*placement.Job
	for i := range 1000 {
		ask := placement.Resources{CPU: placement.MilliCPU(100 + i%classes), GPUs: i % classes % 3}
		jobs = append(jobs, job(fmt.Sprintf("j%04d", i), asks(ask)))
	}
	return world(nodes, jobs...)
}

func BenchmarkPlan(b *testing.B) {
	for _, classes := range []int{1, 20, 1000} {
		b.Run(fmt.Sprintf("nodes=10000/wanted=1000/classes=%d", classes), func(b *testing.B) {
			s := bigRegion(classes)
			for b.Loop() {
				if d := Plan(s); len(d.Assign) != 1000 {
					b.Fatalf("%d of 1000 placed", len(d.Assign))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000/1000, "µs/decision")
		})
	}
}

// BenchmarkPlans is what a plan costs a scheduler that lives across them: half of
// what it gave away was committed since the last one.
func BenchmarkPlans(b *testing.B) {
	for _, classes := range []int{1, 20} {
		b.Run(fmt.Sprintf("nodes=10000/wanted=1000/classes=%d", classes), func(b *testing.B) {
			lives, s := New(), bigRegion(classes)
			d := lives.Plan(s)
			for b.Loop() {
				b.StopTimer()
				taken := map[placement.NodeID]bool{}
				for _, a := range d.Assign[:500] {
					taken[a.Node] = true
				}
				s.Nodes = slices.Clone(s.Nodes)
				for i, n := range s.Nodes {
					if taken[n.ID] {
						next := *n
						next.Used.Tasks++
						s.Nodes[i] = &next
					}
				}
				b.StartTimer()
				if d = lives.Plan(s); len(d.Assign) != 1000 {
					b.Fatalf("%d of 1000 placed", len(d.Assign))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000/1000, "µs/decision")
		})
	}
}

// crowd is a full region of 1,000 nodes for which so many jobs of 200 tenants wait,
// in 20 classes; one in fifty has waited too long.
func crowd(jobs int) placement.Snapshot {
	var nodes []*placement.Node
	for i := range 1000 {
		n := node(fmt.Sprintf("n%04d", i), gpus(8, h100, 80*placement.GiB))
		full := placement.Usage{CPU: 1000, Tasks: 1}
		for d := range 8 {
			full.Devices = append(full.Devices, n.Inventory.Devices[d].UUID)
		}
		n.Used = full
		nodes = append(nodes, n)
	}
	var wanted []*placement.Job
	for i := range jobs {
		wait := time.Duration(i%50) * time.Second
		if i%50 == 0 {
			wait = 2 * placement.AgedAfter
		}
		wanted = append(wanted, job(fmt.Sprintf("j%06d", i), by(fmt.Sprintf("t%03d", i%200)), urgent(i%3), waits(wait),
			asks(placement.Resources{CPU: placement.MilliCPU(100 + i%20), GPUs: 1 + i%8})))
	}
	return world(nodes, wanted...)
}

// BenchmarkQueue is one plan for which nobody has room, by how many wait: what the
// state shows of its queue at once (4,096), and all of a queue that is full.
func BenchmarkQueue(b *testing.B) {
	for _, wanted := range []int{4096, 100_000} {
		b.Run(fmt.Sprintf("nodes=1000/wanted=%d", wanted), func(b *testing.B) {
			s := crowd(wanted)
			lives := New()
			b.ReportAllocs()
			for b.Loop() {
				if d := lives.Plan(s); len(d.Refused) != wanted {
					b.Fatalf("%d of %d refused", len(d.Refused), wanted)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(wanted), "ns/job")
		})
	}
}

// What a plan takes grows with the jobs that wait by what it says of each, and by
// nothing else: no job costs a look at the nodes of its own.
func TestAPlanOfALongQueueIsBounded(t *testing.T) {
	few, many := crowd(2000), crowd(8000)
	cost := func(s placement.Snapshot) float64 {
		return testing.AllocsPerRun(1, func() { New().Plan(s) })
	}
	if a, b := cost(few), cost(many); b-a > 6000*20 {
		t.Errorf("2,000 jobs cost %.0f allocations, 8,000 cost %.0f: %.1f for each more", a, b, (b-a)/6000)
	}
}

// BenchmarkExplainQueue is what one job of a long queue is told, and a page of such.
func BenchmarkExplainQueue(b *testing.B) {
	s := crowd(3000)
	for _, jobs := range []int{1, 16} {
		b.Run(fmt.Sprintf("nodes=1000/wanted=3000/asked=%d", jobs), func(b *testing.B) {
			for b.Loop() {
				x := NewExplainer(s)
				for _, j := range s.Wanted[:jobs] {
					if e := x.Explain(j); e.Outcome != Full {
						b.Fatal(e.Outcome)
					}
				}
			}
		})
	}
}

// Jobs that are explained together are told what each would be told alone, and the
// queue is planned once for all of them.
func TestAPageOfJobsPlansTheQueueOnce(t *testing.T) {
	s := crowd(2000)
	page := s.Wanted[:16]
	x := NewExplainer(s)
	for _, j := range page {
		if got, want := x.Explain(j), Explain(s, j); !reflect.DeepEqual(got, want) {
			t.Fatalf("%s is told %+v, alone %+v", j.ID, got, want)
		}
	}
	cost := func(jobs []*placement.Job) float64 {
		return testing.AllocsPerRun(1, func() {
			x := NewExplainer(s)
			for _, j := range jobs {
				x.Explain(j)
			}
		})
	}
	if one, all := cost(page[:1]), cost(page); all > 2*one {
		t.Errorf("one costs %.0f allocations, %d cost %.0f", one, len(page), all)
	}
}

func BenchmarkExplain(b *testing.B) {
	s := bigRegion(1)
	j := job("a", asks(placement.Resources{GPUs: 16}))
	for b.Loop() {
		if e := Explain(s, j); e.Outcome != Impossible {
			b.Fatal(e.Outcome)
		}
	}
}
