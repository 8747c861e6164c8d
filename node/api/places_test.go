package api

import (
	"net/http"
	"testing"
)

// One tenant, or one region, takes the places of nobody else, and what is given back
// can be taken again.
func TestPlacesOfServicesAreShared(t *testing.T) {
	var p places
	fill := func(all []share, want int) (give []func()) {
		t.Helper()
		for {
			release, err := p.take(all...)
			if err != nil {
				if problemOf(err).Status != http.StatusTooManyRequests || len(give) != want {
					t.Fatalf("%v: %d places, want %d, then %v", all, len(give), want, err)
				}
				return give
			}
			give = append(give, release)
		}
	}
	one := fill(ofTenant("one"), maxTenantServices)
	fill(ofTenant("two"), maxTenantServices)
	first := fill(ofRegion("iad-1"), maxRegionServices)
	fill(ofRegion("ber-1"), maxAbroadServices-maxRegionServices)
	fill(ofRegion("lon-1"), 0) // the other regions have theirs
	fill(ofTenant("three"), maxTenantServices)
	fill(ofTenant("four"), 0) // all are taken
	for _, give := range append(one, first...) {
		give()
	}
	fill(ofTenant("four"), maxTenantServices)
	fill(ofRegion("lon-1"), maxRegionServices)
}
