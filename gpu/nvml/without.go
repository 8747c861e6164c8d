//go:build !linux || !cgo

package nvml

import (
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/gpu"
)

// Driver is no driver: a build without cgo sees no NVML.
type Driver struct{}

// Open reports that this build sees no NVML; its error is [ErrNoNVML].
func Open() (*Driver, error) {
	return nil, fmt.Errorf("%w: this program was built without cgo, which NVML needs; install the build for Linux with cgo", ErrNoNVML)
}

// Close has nothing to end.
func (*Driver) Close() {}

// Read reports [ErrNoNVML].
func (*Driver) Read() (gpu.Reading, error) { return gpu.Reading{}, ErrNoNVML }

// Sample has nothing to say.
func (*Driver) Sample() []gpu.Sample { return nil }

// Wait waits for nothing.
func (*Driver) Wait(limit time.Duration) (*gpu.Event, error) {
	time.Sleep(limit)
	return nil, nil
}
