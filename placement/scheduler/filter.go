package scheduler

import "github.com/sovmesh/sovmesh/placement"

// Constraint names a filter; the value is the stable code that users see.
type Constraint string

// The filters in the order in which they are tried. A node counts for the
// first that it fails.
const (
	ResidencyRefused Constraint = "residency.refused"
	ResidencyUnknown Constraint = "residency.unknown"
	NodeState        Constraint = "node.state"   // cordoned, draining or drained
	NodeContact      Constraint = "node.contact" // silent
	NodePinned       Constraint = "node.pinned"  // the job names another node or site
	NodeDriver       Constraint = "node.driver"  // cannot run this kind
	FreeCPU          Constraint = "capacity.cpu"
	FreeMemory       Constraint = "capacity.memory"
	GPUCount         Constraint = "gpu.count"
	GPUModel         Constraint = "gpu.model"
	GPUMemory        Constraint = "gpu.memory"
)

// chain is the order of the filters, for counting.
var chain = [...]Constraint{
	ResidencyRefused, ResidencyUnknown, NodeState, NodeContact, NodePinned,
	NodeDriver, FreeCPU, FreeMemory, GPUCount, GPUModel, GPUMemory,
}

// faults is a set of constraints, bit i standing for chain[i]: which filters a
// node fails, not only the first.
type faults uint16

const (
	failRefused faults = 1 << iota
	failUnknown
	failState
	failContact
	failPinned
	failDriver
	failCPU
	failMemory
	failCount
	failModel
	failGPUMemory
)

const (
	failLaw = failRefused | failUnknown
	failGPU = failCount | failModel | failGPUMemory
)

// first is the index in chain of the first failing filter.
func (f faults) first() int {
	for i := range chain {
		if f&(1<<i) != 0 {
			return i
		}
	}
	return -1
}

// filter runs the filters whose answer one plan does not change.
func (k groupKey) filter(n *placement.Node, law *verdict, drives bool) faults {
	var f faults
	switch law.constraint {
	case ResidencyRefused:
		f |= failRefused
	case ResidencyUnknown:
		f |= failUnknown
	}
	if n.State != placement.NodeReady {
		f |= failState
	}
	if n.Contact != placement.ContactAlive {
		f |= failContact
	}
	if k.node != "" && k.node != n.ID || k.site != "" && k.site != n.Site {
		f |= failPinned
	}
	if !drives {
		f |= failDriver
	}
	return f
}

// room are the filters that depend on what is free at the moment.
func (c *class) room(at *space) faults {
	var f faults
	if at.cpu < c.res.CPU {
		f |= failCPU
	}
	if at.memory < c.res.Memory {
		f |= failMemory
	}
	if c.res.GPUs > 0 {
		f |= c.devices(at.free)
	}
	return f
}

// devices says whether enough of the counted devices serve the class, and if
// not, whether number, model or memory is what is short.
func (c *class) devices(lots []lot) faults {
	n := c.tally(lots)
	switch {
	case n.both >= c.res.GPUs:
		return 0
	case n.all < c.res.GPUs:
		return failCount
	case n.model < c.res.GPUs:
		return failModel
	}
	return failGPUMemory
}

// tally counts devices: all, those of the model asked for, those with the
// memory asked for, and those with both.
type tally struct{ all, model, memory, both int }

func (c *class) tally(lots []lot) tally {
	var t tally
	for _, l := range lots {
		fit := c.shape(l.shape)
		n := int(l.count)
		t.all += n
		if fit&fitModel != 0 {
			t.model += n
		}
		if fit&fitMemory != 0 {
			t.memory += n
		}
		if fit == fitModel|fitMemory {
			t.both += n
		}
	}
	return t
}
