package gpu

import (
	"errors"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

func TestParse(t *testing.T) {
	tests := []struct {
		spec  string
		count int
		model string // of the last
		err   string
	}{
		{"", 0, "", ""},
		{"none", 0, "", ""},
		{"sim:8xH100", 8, "NVIDIA H100 80GB HBM3", ""},
		{"sim:4xa100,2xL4", 6, "NVIDIA L4", ""},
		{"sim:2xZ9@48GiB", 2, "Z9", ""},
		{"sim:", 0, "", "is not a number"},
		{"sim:8x", 0, "", "names no model"},
		{"sim:0xH100", 0, "", "is not a number"},
		{"sim:-1xH100", 0, "", "is not a number"},
		{"sim:2xZ9", 0, "", "not known"},
		{"sim:2xH100@much", 0, "", "no amount of memory"},
		{"sim:257xH100", 0, "", "at most 256"},
		{"8xH100", 0, "", "begins neither"},
	}
	for _, tt := range tests {
		got, err := Parse(tt.spec, "n1")
		if tt.err != "" {
			var spec *SpecError
			if !errors.As(err, &spec) || !strings.Contains(err.Error(), tt.err) || !strings.Contains(spec.Hint(), "sim:8xH100") {
				t.Errorf("%q: %v, want an error with %q and a hint", tt.spec, err, tt.err)
			}
			continue
		}
		if err != nil || len(got) != tt.count {
			t.Errorf("%q: %d devices, %v", tt.spec, len(got), err)
			continue
		}
		if err := Check(got); err != nil {
			t.Errorf("%q: %v", tt.spec, err)
		}
		for _, d := range got {
			if !d.Simulated || !strings.HasPrefix(d.UUID, "sim-n1-") {
				t.Errorf("%q: %+v does not say that it is simulated", tt.spec, d)
			}
		}
		if tt.count > 0 && got[tt.count-1].Model != tt.model {
			t.Errorf("%q: last is %s", tt.spec, got[tt.count-1].Model)
		}
	}
}

func TestShortNamesMatchTheirModels(t *testing.T) {
	for _, name := range Models() {
		got, err := Parse("sim:1x"+name, "n1")
		if err != nil || !got[0].Matches(placement.Resources{GPUModel: name}) {
			t.Errorf("%s: %+v, %v: a job that asks for it would not get it", name, got, err)
		}
	}
}

func TestCheck(t *testing.T) {
	good := placement.Device{UUID: "a", Model: "m", Memory: 1, Health: placement.DeviceOK}
	with := func(change func(*placement.Device)) []placement.Device {
		d := good
		change(&d)
		return []placement.Device{d}
	}
	bad := map[string][]placement.Device{
		"twice":    {good, good},
		"UUID":     with(func(d *placement.Device) { d.UUID = "" }),
		"model":    with(func(d *placement.Device) { d.Model = strings.Repeat("m", 129) }),
		"negative": with(func(d *placement.Device) { d.Memory = -1 }),
		"health":   with(func(d *placement.Device) { d.Health = "fine" }),
		"at most":  make([]placement.Device, MaxDevices+1),
	}
	for word, devices := range bad {
		if err := Check(devices); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("want an error with %q, got %v", word, err)
		}
	}
}

func TestWorse(t *testing.T) {
	if got := Worse(placement.DeviceDegraded, placement.DeviceOK); got != placement.DeviceDegraded {
		t.Errorf("degraded and ok: %s", got)
	}
	if got := Worse(placement.DeviceOK, "gleaming"); got != placement.DeviceLost {
		t.Errorf("a word that is no state counts as %s, want lost", got)
	}
}
