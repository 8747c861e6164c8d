//go:build linux

package qemu

import (
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
