package gpu

import (
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
