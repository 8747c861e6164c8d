//go:build linux

// Package guesttest makes the guests that tests of machines boot: Debian 12, as
// deploy/guest.sh makes it, and a small one, whose init does what a test asks.
//
// What is missing on the machine skips the test, by its name.
package guesttest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// guestEnv names a directory in which the Debian guest is kept between runs.
const guestEnv = "SOVMESH_GUESTS"

// Debian has the directory of the Debian guest, made by deploy/guest.sh once.
func Debian(t testing.TB) string {
	t.Helper()
	NeedQEMU(t)
	dir := os.Getenv(guestEnv)
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Skipf("no directory to keep a guest in: %v; set %s", err, guestEnv)
		}
		dir = filepath.Join(cache, "sovmesh")
	}
	dir = filepath.Join(dir, "debian-12")
	if _, err := os.Stat(filepath.Join(dir, "disk.qcow2")); err == nil {
		return dir
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil || os.Geteuid() != 0 {
		t.Skip("the Debian guest is missing, and to make it root and the package mmdebstrap are needed: run deploy/guest.sh as root")
	}
	made.Do(func() {
		makeText, makeErr = exec.Command(filepath.Join(root(), "deploy", "guest.sh"), dir).CombinedOutput()
	})
	if makeErr != nil {
		t.Skipf("the Debian guest could not be made (%v): a Debian mirror is needed\n%s", makeErr, makeText)
	}
	return dir
}

// root is the directory of the module.
func root() string {
	mod, _ := exec.Command("go", "env", "GOMOD").Output() // without it the script is not found, and says so
	return filepath.Dir(strings.TrimSpace(string(mod)))
}

// SmallDisk is the image to boot, once [Small] made it.
func SmallDisk() string { return filepath.Join(smallDir, "disk.raw") }

// Remove deletes the small guest; whoever asked for one calls it at its end.
func Remove() {
	if smallDir != "" {
		_ = os.RemoveAll(smallDir)
	}
}

var (
	made     sync.Once
	makeText []byte
	makeErr  error

	small    sync.Once
	smallDir string
	smallErr error
)

// NeedQEMU skips a test where no machine can be started.
func NeedQEMU(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("the fast part boots no machines; make test does")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is missing; install the package qemu-system-x86")
	}
}

// modules are what the small guest loads, in order; those in the kernel itself
// are missing in the directory, and left out.
var modules = strings.Fields("virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk virtio_console failover net_failover virtio_net button evdev pvpanic pvpanic-pci")

// Small has an image directory with a guest that does what tests ask of
// it: the Debian kernel and testdata/init.
func Small(t testing.TB) string {
	t.Helper()
	dir := Debian(t)
	small.Do(func() { smallDir, smallErr = makeSmall(dir) })
	if smallErr != nil {
		t.Fatal(smallErr)
	}
	return smallDir
}

func makeSmall(debian string) (string, error) {
	dir, err := os.MkdirTemp("", "sovmesh-guest-")
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "init"), "github.com/sovmesh/sovmesh/node/driver/vm/testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build the small guest's init: %w\n%s", err, text)
	}
	program, err := os.ReadFile(filepath.Join(dir, "init"))
	if err != nil {
		return dir, err
	}
	var a archive
	a.add("init", 0o100755, program)
	for _, sub := range []string{"dev", "proc", "sys", "modules"} {
		a.add(sub, 0o040755, nil)
	}
	found := make(map[string]string)
	_ = filepath.WalkDir(filepath.Join(debian, "modules"), func(path string, e os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko") {
			found[strings.TrimSuffix(e.Name(), ".ko")] = path
		}
		return nil
	})
	var order []string
	for _, name := range modules {
		if data, err := os.ReadFile(found[name]); err == nil {
			a.add("modules/"+name, 0o100644, data)
			order = append(order, name)
		}
	}
	a.add("modules/order", 0o100644, []byte(strings.Join(order, "\n")))
	kernel, err := os.ReadFile(filepath.Join(debian, "vmlinuz"))
	if err != nil {
		return dir, err
	}
	for name, data := range map[string][]byte{
		"vmlinuz": kernel, "initrd": a.end(), "cmdline": []byte("quiet loglevel=0 panic=5 tsc_early_khz=2000000 lpj=4000000\n"),
		"disk.raw": make([]byte, 1<<20),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return dir, err
		}
	}
	return dir, nil
}

// archive is a cpio archive as the kernel unpacks it.
// https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
type archive struct {
	bytes.Buffer
	n int
}

func (a *archive) add(name string, mode int, data []byte) {
	a.n++
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", a.n, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.WriteString(name + "\x00")
	a.pad()
	a.Write(data)
	a.pad()
}

func (a *archive) pad() { a.Write(make([]byte, (4-a.Len()%4)%4)) }

func (a *archive) end() []byte {
	a.add("TRAILER!!!", 0, nil)
	return a.Bytes()
}
