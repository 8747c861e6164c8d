// Package gpu holds what can be said of devices without touching hardware:
// specifications of simulated ones, checks of reported ones, and the order of
// health states.
//
// A simulated device says so wherever it is shown; it never turns into a real
// one. A node reads its setting here, and the region's leader checks
// reports with it before they become inventory.
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
// as NVML would report them.
type model struct {
	short, name, vendor string
	memory              placement.Bytes
}

func models() []model {
	return []model{
		{"B200", "NVIDIA B200", "nvidia", 183359 * placement.MiB},
		{"H200", "NVIDIA H200", "nvidia", 143771 * placement.MiB},
		{"H100", "NVIDIA H100 80GB HBM3", "nvidia", 81559 * placement.MiB},
		{"A100", "NVIDIA A100-SXM4-80GB", "nvidia", 81920 * placement.MiB},
		{"L40S", "NVIDIA L40S", "nvidia", 46068 * placement.MiB},
		{"A10", "NVIDIA A10", "nvidia", 23028 * placement.MiB},
		{"L4", "NVIDIA L4", "nvidia", 23034 * placement.MiB},
		{"V100", "Tesla V100-SXM2-32GB", "nvidia", 32768 * placement.MiB},
		{"T4", "Tesla T4", "nvidia", 15360 * placement.MiB},
		{"MI300X", "AMD Instinct MI300X", "amd", 192 * placement.GiB},
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
	return "write none, sim:8xH100, sim:4xA100,2xL4 or, for a model not known here, sim:2xZ9@48GiB; known: " + strings.Join(Models(), ", ")
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
// its memory ("2xH100@40GiB"). Seed tells the devices of different nodes apart:
// device n is "sim-<seed>-<n>", counted from 0. Its error is a [*SpecError].
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
	for group := range strings.SplitSeq(groups, ",") {
		count, device, why := parseGroup(strings.TrimSpace(group))
		if why != "" {
			return nil, &SpecError{spec, why}
		}
		if len(out)+count > MaxDevices {
			return nil, &SpecError{spec, fmt.Sprintf("a node has at most %d", MaxDevices)}
		}
		for range count {
			device.UUID = fmt.Sprintf("sim-%s-%d", seed, len(out))
			out = append(out, device)
		}
	}
	return out, nil
}

// parseGroup reads "8xH100" or "8xH100@80GiB"; why is empty if it could.
func parseGroup(group string) (count int, d placement.Device, why string) {
	number, rest, ok := strings.Cut(group, "x")
	count, err := strconv.Atoi(number)
	if !ok || err != nil || count < 1 {
		return 0, d, fmt.Sprintf("%q is not a number of devices, x and a model", group)
	}
	name, size, sized := strings.Cut(rest, "@")
	if name == "" || len(name) > 64 {
		return 0, d, fmt.Sprintf("%q names no model", group)
	}
	d = placement.Device{Model: name, Health: placement.DeviceOK, Simulated: true}
	known := slices.IndexFunc(models(), func(m model) bool { return strings.EqualFold(m.short, name) })
	if known >= 0 {
		m := models()[known]
		d.Model, d.Vendor, d.Memory = m.name, m.vendor, m.memory
	}
	if sized {
		if d.Memory, err = placement.ParseBytes(size); err != nil || d.Memory <= 0 {
			return 0, d, fmt.Sprintf("%q is no amount of memory", size)
		}
	} else if known < 0 {
		return 0, d, fmt.Sprintf("the model %s is not known here and no memory is given", name)
	}
	return count, d, ""
}
