package nvml

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/gpu"
)

// On a machine with a driver this reads the real devices; everywhere else it
// must say that there is no NVML, and nothing worse.
func TestDevicesOfThisMachine(t *testing.T) {
	devices, err := Devices(context.Background())
	switch {
	case errors.Is(err, ErrNoNVML):
		if !strings.Contains(err.Error(), "no NVML on this machine: ") || devices != nil {
			t.Errorf("no NVML is reported as %v, %v", devices, err)
		}
	case errors.Is(err, ErrUnusable):
		t.Logf("this machine's NVML cannot be used: %v", err)
	case err != nil:
		t.Errorf("devices: %v", err)
	default:
		if err := gpu.Check(devices); err != nil {
			t.Errorf("the driver's own devices are not accepted: %v", err)
		}
		for _, d := range devices {
			if d.Simulated || d.Memory == 0 {
				t.Errorf("real device %+v", d)
			}
			t.Logf("%+v", d)
		}
	}
}
