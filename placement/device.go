package placement

import (
	"slices"
	"strings"
	"time"
)

// DeviceHealth is the state of one device, worst last.
type DeviceHealth string

// The health states: only an ok or degraded device is offered to new tasks.
const (
	DeviceOK       DeviceHealth = "ok"
	DeviceDegraded DeviceHealth = "degraded"
	DeviceCordoned DeviceHealth = "cordoned"
	DeviceLost     DeviceHealth = "lost"
)

// DeviceAction is what a cause asks of people, the gentlest first.
type DeviceAction string

// The actions. None passes by itself; a restart is the job owner's, a reset,
// a reboot and a return of the part (RMA) are the operator's.
const (
	ActionNone       DeviceAction = "none"
	ActionRestartJob DeviceAction = "restart-job"
	ActionResetGPU   DeviceAction = "reset-gpu"
	ActionReboot     DeviceAction = "reboot"
	ActionRMA        DeviceAction = "rma"
)

// Cause is one thing that is wrong with a device. The device's health is the
// worst that its causes give.
type Cause struct {
	// Code names the thing for programs: xid-79, remap-pending, throttle, driver.
	Code   string       `json:"code"`
	Reason string       `json:"reason"` // the same for people
	Health DeviceHealth `json:"health"`
	Action DeviceAction `json:"action"`
	First  time.Time    `json:"first"` // first and last seen
	Last   time.Time    `json:"last"`
	Count  int          `json:"count"`
}

// Device is one GPU, one MIG instance of a GPU, or another accelerator, as its
// own node reports it. A text that is not known is empty.
type Device struct {
	UUID   string       `json:"uuid"`
	Model  string       `json:"model"`
	Memory Bytes        `json:"memory"`
	Health DeviceHealth `json:"health"`
	// Simulated marks a device that exists only in software; it is shown
	// wherever the device is.
	Simulated bool   `json:"simulated,omitempty"`
	Vendor    string `json:"vendor,omitempty"`
	// Index is the driver's number; it may change at a boot.
	Index        int    `json:"index,omitempty"`
	Architecture string `json:"architecture,omitempty"` // hopper, cdna3
	PCI          string `json:"pci,omitempty"`          // 00000000:3b:00.0
	// Parent is the UUID of the GPU that a MIG instance is part of, Profile the
	// instance's shape: 1g.10gb.
	Parent  string `json:"parent,omitempty"`
	Profile string `json:"profile,omitempty"`
	// Profiles are the shapes that instances of the GPU may have, as its driver says.
	Profiles []string `json:"profiles,omitempty"`
	// Partitioned marks a GPU that is cut into instances: it is never offered
	// whole.
	Partitioned bool   `json:"partitioned,omitempty"`
	NUMA        string `json:"numa,omitempty"` // number of the memory node it hangs on
	// Island is shared by those devices of one node that reach each other by
	// NVLink; Fabric, cluster UUID/clique, by devices of several nodes that do.
	Island string `json:"island,omitempty"`
	Fabric string `json:"fabric,omitempty"`
	// Confidential says that the device runs in its confidential-computing mode.
	// It is the node's claim until a quote proves it.
	Confidential bool `json:"confidential,omitempty"`
	// Causes say why the device is not ok, the worst first.
	Causes []Cause `json:"causes,omitempty"`
}

// The bounds of a device's texts, in bytes, and of its causes.
const (
	MaxDeviceText  = 128
	MaxDeviceCause = 16
	maxProfiles    = 32
	maxCauseText   = 256
	maxWord        = 64 // of a fixed list, or a cause's code
)

// texts are all that the device says in words, but for its health and causes.
func (d *Device) texts() []string {
	return []string{d.UUID, d.Model, d.Vendor, d.Architecture, d.PCI, d.Parent, d.Profile, d.NUMA, d.Island, d.Fabric}
}

// Plausible says what is wrong with what the device says of itself beyond its
// memory; empty if nothing is. Replicas ask it in Apply.
func (d *Device) Plausible() string {
	if d.Index < 0 || d.Index > 1<<16 {
		return "its index is out of range"
	}
	for _, text := range d.texts() {
		if len(text) > MaxDeviceText || hasControl(text) {
			return "one of its texts is too long or has control characters"
		}
	}
	if d.Parent == d.UUID && d.Parent != "" {
		return "it is its own parent"
	}
	if len(d.Health) > maxWord {
		return "its health is no state"
	}
	if len(d.Profiles) > maxProfiles || slices.ContainsFunc(d.Profiles, func(p string) bool { return !ValidProfile(p) }) {
		return "the MIG profiles that it may be cut into cannot be read"
	}
	if len(d.Causes) > MaxDeviceCause {
		return "it has too many causes"
	}
	for i := range d.Causes {
		c := &d.Causes[i]
		if c.Code == "" || len(c.Code) > maxWord || len(c.Reason) > maxCauseText || len(c.Health) > maxWord || len(c.Action) > maxWord || c.Count < 0 || hasControl(c.Code) || hasControl(c.Reason) {
			return "one of its causes cannot be read"
		}
	}
	return ""
}

// hasControl reports control characters, which would reach terminals and logs.
// Bytes that are no UTF-8 count as such.
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0xfffd })
}

// Offered reports whether new tasks may be given the device.
func (d *Device) Offered() bool {
	return (d.Health == DeviceOK || d.Health == DeviceDegraded) && !d.Partitioned
}

// Matches reports whether the device is one that the request asks for: of one of
// its models, with its memory, cut to its MIG profile, in confidential-computing
// mode if asked. A model is compared without case, as the device's whole model or
// as one word of it. A MIG instance serves only who asks for its profile.
func (d *Device) Matches(r Resources) bool {
	if d.Memory < r.GPUMemory || d.Profile != r.GPUProfile || r.Confidential && !d.Confidential {
		return false
	}
	if r.GPUModel == "" {
		return true
	}
	for want := range strings.SplitSeq(r.GPUModel, "|") {
		if d.isModel(want) {
			return true
		}
	}
	return false
}

func (d *Device) isModel(want string) bool {
	for _, word := range strings.FieldsFunc(d.Model, func(c rune) bool { return c == ' ' || c == '-' || c == '_' }) {
		if strings.EqualFold(word, want) {
			return true
		}
	}
	return strings.EqualFold(d.Model, want)
}

// DeviceClear is an operator's word that what stood against a device at that
// moment no longer does. The device's node heeds it; what it sees later counts
// again.
type DeviceClear struct {
	UUID   string    `json:"uuid"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
	// Causes are what the operator could see, with the time, by the node's own
	// clock, at which each was last seen.
	Causes []ClearedCause `json:"causes,omitempty"`
}

// ClearedCause is one cause of a [DeviceClear].
type ClearedCause struct {
	Code string    `json:"code"`
	Last time.Time `json:"last"`
}
