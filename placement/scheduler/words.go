package scheduler

import (
	"fmt"
	"strings"
)

// wants says what of the demand the hardware cannot give.
func (c *class) wants(code Constraint) string {
	switch code {
	case NodePinned:
		return "it is bound to " + c.pin() + ", which is not here or not lawful for it"
	case NodeDriver:
		return fmt.Sprintf("none runs jobs of kind %s", c.kind)
	case FreeCPU:
		return fmt.Sprintf("none has %s cores", c.res.CPU)
	case FreeMemory:
		return fmt.Sprintf("none has %s of memory", c.res.Memory)
	case GPUModel:
		return fmt.Sprintf("none has %d GPUs of model %s", c.res.GPUs, c.res.GPUModel)
	case GPUMemory:
		return fmt.Sprintf("none has %d such GPUs with %s of memory each", c.res.GPUs, c.res.GPUMemory)
	}
	return fmt.Sprintf("none has %d GPUs", c.res.GPUs)
}

// lacks says what most nodes lack at the moment.
func (c *class) lacks(code Constraint) string {
	switch code {
	case NodeState:
		return "cordoned, draining or drained"
	case NodeContact:
		return "silent"
	case NodePinned:
		return "other than " + c.pin()
	case NodeDriver:
		return fmt.Sprintf("without the driver %s", c.kind)
	case FreeCPU:
		return fmt.Sprintf("with less than %s cores free", c.res.CPU)
	case FreeMemory:
		return fmt.Sprintf("with less than %s of memory free", c.res.Memory)
	case GPUModel:
		return fmt.Sprintf("with fewer than %d GPUs of model %s free", c.res.GPUs, c.res.GPUModel)
	case GPUMemory:
		return fmt.Sprintf("with fewer than %d such GPUs of %s free", c.res.GPUs, c.res.GPUMemory)
	}
	return fmt.Sprintf("with fewer than %d GPUs free", c.res.GPUs)
}

// pin names what the job is bound to.
func (c *class) pin() string {
	if c.node != "" {
		return fmt.Sprintf("node %s", c.node)
	}
	return fmt.Sprintf("site %s", c.site)
}

// changes lists the relaxations that would let the job in now.
func changes(c *class, v *survey) []Change {
	var out []Change
	for i, n := range v.lifted {
		if n > 0 {
			out = append(out, Change{chain[i], c.change(chain[i], v), n})
		}
	}
	return out
}

// change says in words what lifting the constraint would be.
func (c *class) change(code Constraint, v *survey) string {
	switch code {
	case ResidencyRefused:
		return "widen the residency tag: only the owner of the data may"
	case ResidencyUnknown:
		return "have the unknown facts of the place documented"
	case NodeState:
		return "resume the nodes that are cordoned or draining"
	case NodeContact:
		return "bring the silent nodes back"
	case NodePinned:
		return "drop the binding to " + c.pin()
	case NodeDriver:
		return fmt.Sprintf("give the nodes the driver %s", c.kind)
	case FreeCPU:
		return fmt.Sprintf("ask for cpu %s", v.cpu)
	case FreeMemory:
		return fmt.Sprintf("ask for memory %s", v.memory)
	case GPUModel:
		return "take another model: " + strings.Join(c.p.modelNames(v.models), ", ")
	case GPUMemory:
		return fmt.Sprintf("ask for gpu_memory %s", v.device)
	}
	return fmt.Sprintf("ask for %d GPUs", v.gpus)
}

// modelNames are the models of the given shapes in order of their numbers.
func (p *planner) modelNames(ids map[int32]bool) []string {
	var out []string
	seen := make(map[string]bool)
	for id, s := range p.shapes.list {
		if ids[int32(id)] && !seen[s.model] {
			seen[s.model] = true
			out = append(out, s.model)
		}
	}
	return out
}

// nodes counts nodes in words.
func nodes(n int) string {
	if n == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", n)
}
