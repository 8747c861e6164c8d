//go:build linux && cgo

package nvml

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/placement"
)

// Driver is the machine's NVML, opened. One goroutine uses it. A call may hang
// for good: whoever needs to live on runs it in a process of its own.
type Driver struct {
	lib    nvml.Interface
	dl     *dl.DynamicLibrary
	has    map[capability]bool
	sys    string // root of sysfs
	events nvml.EventSet
	listen bool                   // events is set
	known  map[nvml.Device]string // UUIDs of the handles that events carry
	places map[int]string         // UUIDs by index, for those that are lost later
	cuts   map[string][]string    // by UUID: the profiles of instances that are possible
	links  map[string]int         // by UUID: how many NVLinks were up
	// failed are capabilities that a call refused for good: not to be asked again.
	failed map[capability]string
}

// Open loads the library and begins to listen for events. Its error is
// [ErrNoNVML] or [ErrUnusable].
func Open() (*Driver, error) {
	// Loaded as the binding will load it, before any call into it.
	library := dl.New(Library, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := library.Open(); err != nil {
		return nil, fmt.Errorf("%w: %s not found", ErrNoNVML, Library)
	}
	d := &Driver{lib: nvml.New(), dl: library, sys: "/sys", known: map[nvml.Device]string{}, places: map[int]string{}, cuts: map[string][]string{}, links: map[string]int{}, failed: map[capability]string{}}
	var err error
	if d.has, err = lookUp(library.Lookup); err != nil {
		_ = library.Close()
		return nil, err
	}
	if ret := d.lib.Init(); ret != nvml.SUCCESS {
		_ = library.Close()
		if ret == nvml.ERROR_LIBRARY_NOT_FOUND {
			return nil, fmt.Errorf("%w: %s not found", ErrNoNVML, Library)
		}
		return nil, fmt.Errorf("%w: the driver does not answer: %w; is it loaded? nvidia-smi says more", ErrUnusable, ret)
	}
	d.register()
	return d, nil
}

// Close ends the use of the library.
func (d *Driver) Close() {
	if d.listen {
		_ = d.events.Free()
	}
	_ = d.lib.Shutdown()
	_ = d.dl.Close()
}

// register listens for XIDs of every device that can tell of them.
func (d *Driver) register() {
	if !d.has[canEvents] {
		return
	}
	set, ret := d.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		d.failed[canEvents] = ret.Error()
		return
	}
	d.events, d.listen = set, true
	n, ret := d.lib.DeviceGetCount()
	for i := 0; ret == nvml.SUCCESS && i < min(n, gpu.MaxDevices); i++ {
		handle, ret := d.lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue
		}
		if uuid, ret := handle.GetUUID(); ret == nvml.SUCCESS {
			d.known[handle] = uuid
		}
		can, ret := handle.GetSupportedEventTypes()
		if ret != nvml.SUCCESS || can&nvml.EventTypeXidCriticalError == 0 {
			continue
		}
		if ret := handle.RegisterEvents(nvml.EventTypeXidCriticalError, set); ret != nvml.SUCCESS {
			d.failed[canEvents] = ret.Error()
		}
	}
}

// Wait waits for the next XID; nil when there was none in time.
func (d *Driver) Wait(limit time.Duration) (*gpu.Event, error) {
	if !d.listen {
		time.Sleep(limit)
		return nil, nil
	}
	data, ret := d.events.Wait(uint32(limit.Milliseconds()))
	switch {
	case ret == nvml.ERROR_TIMEOUT:
		return nil, nil
	case ret == nvml.ERROR_GPU_IS_LOST: // the next reading says which
		time.Sleep(min(limit, 100*time.Millisecond))
		return nil, nil
	case ret != nvml.SUCCESS:
		return nil, fmt.Errorf("wait for events: %w", ret)
	case data.EventType&nvml.EventTypeXidCriticalError == 0:
		return nil, nil
	}
	e := gpu.Event{XID: data.EventData, At: time.Now(), UUID: d.known[data.Device]}
	if e.UUID == "" {
		e.UUID, _ = data.Device.GetUUID() // empty: it counts for all
	}
	if e.XID == xidRecovery {
		e.Recovery = d.recovery(data.Device)
	}
	if whole := ^uint32(0); data.GpuInstanceId != whole && data.ComputeInstanceId != whole {
		if uuid := d.instance(data.Device, data.GpuInstanceId, data.ComputeInstanceId); uuid != "" {
			e.UUID = uuid
		}
	}
	return &e, nil
}

// instance is the UUID of the MIG instance with these numbers, if there is one.
func (d *Driver) instance(parent nvml.Device, gi, ci uint32) string {
	if !d.has[canMIG] || !d.has[canMIGIDs] {
		return ""
	}
	for _, m := range d.instances(parent) {
		g, ret := m.GetGpuInstanceId()
		if ret != nvml.SUCCESS || uint32(g) != gi {
			continue
		}
		if c, ret := m.GetComputeInstanceId(); ret == nvml.SUCCESS && uint32(c) == ci {
			uuid, _ := m.GetUUID()
			return uuid
		}
	}
	return ""
}

// instances are the MIG instances of a GPU; none if it is whole.
func (d *Driver) instances(parent nvml.Device) (out []nvml.Device) {
	n, ret := parent.GetMaxMigDeviceCount()
	for i := 0; ret == nvml.SUCCESS && i < min(n, 16); i++ {
		if m, ret := parent.GetMigDeviceHandleByIndex(i); ret == nvml.SUCCESS {
			out = append(out, m)
		}
	}
	return out
}

// Read lists the devices. Answers of the driver are data: what one call cannot
// say is absent, and a device that is lost is listed as such. Its error is
// [ErrUnusable].
func (d *Driver) Read() (gpu.Reading, error) {
	r := gpu.Reading{Devices: []gpu.Observed{}}
	n, ret := d.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return r, fmt.Errorf("%w: count devices: %w", ErrUnusable, ret)
	}
	if d.has[canDriver] {
		if v, ret := d.lib.SystemGetDriverVersion(); ret == nvml.SUCCESS {
			r.DriverVersion = v
		}
	}
	if d.has[canCUDA] {
		if v, ret := d.lib.SystemGetCudaDriverVersion_v2(); ret == nvml.SUCCESS {
			r.CUDA = fmt.Sprintf("%d.%d", v/1000, v%1000/10)
		}
	}
	confidential := d.confidential()
	var whole []part
	var shut []string
	for i := range min(n, gpu.MaxDevices) {
		p, ok := d.readOne(i)
		if !ok {
			shut = append(shut, strconv.Itoa(i))
			continue
		}
		p.seen.Confidential = confidential
		whole = append(whole, p)
	}
	if len(shut) > 0 {
		r.Missing = append(r.Missing, clipList("devices that cannot be opened: "+strings.Join(shut, " ")))
	}
	whole = onceEach(whole)
	d.islands(whole)
	for i := range whole {
		r.Devices = append(r.Devices, whole[i].seen)
		r.Devices = append(r.Devices, d.readInstances(&whole[i])...)
	}
	r.Missing = append(r.Missing, lacking(d.has)...)
	for c, why := range d.failed {
		r.Missing = append(r.Missing, string(c)+": "+why)
	}
	return r, nil
}

// part is one GPU while a reading is made.
type part struct {
	seen   gpu.Observed
	handle nvml.Device
	shut   bool // it has no handle; which one it is follows from its place
}

// onceEach leaves those out that seemed to be what another one is: places move
// when a device leaves the bus.
func onceEach(all []part) []part {
	open := map[string]bool{}
	for i := range all {
		open[all[i].seen.UUID] = open[all[i].seen.UUID] || !all[i].shut
	}
	return slices.DeleteFunc(all, func(p part) bool { return p.shut && open[p.seen.UUID] })
}

// clipList bounds a line for the operator.
func clipList(text string) string { return text[:min(len(text), 200)] }

// readOne describes one GPU; false if not even its UUID can be had, for a
// device without a key cannot be given to anybody.
func (d *Driver) readOne(index int) (part, bool) {
	p := part{}
	o := &p.seen
	o.Vendor, o.Health, o.Index, o.Model = "nvidia", placement.DeviceOK, index, "NVIDIA"
	handle, ret := d.lib.DeviceGetHandleByIndex(index)
	if ret != nvml.SUCCESS {
		o.UUID, p.shut = d.places[index], true
		fail(o, "its handle", ret)
		return p, o.UUID != ""
	}
	p.handle = handle
	if o.UUID, ret = handle.GetUUID(); ret != nvml.SUCCESS || o.UUID == "" {
		if o.UUID = d.known[handle]; o.UUID == "" {
			return p, false
		}
		fail(o, "its UUID", ret)
	}
	d.known[handle], d.places[index] = o.UUID, o.UUID
	if name, ret := handle.GetName(); ret == nvml.SUCCESS {
		o.Model = name
	} else {
		fail(o, "its name", ret)
	}
	if total, _, ret := d.memory(handle); ret == nvml.SUCCESS {
		o.Memory = total
	} else {
		fail(o, "its memory", ret)
	}
	if !o.Facts.Lost {
		d.describe(handle, o)
		d.judge(handle, o)
	}
	return p, true
}

// memory is total and used; the second version of the call counts what the
// driver reserves apart.
func (d *Driver) memory(handle nvml.Device) (total, used placement.Bytes, ret nvml.Return) {
	if d.has[canMemoryV2] {
		if m, ret := handle.GetMemoryInfo_v2(); ret == nvml.SUCCESS {
			return placement.Bytes(m.Total), placement.Bytes(m.Used), ret
		}
	}
	m, ret := handle.GetMemoryInfo()
	return placement.Bytes(m.Total), placement.Bytes(m.Used), ret
}

// describe asks for what not every driver or device can say.
func (d *Driver) describe(handle nvml.Device, o *gpu.Observed) {
	if d.has[canPCI] {
		if p, ret := handle.GetPciInfo(); ret == nvml.SUCCESS {
			o.PCI = busID(p)
		}
	}
	if d.has[canArchitecture] {
		if a, ret := handle.GetArchitecture(); ret == nvml.SUCCESS {
			o.Architecture = architecture(a)
		}
	}
	o.NUMA = d.numa(handle, o.PCI)
	o.Fabric = d.fabric(handle)
	if d.has[canECC] {
		if now, _, ret := handle.GetEccMode(); ret == nvml.SUCCESS {
			o.Facts.ECC = now == nvml.FEATURE_ENABLED
		}
	}
	if d.has[canMIG] {
		mode, _, ret := handle.GetMigMode()
		switch {
		case ret == nvml.SUCCESS:
			o.Facts.MIG = mode == nvml.DEVICE_MIG_ENABLE
			o.Partitioned = o.Facts.MIG
			o.Profiles = d.profiles(handle, o)
		case ret != nvml.ERROR_NOT_SUPPORTED: // it must not be taken for whole
			fail(o, "its MIG mode", ret)
		}
	}
}

// judge asks for what health depends on.
func (d *Driver) judge(handle nvml.Device, o *gpu.Observed) {
	o.Facts.Recovery = d.recovery(handle)
	if d.has[canRemap] {
		if _, _, pending, failed, ret := handle.GetRemappedRows(); ret == nvml.SUCCESS {
			o.Facts.RemapPending, o.Facts.RemapFailed = pending, failed
		} else {
			lost(o, ret)
		}
	}
	if bits, ret := d.throttle(handle); ret == nvml.SUCCESS {
		o.Facts.Throttle = bits
	} else {
		lost(o, ret)
	}
}

func (d *Driver) throttle(handle nvml.Device) (uint64, nvml.Return) {
	switch {
	case d.has[canReasons]:
		return handle.GetCurrentClocksEventReasons()
	case d.has[canThrottle]:
		return handle.GetCurrentClocksThrottleReasons()
	}
	return 0, nvml.ERROR_NOT_SUPPORTED
}

// readInstances describes the MIG instances of a GPU.
func (d *Driver) readInstances(p *part) (out []gpu.Observed) {
	if !p.seen.Facts.MIG || p.seen.Facts.Lost || p.shut {
		return nil
	}
	for _, handle := range d.instances(p.handle) {
		o := gpu.Observed{Device: p.seen.Device}
		o.Facts.Recovery, o.Facts.Unreadable = p.seen.Facts.Recovery, p.seen.Facts.Unreadable
		uuid, ret := handle.GetUUID()
		if ret != nvml.SUCCESS || uuid == "" {
			if uuid = d.known[handle]; uuid == "" {
				continue
			}
			fail(&o, "its UUID", ret)
		}
		o.UUID, o.Parent, o.Partitioned, o.Island, o.Profile, o.Profiles = uuid, p.seen.UUID, false, "", "", nil
		if total, _, ret := d.memory(handle); ret == nvml.SUCCESS {
			o.Memory = total
		} else {
			fail(&o, "its memory", ret)
		}
		if d.has[canMIGShape] {
			if a, ret := handle.GetAttributes(); ret == nvml.SUCCESS {
				o.Profile = profileOf(a.GpuInstanceSliceCount, a.ComputeInstanceSliceCount, a.MemorySizeMB<<20, uint64(p.seen.Memory))
			}
		}
		if o.Profile == "" { // newer drivers say it in the name
			if name, ret := handle.GetName(); ret == nvml.SUCCESS {
				if _, profile, ok := strings.Cut(name, " MIG "); ok {
					o.Profile = profile
				}
			}
		}
		d.known[handle] = uuid
		out = append(out, o)
	}
	return out
}

// xidRecovery is the XID by which the driver says that the recovery it asks for
// changed.
const xidRecovery = 154

// recovery is what the driver asks for before the device is worked with again;
// empty if it cannot say.
func (d *Driver) recovery(handle nvml.Device) gpu.Recovery {
	if !d.has[canFields] {
		return ""
	}
	field := []nvml.FieldValue{{FieldId: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION}}
	if ret := handle.GetFieldValues(field); ret != nvml.SUCCESS || nvml.Return(field[0].NvmlReturn) != nvml.SUCCESS {
		return ""
	}
	return recoveryOf(binary.NativeEndian.Uint32(field[0].Value[:]))
}

// recoveryOf names a recovery action. Those above 5 are of drivers newer than the
// binding: a reset of the bus, a reboot.
func recoveryOf(action uint32) gpu.Recovery {
	names := []gpu.Recovery{gpu.RecoverNone, gpu.RecoverReset, gpu.RecoverReboot, gpu.RecoverDrainP2P, gpu.RecoverDrain, gpu.RecoverFabric, gpu.RecoverReset, gpu.RecoverReboot}
	if action < uint32(len(names)) {
		return names[action]
	}
	return gpu.RecoverReset // it asks for something
}

// profiles are the shapes that instances of a GPU may have. They do not change
// while it is there.
func (d *Driver) profiles(handle nvml.Device, o *gpu.Observed) []string {
	if known, ok := d.cuts[o.UUID]; ok || !d.has[canProfiles] || o.Memory == 0 {
		return known
	}
	var out []string
	for p := range nvml.GPU_INSTANCE_PROFILE_COUNT {
		info, ret := handle.GetGpuInstanceProfileInfo(p)
		if ret != nvml.SUCCESS {
			continue
		}
		if name := profileOf(info.SliceCount, info.SliceCount, info.MemorySizeMB<<20, uint64(o.Memory)); placement.ValidProfile(name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	d.cuts[o.UUID] = slices.Compact(out)
	return d.cuts[o.UUID]
}

// linkErrors adds up what went wrong on the NVLinks of a device; nil if it has
// none, or cannot say.
func (d *Driver) linkErrors(handle nvml.Device, links int) *int64 {
	if !d.has[canLinkErrors] || links == 0 {
		return nil
	}
	var sum *int64
	for link := range min(links, nvml.NVLINK_MAX_LINKS) {
		for _, kind := range []nvml.NvLinkErrorCounter{nvml.NVLINK_ERROR_DL_REPLAY, nvml.NVLINK_ERROR_DL_RECOVERY, nvml.NVLINK_ERROR_DL_CRC_FLIT} {
			if n, ret := handle.GetNvLinkErrorCounter(link, kind); ret == nvml.SUCCESS && n < 1<<48 {
				sum = cmp.Or(sum, new(int64))
				*sum += int64(n)
			}
		}
	}
	return sum
}
