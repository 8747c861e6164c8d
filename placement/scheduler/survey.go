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
	cpu      placement.MilliCPU
	memory   placement.Bytes
	gpus     int
	share    placement.MilliGPU
	models   map[int32]bool // shapes that would do if the model did not matter
	profiles map[int32]bool // or the MIG profile
	device   placement.Bytes
	// hole is the most devices that serve the class and are free on one node that
	// nothing else keeps from it.
	hole int
}

func (p *planner) survey(c *class) *survey {
	v := &survey{models: make(map[int32]bool), profiles: make(map[int32]bool)}
	for i := range p.spaces {
		v.look(c, &p.spaces[i])
	}
	return v
}

// look adds one node to the survey.
func (v *survey) look(c *class, at *space) {
	f := c.fixed[at.index] | c.room(at)
	var seen sight
	if c.res.GPUs > 0 {
		seen = c.see(at)
		if f&failGPU != 0 {
			f = f&^failGPU | c.lacking(&seen)
		}
		if f&^failGPU == 0 {
			v.hole = max(v.hole, seen.free[fitAll])
		}
	}
	if f&failLaw == 0 {
		v.lawful++
		if v.right == nil {
			v.right = c.policy.at(at.node.Site)
		}
		if g := c.empty(at, &seen); g == 0 {
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
	v.lift(c, at, f, &seen)
}

// lift notes what would let the node take the job if one filter were lifted.
func (v *survey) lift(c *class, at *space, f faults, seen *sight) {
	if f&failGPU != 0 && f&^failGPU == 0 {
		v.liftGPU(c, f, seen)
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

// liftGPU looks which of number, profile, model, memory, mode and health,
// lifted alone, would do.
func (v *survey) liftGPU(c *class, f faults, seen *sight) {
	if free := seen.free[fitAll]; free > 0 && c.res.GPUs > 1 {
		v.gpus = max(v.gpus, free)
		number := failFree
		if f&(failHealth|failFree) == 0 {
			number = failCount
		}
		v.lifted[number.first()]++
	}
	if c.res.GPUShare > 0 && seen.most >= coarseShare {
		v.share = max(v.share, seen.most)
		v.lifted[failFree.first()]++
	}
	if seen.free[fitAll]+seen.sick >= c.res.GPUs {
		v.lifted[failHealth.first()]++
	}
	for _, one := range [...]struct {
		need fit
		fail faults
	}{{fitKind, failProfile}, {fitModel, failModel}, {fitMemory, failGPUMemory}, {fitSealed, failSealed}} {
		if with(&seen.free, fitAll&^one.need) < c.res.GPUs || one.fail == failProfile && c.res.GPUProfile == "" {
			continue
		}
		v.lifted[one.fail.first()]++
		for id := range seen.names {
			if c.shape(id)|one.need == fitAll {
				v.note(c, one.fail, id)
			}
		}
	}
}

// note remembers what the shape has that the class did not ask for.
func (v *survey) note(c *class, f faults, id int32) {
	switch f {
	case failModel:
		v.models[id] = true
	case failProfile:
		v.profiles[id] = true
	case failGPUMemory:
		v.device = max(v.device, c.p.shapes.list[id].memory)
	}
}

// empty are the filters that the node would fail even if it were ready, in
// contact and held nothing. Every device that it lists counts, sick ones too: a
// lost GPU is hardware that is there.
func (c *class) empty(at *space, seen *sight) faults {
	n := at.node
	f := c.fixed[at.index] & (failPinned | failDriver | failResolver)
	if n.Inventory.CPU < c.res.CPU {
		f |= failCPU
	}
	if n.Inventory.Memory < c.res.Memory {
		f |= failMemory
	}
	if c.res.GPUs > 0 {
		f |= c.lacking(seen) &^ (failHealth | failFree)
	}
	return f
}
