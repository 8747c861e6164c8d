//go:build linux

package process

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/node/driver/boundary"
	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/runner"
)

// TestMain makes the test binary a supervisor, or an agent, when it is started as one.
// testCgroup is that of the tasks of these tests. Two runs at one time on one
// machine need two names: go test -ldflags "-X github.com/sovmesh/sovmesh/node/driver/process.testCgroup=NAME".
var testCgroup = "sovmesh-test"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case SupervisorCommand:
			os.Exit(SupervisorMain(os.Args[2:]))
		case attackCommand:
			os.Exit(attackMain(os.Args[2:]))
		case drivertest.AgentCommand:
			os.Exit(drivertest.AgentMain(os.Args[2:], buildForAgent))
		}
	}
	os.Exit(m.Run())
}

// network is that of the tasks in dir.
func network(t testing.TB, dir string) *boundary.Boundary {
	t.Helper()
	cfg := boundary.DefaultConfig()
	cfg.Dir = dir + ".net"
	b, err := boundary.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// newDriver makes a driver whose tasks are gone when the test is over.
func newDriver(t *testing.T, dir string, change func(*Config)) *Driver {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Dir, cfg.Cgroup, cfg.Supervisor = dir, testCgroup, lightSupervisor(t)
	if os.Geteuid() == 0 {
		cfg.Hold.Network = network(t, dir)
	}
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

// lightSupervisor is this binary, as one that does not sleep for a second at its end: so
// does what the race detector is built into, to hear of races until then.
func lightSupervisor(t testing.TB) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"/usr/bin/env", "GORACE=atexit_sleep_ms=0", self, SupervisorCommand}
}

func shell(script string, args ...string) []string {
	return append([]string{"/bin/sh", "-c", script, "sh"}, args...)
}

func TestConformance(t *testing.T) {
	for _, cgroup := range []string{testCgroup, ""} {
		t.Run("cgroup="+cgroup, func(t *testing.T) {
			dirs := make(map[*testing.T]string) // one machine per test
			without := map[string]string{}
			if fp, err := newDriver(t, t.TempDir(), func(c *Config) { c.Cgroup = cgroup }).Fingerprint(t.Context()); err != nil {
				t.Fatal(err)
			} else if limits := fp.Facts["limits"]; !strings.HasPrefix(limits, "memory hard") {
				without["want of memory is told apart"] = "memory is not bounded here: " + limits
			}
			drivertest.Run(t, drivertest.Harness{
				New: func(t *testing.T) runner.Driver {
					if dirs[t] == "" {
						dirs[t] = t.TempDir()
					}
					return newDriver(t, dirs[t], func(c *Config) { c.Cgroup, c.LogFileSize, c.LogFiles = cgroup, 8<<10, 4 })
				},
				Exit:       func(s *runner.Spec, code int) { s.Command = shell("exit $1", fmt.Sprint(code)) },
				Print:      func(s *runner.Spec, text string) { s.Command = shell(`echo "$1"`, text) },
				Sleep:      func(s *runner.Spec) { s.Command = []string{"sleep", "1000"} },
				Stubborn:   func(s *runner.Spec) { s.Command = shell(`trap "" TERM; echo ready; while :; do sleep 1; done`) },
				Flood:      func(s *runner.Spec, n int) { s.Command = shell(`head -c $1 /dev/zero; echo end`, fmt.Sprint(n)) },
				Missing:    func(s *runner.Spec) { s.Command = []string{"no-such-program-anywhere"} },
				Hungry:     func(s *runner.Spec) { s.Command = []string{"tail", "/dev/zero"} },
				KeptOutput: 32 << 10, Without: without,
			})
		})
	}
}
