package engine

import (
	"cmp"
	"slices"
)

// class is all demands that are equal: one index serves them.
type class struct {
	demand Demand
	takes  []bool // by number of the kind
	c      *Cluster
	tree   tree
	seen   int    // how much of the log the index knows
	epoch  uint32 // of the tables it was filled with
	used   uint64 // the decision that it served last
}

// newClass is a class without its index.
func (c *Cluster) newClass(d Demand) *class {
	k := &class{demand: d, c: c}
	k.judge()
	return k
}

// judge asks which kinds of devices will do.
func (k *class) judge() {
	k.takes = make([]bool, len(k.c.kinds))
	for i := range k.c.kinds {
		k.takes[i] = k.demand.takes(k.c.kinds[i])
	}
}

// fill rates every node.
func (k *class) fill() {
	if k.tree.min == nil {
		k.tree = newTree(len(k.c.nodes))
	}
	k.judge()
	k.tree.fill(len(k.c.nodes), func(i int) int32 { return k.c.cost(k, &k.c.nodes[i]) })
	k.seen, k.epoch = k.c.logBase+len(k.c.log), k.c.epoch
}

// catchUp rates the nodes that changed since the index was last used, each once.
func (k *class) catchUp() {
	c := k.c
	end := c.logBase + len(c.log)
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
			k.tree.set(int(i), c.cost(k, &c.nodes[i]))
		}
	}
	k.seen = end
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
	if _, known := c.classes[d]; known || len(c.classes) < c.classMax() || c.disused() != nil {
		return d
	}
	return d.rounded()
}

// disused is the index that was used the longest ago, if that is long ago: it
// gives way to any demand.
func (c *Cluster) disused() *class {
	if k := c.oldest(); k != nil && c.tick-k.used > uint64(8*c.classMax()) {
		return k
	}
	return nil
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
			old := c.oldest()
			delete(c.classes, old.demand)
			k.tree = old.tree
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
	if len(c.nodes) == 0 {
		return Spot{}, false
	}
	as := c.scoredAs(d)
	k := c.indexOf(as)
	if i := k.tree.best(); i >= 0 {
		return c.spot(k, d, i, k.tree.at(i)), true
	}
	if as == d {
		return Spot{}, false
	}
	// What is rounded up fits nowhere; the demand itself still may.
	return c.scanAs(d, d)
}

// spot is the place of the demand d on a node, with the class that chose it.
func (c *Cluster) spot(k *class, d Demand, i int, cost int32) Spot {
	if k.demand != d {
		k = c.newClass(d)
	}
	return Spot{Node: i, Devices: c.devices(k, &c.nodes[i]), Cost: int(cost)}
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
	best, at := int32(never), -1
	for i := range c.nodes {
		if cost := c.cost(k, &c.nodes[i]); cost < best {
			best, at = cost, i
		}
	}
	if at < 0 {
		return Spot{}, false
	}
	return c.spot(k, d, at, best), true
}
