// Package sysfs reads the accelerators that the kernel itself describes: those
// of AMD and Intel, below /sys/class/drm, without a library and without cgo.
//
// It only reads, a few bounded bytes a file, and believes no file: what is not
// there is not known, what cannot be is dropped with its name. NVIDIA's devices
// are left to package nvml. A machine without any is a node without devices.
package sysfs

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/placement"
)

// The vendors' PCI numbers.
const (
	vendorAMD   = "0x1002"
	vendorIntel = "0x8086"
)

// maxValue bounds a file of sysfs in bytes; maxCards how many are looked at.
const (
	maxValue = 4 << 10
	maxCards = 128
)

// Source is the machine's sysfs. It is a [gpu.Source].
type Source struct {
	root  string // /sys
	every time.Duration
	log   *slog.Logger
}

// New reads below root, which is /sys but in tests, and looks again every so often.
func New(root string, every time.Duration, log *slog.Logger) *Source {
	return &Source{root: root, every: every, log: log}
}

// Read lists the accelerators. A machine without the folder has none.
func (s *Source) Read(context.Context) (gpu.Reading, error) {
	r, _ := s.look()
	return r, nil
}

// Watch looks again and again until ctx ends.
func (s *Source) Watch(ctx context.Context, take func(gpu.Update)) error {
	t := time.NewTicker(s.every)
	defer t.Stop()
	for ctx.Err() == nil {
		r, samples := s.look()
		take(gpu.Update{Reading: &r})
		if len(samples) > 0 {
			take(gpu.Update{Samples: samples})
		}
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
	return nil
}

// look reads every card, and what it does now.
func (s *Source) look() (gpu.Reading, []gpu.Sample) {
	r := gpu.Reading{Devices: []gpu.Observed{}}
	var samples []gpu.Sample
	for _, dir := range s.cards() {
		c := card{dir: dir}
		o, ok := c.read()
		if !ok {
			continue
		}
		o.Index = len(r.Devices)
		r.Devices = append(r.Devices, o)
		samples = append(samples, c.sample(o.UUID))
	}
	kept, lies := gpu.Sift(r.Devices)
	for _, err := range lies {
		s.log.Warn("a device is not offered: what the kernel says of it cannot be", "err", err)
	}
	r.Devices = kept
	return r, samples
}

// cards are the folders of the devices behind card0, card1, ..., each once.
func (s *Source) cards() (out []string) {
	class := filepath.Join(s.root, "class/drm")
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "card")
		if _, err := strconv.Atoi(number); !ok || err != nil || len(out) == maxCards {
			continue // card0-DP-1 is a connector
		}
		dir, err := filepath.EvalSymlinks(filepath.Join(class, e.Name(), "device"))
		if err == nil && !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	slices.Sort(out)
	return out
}

// card is the folder of one device.
type card struct{ dir string }

// text is a file's first bytes, trimmed; empty if it cannot be read.
func (c card) text(name string) string {
	f, err := os.Open(filepath.Join(c.dir, name))
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxValue))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// number reads a decimal number; false if there is none.
func (c card) number(name string) (int64, bool) {
	n, err := strconv.ParseInt(c.text(name), 10, 64)
	return n, err == nil
}

// read describes the card; false if it is no accelerator of ours.
func (c card) read() (gpu.Observed, bool) {
	o := gpu.Observed{Device: placement.Device{Health: placement.DeviceOK}}
	d := &o.Device
	d.PCI = strings.ToLower(filepath.Base(c.dir))
	id := strings.ToLower(c.text("device"))
	switch strings.ToLower(c.text("vendor")) {
	case vendorAMD:
		d.Vendor, d.Model = "amd", amdModel(id)
		total, ok := c.number("mem_info_vram_total")
		if !ok {
			return o, false // a processor's own graphics
		}
		d.Memory = placement.Bytes(total)
	case vendorIntel:
		d.Vendor, d.Model = "intel", "Intel "+id
		total, ok := c.number("lmem_total_bytes")
		for tile := 0; !ok && tile < 4; tile++ { // the driver xe keeps it by tile
			total, ok = c.number(fmt.Sprintf("tile%d/vram0/size", tile))
		}
		if !ok {
			return o, false
		}
		d.Memory = placement.Bytes(total)
	default:
		return o, false
	}
	if name := c.text("product_name"); name != "" {
		d.Model = name
	}
	d.UUID = strings.ToUpper(d.Vendor) + "-" + d.PCI
	if unique := c.text("unique_id"); unique != "" {
		d.UUID = strings.ToUpper(d.Vendor) + "-" + unique
	}
	if node := c.text("numa_node"); node != "-1" {
		d.NUMA = node
	}
	if bad, ok := c.number("ras/gpu_vram_bad_pages"); ok && bad > 0 {
		o.Facts.RemapPending = true
	}
	return o, true
}

// sample is what the card does now.
func (c card) sample(uuid string) gpu.Sample {
	s := gpu.Sample{UUID: uuid, At: time.Now()}
	if busy, ok := c.number("gpu_busy_percent"); ok && busy >= 0 && busy <= 100 {
		s.Utilization = new(int(busy))
	}
	if used, ok := c.number("mem_info_vram_used"); ok && used >= 0 {
		s.MemoryUsed = &used
	}
	if total, ok := c.number("mem_info_vram_total"); ok && total >= 0 {
		s.MemoryTotal = &total
	}
	sensors, _ := filepath.Glob(filepath.Join(c.dir, "hwmon", "hwmon*")) // the pattern is sound
	for _, dir := range sensors[:min(len(sensors), 4)] {
		h := card{dir}
		if microwatts, ok := h.number("power1_average"); ok && microwatts >= 0 {
			s.Power = new(microwatts / 1000)
		}
		if limit, ok := h.number("power1_cap"); ok && limit >= 0 {
			s.PowerLimit = new(limit / 1000)
		}
		if microjoules, ok := h.number("energy1_input"); ok && microjoules >= 0 {
			s.Energy = new(microjoules / 1000)
		}
		if heat, ok := h.number("temp1_input"); ok && heat > 0 {
			s.Temperature = new(int(heat / 1000))
		}
	}
	return s
}

// amdModel names the accelerators of AMD by their PCI number.
func amdModel(id string) string {
	names := map[string]string{
		"0x738c": "AMD Instinct MI100", "0x740c": "AMD Instinct MI250X", "0x7408": "AMD Instinct MI250X", "0x740f": "AMD Instinct MI210",
		"0x74a0": "AMD Instinct MI300A", "0x74a1": "AMD Instinct MI300X", "0x74a5": "AMD Instinct MI325X", "0x75a0": "AMD Instinct MI350X",
	}
	if name := names[id]; name != "" {
		return name
	}
	return "AMD " + id
}
