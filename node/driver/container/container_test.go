//go:build linux

package container

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/boundary"
	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// engines are those of this test program; TestMain ends them.
var engines enginetest.Engines

// TestMain makes the test binary a supervisor, or an agent, when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case SupervisorCommand:
			os.Exit(SupervisorMain(os.Args[2:]))
		case drivertest.AgentCommand:
			os.Exit(drivertest.AgentMain(os.Args[2:], buildForAgent))
		}
	}
	code := m.Run()
	if theGate.path != "" {
		_ = os.RemoveAll(filepath.Dir(theGate.path))
	}
	if err := engines.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// appImage is the name that the engines have the tests' image by.
const appImage = "example.test/app:1"

// eachEngine runs a test against every engine that is installed.
func eachEngine(t *testing.T, test func(t *testing.T, e *enginetest.Engine)) {
	for _, kind := range enginetest.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			e := engines.Get(t, kind)
			img, err := enginetest.Image()
			if err != nil {
				t.Fatal(err)
			}
			e.Load(t, appImage, img)
			test(t, e)
		})
	}
}

// newDriver makes a driver; what it started is gone when the test is over.
func newDriver(t testing.TB, e *enginetest.Engine, dir string, change func(*Config)) *Driver {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Dir, cfg.Host, cfg.Instance = dir, e.Host, dir
	cfg.CDIDirs = []string{filepath.Join(dir, "cdi")}
	if change != nil {
		change(&cfg)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		all, err := d.List(ctx)
		if err != nil {
			t.Error(err)
		}
		for _, o := range all {
			if err := d.Destroy(ctx, o.Handle); err != nil {
				t.Error(err)
			}
		}
		_ = d.Close()
	})
	return d
}

func app(args ...string) []string { return append([]string{"/workload"}, args...) }

func TestConformance(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		dirs := make(map[*testing.T]string) // one machine per test
		do := func(s *runner.Spec, args ...string) { s.Image, s.Command = appImage, app(args...) }
		drivertest.Run(t, drivertest.Harness{
			New: func(t *testing.T) runner.Driver {
				if dirs[t] == "" {
					dirs[t] = t.TempDir()
				}
				return newDriver(t, e, dirs[t], func(c *Config) {
					c.LogFileSize, c.LogFiles = 8<<10, 4
					// With no list the node's own network is not touched.
					networks := boundary.DefaultConfig()
					networks.Dir = filepath.Join(dirs[t], "networks")
					var err error
					if c.Hold.Network, err = boundary.New(networks); err != nil {
						t.Fatal(err)
					}
				})
			},
			Exit:       func(s *runner.Spec, code int) { do(s, "exit", fmt.Sprint(code)) },
			Print:      func(s *runner.Spec, text string) { do(s, "print", text) },
			Sleep:      func(s *runner.Spec) { do(s, "sleep") },
			Stubborn:   func(s *runner.Spec) { do(s, "stubborn") },
			Flood:      func(s *runner.Spec, n int) { do(s, "flood", fmt.Sprint(n)) },
			Missing:    func(s *runner.Spec) { s.Image, s.Command = appImage, []string{"/no-such-program"} },
			Hungry:     func(s *runner.Spec) { do(s, "eat", "512") },
			KeptOutput: 32 << 10,
		})
	})
}

// task is a spec of the given task number.
func task(n int, change func(*runner.Spec), command ...string) runner.Spec {
	job := placement.JobID("fra-1.01jd0000000000000000000000")
	s := runner.Spec{
		Task: job.Task(n, 1), Job: job, Image: appImage, Command: command, Grace: 5 * time.Second,
		Resources: placement.Resources{CPU: 500, Memory: 64 * placement.MiB},
		Setup:     &placement.Setup{}, Keep: func(runner.Handle) error { return nil },
	}
	if change != nil {
		change(&s)
	}
	return s
}
