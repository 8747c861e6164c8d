package engine

import "slices"

// devices names the devices that a bank of the node gives to a demand,
// ascending: a share comes from the device whose taking spoils least, of equals
// the first; whole ones lie in one NVLink island if one has enough of them, else
// on one memory node, else they are the first.
func (c *Cluster) devices(k *class, n *node, b int) []int {
	d := &k.demand
	switch {
	case d.Num == 0:
		return nil
	case b < 0:
		return c.mixture(k, n)
	case d.Milli < MilliDevice:
		idle, _, _ := c.bestShare(d, &n.banks[b], c.tables.rank(n.CPU-d.CPU))
		for _, i := range n.banks[b].devices {
			if n.Devices[i].Idle == int(idle) {
				return []int{i}
			}
		}
	}
	whole := wholeOf(n, n.banks[b].devices)
	for _, by := range [...]func(*Device) int{func(v *Device) int { return v.Island }, func(v *Device) int { return v.NUMA }} {
		if near := closest(n, whole, d.Num, by); near != nil {
			return near
		}
	}
	return whole[:d.Num]
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
