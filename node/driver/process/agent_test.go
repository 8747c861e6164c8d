//go:build linux

package process

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// buildForAgent makes the driver of an agent in a process of its own. In its
// directory "shared" is what tasks and tests both see.
func buildForAgent(dir string, _ []string) (runner.Driver, error) {
	cfg := DefaultConfig()
	cfg.Dir, cfg.Cgroup = filepath.Join(dir, "tasks"), testCgroup
	cfg.Hold.Paths = []string{filepath.Join(dir, "shared")}
	return New(cfg)
}

func TestAgentKilledWithKill9(t *testing.T) {
	shared := func(dir, name string) string { return filepath.Join(dir, "shared", name) }
	drivertest.KilledAgent(t, drivertest.Agent{
		Driver: func(t *testing.T, dir string) runner.Driver {
			at := shared(dir, "")
			if err := errors.Join(os.Mkdir(at, 0o700), os.Chmod(at, 0o777)); err != nil {
				t.Fatal(err)
			}
			return newDriver(t, filepath.Join(dir, "tasks"), nil)
		},
		Job: func(dir, name string) placement.JobSpec {
			return placement.JobSpec{
				Kind: placement.KindProcess, StopGrace: placement.Duration(20 * time.Second), Env: map[string]string{"GO": shared(dir, name)},
				Command: shell(`exec 2>/dev/null; trap 'exit 0' TERM; i=0; while [ ! -e "$GO" ]; do echo "tick $i"; i=$((i+1)); sleep 0.02; done; exit 7`),
			}
		},
		Word: "tick", Ended: "failed 7",
		End: func(t *testing.T, dir string, _ runner.Handle) {
			if err := os.WriteFile(shared(dir, "short"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	})
}
