package scheduler

import "github.com/sovmesh/sovmesh/placement"

// survey is one pass over the nodes: what each constraint keeps away, and what
// lifting it alone would give.
type survey struct {
	first  [len(chain)]int // nodes whose first failing filter it is
	lifted [len(chain)]int // nodes that would fit without it
	fit    int
	ever   int // lawful nodes that could hold it if they were empty and ready
	// busy counts, for those, the first filter that fails now.
	busy [len(chain)]int
	// ideal counts, for the lawful nodes that could never, the first failing
	// filter of the empty node.
	ideal  [len(chain)]int
	lawful int
	site   *verdict // of the first unlawful node
	right  *verdict // of the first lawful one
	// The most that a node has which fails nothing else.
	cpu    placement.MilliCPU
	memory placement.Bytes
	gpus   int
	models map[int32]bool // shapes that would do if the model did not matter
	device placement.Bytes
}

func (p *planner) survey(c *class) *survey {
	v := &survey{models: make(map[int32]bool)}
	for i := range p.spaces {
		v.look(c, &p.spaces[i])
	}
	return v
}

// look adds one node to the survey.
func (v *survey) look(c *class, at *space) {
	f := c.fixed[at.index] | c.room(at)
	if f&failLaw == 0 {
		v.lawful++
		if v.right == nil {
			v.right = c.policy.at(at.node.Site)
		}
		if g := c.empty(at); g == 0 {
			v.ever++
			if f != 0 {
				v.busy[f.first()]++
			}
		} else {
			v.ideal[g.first()]++
		}
	} else if v.site == nil {
		v.site = c.policy.at(at.node.Site)
	}
	if f == 0 {
		v.fit++
		return
	}
	v.first[f.first()]++
	v.lift(c, at, f)
}

// lift notes what would let the node take the job if one filter were lifted.
func (v *survey) lift(c *class, at *space, f faults) {
	if f&failGPU != 0 && f&^failGPU == 0 {
		v.liftGPU(c, at)
		return
	}
	if f&(f-1) != 0 {
		return // fails more than one
	}
	v.lifted[f.first()]++
	switch f {
	case failCPU:
		v.cpu = max(v.cpu, at.cpu)
	case failMemory:
		v.memory = max(v.memory, at.memory)
	}
}

// liftGPU looks which of number, model and memory, lifted alone, would do.
func (v *survey) liftGPU(c *class, at *space) {
	t := c.tally(at.free)
	if t.both > 0 {
		v.gpus = max(v.gpus, t.both)
		v.lifted[failCount.first()]++
	}
	if t.memory >= c.res.GPUs {
		v.lifted[failModel.first()]++
		for _, l := range at.free {
			if l.count > 0 && c.shape(l.shape)&fitMemory != 0 {
				v.models[l.shape] = true
			}
		}
	}
	if t.model >= c.res.GPUs {
		v.lifted[failGPUMemory.first()]++
		for _, l := range at.free {
			if l.count > 0 && c.shape(l.shape)&fitModel != 0 {
				v.device = max(v.device, c.p.shapes.list[l.shape].memory)
			}
		}
	}
}

// empty are the filters that the node would fail even if it were ready, in
// contact and held nothing; every device that it lists counts.
func (c *class) empty(at *space) faults {
	n := at.node
	f := c.fixed[at.index] & (failPinned | failDriver)
	if n.Inventory.CPU < c.res.CPU {
		f |= failCPU
	}
	if n.Inventory.Memory < c.res.Memory {
		f |= failMemory
	}
	if c.res.GPUs > 0 {
		lots, _ := c.p.shapes.count(n, nil, func(*placement.Device) bool { return true })
		f |= c.devices(lots)
	}
	return f
}
