//go:build linux

package qemu

import (
	"errors"
	"os/exec"
	"testing"
	"time"
)

// needQEMU skips a test where there is none.
func needQEMU(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is missing: install qemu-system-x86")
	}
	return path
}

func TestProbeTimesKVM(t *testing.T) {
	a, err := Probe(t.Context(), needQEMU(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", a)
	if (a.Name == KVM) != (a.KVM == "native") || a.CPU == "" || a.Version == "" {
		t.Errorf("%+v", a)
	}
	if (a.KVM == "native") != (a.Why == "") {
		t.Errorf("%q, and why: %q", a.KVM, a.Why)
	}
}

func TestADeviceIsThereOrNot(t *testing.T) {
	binary := needQEMU(t)
	for device, want := range map[string]bool{"virtio-blk-device": true, "virtio-blk": false, "no-such-device": false} {
		if has, err := HasDevice(t.Context(), binary, "microvm", device); err != nil || has != want {
			t.Errorf("%s: %v, %v", device, has, err)
		}
	}
	if has, err := HasDevice(t.Context(), "/bin/false", "microvm", "virtio-blk-device"); err == nil || has {
		t.Error("a QEMU that says nothing has it")
	}
}

// TestALoopThatDoesNotEndIsCutOff holds for every KVM, native or not.
func TestALoopThatDoesNotEndIsCutOff(t *testing.T) {
	start := time.Now()
	took, err := loopInKVM(0, time.Millisecond) // 2^32 turns
	if err != nil {
		t.Skipf("there is no KVM here: %v", err)
	}
	if took < time.Millisecond || time.Since(start) > 10*time.Second {
		t.Errorf("it took %v, and says %v", time.Since(start), took)
	}
}

func TestVersionOfQEMU(t *testing.T) {
	for line, want := range map[string]string{
		"QEMU emulator version 7.2.22 (Debian 1:7.2)\nCopyright": "7.2.22", "something else": "something else", "": "",
	} {
		if got := version(line); got != want {
			t.Errorf("%q gives %q, want %q", line, got, want)
		}
	}
}

func TestABusyMomentIsNoInterpreter(t *testing.T) {
	for _, test := range []struct {
		took  []time.Duration
		best  time.Duration
		asked int
	}{
		{[]time.Duration{time.Millisecond}, time.Millisecond, 1},
		{[]time.Duration{time.Second, time.Millisecond}, time.Millisecond, 2},
		{[]time.Duration{3 * time.Second, time.Second, 2 * time.Second, time.Millisecond}, time.Second, probeSamples},
	} {
		asked := 0
		best, err := fastest(func() (time.Duration, error) { asked++; return test.took[asked-1], nil })
		if err != nil || best != test.best || asked != test.asked {
			t.Errorf("%v: %v after %d, %v", test.took, best, asked, err)
		}
	}
	if _, err := fastest(func() (time.Duration, error) { return 0, errors.New("no KVM") }); err == nil {
		t.Error("no KVM at all is some")
	}
}
