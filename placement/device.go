package placement

import "strings"

// DeviceHealth is the state of one device, worst last.
type DeviceHealth string

// The health states: only an ok or degraded device is offered to new tasks.
const (
	DeviceOK       DeviceHealth = "ok"
	DeviceDegraded DeviceHealth = "degraded"
	DeviceCordoned DeviceHealth = "cordoned"
	DeviceLost     DeviceHealth = "lost"
)

// Device is one GPU (or other accelerator) as its own node reports it.
type Device struct {
	UUID   string       `json:"uuid"`
	Model  string       `json:"model"`
	Memory Bytes        `json:"memory"`
	Health DeviceHealth `json:"health"`
	// Simulated marks a device that exists only in software; it is shown
	// wherever the device is.
	Simulated bool   `json:"simulated,omitempty"`
	Vendor    string `json:"vendor,omitempty"`
}

// Offered reports whether new tasks may be given the device.
func (d Device) Offered() bool { return d.Health == DeviceOK || d.Health == DeviceDegraded }

// Matches reports whether the device satisfies the request's model and memory.
func (d Device) Matches(r Resources) bool {
	if d.Memory < r.GPUMemory {
		return false
	}
	if r.GPUModel == "" {
		return true
	}
	for _, word := range strings.FieldsFunc(d.Model, func(c rune) bool { return c == ' ' || c == '-' || c == '_' }) {
		if strings.EqualFold(word, r.GPUModel) {
			return true
		}
	}
	return strings.EqualFold(d.Model, r.GPUModel)
}
