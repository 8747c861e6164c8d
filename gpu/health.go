package gpu

import (
	"fmt"
	"slices"

	"github.com/sovmesh/sovmesh/placement"
)

// states is the order of health, worst last.
func states() []placement.DeviceHealth {
	return []placement.DeviceHealth{placement.DeviceOK, placement.DeviceDegraded, placement.DeviceCordoned, placement.DeviceLost}
}

// Worse is the worse of two health states; a word that is none counts as lost,
// because what is not understood is not offered to work.
func Worse(a, b placement.DeviceHealth) placement.DeviceHealth {
	order := states()
	return order[max(rank(order, a), rank(order, b))]
}

func rank(order []placement.DeviceHealth, h placement.DeviceHealth) int {
	if i := slices.Index(order, h); i >= 0 {
		return i
	}
	return len(order) - 1
}

// maxName bounds a UUID and a model name in a report.
const maxName = 128

// Check reports the first thing wrong with a node's report of its devices: too
// many, one without a UUID or twice, no memory, or a health that is no state.
func Check(devices []placement.Device) error {
	if len(devices) > MaxDevices {
		return fmt.Errorf("%d devices: a node has at most %d", len(devices), MaxDevices)
	}
	seen := make(map[string]bool, len(devices))
	for i, d := range devices {
		switch {
		case d.UUID == "" || len(d.UUID) > maxName:
			return fmt.Errorf("device %d: its UUID must have 1 to %d bytes", i, maxName)
		case seen[d.UUID]:
			return fmt.Errorf("device %s is listed twice", d.UUID)
		case d.Model == "" || len(d.Model) > maxName:
			return fmt.Errorf("device %s: its model must have 1 to %d bytes", d.UUID, maxName)
		case d.Memory < 0:
			return fmt.Errorf("device %s: its memory is negative", d.UUID)
		case !slices.Contains(states(), d.Health):
			return fmt.Errorf("device %s: %q is no state of health", d.UUID, d.Health)
		}
		seen[d.UUID] = true
	}
	return nil
}
