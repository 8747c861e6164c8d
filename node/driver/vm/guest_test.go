//go:build linux

package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

const patience = 3 * time.Minute

// guestEnv names a directory in which the Debian guest is kept between runs.
const guestEnv = "SOVMESH_GUESTS"

// testCgroup is that of the machines of these tests. Two runs at one time on one
// machine need two names: go test -ldflags "-X github.com/sovmesh/sovmesh/node/driver/vm.testCgroup=NAME".
var testCgroup = "sovmesh-test-vm"

// TestMain makes the test binary a supervisor when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case SupervisorCommand:
			os.Exit(SupervisorMain(os.Args[2:]))
		case drivertest.AgentCommand:
			os.Exit(drivertest.AgentMain(os.Args[2:], buildForAgent))
		}
	}
	if len(os.Args) > 2 && os.Args[1] == agentCommand {
		os.Exit(moveAgent(os.Args[2]))
	}
	code := m.Run()
	_ = os.RemoveAll(smallDir)
	os.Exit(code)
}

// debian has the directory of the Debian guest, made by deploy/guest.sh once.
func debian(t testing.TB) string {
	t.Helper()
	needQEMU(t)
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
		makeText, makeErr = exec.Command("../../../deploy/guest.sh", dir).CombinedOutput()
	})
	if makeErr != nil {
		t.Skipf("the Debian guest could not be made (%v): a Debian mirror is needed\n%s", makeErr, makeText)
	}
	return dir
}

var (
	made     sync.Once
	makeText []byte
	makeErr  error

	small    sync.Once
	smallDir string
	smallErr error
)

func needQEMU(t testing.TB) {
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

// smallGuest has an image directory with a guest that does what tests ask of
// it: the Debian kernel and testdata/init.
func smallGuest(t testing.TB) string {
	t.Helper()
	dir := debian(t)
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
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "init"), "./testdata/init")
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

// newDriver makes a driver on the directory of a machine.
func newDriver(t testing.TB, dir string, change func(*Config)) *Driver {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Dir, cfg.Cgroup, cfg.UIDBase = dir, testCgroup, 1_950_000_000
	if change != nil {
		change(&cfg)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

const testJob = placement.JobID("fra-1.01jd0000000000000000000000")

// spec is a task of the small guest that does one thing.
func spec(n int, what string, change func(*runner.Spec)) runner.Spec {
	s := runner.Spec{
		Task: testJob.Task(n, 1), Job: testJob, Name: "Small Guest", Grace: 10 * time.Second,
		Resources: placement.Resources{CPU: 1000, Memory: 192 * placement.MiB}, Keep: func(runner.Handle) error { return nil },
	}
	small := does(what)
	small(&s)
	if change != nil {
		change(&s)
	}
	return s
}

func does(what string) func(*runner.Spec) {
	return func(s *runner.Spec) {
		s.Image = filepath.Join(smallDir, "disk.raw")
		s.Setup = &placement.Setup{Boot: placement.BootDirect, CloudInit: "#cloud-config\n#test " + what + "\n"}
	}
}

// start starts a task that is gone when the test is over.
func start(t testing.TB, d *Driver, s runner.Spec) runner.Handle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := d.Destroy(ctx, runner.Handle{Task: s.Task}); err != nil {
			t.Error(err)
		}
	})
	h, err := d.Start(ctx, s)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	return h
}

// wait waits for a task's end.
func wait(t *testing.T, d *Driver, h runner.Handle) runner.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	exit, err := d.Wait(ctx, h)
	if err != nil {
		t.Fatalf("wait: %v\n%s", err, printed(t, d, h))
	}
	return exit
}

func printed(t testing.TB, d *Driver, h runner.Handle) string {
	t.Helper()
	r, err := d.Logs(context.Background(), h, 0, false)
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	var b bytes.Buffer
	_, _ = b.ReadFrom(r)
	return b.String()
}

// awaits waits until a task has printed a text.
func awaits(t testing.TB, d *Driver, h runner.Handle, text string) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if strings.Contains(printed(t, d, h), text) {
			return
		}
		if o, err := d.List(t.Context()); err == nil && len(o) > 0 && o[0].Handle.Task == h.Task && o[0].State != runner.StateRunning {
			t.Fatalf("it ended (%+v) before it printed %q:\n%s", o[0].Exit, text, printed(t, d, h))
		}
	}
	t.Fatalf("it never printed %q:\n%s", text, printed(t, d, h))
}
