package metrics

import (
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/placement"
)

// GPUs is what a node knows of its devices.
type GPUs struct {
	Devices []GPU
	Down    bool // they cannot be seen at present
	// Faults are told of since the node started, by what each was judged to be: one
	// XID may be anything, by what the driver asks for with it.
	Faults        map[gpu.Class]uint64
	DriverVersion string
}

// GPU is one device.
type GPU struct {
	placement.Device
	Sample  *gpu.Sample       // nil where nothing is measured
	XIDs    map[uint64]uint64 // told of since the node started
	LastXID uint64
}

// gpuRows are of a node's devices together: words of fixed lists alone.
func gpuRows() []row[GPUs] {
	return []row[GPUs]{
		truth("gpu_visible", "1 if the node can see its devices; 0: their driver does not answer, and they count as lost.", func(g GPUs) bool { return !g.Down }),
		newRow("gpu_devices", "Accelerators of this node by health; a GPU that is cut into instances counts beside them.", prometheus.GaugeValue, []string{"health"}, func(g GPUs, put func(float64, ...string)) {
			counts := map[placement.DeviceHealth]int{}
			for _, d := range g.Devices {
				counts[d.Health]++
			}
			spread(healths(), counts, put)
		}),
		newRow("gpu_faults_total", "Faults (XIDs) that devices of this node told of since it started, by class.", prometheus.CounterValue, []string{"class"}, func(g GPUs, put func(float64, ...string)) {
			for _, class := range []gpu.Class{gpu.ClassFatal, gpu.ClassContained, gpu.ClassDrain, gpu.ClassUnknown, gpu.ClassNote, gpu.ClassApplication} {
				put(float64(g.Faults[class]), string(class))
			}
		}),
	}
}

func healths() []placement.DeviceHealth {
	return []placement.DeviceHealth{placement.DeviceOK, placement.DeviceDegraded, placement.DeviceCordoned, placement.DeviceLost}
}

// deviceRows are of each device by its UUID. What a device does is what some
// tenant does: they are for those who may see every tenant's jobs. A simulated
// device does nothing, and has no numbers.
func deviceRows() []row[GPUs] {
	type V = GPUs
	measured := func(name, help string, kind prometheus.ValueType, value func(*gpu.Sample) (float64, bool)) row[V] {
		return newRow(name, help, kind, []string{"device"}, func(g V, put func(float64, ...string)) {
			for _, d := range g.Devices {
				if d.Sample == nil || d.Simulated {
					continue
				}
				if v, ok := value(d.Sample); ok {
					put(v, d.UUID)
				}
			}
		})
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	return []row[V]{
		newRow("gpu_info", "A device of this node; always 1.", gauge, []string{"device", "index", "model", "pci", "parent", "profile", "driver", "simulated"}, func(g V, put func(float64, ...string)) {
			for _, d := range g.Devices {
				put(1, d.UUID, strconv.Itoa(d.Index), d.Model, d.PCI, d.Parent, d.Profile, g.DriverVersion, strconv.FormatBool(d.Simulated))
			}
		}),
		newRow("gpu_health", "1 for the state of health that a device is in, 0 for the others.", gauge, []string{"device", "health"}, func(g V, put func(float64, ...string)) {
			for _, d := range g.Devices {
				for _, h := range healths() {
					put(float64(bit(d.Health == h)), d.UUID, string(h))
				}
			}
		}),
		newRow("gpu_xid_total", "Faults that a device told of since the node started.", counter, []string{"device", "xid"}, func(g V, put func(float64, ...string)) {
			for _, d := range g.Devices {
				for xid, n := range d.XIDs {
					put(float64(n), d.UUID, strconv.FormatUint(xid, 10))
				}
			}
		}),
		measured("gpu_utilization_ratio", "The part of the last second in which a kernel ran.", gauge, func(s *gpu.Sample) (float64, bool) { return scaled(s.Utilization, 0.01) }),
		measured("gpu_memory_busy_ratio", "The part of the last second in which its memory was read or written.", gauge, func(s *gpu.Sample) (float64, bool) { return scaled(s.MemoryBusy, 0.01) }),
		measured("gpu_memory_used_bytes", "Memory in use, without what the driver reserves.", gauge, func(s *gpu.Sample) (float64, bool) { return scaled(s.MemoryUsed, 1) }),
		measured("gpu_memory_total_bytes", "Its memory.", gauge, func(s *gpu.Sample) (float64, bool) { return scaled(s.MemoryTotal, 1) }),
		measured("gpu_power_watts", "Power that it draws.", gauge, func(s *gpu.Sample) (float64, bool) { return scaled(s.Power, 0.001) }),
		measured("gpu_power_limit_watts", "The power limit in force.", gauge, func(s *gpu.Sample) (float64, bool) { return scaled(s.PowerLimit, 0.001) }),
		measured("gpu_energy_joules_total", "Energy since its driver was loaded.", counter, func(s *gpu.Sample) (float64, bool) { return scaled(s.Energy, 0.001) }),
		measured("gpu_temperature_celsius", "Its temperature.", gauge, func(s *gpu.Sample) (float64, bool) { return scaled(s.Temperature, 1) }),
		measured("gpu_clock_sm_hertz", "The clock of its processors.", gauge, func(s *gpu.Sample) (float64, bool) { return scaled(s.ClockSM, 1e6) }),
		measured("gpu_clock_memory_hertz", "The clock of its memory.", gauge, func(s *gpu.Sample) (float64, bool) { return scaled(s.ClockMemory, 1e6) }),
		measured("gpu_ecc_uncorrected_errors_total", "Memory errors that could not be corrected, since its driver was loaded.", counter, func(s *gpu.Sample) (float64, bool) { return scaled(s.ECCErrors, 1) }),
		measured("gpu_nvlink_errors_total", "Replays, recoveries and failed checksums on its NVLinks since they came up.", counter, func(s *gpu.Sample) (float64, bool) { return scaled(s.LinkErrors, 1) }),
		measured("gpu_pcie_replays_total", "Packets on its bus that were sent again.", counter, func(s *gpu.Sample) (float64, bool) { return scaled(s.PCIeReplays, 1) }),
		measured("gpu_throttled", "1 while an alarm (hardware slowdown, heat, power brake) holds its clocks down.", gauge, func(s *gpu.Sample) (float64, bool) {
			if s.Throttle == nil {
				return 0, false
			}
			return float64(bit(*s.Throttle&(8|64|128) != 0)), true
		}),
	}
}

// scaled is a value in base units; false if it is not known.
func scaled[T ~int | ~int64](v *T, by float64) (float64, bool) {
	if v == nil {
		return 0, false
	}
	return float64(*v) * by, true
}

// dcgmRows show the devices under the names, labels and units of NVIDIA's
// dcgm-exporter, for dashboards that exist.
func dcgmRows(host string) []row[GPUs] {
	labels := []string{"gpu", "UUID", "device", "modelName", "Hostname", "pci_bus_id", "DCGM_FI_DRIVER_VERSION", "GPU_I_PROFILE"}
	each := func(name, help string, kind prometheus.ValueType, value func(*GPU) (float64, bool)) row[GPUs] {
		return row[GPUs]{prometheus.NewDesc(name, help, labels, nil), kind, func(g GPUs, put func(float64, ...string)) {
			for i := range g.Devices {
				d := &g.Devices[i]
				if d.Simulated || d.Vendor != "nvidia" {
					continue
				}
				if v, ok := value(d); ok {
					index, uuid := strconv.Itoa(d.Index), d.UUID
					if d.Parent != "" {
						uuid = d.Parent
					}
					put(v, index, uuid, "nvidia"+index, d.Model, host, d.PCI, g.DriverVersion, d.Profile)
				}
			}
		}}
	}
	sample := func(value func(*gpu.Sample) (float64, bool)) func(*GPU) (float64, bool) {
		return func(d *GPU) (float64, bool) {
			// Instances share a UUID and a profile here: only whole GPUs are told apart.
			if d.Sample == nil || d.Parent != "" {
				return 0, false
			}
			return value(d.Sample)
		}
	}
	const mebi = 1.0 / (1 << 20)
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	return []row[GPUs]{
		each("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", gauge, sample(func(s *gpu.Sample) (float64, bool) { return scaled(s.Utilization, 1) })),
		each("DCGM_FI_DEV_MEM_COPY_UTIL", "Memory utilization (in %).", gauge, sample(func(s *gpu.Sample) (float64, bool) { return scaled(s.MemoryBusy, 1) })),
		each("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", gauge, sample(func(s *gpu.Sample) (float64, bool) { return scaled(s.MemoryUsed, mebi) })),
		each("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", gauge, sample(func(s *gpu.Sample) (float64, bool) {
			if s.MemoryUsed == nil || s.MemoryTotal == nil {
				return 0, false
			}
			return float64(*s.MemoryTotal-*s.MemoryUsed) * mebi, true
		})),
		each("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", gauge, sample(func(s *gpu.Sample) (float64, bool) { return scaled(s.Temperature, 1) })),
		each("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", gauge, sample(func(s *gpu.Sample) (float64, bool) { return scaled(s.Power, 0.001) })),
		each("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Total energy consumption since boot (in mJ).", counter, sample(func(s *gpu.Sample) (float64, bool) { return scaled(s.Energy, 1) })),
		each("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", gauge, sample(func(s *gpu.Sample) (float64, bool) { return scaled(s.ClockSM, 1) })),
		each("DCGM_FI_DEV_MEM_CLOCK", "Memory clock frequency (in MHz).", gauge, sample(func(s *gpu.Sample) (float64, bool) { return scaled(s.ClockMemory, 1) })),
		each("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "Total number of PCIe retries.", counter, sample(func(s *gpu.Sample) (float64, bool) { return scaled(s.PCIeReplays, 1) })),
		each("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered.", gauge, func(d *GPU) (float64, bool) { return float64(d.LastXID), d.Parent == "" }),
	}
}

// registerGPUs fills the registries of those who see everything.
func (m *Metrics) registerGPUs() error {
	m.all, m.dcgm = prometheus.NewRegistry(), prometheus.NewRegistry()
	if m.cfg.GPUs == nil {
		return nil
	}
	own := prometheus.WrapRegistererWith(prometheus.Labels{"region": string(m.cfg.Region)}, m.all)
	if err := own.Register(table[GPUs]{m.cfg.GPUs, deviceRows()}); err != nil {
		return fmt.Errorf("metrics of devices: %w", err)
	}
	return m.dcgm.Register(table[GPUs]{m.cfg.GPUs, dcgmRows(string(m.cfg.Self))})
}
