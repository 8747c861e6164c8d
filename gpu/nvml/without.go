//go:build !linux || !cgo

package nvml

import (
	"context"
	"fmt"

	"github.com/sovmesh/sovmesh/placement"
)

// Devices reports that this build sees no NVML; its error is [ErrNoNVML].
func Devices(context.Context) ([]placement.Device, error) {
	return nil, fmt.Errorf("%w: this program was built without cgo, which NVML needs; install the build for Linux with cgo", ErrNoNVML)
}
