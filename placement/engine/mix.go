package engine

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

const (
	// mixMax bounds the classes that are remembered; the rarest gives way.
	mixMax = 512
	// one is the count of one arrival, in fixed point.
	one = 1 << 16
	// halfLife is after how many arrivals a demand counts half: the mix follows
	// a cluster's day, and a burst does not become the law.
	halfLife = 2000
	// decayEvery arrivals all counts shrink by decayBy/one, 16 times in a half
	// life: 2^(-1/16) in fixed point.
	decayEvery = halfLife / 16
	decayBy    = 62757
	// pressing is for how many arrivals a device counts that was asked for and
	// refused. Large demands are rare: by their number alone the engine would
	// break up the whole nodes that they need, and by their size alone it would
	// keep nodes whole for whom nobody comes. A refusal tells the two apart.
	pressing = 8
	// countMax bounds what a class counts for, so that no sum overflows.
	countMax = math.MaxUint64 / one / mixMax
)

// Class is a kind of demand with how often it came and what of it was refused,
// of late more than long ago.
type Class struct {
	CPU          int64  `json:"cpu,omitempty"`
	Num          int    `json:"num,omitempty"`
	Milli        int    `json:"milli,omitempty"`
	Models       Set    `json:"models,omitzero"`
	Profile      int    `json:"profile,omitempty"`
	Zones        Set    `json:"zones,omitzero"`
	Confidential bool   `json:"confidential,omitempty"`
	Count        uint64 `json:"count"`             // arrivals, in 1/65536
	Refused      uint64 `json:"refused,omitempty"` // devices, in 1/65536
}

// weight is what the class counts for in fragmentation: what came, and more so
// what came and found no place.
func (c *Class) weight() uint64 { return c.Count + pressing*c.Refused }

// count is what the class counts for in prices: what is refused presses on them
// by the scarcity that refuses it.
func (c *Class) count() uint64 { return c.Count }

// Mix is what a cluster has learned of its demands: bounded, a plain value, so
// that a region's state can keep it over a change of leader. Classes are sorted.
type Mix struct {
	Arrivals uint64  `json:"arrivals"`
	Classes  []Class `json:"classes,omitempty"`
}

func compareSets(a, b Set) int { return slices.Compare(a[:], b[:]) }

// compare orders classes by everything but their count.
func (c Class) compare(o Class) int {
	flag := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(c.CPU, o.CPU), cmp.Compare(c.Num, o.Num), cmp.Compare(c.Milli, o.Milli),
		compareSets(c.Models, o.Models), cmp.Compare(c.Profile, o.Profile), compareSets(c.Zones, o.Zones),
		flag(c.Confidential)-flag(o.Confidential))
}

// classOf is what of a demand the mix remembers. Memory and islands are no part
// of fragmentation.
func classOf(d Demand) Class {
	c := Class{CPU: d.CPU, Num: d.Num, Milli: d.Milli, Models: d.Models, Profile: d.Profile, Zones: d.Zones, Confidential: d.Confidential}
	if d.Num == 0 {
		// Without devices it has no use for any: only its share of all demands counts.
		c = Class{CPU: d.CPU}
	}
	return c
}

// demand is a demand of the class, as far as the mix knows it.
func (c *Class) demand() Demand {
	return Demand{CPU: c.CPU, Num: c.Num, Milli: c.Milli, Models: c.Models, Profile: c.Profile, Zones: c.Zones, Confidential: c.Confidential}
}

// learn counts one arrival. It is the same on every replica.
func (m *Mix) learn(d Demand) {
	m.Arrivals++
	if m.Arrivals%decayEvery == 0 {
		m.decay()
	}
	c, at, found := m.find(d)
	if found {
		m.Classes[at].Count += one
		return
	}
	if len(m.Classes) >= mixMax {
		m.dropRarest()
		at, _ = slices.BinarySearchFunc(m.Classes, c, Class.compare)
	}
	c.Count = one
	m.Classes = slices.Insert(m.Classes, at, c)
}

// find is the class of a demand, or the place where it belongs. A full mix tells
// odd amounts apart less finely.
func (m *Mix) find(d Demand) (c Class, at int, found bool) {
	c = classOf(d)
	at, found = slices.BinarySearchFunc(m.Classes, c, Class.compare)
	if !found && len(m.Classes) >= mixMax {
		c = classOf(d.rounded())
		at, found = slices.BinarySearchFunc(m.Classes, c, Class.compare)
	}
	return c, at, found
}

// refuse counts the devices of a demand that found no place. What the mix has
// forgotten, or never saw, is not brought back by it.
func (m *Mix) refuse(d Demand) {
	if _, at, found := m.find(d); found {
		c := &m.Classes[at]
		c.Refused = min(c.Refused+uint64(d.amount())*one/MilliDevice, countMax/pressing/2)
	}
}

// decay lets the past count less and forgets what has not come for long: below
// a sixteenth of an arrival, four half lives of a single one.
func (m *Mix) decay() {
	for i := range m.Classes {
		c := &m.Classes[i]
		c.Count = c.Count * decayBy / one
		c.Refused = c.Refused * decayBy / one
	}
	m.Classes = slices.DeleteFunc(m.Classes, func(c Class) bool { return c.Count < one/16 })
}

func (m *Mix) dropRarest() {
	rarest := 0
	for i := range m.Classes {
		if m.Classes[i].Count < m.Classes[rarest].Count {
			rarest = i
		}
	}
	m.Classes = slices.Delete(m.Classes, rarest, rarest+1)
}

// Renumber gives what the mix names the numbers that it has in a cluster whose nodes
// were numbered anew; false is for what is not there any more, and a class of which
// nothing else is left is forgotten.
func (m *Mix) Renumber(model, zone, profile func(int) (int, bool)) {
	kept := m.Classes[:0:0]
	for _, c := range m.Classes {
		models, zones := c.Models.renumbered(model), c.Zones.renumbered(zone)
		if !c.Models.Empty() && models.Empty() || !c.Zones.Empty() && zones.Empty() {
			continue // an empty set would mean another demand
		}
		c.Models, c.Zones = models, zones
		if c.Profile > 0 {
			var there bool
			if c.Profile, there = profile(c.Profile); !there {
				continue
			}
		}
		kept = append(kept, c)
	}
	slices.SortFunc(kept, Class.compare)
	m.Classes = nil
	for _, c := range kept { // classes that differed by what is gone alone are one
		if n := len(m.Classes); n > 0 && m.Classes[n-1].compare(c) == 0 {
			one := &m.Classes[n-1]
			one.Count, one.Refused = min(one.Count+c.Count, countMax/2), min(one.Refused+c.Refused, countMax/pressing/2)
			continue
		}
		m.Classes = append(m.Classes, c)
	}
}

func (s Set) renumbered(number func(int) (int, bool)) (out Set) {
	for id := range SetMax {
		if !s.Has(id) {
			continue
		}
		if n, ok := number(id); ok {
			out = out.With(n)
		}
	}
	return out
}

// Validate says what is wrong with a mix that came from elsewhere.
func (m *Mix) Validate() error {
	if len(m.Classes) > mixMax {
		return fmt.Errorf("a mix holds at most %d classes, this one %d", mixMax, len(m.Classes))
	}
	for i, c := range m.Classes {
		switch {
		case i > 0 && m.Classes[i-1].compare(c) >= 0:
			return fmt.Errorf("class %d of the mix stands out of order", i)
		case c.CPU < 0 || c.Num < 0 || c.Num > devicesMax || c.Milli < 0 || c.Milli > MilliDevice || c.Profile < 0:
			return fmt.Errorf("class %d of the mix asks for an impossible amount", i)
		case c.Count > countMax/2 || c.Refused > countMax/pressing/2:
			return fmt.Errorf("class %d of the mix counts more arrivals or refusals than there can be", i)
		}
	}
	return nil
}

// rounded is the demand with odd amounts rounded up to a coarse grid, at most an
// eighth more: what it is scored as when there are too many kinds of demand.
func (d Demand) rounded() Demand {
	d.CPU, d.Memory = roundUp(d.CPU), roundUp(d.Memory)
	return d
}

// roundUp keeps the three highest bits.
func roundUp(n int64) int64 {
	if n < 8 {
		return max(n, 0)
	}
	step := int64(1)
	for n>>3 >= step {
		step *= 2
	}
	step /= 2
	if n > math.MaxInt64-step {
		return n
	}
	return (n + step - 1) / step * step
}
