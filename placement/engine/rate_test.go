package engine

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Whoever rates every node by itself finds the place that the cluster decides on.
func TestARaterRatesAsTheClusterDecides(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := anyCluster(t, DefaultConfig())
		history(t, c, func(d Demand) {
			r := c.Rater(d)
			best, least := -1, 0
			for i := range c.Len() {
				if cost, ok := r.Cost(i); ok && (best < 0 || cost < least) {
					best, least = i, cost
				}
			}
			at, ok := c.Scan(d)
			if ok != (best >= 0) {
				t.Fatalf("%+v: the scan says %v, the rater found node %d", d, ok, best)
			}
			if ok && (at.Node != best || at.Cost != least || !slices.Equal(at.Devices, r.Devices(best))) {
				t.Fatalf("%+v: the scan chose %+v, the rater node %d at %d, devices %v", d, at, best, least, r.Devices(best))
			}
		})
	})
}
