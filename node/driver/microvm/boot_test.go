//go:build linux

package microvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/boundary"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// exec runs a command in a task and returns what it prints and its exit.
func execIn(t *testing.T, d *Driver, h runner.Handle, req runner.ExecRequest) (string, runner.Exit) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), boots)
	defer cancel()
	var out bytes.Buffer
	req.Stdout, req.Stderr = &out, &out
	exit, err := d.Exec(ctx, h, req)
	if err != nil {
		t.Fatalf("exec %v: %v", req.Command, err)
	}
	return out.String(), exit
}

// TestOneMachine does with one machine all that can be done with a running one.
func TestOneMachine(t *testing.T) {
	needMachine(t)
	dir := t.TempDir()
	networks := filepath.Join(dir, "networks")
	held := func(c *Config) {
		if os.Geteuid() != 0 {
			return // then nobody makes networks
		}
		cfg := boundary.DefaultConfig()
		cfg.Dir = networks
		var err error
		if c.Hold.Network, err = boundary.New(cfg); err != nil {
			t.Fatal(err)
		}
	}
	d := newDriver(t, dir, held)
	s := spec(t, 0, "tick", "200")
	s.Env = map[string]string{"GREETING": "bonjour"}
	h, err := start(t, d, s)
	if err != nil {
		t.Fatal(err)
	}
	before, err := d.Recover(t.Context(), h)
	if err != nil || before.State != runner.StateRunning {
		t.Fatalf("%+v, %v", before, err)
	}

	t.Run("commands run beside it", func(t *testing.T) {
		if out, exit := execIn(t, d, h, runner.ExecRequest{Command: []string{"/workload", "exit", "5"}}); exit.Code != 5 {
			t.Errorf("%q, %+v", out, exit)
		}
		if out, _ := execIn(t, d, h, runner.ExecRequest{Command: []string{"/workload", "env"}, Env: map[string]string{"MORE": "yes"}}); !strings.Contains(out, "GREETING=bonjour\n") || !strings.Contains(out, "MORE=yes\n") {
			t.Errorf("its environment is %q", out)
		}
		text := strings.Repeat("0123456789", 100_000) // more than a window, both ways
		if out, exit := execIn(t, d, h, runner.ExecRequest{Command: []string{"/workload", "stdin"}, Stdin: strings.NewReader(text)}); out != text || exit.Code != 0 {
			t.Errorf("%d bytes come back of %d, %+v", len(out), len(text), exit)
		}
		if out, _ := execIn(t, d, h, runner.ExecRequest{Command: []string{"/workload", "print", "on a terminal"}, TTY: true, Size: runner.TermSize{Columns: 80, Rows: 24}}); out != "on a terminal\r\n" {
			t.Errorf("on a terminal it prints %q", out)
		}
		var refused *runner.StartError
		if _, err := d.Exec(t.Context(), h, runner.ExecRequest{Command: []string{"/nothing"}}); !errors.As(err, &refused) {
			t.Errorf("what is not there gives %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var out bytes.Buffer
		time.AfterFunc(time.Second, cancel)
		if _, err := d.Exec(ctx, h, runner.ExecRequest{Command: []string{"/workload", "sleep"}, Stdout: &out}); !errors.Is(err, context.Canceled) {
			t.Errorf("given up, it gives %v", err)
		}
	})

	t.Run("it is held in", func(t *testing.T) {
		for what, command := range map[string][]string{
			"its root":                {"/workload", "write", "/file"},
			"the kernel's settings":   {"/workload", "write", "/proc/sys/kernel/hostname"},
			"another address":         {"/workload", "dial", "192.0.2.1:80"},
			"the kernel's own memory": {"/workload", "cat", "/proc/kcore"},
		} {
			if out, exit := execIn(t, d, h, runner.ExecRequest{Command: command}); exit.Code == 0 {
				t.Errorf("%s is open to it: %.100q", what, out)
			}
		}
		if out, exit := execIn(t, d, h, runner.ExecRequest{Command: []string{"/workload", "write", "/tmp/file"}}); exit.Code != 0 {
			t.Errorf("/tmp takes no file: %q", out)
		}
		out, _ := execIn(t, d, h, runner.ExecRequest{Command: []string{"/workload", "cat", "/proc/self/status"}})
		for _, want := range []string{"CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"} {
			if !strings.Contains(out, want) {
				t.Errorf("it has privileges: no %q in %s", want, out)
			}
		}
		actual, err := d.Inspect(t.Context(), h)
		if err != nil || !strings.HasPrefix(actual.ImageDigest, "sha256:") || !strings.Contains(fmt.Sprint(actual.Boundary), "192 MiB") {
			t.Errorf("%+v, %v", actual, err)
		}
		for _, b := range actual.Boundary {
			if !b.Holds || b.How == "" {
				t.Errorf("%+v", b)
			}
		}
	})

	t.Run("who takes QEMU over reaches nothing either", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root makes networks")
		}
		ours, err := os.Readlink("/proc/self/ns/net")
		its, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", d.base.PID(h.Task)))
		if err != nil || err2 != nil || ours == its {
			t.Errorf("QEMU is in %s, the node in %s, %v, %v", its, ours, err, err2)
		}
		devices, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", d.base.PID(h.Task)))
		if lines := strings.Count(string(devices), ":"); err != nil || lines != 1 {
			t.Errorf("QEMU has the devices\n%s, %v", devices, err)
		}
	})

	t.Run("it stands still and goes on", func(t *testing.T) {
		if err := d.Pause(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := d.Exec(ctx, h, runner.ExecRequest{Command: []string{"/workload", "exit"}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("paused, it answers: %v", err)
		}
		if err := d.Resume(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		execIn(t, d, h, runner.ExecRequest{Command: []string{"/workload", "exit"}})
	})

	t.Run("it is measured", func(t *testing.T) {
		stats, err := d.Stats(t.Context(), h)
		if err != nil || stats.CPU == 0 || stats.Memory == 0 || stats.Processes == 0 {
			t.Errorf("%+v, %v", stats, err)
		}
	})

	t.Run("its console is open", func(t *testing.T) {
		c, err := d.Console(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	})

	t.Run("an agent that comes back finds the same boot", func(t *testing.T) {
		_ = d.Close()
		d = newDriver(t, dir, held)
		after, err := d.Recover(t.Context(), h)
		if err != nil || after.Facts["boot_id"] == "" || after.Facts["boot_id"] != before.Facts["boot_id"] || after.Facts["pid"] != before.Facts["pid"] {
			t.Errorf("%+v, %v; it was %+v", after, err, before)
		}
		t.Logf("kernel %s, its init spoke at %s, of which %s was its own", after.Facts["kernel"], after.Facts["boot"], after.Facts["init"])
	})

	t.Run("stopped, its output has no hole", func(t *testing.T) {
		if err := d.Stop(t.Context(), h, boots); err != nil {
			t.Fatal(err)
		}
		exit, err := d.Wait(t.Context(), h)
		if err != nil || !exit.Stopped || exit.Killed || exit.Code != 0 {
			t.Errorf("%+v, %v", exit, err)
		}
		r, err := d.Logs(t.Context(), h, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
			if line != fmt.Sprint("tick ", i) {
				t.Fatalf("line %d is %q", i, line)
			}
		}
		if err := d.Destroy(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		if left, _ := filepath.Glob(filepath.Join(networks, "*")); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestMachineEndedFromOutside kills QEMU behind everybody's back.
func TestMachineEndedFromOutside(t *testing.T) {
	needMachine(t)
	d := newDriver(t, t.TempDir(), nil)
	h, err := start(t, d, spec(t, 0, "sleep"))
	if err != nil {
		t.Fatal(err)
	}
	// A monitor that somebody else holds does not hold the driver up.
	m, err := qemu.DialMonitor(t.Context(), d.base.TaskDir(h.Task))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := d.Pause(ctx, h); err == nil {
		t.Error("the monitor serves two")
	}
	_ = m.Close()
	if err := unix.Kill(d.base.PID(h.Task), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit, err := d.Wait(t.Context(), h)
	if err != nil || exit.Code != 137 || !strings.Contains(exit.Reason, "machine ended") {
		t.Errorf("%+v, %v", exit, err)
	}
}

// TestOutOfMemory tells the guest's want of memory from any other end.
func TestOutOfMemory(t *testing.T) {
	needMachine(t)
	d := newDriver(t, t.TempDir(), nil)
	s := spec(t, 0, "eat", "600")
	s.Setup = &placement.Setup{WritableRoot: true}
	h, err := start(t, d, s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), boots)
	defer cancel()
	exit, err := d.Wait(ctx, h)
	if err != nil || !exit.OOM || exit.Code != 137 {
		t.Errorf("%+v, %v", exit, err)
	}
}

func TestGuestThatDoesNotComeUp(t *testing.T) {
	needMachine(t)
	broken := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(broken, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, t.TempDir(), func(c *Config) { c.Init = broken })
	_, err := start(t, d, spec(t, 0, "sleep"))
	var refused *runner.StartError
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "did not come up") || !strings.Contains(refused.Reason, "Kernel panic") {
		t.Errorf("it gives %v", err)
	}
}

func TestWhatAMicroVMCannotDo(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	for name, change := range map[string]func(*runner.Spec){
		"a volume over the devices":  func(s *runner.Spec) { s.Setup.Volumes = []placement.Volume{{Name: "v", Path: "/dev/shm"}} },
		"a volume out of its place":  func(s *runner.Spec) { s.Setup.Volumes = []placement.Volume{{Name: "../../v", Path: "/v"}} },
		"too many volumes":           func(s *runner.Spec) { s.Setup.Volumes = make([]placement.Volume, mostDisks+1) },
		"the network":                func(s *runner.Spec) { s.Setup.Network = &placement.Network{Allow: []string{"192.0.2.1"}} },
		"the host's":                 func(s *runner.Spec) { s.Setup.Network = &placement.Network{Host: true} },
		"a port of the node's":       func(s *runner.Spec) { s.Setup.Ports = []placement.Port{{Port: 80, Host: 8080}} },
		"devices":                    func(s *runner.Spec) { s.Devices = []string{"GPU-1"} },
		"no image":                   func(s *runner.Spec) { s.Image = "" },
		"an image that is not there": func(s *runner.Spec) { s.Image = "oci-archive:" + shared + "/none" },
		"another digest":             func(s *runner.Spec) { s.Setup.ImageDigest = "sha256:" + strings.Repeat("0", 64) },
		"a capability":               func(s *runner.Spec) { s.Setup.Capabilities = []string{"EVERYTHING"} },
	} {
		t.Run(name, func(t *testing.T) {
			s := spec(t, 0, "sleep")
			s.Setup = &placement.Setup{}
			change(&s)
			_, err := start(t, d, s)
			var refused *runner.StartError
			if !errors.As(err, &refused) || refused.Reason == "" || refused.Advice == "" {
				t.Errorf("it gives %v", err)
			}
			if left, err := d.List(t.Context()); err != nil || len(left) != 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

func TestFingerprintSaysWhatIsMissing(t *testing.T) {
	d := newDriver(t, t.TempDir(), func(c *Config) {
		c.Binary, c.KernelRoots, c.Init = "no-such-qemu", []string{t.TempDir()}, "/no/such/init"
	})
	fp, err := d.Fingerprint(t.Context())
	if err != nil || fp.Healthy {
		t.Fatalf("%+v, %v", fp, err)
	}
	for _, want := range []string{"qemu-system-x86", "linux-image-cloud-amd64", InitName} {
		if !strings.Contains(fp.Reason, want) {
			t.Errorf("it does not say to install %s: %s", want, fp.Reason)
		}
	}
	needMachine(t)
	fp, err = newDriver(t, t.TempDir(), nil).Fingerprint(t.Context())
	if err != nil || !fp.Healthy || fp.Facts["vm.accel"] == "" || fp.Facts["vm.kvm"] == "" || fp.Facts["kernel"] == "" {
		t.Errorf("%+v, %v", fp, err)
	}
}
