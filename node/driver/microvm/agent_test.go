//go:build linux

package microvm

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/driver/image"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// buildForAgent makes the driver of an agent in a process of its own; more are
// the guests' init and the directory of the image.
func buildForAgent(dir string, more []string) (runner.Driver, error) {
	cfg := DefaultConfig()
	cfg.Dir, cfg.Cgroup, cfg.Init = filepath.Join(dir, "driver"), testCgroup, more[0]
	cfg.Images = image.Source{Dirs: more[1:]}
	return New(cfg)
}

func TestAgentKilledWithKill9(t *testing.T) {
	needMachine(t)
	archive := must(t, workload)
	var d *Driver
	drivertest.KilledAgent(t, drivertest.Agent{
		Args: []string{must(t, builtInit), filepath.Dir(archive)},
		Driver: func(t *testing.T, dir string) runner.Driver {
			d = newDriver(t, filepath.Join(dir, "driver"), nil)
			return d
		},
		Job: func(_, name string) placement.JobSpec {
			return placement.JobSpec{Kind: placement.KindMicroVM, Image: image.ArchivePrefix + archive, Command: []string{"/workload", "tick", "50"},
				StopGrace: placement.Duration(20 * time.Second), Resources: placement.Resources{CPU: 200, Memory: 96 * placement.MiB}}
		},
		Word: "tick", Ended: "complete 0", Patience: boots,
		End: func(t *testing.T, _ string, h runner.Handle) {
			// The machine may end before it says how this command did: that is awaited.
			_, _ = d.Exec(t.Context(), h, runner.ExecRequest{Command: []string{"/workload", "end", "tick"}})
		},
	})
}
