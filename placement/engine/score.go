package engine

// usable is what the mix could use of a bank: for each group that its devices
// can serve, the idle thousandths of those that are free enough, weighted with
// what of the group the processor suffices for. Fragmentation is the rest:
// F = total * idle - usable, in thousandths times weight.
//
// idle is sorted, most first.
func usable(t *table, row []int32, idle []int32) int64 {
	var sum, out int64
	free := int32(0)
	for g := range t.groups {
		for int(free) < len(idle) && idle[free] >= t.groups[g].milli {
			sum += int64(idle[free])
			free++
		}
		if free >= t.groups[g].num {
			out += int64(row[g]) * sum
		}
	}
	return out
}

func (c *Cluster) usableBank(b *bank, rank int, idle []int32) int64 {
	t := c.tables.kinds[b.kind]
	return usable(t, t.row(rank), idle)
}

// refresh works out what the mix could use of a node as it is now, and tells the
// market.
func (c *Cluster) refresh(n *node) {
	rank := c.tables.rank(n.CPU)
	n.usable = 0
	for b := range n.banks {
		bank := &n.banks[b]
		bank.usable = c.usableBank(bank, rank, bank.idle)
		n.usable += bank.usable
		sold := bank.usable / c.tables.total
		if n.Cordoned {
			sold = 0
		}
		c.market.add(bank.kind, sold-bank.sold)
		bank.sold = sold
	}
}

// nearest is a/b rounded to the nearest: what costs next to nothing, a little
// more or a little less, is one bin.
func nearest(a, b int64) int32 {
	a += b / 2
	if a < 0 {
		a -= b - 1
	}
	return int32(a / b)
}

// priceBin is the price of a kind's devices for a demand, in bins.
func (c *Cluster) priceBin(d *Demand, kind int) int32 {
	return nearest(d.amount()*c.market.price(kind)/100*c.cfg.PricePercent, c.cfg.BinMilli*priceOne)
}

const (
	// bare is the cost of a node without devices for a demand that needs none:
	// nothing is lost there, so no node with devices is as good.
	bare = -1 << 20
	// mixed is added to the cost of devices of several kinds: only where no kind
	// suffices alone.
	mixed = 1 << 20
)

// cost is the bin of what is lost if a bank of the node serves the demand,
// without its price; never if it cannot. The bank -1 stands for a mixture.
func (c *Cluster) cost(k *class, n *node, b int) int32 {
	d := &k.demand
	if n.Cordoned || n.CPU < d.CPU || n.Memory < d.Memory || !d.Zones.Has(n.Zone) || d.Confidential && !n.Confidential || n.Offers&d.Needs != d.Needs {
		return never
	}
	rank := c.tables.rank(n.CPU - d.CPU)
	var left int64
	switch {
	case d.Num == 0 && n.bare():
		return bare
	case d.Num == 0 && b == 0:
		left = c.others(n, rank, -1)
	case d.Num == 0:
		return never // its first bank answers for the node
	case b < 0:
		return c.costMixed(k, n, rank)
	case d.Milli < MilliDevice:
		_, share, ok := c.bestShare(d, &n.banks[b], rank)
		if !ok {
			return never
		}
		left = c.others(n, rank, b) + share
	default:
		bank := &n.banks[b]
		if !enough(d, n, bank) {
			return never
		}
		left = c.others(n, rank, b) + c.usableBank(bank, rank, bank.idle[d.Num:])
	}
	return nearest(n.usable-left, c.cfg.BinMilli*c.tables.unit)
}

// others is what the mix could use of all banks but one with the processor left.
func (c *Cluster) others(n *node, rank, but int) int64 {
	out := int64(0)
	for b := range n.banks {
		if b != but {
			out += c.usableBank(&n.banks[b], rank, n.banks[b].idle)
		}
	}
	return out
}

// bestShare tries each amount that is free of some device of the bank: the one
// whose taking leaves most that is usable, and how much that is.
func (c *Cluster) bestShare(d *Demand, bank *bank, rank int) (idle int32, left int64, ok bool) {
	if d.Num != 1 {
		return 0, 0, false
	}
	var after [devicesMax]int32
	for i, v := range bank.idle {
		if int(v) < d.Milli {
			break
		}
		if i+1 < len(bank.idle) && bank.idle[i+1] == v {
			continue // the last of equals: what follows it is in order
		}
		rest := v - int32(d.Milli)
		copy(after[:], bank.idle)
		at := i
		for ; at+1 < len(bank.idle) && after[at+1] > rest; at++ {
			after[at] = after[at+1]
		}
		after[at] = rest
		u := c.usableBank(bank, rank, after[:len(bank.idle)])
		// Of equals the fullest, so that whole devices stay whole.
		if !ok || u >= left {
			idle, left, ok = v, u, true
		}
	}
	return idle, left, ok
}

// enough reports whether the bank has the whole devices, in one island where
// the demand wants that.
func enough(d *Demand, n *node, b *bank) bool {
	if len(b.idle) < d.Num || b.idle[d.Num-1] < MilliDevice {
		return false
	}
	return !d.Island || d.Num == 1 || closest(n, b.devices, d.Num, func(v *Device) int { return v.Island }) != nil
}

// costMixed is the cost of whole devices of several banks, in their order.
func (c *Cluster) costMixed(k *class, n *node, rank int) int32 {
	d := &k.demand
	if d.Num < 2 || d.Milli < MilliDevice || d.Island {
		return never
	}
	left, want := int64(0), d.Num
	for b := range n.banks {
		bank := &n.banks[b]
		taken := 0
		if k.takes[bank.kind] {
			for taken < want && taken < len(bank.idle) && bank.idle[taken] >= MilliDevice {
				taken++
			}
		}
		want -= taken
		left += c.usableBank(bank, rank, bank.idle[taken:])
	}
	if want > 0 {
		return never
	}
	return mixed + nearest(n.usable-left, c.cfg.BinMilli*c.tables.unit)
}
