//go:build linux

package vm

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/driver/vm/guesttest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

const patience = 3 * time.Minute

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
	guesttest.Remove()
	os.Exit(code)
}

// debian, smallGuest and needQEMU are those of the package guesttest.
func debian(t testing.TB) string     { t.Helper(); return guesttest.Debian(t) }
func smallGuest(t testing.TB) string { t.Helper(); return guesttest.Small(t) }
func needQEMU(t testing.TB)          { t.Helper(); guesttest.NeedQEMU(t) }

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
		s.Image = guesttest.SmallDisk()
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
