package drivertest

import (
	"slices"
	"testing"
	"time"
)

// Pairs times a driver and what it stands on in turns, so that both meet the same
// machine, and reports the medians in milliseconds ("ours-ms", "bare-ms") and the
// median of the pairs' ratios ("ratio"), which a machine that is busy in between
// disturbs least. Each of the two times itself: clearing up does not count.
func Pairs(b *testing.B, ours, bare func(n int) (time.Duration, error)) {
	b.Helper()
	var us, them, ratios []float64
	for n := 1; b.Loop(); n++ {
		theirs, err := bare(n)
		if err != nil {
			b.Fatal(err)
		}
		mine, err := ours(n)
		if err != nil {
			b.Fatal(err)
		}
		us, them = append(us, mine.Seconds()*1000), append(them, theirs.Seconds()*1000)
		ratios = append(ratios, mine.Seconds()/theirs.Seconds())
	}
	for unit, all := range map[string][]float64{"ours-ms": us, "bare-ms": them, "ratio": ratios} {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], unit)
	}
}
