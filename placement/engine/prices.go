package engine

import "math/bits"

const (
	// priceOne is a price of one, in fixed point; priceMax bounds it at 64, far
	// beyond what any node's fragmentation costs.
	priceOne = 1 << 16
	priceMax = 64 * priceOne
)

// market is what prices are made of: how much of the demand is bound to each
// pool of capacity, and how much of that the mix could still use. With prices by
// jurisdiction a pool is one kind, without them all kinds of one sort.
type market struct {
	pool   []int    // by kind
	bound  []uint64 // by pool: the share of the demand, priceOne is all
	usable []int64  // by pool, in thousandths of devices
	all    int64    // the sum of usable
}

// openMarket finds the pools of the kinds, and what demand is bound to them. A
// demand that is bound to some kinds falls on them by their capacity; one that
// may use every kind presses on none.
func openMarket(m *Mix, weights []int64, kinds []kind, capacity []int64, cfg *Config) market {
	out := market{pool: make([]int, len(kinds)), bound: make([]uint64, len(kinds)), usable: make([]int64, len(kinds))}
	var everywhere Set
	for k := range kinds {
		out.pool[k] = k
		everywhere = everywhere.With(kinds[k].zone)
		for first := range k {
			if !cfg.JurisdictionPrice && kinds[first].sort == kinds[k].sort {
				out.pool[k] = first
				break
			}
		}
	}
	whole, demand := uint64(0), uint64(0)
	for _, c := range capacity {
		whole += uint64(c)
	}
	for i := range m.Classes {
		d := m.Classes[i].demand()
		amount := uint64(weights[i]) * uint64(d.amount())
		if demand += amount; amount == 0 {
			continue
		}
		if !cfg.JurisdictionPrice {
			d.Zones, d.Confidential = everywhere, false
		}
		out.route(&d, amount, kinds, capacity, whole)
	}
	for p := range out.bound {
		out.bound[p] = mulDiv(out.bound[p], priceOne, max(demand, 1))
	}
	return out
}

// route adds what a demand presses on each kind that it is bound to.
func (m *market) route(d *Demand, amount uint64, kinds []kind, capacity []int64, whole uint64) {
	within := uint64(0)
	for k := range kinds {
		if d.takes(kinds[k]) {
			within += uint64(capacity[k])
		}
	}
	if within == 0 || within == whole {
		return
	}
	for k := range kinds {
		if d.takes(kinds[k]) {
			m.bound[m.pool[k]] += mulDiv(amount, uint64(capacity[k]), within)
		}
	}
}

// price is the share of the demand that is bound to a kind's pool over the
// pool's share of all that is usable.
func (m *market) price(k int) int64 {
	p := m.pool[k]
	if m.bound[p] == 0 {
		return 0
	}
	return int64(min(mulDiv(m.bound[p], uint64(max(m.all, 0)), uint64(max(m.usable[p], 1))), priceMax))
}

// add changes what is usable of a kind.
func (m *market) add(k int, usable int64) {
	m.usable[m.pool[k]] += usable
	m.all += usable
}

// mulDiv is a*b/c without overflow in between; what exceeds 64 bits is cut to
// the most that fits.
func mulDiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi >= c {
		return 1<<64 - 1
	}
	q, _ := bits.Div64(hi, lo, c)
	return q
}
