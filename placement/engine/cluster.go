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
	market   market
	epoch    uint32 // counts the tables, and changes of the nodes' banks
	renewAt  uint64 // arrivals at which the tables are looked at again
	compiled Mix    // what the tables were made of

	places [][]place // by kind: where it stands, in the order of the nodes

	log     []int32 // nodes that changed, oldest first
	logBase int     // how many entries were dropped before log[0]

	classes map[Demand]*class
	tick    uint64 // decisions, for the order of disuse
	marks   []uint32
	mark    uint32
}

// place is one bank of a node, or with bank -1 the node as a whole.
type place struct{ node, bank int }

// before is the order of places that cost the same.
func (p place) before(o place) bool {
	return cmp.Or(cmp.Compare(p.node, o.node), cmp.Compare(p.bank, o.bank)) < 0
}

// node is a node with what scoring needs at hand.
type node struct {
	Node
	banks  []bank
	usable int64 // what the mix could use of it, in thousandths times weight
	// whole is the kind under which the node as a whole stands: without devices,
	// or with several banks; -1 for all others. place is its place there.
	whole, place int
}

func (n *node) bare() bool { return len(n.banks) == 0 }

// bank is the devices of one kind within a node.
type bank struct {
	kind    int
	place   int     // among the places of the kind
	devices []int   // their indexes, ascending
	idle    []int32 // what is free of each, most first
	sum     int64   // of idle
	usable  int64   // as of the node
	sold    int64   // what the market was told of it
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
		c.nodes[i] = c.read(sorted[i])
	}
	c.arrange()
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

// read sorts the devices of a node into banks.
func (c *Cluster) read(n Node) node {
	n.Devices = slices.Clone(n.Devices)
	at := node{Node: n, whole: -1}
	for d, device := range n.Devices {
		if device.Off {
			continue
		}
		k := c.kindOf(kind{sort{device.Model, device.Profile}, n.Zone, n.Confidential})
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
	if len(at.banks) != 1 {
		at.whole = c.kindOf(kind{sort{noDevice, 0}, n.Zone, n.Confidential})
	}
	return at
}

// arrange lists the places of every kind anew.
func (c *Cluster) arrange() {
	c.places = make([][]place, len(c.kinds))
	add := func(kind int, p place) int {
		c.places[kind] = append(c.places[kind], p)
		return len(c.places[kind]) - 1
	}
	for i := range c.nodes {
		n := &c.nodes[i]
		for b := range n.banks {
			n.banks[b].place = add(n.banks[b].kind, place{i, b})
		}
		if n.whole >= 0 {
			n.place = add(n.whole, place{i, -1})
		}
	}
}

// alike reports whether two records of a node have their banks in the same
// places.
func (n *node) alike(o *node) bool {
	return n.whole == o.whole && slices.EqualFunc(n.banks, o.banks, func(a, b bank) bool { return a.kind == b.kind })
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
	old, at := &c.nodes[i], c.read(n)
	if !old.alike(&at) {
		c.nodes[i] = at
		c.arrange()
		c.Renew() // the tables and the indexes know nothing of the new places
		return nil
	}
	at.place = old.place
	for b := range at.banks {
		at.banks[b].place, at.banks[b].sold = old.banks[b].place, old.banks[b].sold
	}
	c.nodes[i] = at
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
	c.refresh(&c.nodes[i])
	if len(c.log) >= logMax*len(c.nodes)+64 {
		drop := len(c.log) / 2
		c.logBase += drop
		c.log = append(c.log[:0], c.log[drop:]...)
	}
	c.log = append(c.log, int32(i))
}
