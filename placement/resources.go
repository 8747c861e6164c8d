package placement

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MilliGPU is a share of one device in thousandths: 1000 is all of it.
type MilliGPU int32

// WholeGPU is all of a device.
const WholeGPU MilliGPU = 1000

// ParseGPUShare reads a share of one device, "300m" or "0.3". A share below one
// thousandth, or of a whole device or more, is refused.
func ParseGPUShare(s string) (MilliGPU, error) {
	n, err := ParseCPU(s)
	if err != nil || n < 1 || n >= MilliCPU(WholeGPU) {
		return 0, fmt.Errorf("%q is no share of a GPU: write a part of one, as in 0.3 or 300m, and gpus: 1 for all of it", s)
	}
	return MilliGPU(n), nil
}

func (m MilliGPU) String() string { return MilliCPU(m).String() }

// MarshalJSON writes the share as a string.
func (m MilliGPU) MarshalJSON() ([]byte, error) { return json.Marshal(m.String()) }

// UnmarshalJSON reads a string or a number of devices, from 0 to 1.
func (m *MilliGPU) UnmarshalJSON(data []byte) error {
	n, err := ParseCPU(strings.Trim(string(data), `"`))
	if err != nil || n > MilliCPU(WholeGPU) {
		return fmt.Errorf("%.20q is no share of a GPU", data)
	}
	*m = MilliGPU(n)
	return nil
}

// Resources are what a task asks for or a node offers.
type Resources struct {
	CPU    MilliCPU `json:"cpu,omitempty"`
	Memory Bytes    `json:"memory,omitempty"`
	// GPUs counts devices: GPUs, or MIG instances if GPUProfile is set.
	GPUs int `json:"gpus,omitempty"`
	// GPUShare is how much of the one device is asked for; zero is all of it.
	GPUShare MilliGPU `json:"gpu_share,omitempty"`
	// GPUModel, GPUMemory, GPUProfile and Confidential narrow which devices
	// count, see [Device.Matches]: the names of models, joined by |; the least
	// memory that a device must have; a MIG profile such as 1g.10gb; devices in
	// confidential-computing mode alone.
	GPUModel     string `json:"gpu_model,omitempty"`
	GPUMemory    Bytes  `json:"gpu_memory,omitempty"`
	GPUProfile   string `json:"gpu_profile,omitempty"`
	Confidential bool   `json:"confidential,omitempty"`
}

// DefaultResources are what a task asks for that names nothing.
func DefaultResources() Resources { return Resources{CPU: 100, Memory: 64 * MiB} }

// MaxGPUs is the most devices that one task may ask for.
const MaxGPUs = 1024

// PerDevice is what each device gives to a task with these resources.
func (r Resources) PerDevice() MilliGPU {
	if r.GPUShare > 0 {
		return r.GPUShare
	}
	return WholeGPU
}

// Weight is what each device that it is given counts for when tenants are
// compared: its share of a GPU, of a MIG instance the compute slices of the seven
// that a whole one has.
func (r Resources) Weight() MilliGPU {
	if r.GPUProfile != "" {
		return ProfileWeight(r.GPUProfile)
	}
	return r.PerDevice()
}

// ProfileWeight is the part of a GPU that an instance of a MIG profile is.
func ProfileWeight(profile string) MilliGPU {
	slices, _, _ := strings.Cut(profile, "g.")
	n, err := strconv.Atoi(slices)
	if err != nil || n < 1 {
		return WholeGPU
	}
	return min(WholeGPU, MilliGPU(min(n, 7))*WholeGPU/7)
}

// Problem says what makes the resources impossible for any node, and what to
// write instead; both are empty if nothing does.
func (r Resources) Problem() (why, help string) {
	switch {
	case r.CPU < 0 || r.Memory < 0 || r.GPUs < 0 || r.GPUMemory < 0 || r.GPUShare < 0:
		return "an amount is negative", "ask for amounts that a node can have"
	case r.GPUs > MaxGPUs:
		return fmt.Sprintf("%d GPUs are more than one task can have", r.GPUs), fmt.Sprintf("ask for at most %d", MaxGPUs)
	case r.GPUShare >= WholeGPU:
		return fmt.Sprintf("a share of %s is no part of a GPU", r.GPUShare), "ask for gpus: 1 and leave gpu_share out"
	case r.GPUShare > 0 && r.GPUs > 1:
		return fmt.Sprintf("%s of %d GPUs: a task shares one GPU or has whole ones", r.GPUShare, r.GPUs), "ask for gpus: 1 with gpu_share, or leave gpu_share out"
	case r.GPUShare > 0 && r.GPUProfile != "":
		return "a MIG instance is not shared", "ask for a smaller gpu_profile, or for gpu_share without it"
	case r.GPUProfile != "" && !ValidProfile(r.GPUProfile):
		return fmt.Sprintf("%.20q is no MIG profile", r.GPUProfile), "write it as the driver does, for example 1g.10gb or 3g.40gb"
	case r.GPUModel != "" && slices.ContainsFunc(strings.Split(r.GPUModel, "|"), func(m string) bool { return m == "" || m != strings.TrimSpace(m) }):
		return fmt.Sprintf("gpu_model %.80q has an empty name, or blanks around one: no device is called that", r.GPUModel), "write models with | alone between them, for example H100|A100"
	case r.GPUs == 0 && (r.GPUModel != "" || r.GPUMemory != 0 || r.GPUShare != 0 || r.GPUProfile != "" || r.Confidential):
		return "gpu_model, gpu_memory, gpu_profile and confidential are asked for, but no gpus", "add gpus: 1 (or more)"
	}
	return "", ""
}

// ValidProfile reports whether the text is written as a MIG profile: compute
// slices, "g.", memory in gigabytes, "gb", and perhaps attributes ("+me").
// https://docs.nvidia.com/datacenter/tesla/mig-user-guide/
func ValidProfile(p string) bool {
	head, attributes, has := strings.Cut(p, "+")
	slices, memory, cut := strings.Cut(head, "g.")
	memory, unit := strings.CutSuffix(memory, "gb")
	if !cut || !unit || has && attributes == "" || len(p) > 24 {
		return false
	}
	for _, c := range attributes {
		if c != '.' && c != '+' && (c < 'a' || c > 'z') {
			return false
		}
	}
	return digits(slices) && digits(memory)
}

// digits reports whether it is a number of one to three digits above zero.
func digits(s string) bool {
	if s == "" || len(s) > 3 || s[0] == '0' {
		return false
	}
	return strings.Trim(s, "0123456789") == ""
}
