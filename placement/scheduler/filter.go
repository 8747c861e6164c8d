package scheduler

import "github.com/sovmesh/sovmesh/placement"

// Constraint names a filter; the value is the stable code that users see.
type Constraint string

// The filters in the order in which they are tried. A node counts for the
// first that it fails.
const (
	ResidencyRefused Constraint = "residency.refused"
	ResidencyUnknown Constraint = "residency.unknown"
	NodeState        Constraint = "node.state"       // cordoned, draining or drained
	NodeContact      Constraint = "node.contact"     // silent
	NodePinned       Constraint = "node.pinned"      // the job names another node or site
	NodeDriver       Constraint = "node.driver"      // cannot run this kind
	NodeResolver     Constraint = "node.resolver"    // does not have a resolver that the job asks for
	JobBeside        Constraint = "job.avoid"        // it holds a job that this one avoids, or that avoids it
	GPUCount         Constraint = "gpu.count"        // it has fewer GPUs, were all of them free
	GPUProfile       Constraint = "gpu.profile"      // it has fewer instances of the MIG profile
	GPUModel         Constraint = "gpu.model"        // fewer of them are of the model
	GPUMemory        Constraint = "gpu.memory"       // or have the memory
	GPUSealed        Constraint = "gpu.confidential" // or run in confidential-computing mode
	FreeCPU          Constraint = "capacity.cpu"     // less is free
	FreeMemory       Constraint = "capacity.memory"  // less is free
	GPUHealth        Constraint = "gpu.health"       // enough would be free, were all healthy
	GPUFree          Constraint = "gpu.free"         // it has them, and others hold them
)

// chain is the order of the filters, for counting: what the law says, what
// people decided, what hardware is there, what of it is free.
var chain = [...]Constraint{
	ResidencyRefused, ResidencyUnknown, NodeState, NodeContact, NodePinned, NodeDriver, NodeResolver, JobBeside,
	GPUCount, GPUProfile, GPUModel, GPUMemory, GPUSealed, FreeCPU, FreeMemory, GPUHealth, GPUFree,
}

// faults is a set of constraints, bit i standing for chain[i]: which filters a
// node fails, not only the first.
type faults uint32

const (
	failRefused faults = 1 << iota
	failUnknown
	failState
	failContact
	failPinned
	failDriver
	failResolver
	failBeside
	failCount
	failProfile
	failModel
	failGPUMemory
	failSealed
	failCPU
	failMemory
	failHealth
	failFree
)

const (
	failLaw = failRefused | failUnknown
	// failGPU: at most one of them is set, the first.
	failGPU = failCount | failProfile | failModel | failGPUMemory | failSealed | failHealth | failFree
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
	if k.dns != "" && !k.resolves(n) {
		f |= failResolver
	}
	return f
}

// room are the filters that depend on what is free at the moment. Of the
// devices it says only that they do not do; [class.lacking] says why.
func (c *class) room(at *space) faults {
	var f faults
	if at.cpu < c.res.CPU {
		f |= failCPU
	}
	if at.memory < c.res.Memory {
		f |= failMemory
	}
	if c.res.GPUs > 0 {
		f |= c.devices(at)
	}
	return f
}
