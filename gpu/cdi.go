package gpu

import (
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// CDI is the name under which the Container Device Interface injects a device
// into a container: vendor/class=name, as the specification of CDI has it. The
// generators of the vendors name NVIDIA's devices by UUID, and AMD's and Intel's
// alike where they are told to. A simulated device, or one whose name CDI cannot
// write, has none: empty.
func CDI(d placement.Device) string {
	kind := map[string]string{"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "intel.com/gpu"}[d.Vendor]
	if kind == "" || d.Simulated || d.Partitioned || !cdiName(d.UUID) {
		return ""
	}
	return kind + "=" + d.UUID
}

// cdiName follows the specification: letters, digits, and in between _ - . :
func cdiName(name string) bool {
	word := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' }
	if name == "" || !word(name[0]) || !word(name[len(name)-1]) {
		return false
	}
	for i := range len(name) {
		if !word(name[i]) && !strings.ContainsRune("_-.:", rune(name[i])) {
			return false
		}
	}
	return true
}
