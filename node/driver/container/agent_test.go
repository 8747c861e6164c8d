//go:build linux

package container

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// buildForAgent makes the driver of an agent in a process of its own, for the
// engine at more[0].
func buildForAgent(dir string, more []string) (runner.Driver, error) {
	cfg := DefaultConfig()
	cfg.Dir, cfg.Host, cfg.Instance = filepath.Join(dir, "driver"), more[0], filepath.Join(dir, "driver")
	return New(cfg)
}

func TestAgentKilledWithKill9(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		var d *Driver
		drivertest.KilledAgent(t, drivertest.Agent{
			Args: []string{e.Host},
			Driver: func(t *testing.T, dir string) runner.Driver {
				d = newDriver(t, e, filepath.Join(dir, "driver"), nil)
				return d
			},
			Job: func(_, name string) placement.JobSpec {
				return placement.JobSpec{Kind: placement.KindContainer, Command: app("tick", "20"), Image: appImage,
					StopGrace: placement.Duration(20 * time.Second), Resources: placement.Resources{CPU: 200, Memory: 64 * placement.MiB}}
			},
			Word: "tick", Ended: "complete 0",
			End: func(t *testing.T, _ string, h runner.Handle) {
				if err := d.endFromWithin(within(t), h); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}

// endFromWithin ends a task as if it had ended by itself.
func (d *Driver) endFromWithin(ctx context.Context, h runner.Handle) error {
	c, err := d.look(ctx, h.Task)
	if err != nil {
		return err
	}
	return unix.Kill(c.State.Pid, unix.SIGTERM)
}

// TestStraysAreFoundAndEnded takes a supervisor away, then all that is known of a task.
func TestStraysAreFoundAndEnded(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d := newDriver(t, e, t.TempDir(), nil)
		h := start(t, d, task(0, nil, app("sleep")...))
		var claim struct {
			PID int `json:"pid"`
		}
		data, err := os.ReadFile(filepath.Join(d.TaskDir(h.Task), "claim"))
		if err == nil {
			err = json.Unmarshal(data, &claim)
		}
		if err != nil || claim.PID == 0 {
			t.Fatal(err, claim)
		}
		if err := unix.Kill(claim.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the task is gone", func() bool {
			o, err := d.Recover(within(t), h)
			return err == nil && o.State == runner.StateGone
		})
		if err := d.Stop(within(t), h, 0); err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, d)

		s := task(1, nil, app("sleep")...)
		h = start(t, d, s)
		data, err = os.ReadFile(filepath.Join(d.TaskDir(h.Task), "claim"))
		if err == nil {
			err = json.Unmarshal(data, &claim)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(claim.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "its supervisor has ended", func() bool { return unix.Kill(claim.PID, 0) != nil || isZombie(claim.PID) })
		if err := os.RemoveAll(d.TaskDir(h.Task)); err != nil {
			t.Fatal(err)
		}
		list, err := d.List(within(t))
		i := slices.IndexFunc(list, func(o runner.Observed) bool { return o.Handle.Task == h.Task })
		if err != nil || i < 0 || list[i].State != runner.StateRunning || list[i].Facts["stray"] == "" {
			t.Fatalf("%+v, %v", list, err)
		}
		if err := d.Destroy(within(t), list[i].Handle); err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, d)
	})
}

func isZombie(pid int) bool {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Contains(string(data), ") Z ")
}

// TestEngineDiesMidStart kills the engine between the making and the starting
// of a container, and starts it again.
func TestEngineDiesMidStart(t *testing.T) {
	for _, kind := range enginetest.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			if why := enginetest.Missing(kind); why != "" {
				t.Skipf("no %s here: %s", kind, why)
			}
			e, err := enginetest.Start(kind) // one that may die
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			})
			img, err := enginetest.Image()
			if err != nil {
				t.Fatal(err)
			}
			e.Load(t, appImage, img)
			proxy := newDouble(t, e)
			d := newDriver(t, e, t.TempDir(), func(c *Config) { c.Host, c.Ulimits = proxy.host, ownLimits })
			h := runner.Handle{Task: task(0, nil).Task}
			proxy.before("/start", func() {
				if err := e.Kill(); err != nil {
					t.Error(err)
				}
			})
			_, err = d.Start(within(t), task(0, nil, app("sleep")...))
			refused(t, err, "engine ended")
			if _, err := d.Start(within(t), task(1, nil, app("sleep")...)); err == nil {
				t.Error("a task starts without an engine")
			}
			if fp, err := d.Fingerprint(within(t)); err != nil || fp.Healthy || !strings.Contains(fp.Reason, "does not answer") {
				t.Errorf("%+v, %v", fp, err)
			}
			if err := d.Destroy(within(t), h); err == nil {
				t.Error("a task is destroyed whose engine does not answer")
			}
			proxy.before("/start", nil)
			if err := e.Run(); err != nil {
				t.Fatal(err)
			}
			if err := d.Destroy(within(t), h); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, d)
			other := start(t, d, task(2, nil, app("print", "here again")...))
			if got := printed(t, d, other); got != "here again\n" {
				t.Errorf("%q", got)
			}
		})
	}
}
