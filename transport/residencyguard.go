package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// ResidencyGuard is the [Guard] that asks residency. The same value answers at
// the receiving end, by PermitIngress: two ends, one engine. All its functions
// must be set and safe for concurrent use; what is missing refuses.
type ResidencyGuard struct {
	// Home is the node's own region.
	Home placement.RegionID
	// Site gives the facts of a region as this region's ledger has pinned them,
	// and false for a region that it has not approved.
	Site func(placement.RegionID) (residency.Site, bool)
	// Pack is the law pack in force at home.
	Pack func() *residency.Pack
	// PeerPack is the hash of the pack in force in another region, "" when its
	// summary has not said so yet.
	PeerPack func(placement.RegionID) string
	// Held gives a pack that this region holds, by hash, or nil.
	Held func(hash string) *residency.Pack
	// Now is the clock: groups and decisions are resolved on its day.
	Now func() time.Time
}

// Reasons for which the guard refuses before it asks residency.
var (
	ErrRegionUnknown = errors.New("no operator has approved that region, so nothing is known about it")
	ErrPackNotHeld   = errors.New("the two regions are on different law packs, and this one does not hold the other's")
)

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
	there, ok := g.Site(to)
	if !ok {
		// A bundle is how two regions come to know each other.
		if cargo.Kind == CargoBundle || cargo.Kind == CargoFacts {
			return nil
		}
		return ErrRegionUnknown
	}
	if cargo.Policy.IsZero() {
		return nil
	}
	here, ok := g.Site(g.Home)
	if !ok {
		return ErrRegionUnknown
	}
	return g.underBoth(g.PeerPack(to), func(pack *residency.Pack) error {
		o := g.options(cargo)
		if cargo.Passing {
			return residency.CheckTransit(cargo.Policy, there, pack, o)
		}
		if err := residency.CheckTransit(cargo.Policy, here, pack, o); err != nil {
			return err
		}
		return residency.Check(cargo.Policy.ForScope("compute"), there, pack, o)
	})
}

// PermitIngress is the receiver's check of what another region sent: pack is
// the hash that the sender decided under. It asks whether home may have it.
func (g *ResidencyGuard) PermitIngress(_ context.Context, from placement.RegionID, cargo Cargo, pack string) error {
	if err := checkCargo(cargo); err != nil {
		return err
	}
	if _, ok := g.Site(from); !ok {
		return ErrRegionUnknown
	}
	if cargo.Policy.IsZero() {
		return nil
	}
	here, ok := g.Site(g.Home)
	if !ok {
		return ErrRegionUnknown
	}
	return g.underBoth(pack, func(pack *residency.Pack) error {
		if cargo.Passing {
			return residency.CheckTransit(cargo.Policy, here, pack, g.options(cargo))
		}
		return residency.Check(cargo.Policy.ForScope("compute"), here, pack, g.options(cargo))
	})
}

func (g *ResidencyGuard) options(cargo Cargo) residency.Options {
	o := cargo.Options
	o.On = residency.DateOf(g.Now())
	return o
}

// underBoth asks under the home pack and, where it differs, under the other's.
// That the other's is not known yet refuses too: unknown fails.
func (g *ResidencyGuard) underBoth(other string, permitted func(*residency.Pack) error) error {
	home := g.Pack()
	if home == nil {
		return errors.New("no law pack is in force")
	}
	if err := permitted(home); err != nil || other == home.Hash() {
		return err
	}
	pack := g.Held(other)
	if pack == nil {
		return fmt.Errorf("%w: its hash is %.80q", ErrPackNotHeld, other)
	}
	return permitted(pack)
}

// policyLayersMax bounds the layers of a policy that comes over the wire.
const policyLayersMax = 32

// ReadPolicy reads the canonical form of an effective policy, as an inference
// head carries it. Who said which layer is not in it; all count as the job's.
func ReadPolicy(canonical string, pack *residency.Pack, on residency.Date) (residency.Policy, error) {
	parts := strings.Split(canonical, " & ")
	if len(parts) > policyLayersMax {
		return residency.Policy{}, fmt.Errorf("a policy of %d layers, the limit is %d", len(parts), policyLayersMax)
	}
	layers := make([]residency.Layer, 0, len(parts))
	for _, p := range parts {
		tag, err := residency.ParseWire(p, pack, on)
		if err != nil {
			return residency.Policy{}, err
		}
		layers = append(layers, residency.Layer{Origin: residency.OriginJob, Tag: tag})
	}
	return residency.NewPolicy(layers...), nil
}
