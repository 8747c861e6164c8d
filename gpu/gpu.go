// Package gpu holds what can be said of devices without touching hardware:
// specifications of simulated ones, checks of reported ones, what faults mean,
// and the health that follows ([Tracker]).
//
// A simulated device says so wherever it is shown; it never turns into a real
// one. A device that cannot be as it was reported is dropped by name, and hides
// no other. A node watches its devices through a [Source]: packages probe and
// sysfs have those of real machines. DESIGN.md says why it is so.
package gpu

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// MaxDevices is the most devices that one node may have.
const MaxDevices = 256

// The words that begin a specification.
const (
	SpecNone = "none" // no devices
	specSim  = "sim:" // simulated devices follow
)

// model is what a simulated device of a short name looks like: name and memory
// as NVML would report them. Island is how many of them reach each other by
// NVLink in the usual machine; slices, if not 0, is into how many memory slices
// MIG cuts it.
type model struct {
	short, name, vendor, architecture string
	memory                            placement.Bytes
	island, slices                    int
}

func models() []model {
	return []model{
		{"B200", "NVIDIA B200", "nvidia", "blackwell", 183359 * placement.MiB, 8, 8},
		{"H200", "NVIDIA H200", "nvidia", "hopper", 143771 * placement.MiB, 8, 8},
		{"H100", "NVIDIA H100 80GB HBM3", "nvidia", "hopper", 81559 * placement.MiB, 8, 8},
		{"A100", "NVIDIA A100-SXM4-80GB", "nvidia", "ampere", 81920 * placement.MiB, 8, 8},
		{"L40S", "NVIDIA L40S", "nvidia", "ada", 46068 * placement.MiB, 0, 0},
		{"A10", "NVIDIA A10", "nvidia", "ampere", 23028 * placement.MiB, 0, 0},
		{"L4", "NVIDIA L4", "nvidia", "ada", 23034 * placement.MiB, 0, 0},
		{"V100", "Tesla V100-SXM2-32GB", "nvidia", "volta", 32768 * placement.MiB, 4, 0},
		{"T4", "Tesla T4", "nvidia", "turing", 15360 * placement.MiB, 0, 0},
		{"MI300X", "AMD Instinct MI300X", "amd", "cdna3", 192 * placement.GiB, 8, 0},
	}
}

// SpecError is a specification of devices that cannot be read.
type SpecError struct {
	Spec string
	Why  string
}

// Error says what is wrong with the specification.
func (e *SpecError) Error() string {
	return fmt.Sprintf("%q names no devices: %s", e.Spec, e.Why)
}

// Hint shows specifications that can be read.
func (e *SpecError) Hint() string {
	return "write none, sim:8xH100, sim:4xA100,2xL4, sim:2xH100/7x1g.10gb or, for a model not known here, sim:2xZ9@48GiB; known: " + strings.Join(Models(), ", ")
}

// Models are the short names that need no memory in a specification.
func Models() []string {
	var out []string
	for _, m := range models() {
		out = append(out, m.short)
	}
	return out
}

// Parse reads a specification of devices: "none" (or nothing) for a node
// without any, "sim:8xH100,2xL4" for simulated ones, each group optionally with
// its memory ("2xH100@40GiB") or cut into MIG instances ("2xH100/7x1g.10gb").
// They hang together as in the usual machine: four to a NUMA node, and in NVLink
// islands where the model has them. Seed tells the devices of different nodes
// apart: device n is "sim-<seed>-<n>", counted from 0, its instance m
// "sim-<seed>-<n>-mig-<m>". Its error is a [*SpecError].
func Parse(spec, seed string) ([]placement.Device, error) {
	text := strings.TrimSpace(spec)
	if text == "" || text == SpecNone {
		return nil, nil
	}
	groups, ok := strings.CutPrefix(text, specSim)
	if !ok {
		return nil, &SpecError{spec, "it begins neither with sim: nor is it none"}
	}
	var out []placement.Device
	whole, islands := 0, 0
	for text := range strings.SplitSeq(groups, ",") {
		g, why := parseGroup(strings.TrimSpace(text))
		if why != "" {
			return nil, &SpecError{spec, why}
		}
		if len(out)+g.count*(1+len(g.instances)) > MaxDevices {
			return nil, &SpecError{spec, fmt.Sprintf("a node has at most %d, instances counted", MaxDevices)}
		}
		for i := range g.count {
			d := g.device
			d.UUID, d.Index, d.NUMA = fmt.Sprintf("sim-%s-%d", seed, whole), whole, strconv.Itoa(whole/4)
			if g.island > 0 && g.count > 1 {
				d.Island = fmt.Sprint("nvlink-", islands+i/g.island)
			}
			whole++
			out = append(out, g.cut(d)...)
		}
		if g.island > 0 && g.count > 1 {
			islands += (g.count + g.island - 1) / g.island
		}
	}
	return out, nil
}

// group is one part of a specification.
type group struct {
	count     int
	device    placement.Device
	island    int
	slices    int
	instances []instance
}

// instance is one MIG instance by the name of its profile.
type instance struct {
	profile string
	compute int // of 7
	memory  int // of the model's slices
}

// cut gives the device, and after it its instances if it has any.
func (g *group) cut(d placement.Device) []placement.Device {
	if len(g.instances) == 0 {
		return []placement.Device{d}
	}
	d.Partitioned = true
	out := []placement.Device{d}
	for i, in := range g.instances {
		m := d
		m.UUID, m.Parent, m.Profile, m.Partitioned, m.Island = fmt.Sprintf("%s-mig-%d", d.UUID, i), d.UUID, in.profile, false, ""
		m.Memory = d.Memory * placement.Bytes(in.memory) / placement.Bytes(g.slices)
		out = append(out, m)
	}
	return out
}

// parseGroup reads "8xH100", "8xH100@80GiB" or "8xH100/7x1g.10gb"; why is empty
// if it could.
func parseGroup(text string) (g group, why string) {
	text, cuts, isCut := strings.Cut(text, "/")
	number, rest, ok := strings.Cut(text, "x")
	count, err := strconv.Atoi(number)
	if !ok || err != nil || count < 1 {
		return g, fmt.Sprintf("%q is not a number of devices, x and a model", text)
	}
	if count > MaxDevices {
		return g, fmt.Sprintf("a node has at most %d", MaxDevices)
	}
	name, size, sized := strings.Cut(rest, "@")
	if name == "" || len(name) > 64 || !readable(name) {
		return g, fmt.Sprintf("%q names no model", text)
	}
	g.count = count
	g.device = placement.Device{Model: name, Health: placement.DeviceOK, Simulated: true}
	known := slices.IndexFunc(models(), func(m model) bool { return strings.EqualFold(m.short, name) })
	if known >= 0 {
		m := models()[known]
		g.device.Model, g.device.Vendor, g.device.Memory, g.device.Architecture = m.name, m.vendor, m.memory, m.architecture
		g.island, g.slices = m.island, m.slices
	}
	if sized {
		if g.device.Memory, err = placement.ParseBytes(size); err != nil || g.device.Memory <= 0 || g.device.Memory > maxMemory {
			return g, fmt.Sprintf("%q is no amount of memory", size)
		}
	} else if known < 0 {
		return g, fmt.Sprintf("the model %s is not known here and no memory is given", name)
	}
	if isCut {
		return g, g.parseCuts(name, cuts)
	}
	return g, ""
}

// parseCuts reads "7x1g.10gb" or "1x3g.40gb+2x2g.20gb".
func (g *group) parseCuts(model, text string) string {
	if g.slices == 0 {
		return fmt.Sprintf("the model %s is not known to be cut into MIG instances", model)
	}
	compute, memory := 0, 0
	for part := range strings.SplitSeq(text, "+") {
		number, profile, ok := strings.Cut(part, "x")
		count, err := strconv.Atoi(number)
		if !ok || err != nil || count < 1 || count > 7 {
			return fmt.Sprintf("%q is not a number of instances, x and a profile", part)
		}
		in, why := g.profile(profile)
		if why != "" {
			return why
		}
		for range count {
			compute, memory = compute+in.compute, memory+in.memory
			g.instances = append(g.instances, in)
		}
	}
	if compute > 7 || memory > g.slices {
		return fmt.Sprintf("%q does not fit one %s: it has 7 compute and %d memory slices, these need %d and %d", text, model, g.slices, compute, memory)
	}
	return ""
}

// profile reads "1g.10gb": compute slices, and memory in the maker's gigabytes.
func (g *group) profile(name string) (in instance, why string) {
	compute, memory, ok := strings.Cut(name, "g.")
	gigabytes, sized := strings.CutSuffix(memory, "gb")
	in.profile = name
	in.compute, _ = strconv.Atoi(compute)
	size, err := strconv.Atoi(gigabytes)
	slice := float64(g.device.Memory) / float64(placement.GiB) / float64(g.slices)
	in.memory = int(float64(size)/slice + 0.5)
	if !ok || !sized || err != nil || !slices.Contains([]int{1, 2, 3, 4, 7}, in.compute) || strconv.Itoa(in.compute) != compute {
		return in, fmt.Sprintf("%q is no MIG profile", name)
	}
	if in.memory < 1 || in.memory > g.slices {
		return in, fmt.Sprintf("the MIG profile %q does not exist on a device of %s", name, g.device.Memory)
	}
	return in, ""
}
