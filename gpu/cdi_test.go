package gpu

import (
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

func TestCDI(t *testing.T) {
	for _, tt := range []struct {
		d    placement.Device
		want string
	}{
		{placement.Device{UUID: "GPU-8f2e", Vendor: "nvidia"}, "nvidia.com/gpu=GPU-8f2e"},
		{placement.Device{UUID: "MIG-1f", Vendor: "nvidia", Parent: "GPU-8f2e"}, "nvidia.com/gpu=MIG-1f"},
		{placement.Device{UUID: "AMD-0000:c1:00.0", Vendor: "amd"}, "amd.com/gpu=AMD-0000:c1:00.0"},
		{placement.Device{UUID: "GPU-8f2e", Vendor: "nvidia", Partitioned: true}, ""},
		{placement.Device{UUID: "sim-n1-0", Vendor: "nvidia", Simulated: true}, ""},
		{placement.Device{UUID: "GPU-1,all", Vendor: "nvidia"}, ""},
		{placement.Device{UUID: "x", Vendor: "acme"}, ""},
	} {
		if got := CDI(tt.d); got != tt.want {
			t.Errorf("%+v has the name %q, want %q", tt.d, got, tt.want)
		}
	}
}
