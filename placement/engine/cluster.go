package engine

import (
	"cmp"
	"fmt"
	"slices"
)

// Cluster is the nodes of one decider with what is free of them, the mix of
// demands seen, and the indexes over both. It has one owner at a time.
type Cluster struct {
	cfg   Config
	nodes []node // sorted by name: the order that ties go by
	kinds []kind
	mix   Mix

	tables   *tables
	epoch    uint32 // counts the tables
	renewAt  uint64 // arrivals at which the tables are looked at again
	compiled Mix    // what the tables were made of

	log     []int32 // nodes that changed, oldest first
	logBase int     // how many entries were dropped before log[0]

	classes map[Demand]*class
	tick    uint64 // decisions, for the order of disuse
	marks   []uint32
	mark    uint32
}

// node is a node with what scoring needs at hand.
type node struct {
	Node
	banks []bank
	// usable is what the mix could use of it, valid for one epoch and state.
	usable int64
	epoch  uint32
}

// bank is the devices of one kind within a node.
type bank struct {
	kind    int
	devices []int   // their indexes, ascending
	idle    []int32 // what is free of each, most first
	sum     int64   // of idle
}

// New is a cluster of the nodes, which it copies. Their names must differ.
func New(nodes []Node, cfg Config) (*Cluster, error) {
	c := &Cluster{cfg: cfg, classes: make(map[Demand]*class)}
	sorted := slices.Clone(nodes)
	slices.SortStableFunc(sorted, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	c.nodes = make([]node, len(sorted))
	c.marks = make([]uint32, len(sorted))
	for i := range sorted {
		if i > 0 && sorted[i].Name == sorted[i-1].Name {
			return nil, fmt.Errorf("two nodes are named %q", sorted[i].Name)
		}
		if err := sorted[i].validate(); err != nil {
			return nil, err
		}
		c.put(i, sorted[i])
	}
	c.Renew()
	return c, nil
}

func (n *Node) validate() error {
	if n.Zone < 0 || n.Zone >= SetMax {
		return fmt.Errorf("node %s: zone %d is not between 0 and %d", n.Name, n.Zone, SetMax-1)
	}
	if len(n.Devices) > devicesMax {
		return fmt.Errorf("node %s has %d devices; more than %d are not placed on", n.Name, len(n.Devices), devicesMax)
	}
	for i, d := range n.Devices {
		if d.Idle < 0 || d.Idle > MilliDevice || d.Model < 0 || d.Model >= SetMax || d.Profile < 0 {
			return fmt.Errorf("node %s, device %d: idle %d of %d, model %d, profile %d", n.Name, i, d.Idle, MilliDevice, d.Model, d.Profile)
		}
	}
	return nil
}

// put stores a node and sorts its devices into banks.
func (c *Cluster) put(i int, n Node) {
	n.Devices = slices.Clone(n.Devices)
	at := node{Node: n}
	for d, device := range n.Devices {
		if device.Off {
			continue
		}
		k := c.kindOf(kind{n.Zone, device.Model, device.Profile, n.Confidential})
		b := slices.IndexFunc(at.banks, func(b bank) bool { return b.kind == k })
		if b < 0 {
			b = len(at.banks)
			at.banks = append(at.banks, bank{kind: k})
		}
		at.banks[b].devices = append(at.banks[b].devices, d)
	}
	for b := range at.banks {
		at.banks[b].idle = make([]int32, len(at.banks[b].devices))
		at.banks[b].count(n.Devices)
	}
	c.nodes[i] = at
}

// kindOf numbers a kind in the order of first sight.
func (c *Cluster) kindOf(k kind) int {
	i := slices.Index(c.kinds, k)
	if i < 0 {
		i = len(c.kinds)
		c.kinds = append(c.kinds, k)
	}
	return i
}

// count reads what is free of the bank's devices.
func (b *bank) count(devices []Device) {
	b.sum = 0
	for i, d := range b.devices {
		v := int32(devices[d].Idle)
		b.sum += int64(v)
		at := i
		for ; at > 0 && b.idle[at-1] < v; at-- {
			b.idle[at] = b.idle[at-1]
		}
		b.idle[at] = v
	}
}

// Len is how many nodes there are.
func (c *Cluster) Len() int { return len(c.nodes) }

// Node is a node by its place in the order. What it points to is shared: read
// it, and only until the next change.
func (c *Cluster) Node(i int) *Node { return &c.nodes[i].Node }

// Find is the place of a node in the order.
func (c *Cluster) Find(name string) (int, bool) {
	return slices.BinarySearchFunc(c.nodes, name, func(n node, name string) int { return cmp.Compare(n.Name, name) })
}

// Set replaces a node's record: its inventory, its state, or what is free of it
// as somebody else counted it.
func (c *Cluster) Set(n Node) error {
	i, found := c.Find(n.Name)
	if !found {
		return fmt.Errorf("there is no node %s in this cluster", n.Name)
	}
	if err := n.validate(); err != nil {
		return err
	}
	kinds := len(c.kinds)
	c.put(i, n)
	if len(c.kinds) != kinds {
		c.Renew() // the tables know nothing of the new kind
	}
	c.changed(i)
	return nil
}

// Cordon keeps new demands off a node, or lets them on again.
func (c *Cluster) Cordon(i int, cordoned bool) {
	if c.nodes[i].Cordoned != cordoned {
		c.nodes[i].Cordoned = cordoned
		c.changed(i)
	}
}

// Take gives a demand its room. It refuses what does not fit: the caller's books
// are wrong then.
func (c *Cluster) Take(d Demand, at Spot) error {
	n := &c.nodes[at.Node]
	if n.CPU < d.CPU || n.Memory < d.Memory || len(at.Devices) != d.Num {
		return fmt.Errorf("node %s has no room for %d milli cores, %d bytes and %d devices", n.Name, d.CPU, d.Memory, d.Num)
	}
	for i, g := range at.Devices {
		if g < 0 || g >= len(n.Devices) || n.Devices[g].Idle < d.Milli || slices.Contains(at.Devices[:i], g) {
			return fmt.Errorf("node %s has no %d thousandths of device %d", n.Name, d.Milli, g)
		}
	}
	c.move(d, at, -1)
	return nil
}

// Release gives the room back.
func (c *Cluster) Release(d Demand, at Spot) error {
	n := &c.nodes[at.Node]
	for _, g := range at.Devices {
		if g < 0 || g >= len(n.Devices) || n.Devices[g].Idle+d.Milli > MilliDevice {
			return fmt.Errorf("node %s: %d thousandths of device %d are not taken", n.Name, d.Milli, g)
		}
	}
	c.move(d, at, 1)
	return nil
}

// move adds the demand's room to what is free (sign 1), or takes it away.
func (c *Cluster) move(d Demand, at Spot, sign int) {
	n := &c.nodes[at.Node]
	n.CPU += int64(sign) * d.CPU
	n.Memory += int64(sign) * d.Memory
	for _, g := range at.Devices {
		n.Devices[g].Idle += sign * d.Milli
	}
	if len(at.Devices) > 0 {
		for b := range n.banks {
			n.banks[b].count(n.Devices)
		}
	}
	c.changed(at.Node)
}

// logMax bounds the change log, in nodes' worth; an index that has fallen
// behind further is filled anew.
const logMax = 2

// changed notes that the node's costs are not what they were.
func (c *Cluster) changed(i int) {
	c.nodes[i].epoch = 0
	if len(c.log) >= logMax*len(c.nodes)+64 {
		drop := len(c.log) / 2
		c.logBase += drop
		c.log = append(c.log[:0], c.log[drop:]...)
	}
	c.log = append(c.log, int32(i))
}
