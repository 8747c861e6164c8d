package gpu

import (
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Reading is what one look at the machine's devices gave. What could not be had
// is absent; it says nothing of health but facts.
type Reading struct {
	DriverVersion string     `json:"driver_version,omitempty"`
	CUDA          string     `json:"cuda_driver_version,omitempty"` // 13.0
	Devices       []Observed `json:"devices"`
	// Missing names calls that the driver does not have or may not answer, for the
	// operator: what depends on them stays unknown.
	Missing []string `json:"missing,omitempty"`
	// NoDriver: there is nothing to ask. Where devices were seen before it is no
	// word on what became of them.
	NoDriver bool `json:"-"`
	// Of several sources joined: Source, from 1, is whose reading this newly is,
	// what the others said is repeated; Absent are those with no driver.
	Source int   `json:"-"`
	Absent []int `json:"-"`
}

// silent reports whether the source of a record has no driver to ask.
func (r *Reading) silent(source int) bool {
	return r.NoDriver || len(r.Absent) > 0 && (source == 0 || slices.Contains(r.Absent, source))
}

// Observed is one device as it was seen, with Health and Causes unset.
type Observed struct {
	placement.Device
	// MemoryBytes carries Memory on the way from a child process: as a number, so
	// that a device which lies about it can be told from a child that does.
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
	Facts       Facts `json:"facts,omitzero"`
	Source      int   `json:"-"` // of several joined, from 1
}

// Facts are what a device's health is judged by.
type Facts struct {
	Lost bool `json:"lost,omitempty"` // it answers that it is lost
	// Unreadable says which call that every device answers failed, and how.
	Unreadable   string `json:"unreadable,omitempty"`
	RemapPending bool   `json:"remap_pending,omitempty"` // rows wait for a reset to be remapped
	RemapFailed  bool   `json:"remap_failed,omitempty"`  // no spare row was left
	Throttle     uint64 `json:"throttle,omitempty"`      // reasons, bits as NVML has them
	NVLinks      int    `json:"nvlinks,omitempty"`       // links that are up
	ECC          bool   `json:"ecc,omitempty"`           // error correction is on
	MIG          bool   `json:"mig,omitempty"`           // the mode is on, instances or not
	// Recovery is what the driver asks for before the device is worked with again.
	Recovery Recovery `json:"recovery,omitempty"`
}

// The throttle reasons that are alarms; all others are a clock doing its work.
const (
	throttleHardware   = 8
	throttleThermal    = 64
	throttlePowerBrake = 128
)

// Sample is what a device does now; nil is not known.
type Sample struct {
	UUID        string    `json:"uuid"`
	At          time.Time `json:"at"`
	Utilization *int      `json:"utilization_percent,omitempty"`
	MemoryBusy  *int      `json:"memory_busy_percent,omitempty"` // of its bandwidth
	MemoryUsed  *int64    `json:"memory_used_bytes,omitempty"`
	MemoryTotal *int64    `json:"memory_total_bytes,omitempty"`
	Power       *int64    `json:"power_milliwatts,omitempty"`
	PowerLimit  *int64    `json:"power_limit_milliwatts,omitempty"`
	Energy      *int64    `json:"energy_millijoules,omitempty"` // since the driver was loaded
	Temperature *int      `json:"temperature_celsius,omitempty"`
	ClockSM     *int      `json:"clock_sm_mhz,omitempty"`
	ClockMemory *int      `json:"clock_memory_mhz,omitempty"`
	Throttle    *uint64   `json:"throttle,omitempty"`
	ECCErrors   *int64    `json:"ecc_uncorrected,omitempty"` // since the driver was loaded
	PCIeReplays *int64    `json:"pcie_replays,omitempty"`
	// LinkErrors are replays, recoveries and checksums that failed on all of its
	// NVLinks since they came up.
	LinkErrors *int64 `json:"nvlink_errors,omitempty"`
}

// Event is an XID that the driver told of. An empty UUID is a device that it
// could not name: it counts for all.
type Event struct {
	UUID string    `json:"uuid,omitempty"`
	XID  uint64    `json:"xid"`
	At   time.Time `json:"at"`
	// Recovery is what the driver asks for since; with XID 154, which says that
	// this changed, it is what the fault means.
	Recovery Recovery `json:"recovery,omitempty"`
}

// Update is one thing that a source of devices has to say; one field is set.
type Update struct {
	Reading *Reading
	Samples []Sample
	Event   *Event
	// Down is why the devices cannot be seen at present. They are unknown then,
	// not gone: the next reading ends it. Source is whose devices, of several
	// sources joined, counted from 1; 0 for all.
	Down   string
	Source int
}
