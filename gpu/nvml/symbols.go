package nvml

import (
	"fmt"
	"slices"
	"strings"
)

// needed are the symbols without which nothing can be listed; one name of each
// line must be there. The binding prefers the versioned one where it exists.
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

// A capability is one optional thing that a driver's library can be asked.
type capability string

// The optional capabilities, named as they are shown to operators.
const (
	canMemoryV2     capability = "memory (second version)"
	canDriver       capability = "driver version"
	canCUDA         capability = "CUDA version"
	canPCI          capability = "PCI address"
	canArchitecture capability = "architecture"
	canMIG          capability = "MIG"
	canMIGShape     capability = "MIG instance attributes"
	canMIGIDs       capability = "MIG instance numbers"
	canLinks        capability = "NVLink"
	canLinkPeer     capability = "NVLink peers"
	canLinkType     capability = "NVLink peer types"
	canP2P          capability = "peer-to-peer status"
	canNUMA         capability = "memory affinity"
	canFabricV      capability = "fabric clique"
	canFabric       capability = "fabric clique (first version)"
	canECC          capability = "ECC mode"
	canECCErrors    capability = "ECC errors"
	canRemap        capability = "remapped rows"
	canReasons      capability = "clock event reasons"
	canThrottle     capability = "throttle reasons"
	canPower        capability = "power"
	canPowerLimit   capability = "power limit"
	canEnergy       capability = "energy"
	canTemperature  capability = "temperature"
	canUtilization  capability = "utilisation"
	canClocks       capability = "clocks"
	canReplays      capability = "PCIe replays"
	canConfidential capability = "confidential computing"
	canReady        capability = "confidential computing, ready state"
	canEvents       capability = "events"
	canFields       capability = "recovery action"
	canProfiles     capability = "possible MIG profiles"
	canLinkErrors   capability = "NVLink errors"
)

// optional are the symbols that each capability takes: all lines, one name of
// each.
func optional() map[capability][][]string {
	one := func(names ...string) [][]string { return [][]string{names} }
	return map[capability][][]string{
		canMemoryV2:     one("nvmlDeviceGetMemoryInfo_v2"),
		canDriver:       one("nvmlSystemGetDriverVersion"),
		canCUDA:         one("nvmlSystemGetCudaDriverVersion_v2"),
		canPCI:          one("nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo"),
		canArchitecture: one("nvmlDeviceGetArchitecture"),
		canMIG:          {{"nvmlDeviceGetMigMode"}, {"nvmlDeviceGetMaxMigDeviceCount"}, {"nvmlDeviceGetMigDeviceHandleByIndex"}},
		canMIGShape:     one("nvmlDeviceGetAttributes_v2", "nvmlDeviceGetAttributes"),
		canMIGIDs:       {{"nvmlDeviceGetGpuInstanceId"}, {"nvmlDeviceGetComputeInstanceId"}},
		canLinks:        one("nvmlDeviceGetNvLinkState"),
		canLinkPeer:     one("nvmlDeviceGetNvLinkRemotePciInfo_v2", "nvmlDeviceGetNvLinkRemotePciInfo"),
		canLinkType:     one("nvmlDeviceGetNvLinkRemoteDeviceType"),
		canP2P:          one("nvmlDeviceGetP2PStatus"),
		canNUMA:         one("nvmlDeviceGetMemoryAffinity"),
		canFabricV:      one("nvmlDeviceGetGpuFabricInfoV"),
		canFabric:       one("nvmlDeviceGetGpuFabricInfo"),
		canECC:          one("nvmlDeviceGetEccMode"),
		canECCErrors:    one("nvmlDeviceGetTotalEccErrors"),
		canRemap:        one("nvmlDeviceGetRemappedRows"),
		canReasons:      one("nvmlDeviceGetCurrentClocksEventReasons"),
		canThrottle:     one("nvmlDeviceGetCurrentClocksThrottleReasons"),
		canPower:        one("nvmlDeviceGetPowerUsage"),
		canPowerLimit:   one("nvmlDeviceGetEnforcedPowerLimit"),
		canEnergy:       one("nvmlDeviceGetTotalEnergyConsumption"),
		canTemperature:  one("nvmlDeviceGetTemperature"),
		canUtilization:  one("nvmlDeviceGetUtilizationRates"),
		canClocks:       one("nvmlDeviceGetClockInfo"),
		canReplays:      one("nvmlDeviceGetPcieReplayCounter"),
		canConfidential: one("nvmlSystemGetConfComputeState"),
		canReady:        one("nvmlSystemGetConfComputeGpusReadyState"),
		canFields:       one("nvmlDeviceGetFieldValues"),
		canProfiles:     one("nvmlDeviceGetGpuInstanceProfileInfo"),
		canLinkErrors:   one("nvmlDeviceGetNvLinkErrorCounter"),
		canEvents:       {{"nvmlEventSetCreate"}, {"nvmlEventSetFree"}, {"nvmlEventSetWait_v2", "nvmlEventSetWait"}, {"nvmlDeviceRegisterEvents"}, {"nvmlDeviceGetSupportedEventTypes"}},
	}
}

// lookUp looks every symbol up, so that no call can end the process. Its error
// is [ErrUnusable].
func lookUp(lookup func(string) error) (map[capability]bool, error) {
	found := func(lines [][]string) (missing string) {
		for _, names := range lines {
			if !slices.ContainsFunc(names, func(name string) bool { return lookup(name) == nil }) {
				return strings.Join(names, " or ")
			}
		}
		return ""
	}
	if missing := found(needed()); missing != "" {
		return nil, fmt.Errorf("%w: %s has no %s; install a newer driver", ErrUnusable, Library, missing)
	}
	has := map[capability]bool{}
	for c, lines := range optional() {
		has[c] = found(lines) == ""
	}
	return has, nil
}

// lacking names what the library cannot be asked, sorted. What a newer call
// gives is not missed in an older one.
func lacking(has map[capability]bool) (out []string) {
	for c, ok := range has {
		instead := map[capability]capability{canFabric: canFabricV, canThrottle: canReasons, canP2P: canLinkPeer}[c]
		if !ok && (instead == "" || !has[instead]) && c != canMemoryV2 {
			out = append(out, string(c))
		}
	}
	slices.Sort(out)
	return out
}
