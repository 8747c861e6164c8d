package engine

import "slices"

// choice is how a node would serve a demand at the least cost.
type choice struct {
	ok bool
	// loss is what the mix could use before and cannot afterwards, in thousandths
	// times weight; price is in thousandths times priceOne.
	loss, price int64
	bank        int   // the bank that serves it all; -1 for a mixture
	idle        int32 // for a share: what is free of the device to take
}

// better compares choices within a node exactly, without bins.
func (c *Cluster) better(a, b *choice) bool {
	exact := func(x *choice) int64 { return x.loss*lossScale/c.tables.total + x.price*c.cfg.PricePercent/100 }
	return !b.ok || exact(a) < exact(b)
}

// choose finds the cheapest way for a node to serve a demand for devices.
func (c *Cluster) choose(k *class, n *node) choice {
	d := &k.demand
	if !c.might(k, n) {
		return choice{}
	}
	before := c.usableOf(n)
	rank := c.tables.rank(n.CPU - d.CPU)
	rest := int64(0) // of all banks with the processor left, when nothing else is taken
	if len(n.banks) > 1 {
		for b := range n.banks {
			rest += c.usableBank(&n.banks[b], rank, n.banks[b].idle)
		}
	}
	var best choice
	for b := range n.banks {
		bank := &n.banks[b]
		if !k.takes[bank.kind] {
			continue
		}
		others := int64(0)
		if len(n.banks) > 1 {
			others = rest - c.usableBank(bank, rank, bank.idle)
		}
		one := choice{bank: b, price: d.amount() * c.tables.kinds[bank.kind].price}
		if d.Milli < MilliDevice {
			c.chooseShare(d, bank, rank, before-others, one, &best)
			continue
		}
		if !enough(d, n, bank) {
			continue
		}
		one.ok = true
		one.loss = before - others - c.usableBank(bank, rank, bank.idle[d.Num:])
		if c.better(&one, &best) {
			best = one
		}
	}
	if !best.ok && d.Num > 1 && !d.Island && len(n.banks) > 1 {
		best = c.chooseMixture(k, n, before, rank)
	}
	return best
}

// might is a quick look whether any device is free enough.
func (c *Cluster) might(k *class, n *node) bool {
	free := 0
	for b := range n.banks {
		bank := &n.banks[b]
		if !k.takes[bank.kind] {
			continue
		}
		for _, v := range bank.idle {
			if int(v) < k.demand.Milli {
				break
			}
			if free++; free >= k.demand.Num {
				return true
			}
		}
	}
	return false
}

// chooseShare tries each amount that is free of some device of the bank.
func (c *Cluster) chooseShare(d *Demand, bank *bank, rank int, before int64, one choice, best *choice) {
	if d.Num != 1 {
		return
	}
	var after [devicesMax]int32
	for i, v := range bank.idle {
		if int(v) < d.Milli {
			return
		}
		if i+1 < len(bank.idle) && bank.idle[i+1] == v {
			continue // the last of equals: what follows it in after is in order
		}
		left := v - int32(d.Milli)
		copy(after[:], bank.idle)
		at := i
		for ; at+1 < len(bank.idle) && after[at+1] > left; at++ {
			after[at] = after[at+1]
		}
		after[at] = left
		one.ok, one.idle = true, v
		one.loss = before - c.usableBank(bank, rank, after[:len(bank.idle)])
		if c.better(&one, best) {
			*best = one
		}
	}
}

// enough reports whether the bank has the whole devices, in one island where
// the demand wants that.
func enough(d *Demand, n *node, b *bank) bool {
	if len(b.idle) < d.Num || b.idle[d.Num-1] < MilliDevice {
		return false
	}
	return !d.Island || d.Num == 1 || closest(n, b.devices, d.Num, func(v *Device) int { return v.Island }) != nil
}

// chooseMixture takes whole devices of several banks, in their order: only where
// no bank suffices alone.
func (c *Cluster) chooseMixture(k *class, n *node, before int64, rank int) choice {
	d := &k.demand
	out := choice{ok: true, bank: -1, loss: before}
	want := d.Num
	for b := range n.banks {
		bank := &n.banks[b]
		taken := 0
		if k.takes[bank.kind] {
			for taken < want && taken < len(bank.idle) && bank.idle[taken] >= MilliDevice {
				taken++
			}
		}
		want -= taken
		out.price += int64(taken) * MilliDevice * c.tables.kinds[bank.kind].price
		out.loss -= c.usableBank(bank, rank, bank.idle[taken:])
	}
	return out
}

// devices names the devices of a choice, ascending.
func (c *Cluster) devices(k *class, n *node) []int {
	d := &k.demand
	if d.Num == 0 {
		return nil
	}
	ch := c.choose(k, n)
	switch {
	case !ch.ok:
		return nil
	case ch.bank < 0:
		return c.mixture(k, n)
	case d.Milli < MilliDevice:
		return c.shared(k, n)
	}
	whole := wholeOf(n, n.banks[ch.bank].devices)
	for _, by := range []func(*Device) int{func(v *Device) int { return v.Island }, func(v *Device) int { return v.NUMA }} {
		if near := closest(n, whole, d.Num, by); near != nil {
			return near
		}
	}
	return whole[:d.Num]
}

// shared is the device of a share: the cheapest one, and of equals the first.
func (c *Cluster) shared(k *class, n *node) []int {
	best, at := choice{}, -1
	before := c.usableOf(n)
	rank := c.tables.rank(n.CPU - k.demand.CPU)
	rest := int64(0)
	for b := range n.banks {
		rest += c.usableBank(&n.banks[b], rank, n.banks[b].idle)
	}
	for i := range n.Devices {
		for b := range n.banks {
			bank := &n.banks[b]
			if !k.takes[bank.kind] || !slices.Contains(bank.devices, i) || n.Devices[i].Idle < k.demand.Milli {
				continue
			}
			// A bank whose only free device is this one answers for it.
			one := *bank
			one.idle = slices.Clone(bank.idle)
			v := int32(n.Devices[i].Idle)
			j := slices.Index(one.idle, v)
			one.idle = slices.Delete(one.idle, j, j+1)
			left := v - int32(k.demand.Milli)
			j = 0
			for j < len(one.idle) && one.idle[j] > left {
				j++
			}
			one.idle = slices.Insert(one.idle, j, left)
			ch := choice{ok: true, price: k.demand.amount() * c.tables.kinds[bank.kind].price}
			ch.loss = before - rest + c.usableBank(bank, rank, bank.idle) - c.usableBank(bank, rank, one.idle)
			if c.better(&ch, &best) {
				best, at = ch, i
			}
		}
	}
	if at < 0 {
		return nil
	}
	return []int{at}
}

// mixture names whole devices of several banks.
func (c *Cluster) mixture(k *class, n *node) []int {
	var out []int
	for b := range n.banks {
		if k.takes[n.banks[b].kind] {
			whole := wholeOf(n, n.banks[b].devices)
			out = append(out, whole[:min(len(whole), k.demand.Num-len(out))]...)
		}
	}
	slices.Sort(out)
	return out
}

// wholeOf are those of the devices that nobody uses.
func wholeOf(n *node, devices []int) []int {
	var out []int
	for _, i := range devices {
		if n.Devices[i].Idle == MilliDevice {
			out = append(out, i)
		}
	}
	return out
}

// closest are num of the unused devices that lie together: in the smallest place
// that has enough of them, the first of equals; nil if there is none.
func closest(n *node, devices []int, num int, by func(*Device) int) []int {
	best, size := 0, 0
	for _, i := range devices {
		place, count := by(&n.Devices[i]), 0
		for _, j := range devices {
			if n.Devices[j].Idle == MilliDevice && by(&n.Devices[j]) == place {
				count++
			}
		}
		if count >= num && (size == 0 || count < size) {
			best, size = place, count
		}
	}
	if size == 0 {
		return nil
	}
	out := make([]int, 0, num)
	for _, i := range devices {
		if n.Devices[i].Idle == MilliDevice && by(&n.Devices[i]) == best && len(out) < num {
			out = append(out, i)
		}
	}
	return out
}
