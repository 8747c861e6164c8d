package scheduler

import (
	"fmt"
	"slices"
	"testing"

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

func BenchmarkExplain(b *testing.B) {
	s := bigRegion(1)
	j := job("a", asks(placement.Resources{GPUs: 16}))
	for b.Loop() {
		if e := Explain(s, j); e.Outcome != Impossible {
			b.Fatal(e.Outcome)
		}
	}
}
