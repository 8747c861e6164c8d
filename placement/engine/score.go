package engine

// usable is what the mix could use of a bank: for each group that its devices
// can serve, the idle thousandths of those that are free enough, weighted with
// what of the group the processor suffices for. Fragmentation is the rest:
// F = total * idle - usable, in thousandths times weight.
//
// idle is sorted, most first; skip of its first entries do not count.
func usable(groups []group, row []int32, idle []int32) int64 {
	var sum, out int64
	free := int32(0)
	for g := range groups {
		for int(free) < len(idle) && idle[free] >= groups[g].milli {
			sum += int64(idle[free])
			free++
		}
		if free >= groups[g].num {
			out += int64(row[g]) * sum
		}
	}
	return out
}

// usableOf is what the mix could use of a node as it is.
func (c *Cluster) usableOf(n *node) int64 {
	if n.epoch == c.epoch {
		return n.usable
	}
	rank := c.tables.rank(n.CPU)
	n.usable = 0
	for b := range n.banks {
		n.usable += c.usableBank(&n.banks[b], rank, n.banks[b].idle)
	}
	n.epoch = c.epoch
	return n.usable
}

func (c *Cluster) usableBank(b *bank, rank int, idle []int32) int64 {
	t := &c.tables.kinds[b.kind]
	return usable(t.groups, t.row(rank), idle)
}

// lossScale makes room for the price beside the loss.
const lossScale = priceOne

// bin is the cost of losing so much usable capacity and taking so much of
// devices that others pay a price for.
func (c *Cluster) bin(loss, price int64) int32 {
	total := c.tables.total
	// (loss/total + price) / BinMilli, rounded to the nearest: what costs next to
	// nothing, a little more or a little less, is one bin.
	width := c.cfg.BinMilli * lossScale
	num := loss*lossScale/total + price*c.cfg.PricePercent/100 + width/2
	if num < 0 {
		num -= width - 1
	}
	return int32(num / width)
}

// bare is the cost of a node without devices for a demand that needs none:
// nothing is lost there, so no node with devices is as good.
const bare = -1 << 20

// cost is the bin of a node for a demand, or never.
func (c *Cluster) cost(k *class, n *node) int32 {
	d := &k.demand
	if n.Cordoned || n.CPU < d.CPU || n.Memory < d.Memory || !d.Zones.Has(n.Zone) || d.Confidential && !n.Confidential || n.Offers&d.Needs != d.Needs {
		return never
	}
	switch {
	case d.Num == 0 && len(n.banks) == 0:
		return bare
	case d.Num == 0:
		rank := c.tables.rank(n.CPU - d.CPU)
		left := int64(0)
		for b := range n.banks {
			left += c.usableBank(&n.banks[b], rank, n.banks[b].idle)
		}
		return c.bin(c.usableOf(n)-left, 0)
	}
	ch := c.choose(k, n)
	if !ch.ok {
		return never
	}
	return c.bin(ch.loss, ch.price)
}
