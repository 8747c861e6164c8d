// Package nvml reads NVIDIA devices through the driver's own library.
//
// A call to a function that the installed library lacks ends the whole process,
// past every recover, and a driver may hang inside a call for good. So each
// symbol is looked up before the first call and none is called that was not
// found; and whoever opens a [Driver] does so in a process of its own, see
// package probe. The one such process is `sovmesh gpu-probe`.
//
// Where there is no library, or the program was built without cgo, the answer
// is [ErrNoNVML]: a node without NVIDIA devices, not a broken one.
package nvml

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Library is the name under which the driver installs its library.
const Library = "libnvidia-ml.so.1"

// ErrNoNVML means that this machine (or this build) has no NVML.
var ErrNoNVML = errors.New("no NVML on this machine")

// ErrUnusable means that there is an NVML library that cannot be used: it lacks
// functions, or its driver does not answer.
var ErrUnusable = errors.New("NVML cannot be used")

// maxCache bounds the loader's cache of libraries as it is read.
const maxCache = 16 << 20

// Present reports whether the machine seems to have the library, without
// loading it: a library's own code runs when it is loaded. searchPath is what
// LD_LIBRARY_PATH says.
func Present(searchPath string) bool {
	for _, dir := range append(filepath.SplitList(searchPath), "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/lib64", "/lib", "/usr/local/nvidia/lib64") {
		if dir == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, Library)); err == nil {
			return true
		}
	}
	cache, err := os.ReadFile("/etc/ld.so.cache")
	return err == nil && len(cache) < maxCache && strings.Contains(string(cache), Library)
}

// A numaOf finds the memory node of a PCI device where the library cannot say.
func numaOf(root, pci string) string {
	// NVML writes eight digits of the domain, the kernel four.
	if domain, rest, ok := strings.Cut(strings.ToLower(pci), ":"); ok && len(domain) == 8 {
		pci = domain[4:] + ":" + rest
	}
	if strings.ContainsAny(pci, "/\x00") {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(root, "bus/pci/devices", pci, "numa_node"))
	if n := strings.TrimSpace(string(data)); err == nil && n != "-1" && len(n) < 8 {
		return n
	}
	return ""
}

// profileOf is the name of a MIG instance's profile: compute slices and the
// share of the GPU's memory in the maker's gigabytes, which are rounded to
// eighths of the whole.
func profileOf(instance, compute uint32, memory, total uint64) string {
	if total == 0 || instance == 0 {
		return ""
	}
	const gib = 1 << 30
	eighths := (memory*8 + total/2) / total
	gb := (eighths*((total+gib-1)/gib) + 4) / 8
	if compute != 0 && compute != instance {
		return fmt.Sprintf("%dc.%dg.%dgb", compute, instance, gb)
	}
	return fmt.Sprintf("%dg.%dgb", instance, gb)
}
