package sysfs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/placement"
)

// tree lays out a sysfs: devices by PCI address, each with its files.
func tree(t *testing.T, devices map[string]map[string]string) string {
	t.Helper()
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(root, "class/drm"), 0o700))
	i := 0
	for address, files := range devices {
		dir := filepath.Join(root, "devices/pci0000:00", address)
		must(os.MkdirAll(dir, 0o700))
		for name, content := range files {
			must(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
			must(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		}
		card := filepath.Join(root, fmt.Sprintf("class/drm/card%d", i))
		must(os.MkdirAll(card, 0o700))
		must(os.Symlink(dir, filepath.Join(card, "device")))
		must(os.MkdirAll(card+"-DP-1", 0o700))
		i++
	}
	return root
}

func mi300x() map[string]string {
	return map[string]string{
		"vendor": "0x1002\n", "device": "0x74a1\n", "mem_info_vram_total": "206141652992\n", "mem_info_vram_used": "1073741824\n", "gpu_busy_percent": "42\n",
		"unique_id": "a1b2c3d4e5f60718\n", "numa_node": "1\n", "hwmon/hwmon3/power1_average": "137000000\n", "hwmon/hwmon3/temp1_input": "41000\n",
	}
}

func source(root string) *Source { return New(root, time.Second, slog.New(slog.DiscardHandler)) }

func TestAccelerators(t *testing.T) {
	root := tree(t, map[string]map[string]string{
		"0000:c1:00.0": mi300x(),
		"0000:c2:00.0": {"vendor": "0x8086\n", "device": "0x0bd5\n", "lmem_total_bytes": "51539607552\n", "numa_node": "-1\n"},
		"0000:c3:00.0": {"vendor": "0x8086\n", "device": "0x9a49\n"},                                                    // a processor's own graphics
		"0000:c4:00.0": {"vendor": "0x10de\n", "device": "0x2330\n"},                                                    // NVIDIA's are for NVML
		"0000:c5:00.0": {"vendor": "0x1002\n", "device": "0x74a1\n", "mem_info_vram_total": "-7\n"},                     // it lies
		"0000:c6:00.0": {"vendor": "0x1002\n", "device": "0x74a1\n", "mem_info_vram_total": strings.Repeat("9", 10000)}, // an endless file
		"0000:c7:00.0": {"vendor": "0x1002\n", "device": "0x740f\n", "mem_info_vram_total": "68702699520\n", "product_name": "Evil\x1b[2J\n"},
	})
	r, err := source(root).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range r.Devices {
		got = append(got, fmt.Sprint(d.UUID, " ", d.Vendor, " ", d.Model, " ", d.Memory, " ", d.PCI, " ", d.NUMA, " ", gpu.CDI(d.Device)))
	}
	want := "AMD-a1b2c3d4e5f60718 amd AMD Instinct MI300X 196592MiB 0000:c1:00.0 1 amd.com/gpu=AMD-a1b2c3d4e5f60718\nINTEL-0000:c2:00.0 intel Intel 0x0bd5 48GiB 0000:c2:00.0  intel.com/gpu=INTEL-0000:c2:00.0"
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	if !r.Devices[0].Matches(placement.Resources{GPUModel: "MI300X"}) {
		t.Error("a job that asks for the model would not get it")
	}
}

func TestSamples(t *testing.T) {
	root := tree(t, map[string]map[string]string{"0000:c1:00.0": mi300x()})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var readings int
		var last gpu.Sample
		over := make(chan struct{})
		go func() {
			defer close(over)
			_ = source(root).Watch(ctx, func(u gpu.Update) {
				if u.Reading != nil {
					readings++
				}
				for _, s := range u.Samples {
					last = s
				}
			})
		}()
		time.Sleep(3500 * time.Millisecond)
		cancel()
		<-over
		if readings != 4 || *last.Utilization != 42 || *last.Power != 137_000 || *last.Temperature != 41 || *last.MemoryUsed != 1<<30 || last.Energy != nil {
			t.Errorf("%d readings, sample %+v", readings, last)
		}
	})
}

func TestAMachineWithoutAny(t *testing.T) {
	r, err := source(t.TempDir()).Read(t.Context())
	if err != nil || len(r.Devices) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// Whatever files say, what is kept can be reported.
func FuzzFiles(f *testing.F) {
	f.Add("0x1002", "0x74a1", "206141652992", "a1b2", "1", "MI300X")
	f.Add("0x8086", "0x0bd5", "-1", "", "-1", "\x00")
	f.Fuzz(func(t *testing.T, vendor, device, memory, unique, numa, product string) {
		root := tree(t, map[string]map[string]string{"0000:c1:00.0": {
			"vendor": vendor, "device": device, "mem_info_vram_total": memory, "lmem_total_bytes": memory, "unique_id": unique, "numa_node": numa, "product_name": product,
		}})
		r, err := source(root).Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range r.Devices {
			if err := gpu.Check([]placement.Device{o.Device}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
