package scheduler

import (
	"slices"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/engine"
)

// space is the room of one node while a plan is made.
type space struct {
	node    *placement.Node
	index   int32  // place in the snapshot, which is sorted by id
	version uint32 // counts what this plan changed; 0 is the room as the node's record has it
	state   int32  // number of what the engine sees of the record, 0 if that is not known
	site    int32  // number of its site's name
	drivers int32  // number of its list of drivers
	total   placement.MilliCPU
	cpu     placement.MilliCPU
	memory  placement.Bytes
	free    []lot                         // free and healthy devices, by shape
	gpus    int32                         // their number
	tasks   int32                         // live ones, and those assigned in this plan
	taken   []string                      // UUIDs that this plan gave away whole
	part    map[string]placement.MilliGPU // and in part
	order   []int32                       // of its devices, see deviceOrder
}

// lot is a number of devices of one shape.
type lot struct{ shape, count int32 }

// shape is what tells devices apart for a request.
type shape struct {
	model, profile string
	memory         placement.Bytes
	confidential   bool
}

func shapeOf(d *placement.Device) shape { return shape{d.Model, d.Profile, d.Memory, d.Confidential} }

// shapes numbers the shapes of a snapshot in order of first sight.
type shapes struct {
	list     []shape
	ids      map[shape]int32
	profiles []string
}

// numbers are what a scheduler called the shapes and sites of nodes that were there.
type numbers struct {
	shapes shapes
	sites  []string
}

// given is how many numbers are given away.
func (s *Scheduler) given() int { return len(s.shapes.list) + len(s.shapes.profiles) + len(s.sites) }

// forgetNumbers begins to number anew, for nodes that are all read again: what left
// the region would keep its numbers as long as the leader lives, and the engine tells
// apart only so many.
func (s *Scheduler) forgetNumbers() {
	s.was = &numbers{s.shapes, s.sites}
	s.shapes, s.sites = shapes{ids: make(map[shape]int32)}, nil
}

// renumber gives what a mix names the numbers that it has now.
func (n *numbers) renumber(mix *engine.Mix, now *Scheduler) {
	mix.Renumber(func(id int) (int, bool) {
		if id >= len(n.shapes.list) {
			return 0, false
		}
		is, ok := now.shapes.ids[n.shapes.list[id]]
		return min(int(is), engine.SetMax-1), ok
	}, func(id int) (int, bool) {
		if id >= len(n.sites) {
			return 0, false
		}
		is := slices.Index(now.sites, n.sites[id])
		return min(max(is, 0), engine.SetMax-1), is >= 0
	}, func(id int) (int, bool) {
		if id > len(n.shapes.profiles) {
			return 0, false
		}
		return now.shapes.profile(n.shapes.profiles[id-1]), true
	})
}

// of numbers the device's shape; last is tried first, since the devices of a
// node are mostly alike.
func (s *shapes) of(d *placement.Device, last int32) int32 {
	key := shapeOf(d)
	if last < int32(len(s.list)) && s.list[last] == key {
		return last
	}
	id, ok := s.ids[key]
	if !ok {
		id = int32(len(s.list))
		s.list = append(s.list, key)
		s.ids[key] = id
	}
	return id
}

// count groups devices by shape; include chooses among them.
func (s *shapes) count(n *placement.Node, include func(*placement.Device) bool) (lots []lot, total int32) {
	var last int32
	for i := range n.Inventory.Devices {
		d := &n.Inventory.Devices[i]
		id := s.of(d, last)
		last = id
		if !include(d) {
			continue
		}
		total++
		at := slices.IndexFunc(lots, func(l lot) bool { return l.shape == id })
		if at < 0 {
			lots = append(lots, lot{id, 1})
			continue
		}
		lots[at].count++
	}
	return lots, total
}

// readSpaces works out the free room of every node: anew where the record is not
// the one that the last plan saw, or that plan gave something of it away, which
// may never be committed. It names those; all reports that the nodes are others
// than those of the last plan, or that most numbers are of nothing any more.
func (p *planner) readSpaces() (changed []int32, all bool) {
	m, nodes := p.mind, p.s.Nodes
	same := func(at space, n *placement.Node) bool { return at.node.ID == n.ID }
	if all = !slices.EqualFunc(m.spaces, nodes, same) || m.given() > 2*m.counted+64; all {
		m.forgetNumbers()
		m.spaces, m.drivers = make([]space, len(nodes)), nil
		m.named = make(map[placement.NodeID]*space, len(nodes))
		for i, n := range nodes {
			m.named[n.ID] = &m.spaces[i]
		}
	}
	for i, n := range nodes {
		if at := &m.spaces[i]; at.node != n || at.version != 0 {
			p.read(at, n, int32(i))
			changed = append(changed, int32(i))
		}
	}
	p.spaces, p.nodes = m.spaces, m.named
	return changed, all
}

// read is the room of a node by its record.
func (p *planner) read(at *space, n *placement.Node, index int32) {
	*at = space{
		node: n, index: index, total: n.Inventory.CPU, cpu: n.Inventory.CPU - n.Used.CPU, memory: n.Inventory.Memory - n.Used.Memory,
		tasks: int32(n.Used.Tasks), order: at.order,
	}
	at.site = numberOf(&p.mind.sites, n.Site, func(a, b string) bool { return a == b })
	at.drivers = numberOf(&p.mind.drivers, n.Inventory.Drivers, slices.Equal)
	at.free, at.gpus = p.shapes.count(n, func(d *placement.Device) bool {
		return d.Offered() && n.Used.Idle(d.UUID) == placement.WholeGPU
	})
}

// numberOf is the place of a value in a list of the few different ones, which
// it is added to if it is new.
func numberOf[T any](list *[]T, value T, equal func(a, b T) bool) int32 {
	for i := range *list {
		if equal((*list)[i], value) {
			return int32(i)
		}
	}
	*list = append(*list, value)
	return int32(len(*list) - 1)
}

// take gives one task of the class its room on the node and names its devices.
func (p *planner) take(c *class, at *space) []string {
	chosen := p.chosen(c, at)
	devices := p.takeRoom(c, at, chosen)
	p.book(c, at, devices)
	return devices
}

// takeRoom counts the room as taken, and the chosen devices or those that other
// rules name.
func (p *planner) takeRoom(c *class, at *space, chosen []string) []string {
	at.cpu -= c.res.CPU
	at.memory -= c.res.Memory
	at.tasks++
	at.version++
	at.state = 0
	p.log = append(p.log, at.index)
	c.neighbours[at.index]++
	if c.res.GPUs <= 0 {
		return nil
	}
	if c.res.GPUShare > 0 {
		return p.takeShare(c, at, chosen)
	}
	out := p.takeNamed(at, chosen)
	for _, id := range p.lotsFor(c, at) {
		out = p.takeDevices(at, id, c.res.GPUs-len(out), out)
	}
	slices.Sort(out)
	return out
}

// takeNamed takes whole devices by their names.
func (p *planner) takeNamed(at *space, names []string) (out []string) {
	for i := range at.node.Inventory.Devices {
		d := &at.node.Inventory.Devices[i]
		if !slices.Contains(names, d.UUID) {
			continue
		}
		out = append(out, d.UUID)
		at.taken = append(at.taken, d.UUID)
		at.gpus--
		id := p.shapes.of(d, 0)
		for l := range at.free {
			if at.free[l].shape == id {
				at.free[l].count--
			}
		}
	}
	return out
}

// lotsFor orders the shapes that a class may use: one that suffices alone
// before a mixture, and the least memory first, so that big devices stay for
// those who need them.
func (p *planner) lotsFor(c *class, at *space) []int32 {
	var fit []lot
	for _, l := range at.free {
		if l.count > 0 && c.shape(l.shape) == fitAll {
			fit = append(fit, l)
		}
	}
	slices.SortFunc(fit, func(a, b lot) int {
		x, y := p.shapes.list[a.shape], p.shapes.list[b.shape]
		switch enough, other := int(a.count) >= c.res.GPUs, int(b.count) >= c.res.GPUs; {
		case enough != other && enough:
			return -1
		case enough != other:
			return 1
		case x.memory != y.memory:
			return cmpInt(int64(x.memory), int64(y.memory))
		}
		return cmpString(x.model, y.model)
	})
	ids := make([]int32, len(fit))
	for i, l := range fit {
		ids[i] = l.shape
	}
	return ids
}

// takeDevices appends up to want free devices of one shape, sound ones before
// degraded ones, in the order in which the node lists them.
func (p *planner) takeDevices(at *space, id int32, want int, out []string) []string {
	got := int32(0)
	for _, health := range [...]placement.DeviceHealth{placement.DeviceOK, placement.DeviceDegraded} {
		for i := range at.node.Inventory.Devices {
			if int(got) == want {
				break
			}
			d := &at.node.Inventory.Devices[i]
			if d.Health != health || p.shapes.of(d, id) != id || at.idle(d) < placement.WholeGPU {
				continue
			}
			out = append(out, d.UUID)
			at.taken = append(at.taken, d.UUID)
			got++
		}
	}
	for i := range at.free {
		if at.free[i].shape == id {
			at.free[i].count -= got
		}
	}
	at.gpus -= got
	return out
}
