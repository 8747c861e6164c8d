package engine

import (
	"cmp"
	"math/bits"
	"slices"
)

const (
	// weightMax bounds the sum of all weights, so that no product overflows:
	// weights 2^22, a node's devices 2^15 thousandths, prices 2^22 below 2^60.
	weightMax = 1 << 22
	// priceOne is a price of one, in fixed point; priceMax bounds it at 64.
	priceOne = 1 << 16
	priceMax = 64 * priceOne
	// devicesMax bounds the devices of one node.
	devicesMax = 32
)

// group is the part of the mix that asks for the same devices.
type group struct {
	milli int32
	num   int32
}

// table is what the mix means to the devices of one kind: the groups that may
// use them, and by the processor left on the node how much of each group's
// weight could still be served.
type table struct {
	groups []group // those that ask for more of a device first
	// weights has a row of len(groups) for each rank of processor.
	weights []int32
	price   int64 // priceOne for a pressure of one
}

// tables are a mix made ready to score with. They are read only.
type tables struct {
	total int64   // the weight of all classes
	cpus  []int64 // the amounts of processor that classes ask for, ascending
	kinds []table // by number of the kind
}

// rank is how many of the amounts fit into the processor left.
func (t *tables) rank(cpu int64) int {
	i, found := slices.BinarySearch(t.cpus, cpu)
	if found {
		return i + 1
	}
	return i
}

// row are a kind's weights for a rank.
func (t *table) row(rank int) []int32 {
	return t.weights[rank*len(t.groups) : (rank+1)*len(t.groups)]
}

// supply is what a cluster has of each kind of device.
type supply struct {
	kinds    []kind
	capacity []int64 // thousandths of devices, by kind
}

// compile makes a mix ready for a cluster's kinds of devices.
func compile(m *Mix, s supply, cfg *Config) *tables {
	t := &tables{kinds: make([]table, len(s.kinds))}
	weights := make([]int64, len(m.Classes))
	shift := max(0, bits.Len64(sum(m))-bits.Len64(weightMax-1))
	for i, c := range m.Classes {
		weights[i] = int64(c.Count >> shift)
		t.total += weights[i]
		t.cpus = append(t.cpus, c.CPU)
	}
	t.total = max(t.total, 1)
	slices.Sort(t.cpus)
	t.cpus = slices.Compact(t.cpus)
	for k := range s.kinds {
		t.kinds[k] = t.compileKind(m, weights, s.kinds[k])
	}
	if cfg.PricePercent > 0 {
		for k, p := range prices(m, weights, s, cfg) {
			t.kinds[k].price = p
		}
	}
	return t
}

func (t *tables) compileKind(m *Mix, weights []int64, k kind) table {
	var out table
	for i := range m.Classes {
		c := &m.Classes[i]
		if d := c.demand(); c.Num > 0 && d.takes(k) {
			out.groups = append(out.groups, group{int32(c.Milli), int32(c.Num)})
		}
	}
	slices.SortFunc(out.groups, func(a, b group) int { return cmp.Or(cmp.Compare(b.milli, a.milli), cmp.Compare(a.num, b.num)) })
	out.groups = slices.Compact(out.groups)
	n := len(out.groups)
	out.weights = make([]int32, (len(t.cpus)+1)*n)
	for i := range m.Classes {
		c := &m.Classes[i]
		if d := c.demand(); c.Num == 0 || !d.takes(k) {
			continue
		}
		g := slices.Index(out.groups, group{int32(c.Milli), int32(c.Num)})
		out.weights[t.rank(c.CPU)*n+g] += int32(weights[i])
	}
	for i := n; i < len(out.weights); i++ {
		out.weights[i] += out.weights[i-n]
	}
	return out
}

// prices are the pressure on each kind: the share of the demand that is bound
// to some kinds and falls on this one, over the kind's share of the capacity. A
// demand that is bound to a set of kinds falls on them by their capacity; one
// that may use every kind presses on none.
func prices(m *Mix, weights []int64, s supply, cfg *Config) []int64 {
	everywhere := s.zones()
	n := len(s.kinds)
	routed := make([]uint64, n)
	var demand, capacity uint64
	for _, c := range s.capacity {
		capacity += uint64(c)
	}
	allowed := make([]bool, n)
	for i := range m.Classes {
		d := m.Classes[i].demand()
		amount := uint64(weights[i]) * uint64(d.amount())
		demand += amount
		if d.Num == 0 {
			continue
		}
		if !cfg.JurisdictionPrice {
			d.Zones, d.Confidential = everywhere, false
		}
		within := uint64(0)
		for k := range s.kinds {
			if allowed[k] = d.takes(s.kinds[k]); allowed[k] {
				within += uint64(s.capacity[k])
			}
		}
		if within == 0 || within == capacity {
			continue
		}
		for k := range s.kinds {
			if allowed[k] {
				routed[k] += mulDiv(amount, uint64(s.capacity[k]), within)
			}
		}
	}
	out := make([]int64, n)
	for k := range out {
		if s.capacity[k] > 0 && demand > 0 {
			// routed/demand over capacity[k]/capacity, in fixed point.
			share := mulDiv(routed[k], priceOne, demand)
			out[k] = int64(min(mulDiv(share, capacity, uint64(s.capacity[k])), priceMax))
		}
	}
	return out
}

// zones are all zones of the supply.
func (s supply) zones() Set {
	var all Set
	for _, k := range s.kinds {
		all = all.With(k.zone)
	}
	return all
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
