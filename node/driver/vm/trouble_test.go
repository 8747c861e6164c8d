//go:build linux

package vm

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

func TestAHungOrKilledQEMUHoldsUpNobody(t *testing.T) {
	images := smallGuest(t)
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ImageDirs = []string{images} })
	hung, killed := start(t, d, spec(10, "stubborn", nil)), start(t, d, spec(11, "stubborn", nil))
	if err := unix.Kill(d.PID(hung.Task), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := d.Pause(short, hung); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a QEMU that hangs is asked to pause: %v", err)
	}
	if o, err := d.Recover(t.Context(), hung); err != nil || o.State != runner.StateRunning {
		t.Errorf("it is seen as %+v, %v", o, err)
	}
	if err := unix.Kill(d.PID(killed.Task), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, d, killed); exit.Code != 137 || exit.Stopped {
		t.Errorf("killed from outside, it ends with %+v", exit)
	}
	if err := d.Stop(t.Context(), hung, time.Second); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, d, hung); !exit.Stopped || !exit.Killed {
		t.Errorf("hung and stopped, it ends with %+v", exit)
	}
}

func TestWhatACopyKeepsIsUsedOnce(t *testing.T) {
	images := smallGuest(t)
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ImageDirs = []string{images} })
	attempt := func(n int) runner.Spec {
		return spec(12, "stubborn", func(s *runner.Spec) { s.Task, s.Service = testJob.Task(12, n), true })
	}
	first := start(t, d, attempt(1))
	_, err := d.Start(t.Context(), attempt(2))
	var refused *runner.StartError
	if err == nil || errors.As(err, &refused) || !strings.Contains(err.Error(), "in use by task "+string(first.Task)) {
		t.Fatalf("two attempts on one disk: %v; want an error that passes", err)
	}
	if err := d.Destroy(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	other := attempt(3)
	other.Image = "./initrd"
	if _, err := d.Start(t.Context(), other); err == nil {
		t.Error("an image whose format nobody says is taken")
	}
	h := start(t, d, attempt(4))
	if o, err := d.Recover(t.Context(), h); err != nil || o.State != runner.StateRunning {
		t.Errorf("the next attempt is %+v, %v", o, err)
	}
}

func TestUEFI(t *testing.T) {
	images := smallGuest(t)
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ImageDirs = []string{images} })
	if _, ok := d.firmware(); !ok {
		t.Skip("a UEFI for machines is missing; install the package ovmf")
	}
	for n, service := range []bool{false, true} {
		h := start(t, d, spec(13+n, "nothing", func(s *runner.Spec) { s.Setup.Boot, s.Service = placement.BootUEFI, service }))
		if service {
			// Its variables are there already when it is started again.
			if err := d.Destroy(t.Context(), h); err != nil {
				t.Fatal(err)
			}
			h = start(t, d, spec(13+n, "nothing", func(s *runner.Spec) { s.Setup.Boot, s.Service = placement.BootUEFI, service }))
		}
		if n == 0 {
			awaits(t, d, h, "BdsDxe") // the firmware looks for something to boot, on the serial line
		}
	}
}

func TestFingerprint(t *testing.T) {
	needQEMU(t)
	fp, err := newDriver(t, t.TempDir(), nil).Fingerprint(t.Context())
	if err != nil || !fp.Healthy || fp.Version == "" {
		t.Fatalf("%+v, %v", fp, err)
	}
	for _, name := range []string{"isolation", "network", "vm.accel", "vm.kvm", "vm.uefi", "vm.iommu", "vm.user", "vm.images", "vm.move"} {
		if fp.Facts[name] == "" {
			t.Errorf("it does not say %s", name)
		}
	}
	if fp.Facts["vm.kvm"] != "native" && fp.Facts["vm.accel"] != "tcg" {
		t.Errorf("KVM is %s, and yet machines run on %s", fp.Facts["vm.kvm"], fp.Facts["vm.accel"])
	}
	fp, err = newDriver(t, t.TempDir(), func(c *Config) { c.Binary = "qemu-that-is-not-there" }).Fingerprint(t.Context())
	if err != nil || fp.Healthy || !strings.Contains(fp.Reason, "install qemu-system-x86") {
		t.Errorf("without QEMU: %+v, %v", fp, err)
	}
}
