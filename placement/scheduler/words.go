package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// wants says what of the demand the hardware cannot give.
func (c *class) wants(code Constraint) string {
	switch code {
	case NodePinned:
		return "it is bound to " + c.pin() + ", which is not here or not lawful for it"
	case NodeDriver:
		return fmt.Sprintf("none runs jobs of kind %s", c.kind)
	case NodeResolver:
		return "none may let its tasks ask the resolvers " + c.dns
	case FreeCPU:
		return fmt.Sprintf("none has %s cores", c.res.CPU)
	case FreeMemory:
		return fmt.Sprintf("none has %s of memory", c.res.Memory)
	case GPUProfile:
		return fmt.Sprintf("none has %s of the profile %s%s", count(c.res.GPUs, "MIG instance"), c.res.GPUProfile, c.cuts())
	case GPUModel:
		return fmt.Sprintf("none has %s of model %s", count(c.res.GPUs, "GPU"), c.models())
	case GPUMemory:
		return fmt.Sprintf("none has %s with %s of memory each", count(c.res.GPUs, "such GPU"), c.res.GPUMemory)
	case GPUSealed:
		return fmt.Sprintf("none has %s in confidential-computing mode", count(c.res.GPUs, "such GPU"))
	}
	return fmt.Sprintf("none has %s", count(c.res.GPUs, "GPU"))
}

// cuts says what the GPUs of the region can be cut into, as far as their drivers say.
func (c *class) cuts() string {
	var all []string
	for _, n := range c.p.s.Nodes {
		for i := range n.Inventory.Devices {
			all = append(all, n.Inventory.Devices[i].Profiles...)
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	switch {
	case len(all) == 0:
		return ""
	case slices.Contains(all, c.res.GPUProfile):
		return "; an operator could cut a GPU into it"
	}
	return "; no GPU can be cut into it, those here into " + strings.Join(all, ", ")
}

// lacks says what so many nodes lack at the moment, with its verb.
func (c *class) lacks(code Constraint, n int) string {
	is, has := "are", "have"
	if n == 1 {
		is, has = "is", "has"
	}
	switch code {
	case NodeState:
		return is + " cordoned, draining or drained"
	case NodeContact:
		return is + " silent"
	case NodePinned:
		return is + " other than " + c.pin()
	case NodeDriver:
		return fmt.Sprintf("%s no driver %s", has, c.driver())
	case NodeResolver:
		return has + " not the resolvers " + c.dns
	case JobBeside:
		return has + " a job beside which it does not stand"
	case FreeCPU:
		return fmt.Sprintf("%s less than %s cores free", has, c.res.CPU)
	case FreeMemory:
		return fmt.Sprintf("%s less than %s of memory free", has, c.res.Memory)
	case GPUHealth:
		return has + " GPUs that are cordoned or lost"
	}
	if c.res.GPUShare > 0 {
		return fmt.Sprintf("%s no GPU of which %s is free", has, c.res.GPUShare)
	}
	if c.res.GPUProfile != "" {
		return fmt.Sprintf("%s fewer than %d MIG instances %s free", has, c.res.GPUs, c.res.GPUProfile)
	}
	if c.res.GPUs == 1 {
		return has + " no GPU free for it"
	}
	return fmt.Sprintf("%s fewer than %d GPUs free", has, c.res.GPUs)
}

// resolvers says which ones the region's nodes have.
func (p *planner) resolvers() string {
	var all []string
	for _, n := range p.s.Nodes {
		all = append(all, n.Inventory.Resolvers...)
	}
	slices.Sort(all)
	if all = slices.Compact(all); len(all) == 0 {
		return "have the operator name the region's in the agents' configuration (tasks.resolvers): none here has any"
	}
	return "name one that the region's operator does: " + strings.Join(all, ", ")
}

// pin names what the job is bound to.
func (c *class) pin() string {
	if c.node != "" {
		return fmt.Sprintf("node %s", c.node)
	}
	return fmt.Sprintf("site %s", c.site)
}

// models names the models asked for.
func (c *class) models() string { return strings.ReplaceAll(c.res.GPUModel, "|", " or ") }

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

// Amounts that are free are told rounded down, so that they say little of what
// holds the rest.
const (
	coarseCPU   = 500
	coarseShare = 100
)

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
		return fmt.Sprintf("give the nodes the driver %s", c.driver())
	case NodeResolver:
		return "leave network.dns out, or " + c.p.resolvers()
	case JobBeside:
		return "drop avoid, or end the job that stands there"
	case FreeCPU:
		if v.cpu < coarseCPU {
			return "ask for less cpu"
		}
		return fmt.Sprintf("ask for cpu %s", v.cpu-v.cpu%coarseCPU)
	case FreeMemory:
		return "ask for " + coarseMemory(v.memory)
	case GPUProfile:
		return "take another MIG profile: " + strings.Join(c.p.namesOf(v.profiles, func(s shape) string { return s.profile }), ", ")
	case GPUModel:
		return "take another model: " + strings.Join(c.p.namesOf(v.models, func(s shape) string { return s.model }), ", ")
	case GPUMemory:
		return fmt.Sprintf("ask for gpu_memory %s", v.device)
	case GPUSealed:
		return "do without confidential-computing mode"
	case GPUHealth:
		return "have the cordoned or lost GPUs repaired or cleared"
	}
	if c.res.GPUShare > 0 {
		return fmt.Sprintf("ask for gpu_share %s", v.share-v.share%coarseShare)
	}
	return "ask for " + count(v.gpus, "GPU")
}

func coarseMemory(b placement.Bytes) string {
	for _, unit := range [...]placement.Bytes{placement.GiB, 64 * placement.MiB} {
		if b >= unit {
			return "memory " + (b - b%unit).String()
		}
	}
	return "less memory"
}

// namesOf are the different names of the given shapes in order of their numbers.
func (p *planner) namesOf(ids map[int32]bool, name func(shape) string) []string {
	var out []string
	for id, s := range p.shapes.list {
		text := name(s)
		if text == "" {
			text = "a whole GPU"
		}
		if ids[int32(id)] && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

// brief is one line: how many nodes fail which filter first, most of them first.
func (c *class) brief(e *Explanation) string {
	var b strings.Builder
	b.WriteString(nodes(e.Nodes))
	sep := ": "
	if e.Fitting > 0 {
		fmt.Fprintf(&b, "%s%d fit", sep, e.Fitting)
		sep = ", "
	}
	sorted := slices.Clone(e.Counts)
	slices.SortStableFunc(sorted, func(a, b Count) int { return cmp.Compare(b.Nodes, a.Nodes) })
	for _, n := range sorted {
		fmt.Fprintf(&b, "%s%d %s", sep, n.Nodes, c.short(n.Constraint, e.LargestHole))
		sep = ", "
	}
	return b.String()
}

// short names what nodes fail in a word or two.
func (c *class) short(code Constraint, hole int) string {
	switch code {
	case ResidencyRefused:
		return fmt.Sprintf("residency (%s)", c.policy.tag)
	case ResidencyUnknown:
		return "residency unknown"
	case NodeState:
		return "cordoned"
	case NodeContact:
		return "silent"
	case NodePinned:
		return "not " + c.pin()
	case NodeDriver:
		return "no driver " + c.driver()
	case NodeResolver:
		return "no such resolver"
	case GPUCount:
		return fmt.Sprintf("gpus<%d", c.res.GPUs)
	case GPUProfile:
		return "profile"
	case GPUModel:
		return "model"
	case GPUMemory:
		return "gpu-memory"
	case GPUSealed:
		return "not confidential"
	case FreeCPU:
		return "cpu"
	case FreeMemory:
		return "memory"
	case GPUHealth:
		return "gpu-health"
	case GPUFree:
		if c.res.GPUShare > 0 {
			return fmt.Sprintf("gpu-free<%s", c.res.GPUShare)
		}
		if hole >= c.res.GPUs { // on another node, which takes it
			return fmt.Sprintf("gpu-free<%d", c.res.GPUs)
		}
		return fmt.Sprintf("gpu-free<%d (largest hole %d)", c.res.GPUs, hole)
	}
	return string(code)
}

// detail says what of the demand nodes fail.
func (c *class) detail(code Constraint, hole int) string {
	switch code {
	case ResidencyRefused, ResidencyUnknown:
		return "tag " + c.policy.tag
	case NodePinned:
		return "bound to " + c.pin()
	case NodeDriver:
		return "kind " + string(c.kind)
	case NodeResolver:
		return "resolvers " + c.dns
	case GPUCount:
		return fmt.Sprintf("fewer than %d", c.res.GPUs)
	case GPUProfile:
		return c.res.GPUProfile
	case GPUModel:
		return c.models()
	case GPUMemory:
		return c.res.GPUMemory.String()
	case FreeCPU:
		return c.res.CPU.String() + " asked for"
	case FreeMemory:
		return c.res.Memory.String() + " asked for"
	case GPUHealth:
		return "cordoned or lost"
	case GPUFree:
		if c.res.GPUShare > 0 {
			return c.res.GPUShare.String() + " of one asked for"
		}
		if hole >= c.res.GPUs {
			return fmt.Sprintf("%d asked for", c.res.GPUs)
		}
		return fmt.Sprintf("%d asked for, the largest hole has %d", c.res.GPUs, hole)
	}
	return ""
}

// nodes counts nodes in words.
func nodes(n int) string { return count(n, "node") }

// count counts things in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
