package engine

import (
	"fmt"
	"slices"
)

const (
	// renewMin and renewMax bound how many arrivals pass between two looks at
	// the mix: early ones are cheap and matter, later ones come every quarter of
	// a half life.
	renewMin = 16
	renewMax = halfLife / 4
	// renewShift: tables are made anew when more than 1/2^renewShift of the
	// mix's weight has moved; below that they say the same, by and large.
	renewShift = 5
)

// Learn counts the arrival of a demand, whether it finds a place or not; one for
// more devices than a node may have is no use of any. From time to time it makes
// the tables anew, which costs every index a filling.
func (c *Cluster) Learn(d Demand) {
	if d.Num > devicesMax {
		return
	}
	c.mix.learn(d)
	if c.mix.Arrivals < c.renewAt {
		return
	}
	c.schedule()
	if c.moved() {
		c.Renew()
	}
}

// Refuse counts a demand that found no place and that some node, being empty,
// could hold: from the next tables on, what it needs is spoiled less readily.
// Refusals that a limit or the law made are none.
func (c *Cluster) Refuse(d Demand) { c.mix.refuse(d) }

// Settle makes the tables anew if the mix moved away from them, however few
// arrivals that took: for a caller that learns of many demands and then decides.
func (c *Cluster) Settle() {
	if c.moved() {
		c.Renew()
	}
}

func (c *Cluster) schedule() {
	c.renewAt = c.mix.Arrivals + min(max(c.mix.Arrivals/2, renewMin), renewMax)
}

// Mix is what was learned so far, for keeping.
func (c *Cluster) Mix() Mix {
	return Mix{Arrivals: c.mix.Arrivals, Classes: slices.Clone(c.mix.Classes)}
}

// SetMix goes on with what another one learned.
func (c *Cluster) SetMix(m Mix) error {
	if err := m.Validate(); err != nil {
		return fmt.Errorf("take over a mix: %w", err)
	}
	c.mix = Mix{Arrivals: m.Arrivals, Classes: slices.Clone(m.Classes)}
	c.schedule()
	c.Renew()
	return nil
}

// Renew makes the tables and prices of the mix as it is, and fills the indexes
// that are in use again.
func (c *Cluster) Renew() {
	capacity := make([]int64, len(c.kinds))
	for i := range c.nodes {
		for b := range c.nodes[i].banks {
			bank := &c.nodes[i].banks[b]
			bank.sold = 0
			if !c.nodes[i].Cordoned {
				capacity[bank.kind] += int64(len(bank.devices)) * MilliDevice
			}
		}
	}
	c.tables = compile(&c.mix, weightsOf(&c.mix, (*Class).weight), c.kinds)
	c.tables.unit = unitOf(&c.mix, c.tables.total)
	c.market = openMarket(&c.mix, weightsOf(&c.mix, (*Class).count), c.kinds, capacity, &c.cfg)
	for i := range c.nodes {
		c.refresh(&c.nodes[i])
	}
	c.compiled = c.Mix()
	c.epoch++
	for _, k := range c.inUse() {
		k.fill()
	}
}

// sum is what all classes count for.
func sum(m *Mix, of func(*Class) uint64) (n uint64) {
	for i := range m.Classes {
		n += of(&m.Classes[i])
	}
	return n
}

// unitOf is the part of a mix's total weight that arrivals make up. Costs are
// counted in it, so that what is refused makes its own loss dearer, and that of
// all others no cheaper: they would fall into one bin otherwise. It is at least
// an eighth, so that costs stay bounded however much is refused.
func unitOf(m *Mix, total int64) int64 {
	arrivals := mulDiv(uint64(total), sum(m, (*Class).count), max(sum(m, (*Class).weight), 1))
	return max(int64(arrivals), total/8, 1)
}

// moved reports whether the mix differs from that of the tables by enough:
// half the sum of the differences of the shares.
func (c *Cluster) moved() bool {
	const unit = 1 << 20
	a, b := &c.compiled, &c.mix
	wholeA, wholeB := max(sum(a, (*Class).weight), 1), max(sum(b, (*Class).weight), 1)
	apart := uint64(0)
	for i, j := 0, 0; i < len(a.Classes) || j < len(b.Classes); {
		order := 0
		switch {
		case i == len(a.Classes):
			order = 1
		case j == len(b.Classes):
			order = -1
		default:
			order = a.Classes[i].compare(b.Classes[j])
		}
		var x, y uint64
		if order <= 0 {
			x = mulDiv(a.Classes[i].weight(), unit, wholeA)
			i++
		}
		if order >= 0 {
			y = mulDiv(b.Classes[j].weight(), unit, wholeB)
			j++
		}
		apart += max(x, y) - min(x, y)
	}
	return apart>>1 >= unit>>renewShift
}
