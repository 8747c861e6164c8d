//go:build linux

package microvm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/container"
	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/driver/image"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// testCgroup is that of the machines of these tests. Two runs at one time on one
// machine need two names: go test -ldflags "-X github.com/sovmesh/sovmesh/node/driver/microvm.testCgroup=NAME".
var testCgroup = "sovmesh-test-microvm"

// TestMain makes the test binary a supervisor when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case SupervisorCommand:
			os.Exit(SupervisorMain(os.Args[2:]))
		case container.SupervisorCommand:
			os.Exit(container.SupervisorMain(os.Args[2:]))
		case drivertest.AgentCommand:
			os.Exit(drivertest.AgentMain(os.Args[2:], buildForAgent))
		}
	}
	dir, err := os.MkdirTemp("", "microvm-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared = dir
	code := m.Run()
	if err := engines.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// shared is a directory for what all tests use.
var shared string

// builtInit is the guests' init, made once.
var builtInit = sync.OnceValues(func() (string, error) {
	out := filepath.Join(shared, InitName)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "github.com/sovmesh/sovmesh/node/driver/microvm/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	text, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build init: %w\n%s", err, text)
	}
	return out, err
})

// workload is the archive of the image that the container driver's tests run too.
var workload = sync.OnceValues(func() (string, error) {
	img, err := enginetest.Image()
	if err != nil {
		return "", err
	}
	file := filepath.Join(shared, "workload.tar")
	return file, enginetest.WriteArchive(file, img)
})

// needMachine skips a test where no guest can boot.
func needMachine(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("the fast part boots no machines; make test does")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is missing: install qemu-system-x86")
	}
	if _, err := findKernel("", "", DefaultConfig().KernelRoots); err != nil {
		t.Skipf("no kernel for guests: %v", err)
	}
}

func must[T any](t testing.TB, get func() (T, error)) T {
	t.Helper()
	v, err := get()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// newDriver makes a driver; disks are shared by all tests.
func newDriver(t testing.TB, dir string, change func(*Config)) *Driver {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Dir, cfg.Cgroup, cfg.Init = dir, testCgroup, must(t, builtInit)
	cfg.Images = image.Source{Dirs: []string{shared, dir}}
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

// boots is how long the slowest machine may take for a test: a guest comes up
// in seconds, and several of them in a minute where there is no KVM.
const boots = 4 * time.Minute

func TestConformance(t *testing.T) {
	needMachine(t)
	archive := image.ArchivePrefix + must(t, workload)
	run := func(args ...string) func(*runner.Spec) {
		return func(s *runner.Spec) { s.Image, s.Command = archive, append([]string{"/workload"}, args...) }
	}
	dirs := make(map[*testing.T]string) // one machine per test
	drivertest.Run(t, drivertest.Harness{
		New: func(t *testing.T) runner.Driver {
			if dirs[t] == "" {
				dirs[t] = t.TempDir()
			}
			return newDriver(t, dirs[t], func(c *Config) { c.LogFileSize, c.LogFiles = 8<<10, 4 })
		},
		Exit:       func(s *runner.Spec, code int) { run("exit", fmt.Sprint(code))(s) },
		Print:      func(s *runner.Spec, text string) { run("print", text)(s) },
		Sleep:      run("sleep"),
		Stubborn:   run("stubborn"),
		Flood:      func(s *runner.Spec, n int) { run("flood", fmt.Sprint(n))(s) },
		Missing:    func(s *runner.Spec) { s.Image, s.Command = archive, []string{"/no-such-program"} },
		Hungry:     run("eat", "600"),
		KeptOutput: 32 << 10,
		Patience:   boots,
	})
}

const testJob = placement.JobID("fra-1.01jd0000000000000000000000")

// spec is a task of the workload's image.
func spec(t testing.TB, n int, args ...string) runner.Spec {
	return runner.Spec{
		Task: testJob.Task(n, 1), Job: testJob, Image: image.ArchivePrefix + must(t, workload), Command: append([]string{"/workload"}, args...),
		Resources: placement.Resources{CPU: 1000, Memory: 192 * placement.MiB}, Grace: 5 * time.Second, Keep: func(runner.Handle) error { return nil },
	}
}

// start starts a task that is gone when the test is over.
func start(t testing.TB, d *Driver, s runner.Spec) (runner.Handle, error) {
	t.Helper()
	t.Cleanup(func() {
		if err := d.Destroy(context.Background(), runner.Handle{Task: s.Task}); err != nil {
			t.Error(err)
		}
	})
	return d.Start(t.Context(), s)
}
