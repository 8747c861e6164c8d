package state

import (
	"fmt"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// largeRegion is a region of the given numbers of nodes with eight devices each and of
// tasks that live on them.
func largeRegion(t testingT, nodes, tasks int) *fixture {
	f := &fixture{t: t, s: New(), now: day}
	k := firstCommand()
	k.Limits.Pending, k.Limits.Bytes = 10_000_000, 1<<40
	f.ok(k)
	name := func(i int) string { return fmt.Sprintf("n%05d", i+10_000) }
	for i := range nodes {
		f.node(name(i))
		f.log = nil
	}
	for i := range tasks {
		j := aJob(i+1, "EU")
		j.Spec.Resources = placement.Resources{CPU: 10}
		f.ok(SubmitJob{Job: j})
		f.ok(Assign{Assignments: []placement.Assignment{{Task: j.ID.Task(0, 1), Job: j.ID, Node: placement.NodeID(name(i % nodes))}}})
		f.log = nil
	}
	return f
}

// BenchmarkLarge is what a decision pays to look at 10,000 nodes and 100,000 tasks.
func BenchmarkLarge(b *testing.B) {
	f := largeRegion(b, 10_000, 100_000)
	next := 200_000
	b.Run("view", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f.s.Freeze()
		}
	})
	b.Run("view-after-a-command", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			next++
			f.log = nil
			raw := f.encode(SubmitJob{Job: aJob(next, "EU")})
			f.index++
			b.StartTimer()
			f.s.Apply(f.index, raw)
			f.s.Freeze()
		}
	})
	b.Run("snapshot", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f.s.Freeze().Snapshot(day.Add(time.Hour))
		}
	})
	b.Run("unsettled", func(b *testing.B) {
		b.ReportAllocs()
		v := f.s.Freeze()
		for b.Loop() {
			v.Unsettled()
		}
	})
	b.Run("assign", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			next++
			f.log = nil
			j := aJob(next, "EU")
			f.ok(SubmitJob{Job: j})
			raw := f.encode(Assign{Assignments: []placement.Assignment{{Task: j.ID.Task(0, 1), Job: j.ID, Node: placement.NodeID(fmt.Sprintf("n%05d", 10_000+next%10_000))}}})
			f.index++
			b.StartTimer()
			if r := f.s.Apply(f.index, raw); r.Refused != nil {
				b.Fatal(r.Refused)
			}
			f.s.Freeze()
		}
	})
}

// BenchmarkQueue is what a decision pays to look at a queue of 100,000 jobs, and how
// many of them it is shown.
func BenchmarkQueue(b *testing.B) {
	f := &fixture{t: b, s: New(), now: day}
	k := firstCommand()
	k.Limits.Pending, k.Limits.Bytes = 10_000_000, 1<<40
	f.ok(k)
	for i := range 100_000 {
		j := aJob(i+1, "EU")
		j.Tenant, j.Spec.Priority = placement.TenantID(fmt.Sprintf("t%03d", i%200)), i%3
		f.ok(SubmitJob{Job: j})
		f.log = nil
	}
	b.ReportAllocs()
	for b.Loop() {
		if n := len(f.s.Freeze().Snapshot(day.Add(time.Second)).Wanted); n != snapshotJobs {
			b.Fatalf("%d jobs are shown", n)
		}
	}
}
