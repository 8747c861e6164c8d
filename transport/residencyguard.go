package transport

import (
	"context"
	"errors"
	"fmt"

	"github.com/sovmesh/sovmesh/placement"
)

// ResidencyGuard is the [Guard] that asks residency, by [placement.Crossing]:
// what home lets out and the packs of both regions count whatever the sender put
// into the policy. The receiving end asks the same question before it reads a
// body. All its functions must be set and safe for concurrent use; what is
// missing refuses.
type ResidencyGuard struct {
	// Home is the node's own region.
	Home placement.RegionID
	// Region is what this region's ledger has pinned of a region, with the law
	// pack that it last said it decides by; nil for one that it has not approved.
	Region func(placement.RegionID) *placement.Region
	// Law is the law in force at home, today.
	Law func() placement.Law
}

// ErrRegionUnknown is why the guard refuses before it asks residency.
var ErrRegionUnknown = errors.New("no operator has approved that region, so nothing is known about it")

var _ Guard = (*ResidencyGuard)(nil)

// PermitEgress permits what law 4 lists to approved regions; job and inference
// bytes only where the policy permits the destination, under the packs of both
// regions. Home itself is a relay of what it sends to be executed elsewhere.
func (g *ResidencyGuard) PermitEgress(_ context.Context, from, to placement.RegionID, cargo Cargo) error {
	if err := checkCargo(cargo); err != nil {
		return err
	}
	if from != g.Home {
		return fmt.Errorf("the guard of %s was asked for %s", g.Home, from)
	}
	there := g.Region(to)
	if there == nil {
		// A bundle is how two regions come to know each other.
		if cargo.Kind == CargoBundle {
			return nil
		}
		return ErrRegionUnknown
	}
	if cargo.Policy.IsZero() {
		return nil
	}
	here := g.Region(g.Home)
	if here == nil {
		return ErrRegionUnknown
	}
	x := placement.Crossing{Policy: cargo.Policy, From: here, To: there, Use: cargo.Use, Law: g.Law(), Options: cargo.Options}
	if cargo.Use == placement.UseRun {
		x.Via = here
	}
	r := x.Judge()
	return r.Err()
}
