//go:build linux && cgo

package nvml

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// childEnv makes this test program read devices and print them. A library is
// bound once per process, so every double gets a process of its own.
const childEnv = "SOVMESH_TEST_NVML_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	devices, err := Devices(context.Background())
	fmt.Printf("unusable %v, none %v, %v\n", errors.Is(err, ErrUnusable), errors.Is(err, ErrNoNVML), err)
	for _, d := range devices {
		fmt.Printf("%s %s %s %s\n", d.UUID, d.Model, d.Memory, d.Health)
	}
}

func TestDevicesThroughARealLibrary(t *testing.T) {
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler on this machine to build the double of the driver's library")
	}
	tests := []struct {
		name  string
		flags []string
		want  []string
	}{
		{"two sound devices", nil, []string{
			"unusable false, none false, <nil>",
			"GPU-1 NVIDIA H100 80GB HBM3 81559MiB ok", "GPU-2 NVIDIA H100 80GB HBM3 81559MiB ok"}},
		{"a lost device is listed as lost", []string{"-DMEMORY=IS_LOST"}, []string{"81559MiB ok", "GPU-2 NVIDIA H100 80GB HBM3 0 lost"}},
		{"what fails otherwise is cordoned", []string{"-DMEMORY=NOT_SUPPORTED"}, []string{"GPU-2 NVIDIA H100 80GB HBM3 0 cordoned"}},
		{"a pending remap is degraded", []string{"-DROWS", "-DPENDING=1"}, []string{"GPU-1 NVIDIA H100 80GB HBM3 81559MiB ok", "GPU-2 NVIDIA H100 80GB HBM3 81559MiB degraded"}},
		// Without the probe this child dies of a symbol lookup error.
		{"a missing function is an error, not a death", []string{"-DNO_UUID"}, []string{"unusable true", "libnvidia-ml.so.1 has no nvmlDeviceGetUUID"}},
		{"a driver that is not loaded", []string{"-DINIT=DRIVER_NOT_LOADED"}, []string{"unusable true", "Driver Not Loaded"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			args := append([]string{"-shared", "-fPIC", "-w", "-o", filepath.Join(dir, Library), filepath.Join("testdata", "double.c")}, tt.flags...)
			if out, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
				t.Fatalf("build the double: %v\n%s", err, out)
			}
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), childEnv+"=1", "LD_LIBRARY_PATH="+dir)
			out, err := child.CombinedOutput()
			if err != nil {
				t.Fatalf("the child died: %v\n%s", err, out)
			}
			for _, want := range tt.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
}
