package state

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkPending fills the queue to its bound and says what a waiting job
// costs in memory and time.
func BenchmarkPending(b *testing.B) {
	for range b.N {
		f := &fixture{t: b, s: New(), now: day}
		f.ok(firstCommand())
		before := heap()
		f.log = nil
		for i := range defaultPending {
			f.s.Apply(f.index+1, f.encode(SubmitJob{Job: aJob(i+1, "EEA,CH,!HU")}))
			f.index++
			if i%64 == 0 {
				f.s.Freeze()
			}
		}
		if f.s.PendingCount() != defaultPending {
			b.Fatalf("%d wait", f.s.PendingCount())
		}
		b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*defaultPending), "us/submit")
		runtime.KeepAlive(f)
	}
}

// BenchmarkView takes a view of 100,000 jobs after every command.
func BenchmarkView(b *testing.B) {
	f := &fixture{t: b, s: New(), now: day}
	k := firstCommand()
	k.Limits.Pending = 10_000_000
	f.ok(k)
	for i := range 100_000 {
		f.s.Apply(f.index+1, f.encode(SubmitJob{Job: aJob(i+1, "EU")}))
		f.index++
	}
	raws := make([][]byte, b.N)
	for i := range raws {
		f.index++
		raws[i] = f.encode(SubmitJob{Job: aJob(int(f.index)+200_000, "EU")})
	}
	b.ReportAllocs()
	b.ResetTimer()
	var v *View
	for i, raw := range raws {
		f.s.Apply(f.index+uint64(i), raw)
		v = f.s.Freeze()
	}
	if v != nil && v.Job(placement.JobID("x")) != nil {
		b.Fatal("a job that nobody submitted")
	}
}

// BenchmarkSubmit reads and applies submits as clients send them, with a view
// after every 16th.
func BenchmarkSubmit(b *testing.B) {
	f := &fixture{t: b, s: New(), now: day}
	k := firstCommand()
	k.Limits.Pending = 10_000_000
	f.ok(k)
	raws := make([][]byte, b.N)
	for i := range raws {
		j := aJob(i+1, "FR")
		j.Spec.Restart.Policy, j.Spec.Evidence = "never", placement.EvidenceRequired
		f.index++
		raws[i] = f.encode(SubmitJob{Job: j, IdempotencyKey: fmt.Sprint("key-", i), BodyHash: strings.Repeat("0f", 32)})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i, raw := range raws {
		if r := f.s.Apply(f.index+uint64(i), raw); r.Refused != nil {
			b.Fatal(r.Refused)
		}
		if i%16 == 0 {
			f.s.Freeze()
		}
	}
}
