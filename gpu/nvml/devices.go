//go:build linux && cgo

package nvml

import (
	"context"
	"fmt"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/placement"
)

// needed are the symbols behind the calls below; one name of each line must be
// there. The binding prefers the versioned one where it exists.
func needed() [][]string {
	return [][]string{
		{"nvmlInit_v2", "nvmlInit"},
		{"nvmlShutdown"},
		{"nvmlErrorString"},
		{"nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"},
		{"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"},
		{"nvmlDeviceGetUUID"},
		{"nvmlDeviceGetName"},
		{"nvmlDeviceGetMemoryInfo"},
	}
}

// The symbols that only add to what is known of a device's health.
const (
	symbolRemappedRows = "nvmlDeviceGetRemappedRows"
	symbolMigMode      = "nvmlDeviceGetMigMode"
)

// Devices lists the NVIDIA devices of this machine in the driver's order. Calls
// into the driver cannot be cancelled: ctx is looked at between devices. Its
// error is [ErrNoNVML] or [ErrUnusable], or that of ctx; a device that is lost
// is listed as such and is no error.
func Devices(ctx context.Context) ([]placement.Device, error) {
	// Loaded as the binding will load it, before any call into it.
	library := dl.New(Library, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := library.Open(); err != nil {
		return nil, fmt.Errorf("%w: %s not found", ErrNoNVML, Library)
	}
	defer func() { _ = library.Close() }()
	if err := probe(library.Lookup); err != nil {
		return nil, err
	}
	driver := nvml.New()
	if ret := driver.Init(); ret != nvml.SUCCESS {
		if ret == nvml.ERROR_LIBRARY_NOT_FOUND {
			return nil, fmt.Errorf("%w: %s not found", ErrNoNVML, Library)
		}
		return nil, fmt.Errorf("%w: the driver does not answer: %w; is it loaded? nvidia-smi says more", ErrUnusable, ret)
	}
	defer driver.Shutdown()
	return list(ctx, driver)
}

// probe looks every needed symbol up, so that no call can end the process.
func probe(lookup func(string) error) error {
	for _, names := range needed() {
		found := false
		for _, name := range names {
			found = found || lookup(name) == nil
		}
		if !found {
			return fmt.Errorf("%w: %s has no %s; install a newer driver", ErrUnusable, Library, strings.Join(names, " or "))
		}
	}
	return nil
}

func list(ctx context.Context, driver nvml.Interface) ([]placement.Device, error) {
	n, ret := driver.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("%w: count devices: %w", ErrUnusable, ret)
	}
	var out []placement.Device
	for i := range min(n, gpu.MaxDevices) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if d, ok := read(driver, i); ok {
			out = append(out, d)
		}
	}
	return out, nil
}

// read describes one device; false if not even its UUID can be had, for a
// device without a key cannot be given to anybody. NVML's answers are data:
// what one call cannot say makes the device worse, not the whole report.
func read(driver nvml.Interface, index int) (placement.Device, bool) {
	d := placement.Device{Vendor: "nvidia", Health: placement.DeviceOK}
	handle, ret := driver.DeviceGetHandleByIndex(index)
	if ret != nvml.SUCCESS {
		return d, false
	}
	if d.UUID, ret = handle.GetUUID(); ret != nvml.SUCCESS || d.UUID == "" {
		return d, false
	}
	if d.Model, ret = handle.GetName(); ret != nvml.SUCCESS {
		d.Model = "NVIDIA"
		d.Health = gpu.Worse(d.Health, healthOf(ret))
	}
	memory, ret := handle.GetMemoryInfo()
	if ret == nvml.SUCCESS {
		d.Memory = placement.Bytes(memory.Total)
	} else {
		d.Health = gpu.Worse(d.Health, healthOf(ret))
	}
	d.Health = gpu.Worse(d.Health, optional(driver, handle))
	return d, true
}

// healthOf reads a failed call: a lost device is lost, all else unfit for work
// until it is looked at.
func healthOf(ret nvml.Return) placement.DeviceHealth {
	if ret == nvml.ERROR_GPU_IS_LOST {
		return placement.DeviceLost
	}
	return placement.DeviceCordoned
}

// optional asks what not every driver or device can say. A pending row remap
// wants a reset some time, a failed one is a broken memory; a device that is
// cut into MIG instances cannot be given away whole.
func optional(driver nvml.Interface, handle nvml.Device) placement.DeviceHealth {
	health := placement.DeviceOK
	has := func(symbol string) bool { return driver.Extensions().LookupSymbol(symbol) == nil }
	if has(symbolRemappedRows) {
		_, _, pending, failed, ret := handle.GetRemappedRows()
		switch {
		case ret != nvml.SUCCESS:
		case failed:
			health = gpu.Worse(health, placement.DeviceCordoned)
		case pending:
			health = gpu.Worse(health, placement.DeviceDegraded)
		}
	}
	if has(symbolMigMode) {
		if mode, _, ret := handle.GetMigMode(); ret == nvml.SUCCESS && mode == nvml.DEVICE_MIG_ENABLE {
			health = gpu.Worse(health, placement.DeviceCordoned)
		}
	}
	return health
}
