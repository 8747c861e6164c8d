package residency

import "slices"

// maxWorld bounds the places that Conflict looks at. Tags that name more
// regions, sites and subdivisions than that are not said to conflict.
const maxWorld = 200_000

// Conflict reports whether the layers of a policy surely exclude each other:
// no place of the world, whatever it claims, satisfies what all of them allow
// and deny. It names the two layers that clash, or one layer twice when that
// one matches nothing by itself.
//
// The world is every country of the pack, with every subdivision, region and
// site that a layer names and with one that none of them names.
func Conflict(p Policy, pack *Pack, on Date) (a, b Layer, empty bool) {
	world := p.world(pack)
	if len(p.layers) == 0 || world == nil {
		return Layer{}, Layer{}, false
	}
	sets := make([][]bool, len(p.layers))
	joint := make([]bool, len(world))
	for i := range joint {
		joint[i] = true
	}
	last := -1
	for i, l := range p.layers {
		sets[i] = possible(l.Tag.b, world, pack, on)
		if !slices.Contains(sets[i], true) {
			return l, l, true
		}
		for w := range joint {
			joint[w] = joint[w] && sets[i][w]
		}
		if last < 0 && !slices.Contains(joint, true) {
			last = i
		}
	}
	if last < 0 {
		return Layer{}, Layer{}, false
	}
	for i := range p.layers {
		for j := i + 1; j < len(p.layers); j++ {
			if disjoint(sets[i], sets[j]) {
				return p.layers[i], p.layers[j], true
			}
		}
	}
	// No two clash alone: name the one that emptied the set and the one before it.
	return p.layers[last-1], p.layers[last], true
}

func disjoint(a, b []bool) bool {
	for i := range a {
		if a[i] && b[i] {
			return false
		}
	}
	return true
}

// possible marks the places that a tag does not surely exclude.
func possible(b *body, world []situation, pack *Pack, on Date) []bool {
	out := make([]bool, len(world))
	if b == nil {
		return out
	}
	for i := range world {
		s := &world[i]
		s.p, s.on = pack, on
		out[i] = s.notDenied(b).v != no && s.allowed(b.allow).v != no
	}
	return out
}

// world lists the places that the layers can tell apart; nil when too many.
func (p Policy) world(pack *Pack) []situation {
	regions, sites, subs := []string{""}, []string{""}, map[string][]string{}
	for _, l := range p.layers {
		if l.Tag.b == nil {
			continue
		}
		for _, it := range slices.Concat(l.Tag.b.allow, l.Tag.b.deny) {
			switch it.kind {
			case kindRegion:
				regions = append(regions, it.code)
			case kindSite:
				sites = append(sites, it.code)
			case kindSubdivision:
				subs[it.code[:2]] = append(subs[it.code[:2]], it.code)
			}
		}
	}
	regions, sites = distinct(regions), distinct(sites)
	var places []place
	for _, code := range pack.codes {
		// A full stop stands in no subdivision, region or site: it is "another one".
		places = append(places, place{code, code + "-."})
		for _, sub := range distinct(subs[code]) {
			places = append(places, place{code, sub})
		}
	}
	if len(places)*len(regions)*len(sites) > maxWorld {
		return nil
	}
	var world []situation
	for _, at := range places {
		for _, r := range regions {
			for _, s := range sites {
				world = append(world, situation{site: &Site{}, at: at, name: other(r), room: other(s)})
			}
		}
	}
	return world
}

func distinct(words []string) []string {
	out := slices.Clone(words)
	slices.Sort(out)
	return slices.Compact(out)
}

func other(name string) string {
	if name == "" {
		return "."
	}
	return name
}
