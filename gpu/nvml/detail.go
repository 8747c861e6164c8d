//go:build linux && cgo

package nvml

import (
	"encoding/hex"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/sovmesh/sovmesh/gpu"
)

// fail notes that a call which every device answers did not succeed.
func fail(o *gpu.Observed, what string, ret nvml.Return) {
	lost(o, ret)
	if o.Facts.Unreadable == "" {
		o.Facts.Unreadable = what + ": " + ret.Error()
	}
}

// lost notes a device that says so. Of calls that not every device answers no
// other failure counts.
func lost(o *gpu.Observed, ret nvml.Return) {
	if ret == nvml.ERROR_GPU_IS_LOST {
		o.Facts.Lost = true
	}
}

// busID is the address as the driver writes it: 00000000:3b:00.0.
func busID(p nvml.PciInfo) string {
	var b []byte
	for _, c := range p.BusId {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return strings.ToLower(string(b))
}

func architecture(a nvml.DeviceArchitecture) string {
	names := map[nvml.DeviceArchitecture]string{
		nvml.DEVICE_ARCH_KEPLER: "kepler", nvml.DEVICE_ARCH_MAXWELL: "maxwell", nvml.DEVICE_ARCH_PASCAL: "pascal",
		nvml.DEVICE_ARCH_VOLTA: "volta", nvml.DEVICE_ARCH_TURING: "turing", nvml.DEVICE_ARCH_AMPERE: "ampere",
		nvml.DEVICE_ARCH_ADA: "ada", nvml.DEVICE_ARCH_HOPPER: "hopper", nvml.DEVICE_ARCH_BLACKWELL: "blackwell", nvml.DEVICE_ARCH_RUBIN: "rubin",
	}
	return names[a]
}

// numa is the memory node that the device hangs on: what the kernel knows of
// its PCI address, else what the library says it has an affinity to.
func (d *Driver) numa(handle nvml.Device, pci string) string {
	if node := numaOf(d.sys, pci); node != "" {
		return node
	}
	if !d.has[canNUMA] {
		return ""
	}
	set, ret := handle.GetMemoryAffinity(64, nvml.AFFINITY_SCOPE_NODE)
	if ret != nvml.SUCCESS || len(set) == 0 || bits.OnesCount(set[0]) != 1 {
		return ""
	}
	return strconv.Itoa(bits.TrailingZeros(set[0]))
}

// fabric is cluster and clique of an NVLink domain that spans machines; empty
// when there is none, or it has not come up.
func (d *Driver) fabric(handle nvml.Device) string {
	var cluster [16]uint8
	var clique uint32
	switch {
	case d.has[canFabricV]:
		info, ret := handle.GetGpuFabricInfoV().V2()
		if ret != nvml.SUCCESS || info.State != nvml.GPU_FABRIC_STATE_COMPLETED || info.Status != uint32(nvml.SUCCESS) {
			return ""
		}
		cluster, clique = info.ClusterUuid, info.CliqueId
	case d.has[canFabric]:
		info, ret := handle.GetGpuFabricInfo()
		if ret != nvml.SUCCESS || info.State != nvml.GPU_FABRIC_STATE_COMPLETED || info.Status != uint32(nvml.SUCCESS) {
			return ""
		}
		cluster, clique = info.ClusterUuid, info.CliqueId
	}
	if cluster == [16]uint8{} {
		return ""
	}
	return hex.EncodeToString(cluster[:]) + "/" + strconv.FormatUint(uint64(clique), 10)
}

// confidential says that the GPUs are in the confidential-computing mode, in
// production, without developers' tools, and take work.
func (d *Driver) confidential() bool {
	if !d.has[canConfidential] {
		return false
	}
	s, ret := d.lib.SystemGetConfComputeState()
	if ret != nvml.SUCCESS || s.CcFeature != nvml.CC_SYSTEM_FEATURE_ENABLED || s.Environment != nvml.CC_SYSTEM_ENVIRONMENT_PROD || s.DevToolsMode != nvml.CC_SYSTEM_DEVTOOLS_MODE_OFF {
		return false
	}
	if !d.has[canReady] {
		return false // who cannot say that it is ready is not
	}
	ready, ret := d.lib.SystemGetConfComputeGpusReadyState()
	return ret == nvml.SUCCESS && ready == nvml.CC_ACCEPTING_CLIENT_REQUESTS_TRUE
}

// islands finds which GPUs reach each other by NVLink: directly, or because
// they hang on the switches of one machine.
func (d *Driver) islands(whole []part) {
	if !d.has[canLinks] {
		return
	}
	group := make([]int, len(whole))
	byPCI := map[string]int{}
	for i := range whole {
		group[i] = i
		byPCI[whole[i].seen.PCI] = i
	}
	join := func(a, b int) {
		from, to := max(group[a], group[b]), min(group[a], group[b])
		for i := range group {
			if group[i] == from {
				group[i] = to
			}
		}
	}
	switched := -1
	for i := range whole {
		if whole[i].seen.Facts.Lost || whole[i].shut {
			continue
		}
		links, peers, onSwitch := d.linksOf(whole[i].handle)
		whole[i].seen.Facts.NVLinks = links
		d.links[whole[i].seen.UUID] = links
		for _, pci := range peers {
			if j, ok := byPCI[pci]; ok && pci != "" {
				join(i, j)
			}
		}
		if onSwitch {
			if switched >= 0 {
				join(switched, i)
			}
			switched = i
		}
	}
	size := map[int]int{}
	for _, g := range group {
		size[g]++
	}
	for i, g := range group {
		if size[g] > 1 {
			whole[i].seen.Island = fmt.Sprint("nvlink-", g)
		}
	}
}

// linksOf counts the links that are up, and says where they lead.
func (d *Driver) linksOf(handle nvml.Device) (up int, peers []string, onSwitch bool) {
	for link := range nvml.NVLINK_MAX_LINKS {
		state, ret := handle.GetNvLinkState(link)
		if ret == nvml.ERROR_INVALID_ARGUMENT || ret == nvml.ERROR_NOT_SUPPORTED {
			break
		}
		if ret != nvml.SUCCESS || state != nvml.FEATURE_ENABLED {
			continue
		}
		up++
		if d.has[canLinkType] {
			if kind, ret := handle.GetNvLinkRemoteDeviceType(link); ret == nvml.SUCCESS && kind == nvml.NVLINK_DEVICE_TYPE_SWITCH {
				onSwitch = true
				continue
			}
		}
		if d.has[canLinkPeer] {
			if p, ret := handle.GetNvLinkRemotePciInfo(link); ret == nvml.SUCCESS {
				peers = append(peers, busID(p))
			}
		}
	}
	return up, peers, onSwitch
}

// Sample says what the devices do now.
func (d *Driver) Sample() (out []gpu.Sample) {
	n, ret := d.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil
	}
	for i := range min(n, gpu.MaxDevices) {
		handle, ret := d.lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue
		}
		uuid, ret := handle.GetUUID()
		if ret != nvml.SUCCESS {
			continue
		}
		out = append(out, d.sample(uuid, handle))
		if !d.has[canMIG] {
			continue
		}
		if mode, _, ret := handle.GetMigMode(); ret != nvml.SUCCESS || mode != nvml.DEVICE_MIG_ENABLE {
			continue
		}
		for _, m := range d.instances(handle) {
			if uuid, ret := m.GetUUID(); ret == nvml.SUCCESS {
				s := gpu.Sample{UUID: uuid, At: time.Now()}
				d.sampleMemory(&s, m) // all else is the GPU's
				out = append(out, s)
			}
		}
	}
	return out
}

func (d *Driver) sampleMemory(s *gpu.Sample, handle nvml.Device) {
	if total, used, ret := d.memory(handle); ret == nvml.SUCCESS {
		s.MemoryTotal, s.MemoryUsed = new(int64(total)), new(int64(used))
	}
}

// sample asks one device; a call that fails leaves its value unknown.
func (d *Driver) sample(uuid string, handle nvml.Device) gpu.Sample {
	s := gpu.Sample{UUID: uuid, At: time.Now()}
	d.sampleMemory(&s, handle)
	if d.has[canUtilization] {
		if u, ret := handle.GetUtilizationRates(); ret == nvml.SUCCESS {
			s.Utilization, s.MemoryBusy = new(int(u.Gpu)), new(int(u.Memory))
		}
	}
	whole := func(c capability, get func() (uint32, nvml.Return)) *int {
		if !d.has[c] {
			return nil
		}
		if v, ret := get(); ret == nvml.SUCCESS {
			return new(int(v))
		}
		return nil
	}
	s.Temperature = whole(canTemperature, func() (uint32, nvml.Return) { return handle.GetTemperature(nvml.TEMPERATURE_GPU) })
	s.ClockSM = whole(canClocks, func() (uint32, nvml.Return) { return handle.GetClockInfo(nvml.CLOCK_SM) })
	s.ClockMemory = whole(canClocks, func() (uint32, nvml.Return) { return handle.GetClockInfo(nvml.CLOCK_MEM) })
	count := func(c capability, get func() (uint64, nvml.Return)) *int64 {
		if !d.has[c] {
			return nil
		}
		if v, ret := get(); ret == nvml.SUCCESS {
			return new(int64(v))
		}
		return nil
	}
	s.Power = count(canPower, func() (uint64, nvml.Return) { v, ret := handle.GetPowerUsage(); return uint64(v), ret })
	s.PowerLimit = count(canPowerLimit, func() (uint64, nvml.Return) { v, ret := handle.GetEnforcedPowerLimit(); return uint64(v), ret })
	s.Energy = count(canEnergy, handle.GetTotalEnergyConsumption)
	s.ECCErrors = count(canECCErrors, func() (uint64, nvml.Return) {
		return handle.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	})
	s.PCIeReplays = count(canReplays, func() (uint64, nvml.Return) { v, ret := handle.GetPcieReplayCounter(); return uint64(v), ret })
	s.LinkErrors = d.linkErrors(handle, d.links[uuid])
	if bits, ret := d.throttle(handle); ret == nvml.SUCCESS {
		s.Throttle = &bits
	}
	return s
}
