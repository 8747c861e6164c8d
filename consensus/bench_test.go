package consensus

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkPropose commits submits on three durable replicas in one process,
// over pipes, on one disk.
func BenchmarkPropose(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) { benchmarkPropose(b, callers, nil) })
		b.Run(fmt.Sprint(callers, "-without-ledger"), func(b *testing.B) {
			benchmarkPropose(b, callers, func(c *Config) { c.Storage = withoutLedger{c.Storage} })
		})
	}
}

// withoutLedger drops the leaves, so that their cost can be seen.
type withoutLedger struct{ Storage }

func (w withoutLedger) Open(id Identity, log *slog.Logger) (*Stores, error) {
	s, err := w.Storage.Open(id, log)
	if err == nil {
		s.Ledger = nil
	}
	return s, err
}

func benchmarkPropose(b *testing.B, callers int, tune func(*Config)) {
	r := newRegion(b, 3, tune)
	l := r.leader()
	var next atomic.Int64
	var all sync.WaitGroup
	b.ResetTimer()
	for range callers {
		all.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if _, err := l.Propose(context.Background(), r.job(), "tok"); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}
