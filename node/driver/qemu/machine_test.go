//go:build linux

package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

const testSupervisor = "test-machine-supervisor"

// TestMain makes the test binary a supervisor when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == testSupervisor {
		os.Exit(Supervise(os.Args[2:], bare{}))
	}
	os.Exit(m.Run())
}

// bare is a guest of whom nothing is known: it runs when its monitor answers.
type bare struct{}

func (bare) Attend(r *Running) string {
	if r.Monitor == nil {
		r.Failed("QEMU did not answer", "see why")
		return ""
	}
	r.Ready()
	r.Console.Copy(r.Output)
	return "it is over"
}

func (bare) Stop(time.Duration) {}

func newBase(t *testing.T) *process.Driver {
	t.Helper()
	cfg := process.DefaultConfig()
	cfg.Name, cfg.Dir, cfg.Cgroup, cfg.Spares = "machine", t.TempDir(), "sovmesh-test-qemu", 0
	cfg.Supervisor, cfg.StartTimeout = []string{"/proc/self/exe", testSupervisor}, time.Minute
	d, err := process.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

const testJob = placement.JobID("fra-1.01jd0000000000000000000000")

// boot starts a machine that finds nothing to boot from.
func boot(t *testing.T, d *process.Driver, n int, change func(*Machine)) (runner.Handle, error) {
	t.Helper()
	uid, err := FreeUID(t.Context(), d, 1_900_000_000, 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	m := Machine{Binary: needQEMU(t), Type: "q35", Accel: Accel{Name: TCG, CPU: "max"}, CPUs: 1, Memory: 64 * placement.MiB, UID: uid,
		Args: []string{"-serial", "chardev:console"}}
	if change != nil {
		change(&m)
	}
	s := runner.Spec{Task: testJob.Task(n, 1), Job: testJob, Keep: func(runner.Handle) error { return nil }}
	h, err := d.StartWork(t.Context(), s, process.Order{Told: Told{Machine: m}, Limits: m.Limits(s.Resources), Fill: m.Prepare})
	t.Cleanup(func() {
		if err := d.Destroy(context.Background(), runner.Handle{Task: s.Task}); err != nil {
			t.Error(err)
		}
	})
	return h, err
}

// A neighbour's numbers begin where this agent's end.
func TestUsersEndWithTheirPart(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives users away: run as root")
	}
	d := newBase(t)
	if uid, err := FreeUID(t.Context(), d, 100, 2, 100); uid != 101 || err != nil {
		t.Errorf("the second of two: %d, %v", uid, err)
	}
	if uid, err := FreeUID(t.Context(), d, 100, 2, 100, 101); err == nil {
		t.Errorf("a third of two: %d", uid)
	}
}

func TestMachineOutlivesItsAgent(t *testing.T) {
	d := newBase(t)
	h, err := boot(t, d, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := DialMonitor(t.Context(), d.TaskDir(h.Task))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var status struct{ Status string }
	if err := m.Run(t.Context(), "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("the monitor says %+v, %v", status, err)
	}
	pid := d.PID(h.Task)
	if os.Geteuid() == 0 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || !strings.Contains(string(text), "Uid:\t1900000000\t1900000000") {
			t.Errorf("QEMU does not run as its own user: %s, %v", text, err)
		}
		if !strings.Contains(string(text), "Seccomp:\t2") {
			t.Errorf("QEMU is in no sandbox: %s", text)
		}
	}
	if uid, err := FreeUID(t.Context(), d, 1_900_000_000, 1<<10); err != nil || uid == 1_900_000_000 {
		t.Errorf("the machine's user is given away again: %d, %v", uid, err)
	}
	c, err := DialConsole(t.Context(), d.TaskDir(h.Task))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := d.Stop(t.Context(), h, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("the console ends with %v", err)
	}
	exit, err := d.Wait(t.Context(), h)
	if err != nil || !exit.Stopped || !exit.Killed {
		t.Errorf("stopped, it is seen as %+v, %v", exit, err)
	}
}

func TestMachineKilledFromOutsideSaysSo(t *testing.T) {
	d := newBase(t)
	h, err := boot(t, d, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(d.PID(h.Task), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit, err := d.Wait(t.Context(), h)
	if err != nil || exit.Code != 137 || exit.Reason == "" || exit.Stopped {
		t.Errorf("killed from outside, it is seen as %+v, %v", exit, err)
	}
}

func TestMachineThatCannotStartSaysWhatQEMUSays(t *testing.T) {
	d := newBase(t)
	_, err := boot(t, d, 0, func(m *Machine) { m.Args = append(m.Args, "-device", "no-such-device") })
	var refused *runner.StartError
	if !asStart(err, &refused) || !strings.Contains(refused.Reason, "no-such-device") {
		t.Errorf("it fails with %v", err)
	}
	_, err = boot(t, d, 1, func(m *Machine) { m.Files = []File{{Name: "root", Path: "/no/such/file"}} })
	if !asStart(err, &refused) || !strings.Contains(refused.Reason, "/no/such/file") {
		t.Errorf("it fails with %v", err)
	}
}

func asStart(err error, to **runner.StartError) bool {
	e, ok := err.(*runner.StartError)
	*to = e
	return ok
}

func TestArgvHoldsTheMachineIn(t *testing.T) {
	m := Machine{Binary: "qemu", Type: "q35", Accel: Accel{Name: KVM, CPU: "host"}, Memory: placement.GiB, Args: []string{"-drive", "file=@root@,if=none"}, Channels: []string{"ctl"}}
	got := strings.Join(m.argv("x", map[string]int{"root": 3}, map[string]int{"console": 4, "monitor": 5, "ctl": 6}, 0), " ")
	for _, want := range []string{"-nodefaults", "-no-user-config", "-sandbox on,obsolete=deny,elevateprivileges=deny,resourcecontrol=deny,spawn=deny",
		"file=/dev/fd/3,if=none", "socket,id=ctl,fd=6", "-m 1024", "-accel kvm"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nlacks %s", got, want)
		}
	}
	if _, err := json.Marshal(Told{Machine: m}); err != nil {
		t.Error(err)
	}
}
