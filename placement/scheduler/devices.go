package scheduler

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// fit says what of a request a shape satisfies.
type fit uint8

const (
	fitKind   fit = 1 << iota // a GPU, or an instance of the MIG profile asked for
	fitModel                  // of a model asked for
	fitMemory                 // with the memory asked for
	fitSealed                 // in confidential-computing mode, if that is asked for
	fitAll    = fitKind | fitModel | fitMemory | fitSealed
)

// shape says what of the class's request the numbered shape satisfies.
func (c *class) shape(id int32) fit {
	for int32(len(c.fits)) <= id {
		c.fits = append(c.fits, c.res2fit(c.p.shapes.list[len(c.fits)]))
	}
	return c.fits[id]
}

func (c *class) res2fit(s shape) (f fit) {
	if s.profile == c.res.GPUProfile {
		f |= fitKind
	}
	if (&placement.Device{Model: s.model}).Matches(placement.Resources{GPUModel: c.res.GPUModel}) && !c.bars(s.model) {
		f |= fitModel
	}
	if s.memory >= c.res.GPUMemory {
		f |= fitMemory
	}
	if s.confidential || !c.res.Confidential {
		f |= fitSealed
	}
	return f
}

// bars reports whether the tenant may hold no more devices of the model.
func (c *class) bars(model string) bool {
	return c.barred != "" && slices.ContainsFunc(strings.Split(c.barred, ","), func(class string) bool { return placement.OfClass(class, model) })
}

// idle is how much of a device neither a live task nor this plan holds.
func (at *space) idle(d *placement.Device) placement.MilliGPU {
	if slices.Contains(at.taken, d.UUID) {
		return 0
	}
	return at.node.Used.Idle(d.UUID) - at.part[d.UUID]
}

// devices says whether the free devices serve the class.
func (c *class) devices(at *space) faults {
	if c.res.GPUShare > 0 {
		if c.shared(at) == nil {
			return failFree
		}
		return 0
	}
	have := 0
	for _, l := range at.free {
		if c.shape(l.shape) == fitAll {
			have += int(l.count)
		}
	}
	if have < c.res.GPUs {
		return failFree
	}
	return 0
}

// seats is how many tasks of the class the devices of a node serve together: as
// it is, or if it were empty and its devices healthy.
func (c *class) seats(at *space, empty bool) int {
	if c.res.GPUs <= 0 {
		return 0
	}
	whole, parts := 0, 0
	var last int32
	for i := range at.node.Inventory.Devices {
		d := &at.node.Inventory.Devices[i]
		last = c.p.shapes.of(d, last)
		if d.Partitioned || c.shape(last) != fitAll || !empty && !d.Offered() {
			continue
		}
		idle := placement.WholeGPU
		if !empty {
			idle = at.idle(d)
		}
		parts += int(idle / c.res.PerDevice())
		if idle == placement.WholeGPU {
			whole++
		}
	}
	if c.res.GPUShare > 0 {
		return parts
	}
	return whole / c.res.GPUs
}

// shared is the device of which the class gets its share: of those with enough
// left the fullest, so that whole ones stay whole, sound ones first; nil if none
// has.
func (c *class) shared(at *space) *placement.Device {
	var best *placement.Device
	var left placement.MilliGPU
	for i := range at.node.Inventory.Devices {
		d := &at.node.Inventory.Devices[i]
		if !d.Offered() || c.shape(c.p.shapes.of(d, 0)) != fitAll {
			continue
		}
		idle := at.idle(d)
		if idle < c.res.GPUShare {
			continue
		}
		better := best == nil
		if !better {
			better = cmp.Or(cmp.Compare(healthRank(d), healthRank(best)), cmp.Compare(idle, left)) < 0
		}
		if better {
			best, left = d, idle
		}
	}
	return best
}

func healthRank(d *placement.Device) int {
	if d.Health == placement.DeviceOK {
		return 0
	}
	return 1
}

// takeShare gives a task its share of one device.
func (p *planner) takeShare(c *class, at *space, chosen []string) []string {
	d := c.shared(at)
	if len(chosen) == 1 {
		i := slices.IndexFunc(at.node.Inventory.Devices, func(d placement.Device) bool { return d.UUID == chosen[0] })
		d = &at.node.Inventory.Devices[i]
	}
	if d == nil {
		return nil
	}
	if at.idle(d) == placement.WholeGPU {
		id := p.shapes.of(d, 0)
		for i := range at.free {
			if at.free[i].shape == id {
				at.free[i].count--
			}
		}
		at.gpus--
	}
	if at.part == nil {
		at.part = make(map[string]placement.MilliGPU)
	}
	at.part[d.UUID] += c.res.GPUShare
	return []string{d.UUID}
}

// sight is what the devices of one node are to a demand.
type sight struct {
	has   [fitAll + 1]int // devices that are there, by what they satisfy
	free  [fitAll + 1]int // of them those with enough left
	sick  int             // those that would serve, were they healthy
	most  placement.MilliGPU
	names map[int32]bool // shapes of which something is free
}

// see looks at every device of a node. A GPU that is cut into instances is none.
func (c *class) see(at *space) (s sight) {
	s.names = make(map[int32]bool)
	var last int32
	for i := range at.node.Inventory.Devices {
		d := &at.node.Inventory.Devices[i]
		if d.Partitioned {
			continue
		}
		last = c.p.shapes.of(d, last)
		f, idle := c.shape(last), at.idle(d)
		s.has[f]++
		switch enough := idle >= c.res.PerDevice(); {
		case enough && d.Offered():
			s.free[f]++
			s.names[last] = true
		case enough && f == fitAll:
			s.sick++
		case f == fitAll && d.Offered():
			s.most = max(s.most, idle)
		}
	}
	return s
}

// with counts the devices that satisfy at least what is asked.
func with(counts *[fitAll + 1]int, need fit) (n int) {
	for f, k := range counts {
		if fit(f)&need == need {
			n += k
		}
	}
	return n
}

// lacking names what keeps the node's devices from the class: first what no
// device of it is, then what is not free now.
func (c *class) lacking(s *sight) faults {
	for _, step := range [...]struct {
		need fit
		fail faults
	}{
		{fitKind, c.kindFault()},
		{fitKind | fitModel, failModel},
		{fitKind | fitModel | fitMemory, failGPUMemory},
		{fitAll, failSealed},
	} {
		if with(&s.has, step.need) < c.res.GPUs {
			return step.fail
		}
	}
	switch {
	case s.free[fitAll] >= c.res.GPUs:
		return 0
	case s.free[fitAll]+s.sick >= c.res.GPUs:
		return failHealth
	}
	return failFree
}

func (c *class) kindFault() faults {
	if c.res.GPUProfile != "" {
		return failProfile
	}
	return failCount
}
