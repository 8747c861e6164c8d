//go:build linux

package vm

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// buildForAgent makes the driver of an agent in a process of its own; more are
// the image directories.
func buildForAgent(dir string, more []string) (runner.Driver, error) {
	cfg := DefaultConfig()
	cfg.Dir, cfg.Cgroup, cfg.UIDBase = filepath.Join(dir, "driver"), testCgroup, 1_950_000_000
	cfg.ImageDirs = more
	return New(cfg)
}

func TestAgentKilledWithKill9(t *testing.T) {
	images := smallGuest(t)
	var d *Driver
	drivertest.KilledAgent(t, drivertest.Agent{
		Args: []string{images},
		Driver: func(t *testing.T, dir string) runner.Driver {
			d = newDriver(t, filepath.Join(dir, "driver"), func(c *Config) { c.ImageDirs = []string{images} })
			return d
		},
		Job: func(_, name string) placement.JobSpec {
			var s runner.Spec
			does("count")(&s)
			return placement.JobSpec{Kind: placement.KindVM, Image: s.Image, Setup: s.Setup,
				StopGrace: placement.Duration(time.Minute), Resources: placement.Resources{CPU: 500, Memory: 128 * placement.MiB}}
		},
		Word: "count", Ended: "complete 0", Patience: patience,
		End: func(t *testing.T, _ string, h runner.Handle) { // by its keyboard
			c, err := d.Console(t.Context(), h)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("q")); err != nil {
				t.Fatal(err)
			}
		},
	})
}
