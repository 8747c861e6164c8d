package engine

import (
	"cmp"
	"slices"
)

// class is all demands that are equal. Its index has a tournament for each kind
// of device that will do, so that a price that moves moves no leaf.
type class struct {
	demand Demand
	c      *Cluster
	takes  []bool // by number of the kind
	trees  []tree // by number of the kind; those that do not count are empty
	seen   int    // how much of the log the index knows
	epoch  uint32 // of the tables and kinds it was filled with
	used   uint64 // the decision that it served last
}

// newClass is a class without its index.
func (c *Cluster) newClass(d Demand) *class {
	k := &class{demand: d, c: c, takes: make([]bool, len(c.kinds))}
	for i := range c.kinds {
		k.takes[i] = d.takes(c.kinds[i])
	}
	return k
}

// counts reports whether the places of a kind matter to the class.
func (k *class) counts(kind int) bool {
	if k.c.kinds[kind].model != noDevice {
		return k.takes[kind]
	}
	// Nodes without devices serve those who need none; where devices are mixed,
	// the node as a whole stands here for demands of several.
	d := &k.demand
	return d.Num == 0 && k.takes[kind] || d.Num > 1 && d.Zones.Has(k.c.kinds[kind].zone)
}

// fill rates every place.
func (k *class) fill() {
	c := k.c
	if len(k.takes) != len(c.kinds) {
		k.takes = c.newClass(k.demand).takes
	}
	if len(k.trees) != len(c.kinds) {
		k.trees = make([]tree, len(c.kinds))
	}
	for kind := range c.kinds {
		if !k.counts(kind) {
			k.trees[kind] = tree{}
			continue
		}
		places := c.places[kind]
		t := &k.trees[kind]
		if t.size != treeSize(len(places)) {
			*t = newTree(len(places))
		}
		t.fill(len(places), func(i int) int32 { return c.cost(k, &c.nodes[places[i].node], places[i].bank) })
	}
	k.seen, k.epoch = c.logBase+len(c.log), c.epoch
}

// catchUp rates the nodes that changed since the index was last used, each once.
func (k *class) catchUp() {
	c := k.c
	if k.seen < c.logBase || k.epoch != c.epoch {
		k.fill()
		return
	}
	c.mark++
	if c.mark == 0 { // came round: old marks could be mistaken for new ones
		clear(c.marks)
		c.mark = 1
	}
	for _, i := range c.log[k.seen-c.logBase:] {
		if c.marks[i] != c.mark {
			c.marks[i] = c.mark
			k.rate(&c.nodes[i])
		}
	}
	k.seen = c.logBase + len(c.log)
}

// rate rates the places of one node again.
func (k *class) rate(n *node) {
	for b := range n.banks {
		if t := &k.trees[n.banks[b].kind]; t.size > 0 {
			t.set(n.banks[b].place, k.c.cost(k, n, b))
		}
	}
	if n.whole >= 0 {
		if t := &k.trees[n.whole]; t.size > 0 {
			t.set(n.place, k.c.cost(k, n, -1))
		}
	}
}

// best is the cheapest place by loss and price together, the first node of
// equals.
func (k *class) best() (at place, cost int32) {
	cost, at.node = never, -1
	for kind := range k.trees {
		t := &k.trees[kind]
		if t.size == 0 || t.min[1] == never {
			continue
		}
		price := k.c.priceBin(&k.demand, kind)
		if t.min[1]+price > cost {
			continue
		}
		here := k.c.places[kind][t.best()]
		if t.min[1]+price < cost || here.before(at) {
			at, cost = here, t.min[1]+price
		}
	}
	return at, cost
}

// Fewer than classesMin indexes would be filled all the time; more than
// classesMax kinds of demand are not worth telling apart.
const (
	classesMin = 64
	classesMax = 4096
)

// classMax is how many indexes fit into the memory allowed.
func (c *Cluster) classMax() int {
	return min(max(c.cfg.IndexBytes/(8*treeSize(len(c.nodes))), cmp.Or(c.cfg.indexMin, classesMin)), classesMax)
}

// scoredAs is the demand whose index serves d: its own while there is room for
// another index or one has fallen out of use, otherwise a coarser one.
func (c *Cluster) scoredAs(d Demand) Demand {
	if _, known := c.classes[d]; known || len(c.classes) < c.classMax() || c.disused() {
		return d
	}
	return d.rounded()
}

// disused reports whether the index that was used the longest ago was so long
// ago that it gives way to any demand.
func (c *Cluster) disused() bool {
	k := c.oldest()
	return k != nil && c.tick-k.used > uint64(8*c.classMax())
}

func (c *Cluster) oldest() *class {
	var old *class
	for _, k := range c.classes { // decisions differ, so that the order does not matter
		if old == nil || k.used < old.used {
			old = k
		}
	}
	return old
}

// inUse are the indexes, in the order of their last use.
func (c *Cluster) inUse() []*class {
	out := make([]*class, 0, len(c.classes))
	for _, k := range c.classes {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b *class) int { return cmp.Compare(a.used, b.used) })
	return out
}

// indexOf is the up-to-date index of a demand.
func (c *Cluster) indexOf(d Demand) *class {
	c.tick++
	k, known := c.classes[d]
	if !known {
		k = c.newClass(d)
		if len(c.classes) >= c.classMax() {
			delete(c.classes, c.oldest().demand)
		}
		c.classes[d] = k
	}
	k.used = c.tick
	k.catchUp()
	return k
}

// Decide finds the place of a demand; false if it fits nowhere. Nothing is taken
// yet. It answers what [Cluster.Scan] answers.
func (c *Cluster) Decide(d Demand) (Spot, bool) {
	as := c.scoredAs(d)
	k := c.indexOf(as)
	if at, cost := k.best(); at.node >= 0 {
		return c.spot(k, d, at, cost), true
	}
	if as == d {
		return Spot{}, false
	}
	// What is rounded up fits nowhere; the demand itself still may.
	return c.scanAs(d, d)
}

// spot is a place for the demand d, with the class that chose it.
func (c *Cluster) spot(k *class, d Demand, at place, cost int32) Spot {
	if k.demand != d {
		k = c.newClass(d)
	}
	return Spot{Node: at.node, Devices: c.devices(k, &c.nodes[at.node], at.bank), Cost: int(cost)}
}

// Scan finds the same place by looking at every node, as a check of the indexes.
func (c *Cluster) Scan(d Demand) (Spot, bool) {
	as := c.scoredAs(d)
	if at, ok := c.scanAs(as, d); ok || as == d {
		return at, ok
	}
	return c.scanAs(d, d)
}

func (c *Cluster) scanAs(as, d Demand) (Spot, bool) {
	k := c.newClass(as)
	best, at := int32(never), place{node: -1}
	look := func(p place, kind int) {
		if !k.counts(kind) {
			return
		}
		cost := c.cost(k, &c.nodes[p.node], p.bank)
		if cost == never {
			return
		}
		if cost += c.priceBin(&k.demand, kind); cost < best {
			best, at = cost, p
		}
	}
	for i := range c.nodes {
		n := &c.nodes[i]
		if n.whole >= 0 {
			look(place{i, -1}, n.whole)
		}
		for b := range n.banks {
			look(place{i, b}, n.banks[b].kind)
		}
	}
	if at.node < 0 {
		return Spot{}, false
	}
	return c.spot(k, d, at, best), true
}
