//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sovmesh/sovmesh/node/driver/boundary/boundarytest"
	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// theGate is the gate's program, built once.
var theGate struct {
	sync.Once
	path string
	err  error
}

func gateOf(t *testing.T) string {
	t.Helper()
	theGate.Do(func() {
		dir, err := os.MkdirTemp("", "gate-")
		theGate.path, theGate.err = filepath.Join(dir, gateProgram), err
		if err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", theGate.path, "github.com/sovmesh/sovmesh/node/driver/microvm/init")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			theGate.err = errors.Join(err, errors.New(string(out)))
		}
	})
	if theGate.err != nil {
		t.Fatal(theGate.err)
	}
	return theGate.path
}

// heldDriver is one whose containers have networks of the world's node.
func heldDriver(t *testing.T, e *enginetest.Engine, w *boundarytest.World, dir string) *Driver {
	t.Helper()
	return newDriver(t, e, dir, func(c *Config) {
		c.Gate, c.Hold.Network = gateOf(t), w.Boundary(t, filepath.Join(dir, "networks"))
	})
}

func allow(entries ...string) func(*runner.Spec) {
	return func(s *runner.Spec) { s.Setup.Network = &placement.Network{Allow: entries} }
}

func deniedAt(t *testing.T, d *Driver, h runner.Handle, destination string) runner.Denial {
	t.Helper()
	all, err := d.Denied(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(x runner.Denial) bool { return x.Destination == destination })
	if i < 0 {
		t.Errorf("%s is not among the refused: %+v", destination, all)
		return runner.Denial{}
	}
	return all[i]
}

// TestAContainerReachesWhatItsListSays: the first thing that the command does is
// to connect, so its network is there before it is.
func TestAContainerReachesWhatItsListSays(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		w := boundarytest.New(t)
		w.Serve(t, boundarytest.Far+":80", "far")
		w.Serve(t, boundarytest.Far+":81", "far")
		w.Serve(t, boundarytest.Node+":7443", "the node's door")
		d := heldDriver(t, e, w, t.TempDir())
		s := task(0, allow(boundarytest.Far+":80", boundarytest.Node, "service:db"), app("each", "dial 192.0.2.2:80", "dial 192.0.2.2:81", "dial 192.0.2.3:80", "dial 192.0.2.1:7443", "dial db.service.sovmesh:5432", "whoami")...)
		s.Connect = boundarytest.Service
		h := start(t, d, s)
		if exit := wait(t, d, h); exit.Code != 0 {
			t.Fatal(exit, printed(t, d, h))
		}
		parts := strings.Split(printed(t, d, h), "== ")
		if len(parts) != 7 || strings.Contains(parts[1], "error") || parts[5] != "dial db.service.sovmesh:5432\n" {
			t.Fatalf("%q", parts)
		}
		for i, at := range []string{"192.0.2.2:81/tcp", "192.0.2.3:80/tcp", "192.0.2.1:7443/tcp"} {
			if !strings.Contains(parts[2+i], "refused") {
				t.Errorf("%q", parts[2+i])
			}
			if x := deniedAt(t, d, h, at); x.Packets == 0 {
				t.Errorf("%+v", x) // also after its end
			}
		}
		if left := w.Devices(t); len(left) != 0 {
			t.Errorf("after its end the node still has %v", left)
		}
		if err := d.Destroy(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		if left, _ := filepath.Glob(filepath.Join(d.cfg.Dir, "networks", "*")); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestAContainersNetworkIsToldAndFoundAgain: a second agent counts, tells, dials
// and ends what the first one started; what the workload does to the rules in its
// own network changes nothing on the node's side.
func TestAContainersNetworkIsToldAndFoundAgain(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		w := boundarytest.New(t)
		w.Serve(t, boundarytest.Far+":81", "far")
		dir := t.TempDir()
		h := start(t, heldDriver(t, e, w, dir), task(0, allow(boundarytest.Far+":80"), app("listen", "127.0.0.1:9000")...))
		d := heldDriver(t, e, w, dir)
		eventually(t, "its port answers", func() bool {
			c, err := d.Dial(t.Context(), h, 9000)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
		m, err := d.made(h.Task)
		if err != nil {
			t.Fatal(err)
		}
		flush(t, m.PID)
		var out strings.Builder
		exit, err := d.Exec(within(t), h, runner.ExecRequest{Command: app("dial", "192.0.2.2:81"), Stdout: &out})
		if err != nil || exit.Code == 0 {
			t.Errorf("without the rules inside: %v %v %s", exit, err, out.String())
		}
		deniedAt(t, d, h, "192.0.2.2:81/tcp")
		a, err := d.Inspect(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(a.Boundary, func(b runner.Boundary) bool { return b.What == "network" })
		if i < 0 || !a.Boundary[i].Holds || !strings.Contains(a.Boundary[i].How, "192.0.2.2:80") || len(a.Mounts) != 0 && slices.ContainsFunc(a.Mounts, ours) {
			t.Errorf("%+v", a)
		}
		if err := d.Stop(within(t), h, 0); err != nil {
			t.Fatal(err)
		}
		if left := w.Devices(t); len(left) != 0 {
			t.Errorf("after its end the node still has %v", left)
		}
	})
}

// flush takes the rules away in a container's network, as its root could with NET_ADMIN.
func flush(t *testing.T, pid int) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pid), "nft", "flush", "ruleset")
	if out, err := cmd.CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
		t.Skip("the program nsenter is missing (package util-linux)")
	} else if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestAContainerWithNoListReachesNothingAndIsCounted(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		w := boundarytest.New(t)
		d := heldDriver(t, e, w, t.TempDir())
		h := start(t, d, task(0, nil, app("sleep")...))
		eventually(t, "its network is counted", func() bool { _, err := d.cfg.Hold.Network.Denied(h.Task); return err == nil })
		eventually(t, "what it tries is refused and counted", func() bool {
			exit, err := d.Exec(within(t), h, runner.ExecRequest{Command: app("dial", "192.0.2.2:80")})
			if err != nil || exit.Code == 0 {
				t.Fatal(exit, err)
			}
			all, err := d.Denied(t.Context(), h)
			return err == nil && slices.ContainsFunc(all, func(x runner.Denial) bool { return x.Destination == "192.0.2.2:80/tcp" })
		})
	})
}

func TestAListThatCannotBeHeldToIsNoStart(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		w := boundarytest.New(t)
		for name, d := range map[string]*Driver{
			"no network here": newDriver(t, e, t.TempDir(), nil),
			"no gate": newDriver(t, e, t.TempDir(), func(c *Config) {
				c.Gate, c.Hold.Network = filepath.Join(t.TempDir(), "none"), w.Boundary(t, filepath.Join(t.TempDir(), "networks"))
			}),
		} {
			if name == "no gate" && e.Kind == enginetest.Podman {
				continue // it needs none
			}
			_, err := d.Start(within(t), task(0, allow(boundarytest.Far), app("sleep")...))
			var refused *runner.StartError
			if !errors.As(err, &refused) || refused.Advice == "" {
				t.Errorf("%s: %v", name, err)
			}
		}
		d := heldDriver(t, e, w, t.TempDir())
		s := task(1, allow("service:db"), app("sleep")...)
		if _, err := d.Start(within(t), s); !errors.As(err, new(*runner.StartError)) {
			t.Errorf("a name that nobody resolves: %v", err)
		}
		s.Setup.Network = &placement.Network{DNS: []string{"192.0.2.53"}}
		if _, err := d.Start(within(t), s); !errors.As(err, new(*runner.StartError)) {
			t.Errorf("a resolver that is not known to be in the region: %v", err)
		}
	})
}
