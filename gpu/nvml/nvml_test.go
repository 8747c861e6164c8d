package nvml

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Without cgo, or without a library, Open says that there is none and nothing
// worse. Where there is one it is opened in a process of its own, see
// TestTheDriverOfThisMachine.
func TestOpenWithoutALibrary(t *testing.T) {
	if Present(os.Getenv("LD_LIBRARY_PATH")) {
		t.Skip("this machine has the library; TestTheDriverOfThisMachine reads it")
	}
	d, err := Open()
	if d != nil || !errors.Is(err, ErrNoNVML) || !strings.Contains(err.Error(), "no NVML on this machine: ") {
		t.Errorf("no NVML is reported as %v, %v", d, err)
	}
}

func TestPresentLoadsNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, Library), []byte("no library at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !Present(":" + dir) {
		t.Error("a library on the search path is not seen")
	}
}

func TestNUMAOfAPCIDevice(t *testing.T) {
	root := t.TempDir()
	for address, node := range map[string]string{"0000:3b:00.0": "1\n", "0000:86:00.0": "-1\n"} {
		dir := filepath.Join(root, "bus/pci/devices", address)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "numa_node"), []byte(node), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for pci, want := range map[string]string{"00000000:3B:00.0": "1", "00000000:86:00.0": "", "00000000:99:00.0": "", "": "", "00000000:../../x": ""} {
		if got := numaOf(root, pci); got != want {
			t.Errorf("%q is on node %q, want %q", pci, got, want)
		}
	}
}

func TestProfileNames(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, tt := range []struct {
		instance, compute uint32
		memory, total     uint64
		want              string
	}{
		{1, 1, 9984 * mib, 81559 * mib, "1g.10gb"}, {3, 3, 40448 * mib, 81559 * mib, "3g.40gb"}, {7, 7, 81000 * mib, 81559 * mib, "7g.80gb"},
		{1, 1, 4864 * mib, 40536 * mib, "1g.5gb"}, {3, 1, 20096 * mib, 40536 * mib, "1c.3g.20gb"}, {2, 2, 33 * gib, 143771 * mib, "2g.35gb"}, {1, 1, 1, 0, ""},
	} {
		if got := profileOf(tt.instance, tt.compute, tt.memory, tt.total); got != tt.want {
			t.Errorf("%+v is named %q", tt, got)
		}
	}
}

func TestLacking(t *testing.T) {
	all := func(string) error { return nil }
	has, err := lookUp(all)
	if err != nil || len(lacking(has)) != 0 {
		t.Errorf("of a library with everything is missed: %v, %v", lacking(has), err)
	}
	has, err = lookUp(func(name string) error {
		if name == "nvmlDeviceGetPowerUsage" || name == "nvmlDeviceGetGpuFabricInfo" {
			return errors.New("not found")
		}
		return nil
	})
	if got := strings.Join(lacking(has), ","); err != nil || got != "power" {
		t.Errorf("missed: %s, %v", got, err)
	}
}
