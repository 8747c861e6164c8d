//go:build linux

package process

import (
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

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

func noted(runner.Handle) error { return nil }

// start starts a command as task "a.b/0.1" and destroys it after the test.
func start(t *testing.T, d *Driver, change func(*runner.Spec), command ...string) runner.Handle {
	t.Helper()
	spec := runner.Spec{Task: "a.b/0.1", Job: "a.b", Command: command, Keep: noted, Grace: time.Minute}
	if change != nil {
		change(&spec)
	}
	t.Cleanup(func() {
		if err := d.Destroy(context.Background(), d.handle(spec.Task)); err != nil {
			t.Error(err)
		}
	})
	h, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func printed(t *testing.T, d *Driver, h runner.Handle) string {
	t.Helper()
	r, err := d.Logs(t.Context(), h, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestTheWholeTreeEnds starts processes that leave their group, their session
// and their parent; all are gone when the command ends or is killed.
func TestTheWholeTreeEnds(t *testing.T) {
	for _, cgroup := range []string{testCgroup, ""} {
		for _, stop := range []bool{true, false} {
			t.Run(fmt.Sprintf("cgroup=%s,stop=%v", cgroup, stop), func(t *testing.T) {
				d := newDriver(t, t.TempDir(), func(c *Config) { c.Cgroup = cgroup })
				script := `setsid sh -c 'trap "" TERM; (sleep 1000 & echo $! >>pids); echo $$ >>pids; sleep 1000' & sleep 1000 & echo $! >>pids
					while [ "$(wc -l <pids)" -lt 3 ]; do sleep 0.01; done; touch all`
				if stop {
					script += "; wait"
				}
				h := start(t, d, nil, shell(script)...)
				work := d.dir(h.Task).path("work")
				eventually(t, "the tree is there", func() bool {
					_, err := os.Stat(filepath.Join(work, "all"))
					return err == nil
				})
				if stop {
					if err := d.Stop(t.Context(), h, 20*time.Millisecond); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := d.Wait(t.Context(), h); err != nil {
					t.Fatal(err)
				}
				data, err := os.ReadFile(filepath.Join(work, "pids"))
				if err != nil || len(strings.Fields(string(data))) != 3 {
					t.Fatalf("pids: %q, %v", data, err)
				}
				if left := marked("SOVMESH_TASK=" + string(h.Task)); len(left) != 0 {
					t.Errorf("left running: %+v", left)
				}
			})
		}
	}
}

func TestATaskSeesNothingOfTheAgent(t *testing.T) {
	t.Setenv("SOVMESH_TOKEN", "secret")
	fd, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0) // as a library would: not close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	d := newDriver(t, t.TempDir(), nil)
	h := start(t, d, func(s *runner.Spec) {
		s.Env, s.Devices = map[string]string{"MODE": "batch", "CUDA_VISIBLE_DEVICES": "GPU-3"}, []string{"GPU-1", "GPU-2"}
	}, shell(`env; pwd; ls -l /proc/self/fd; cat; echo; ls -l /proc/$PPID/fd`)...)
	got := printed(t, d, h)
	for _, want := range []string{"MODE=batch\n", "CUDA_VISIBLE_DEVICES=GPU-1,GPU-2\n", "SOVMESH_TASK=a.b/0.1\n", "HOME=" + d.dir(h.Task).path("work") + "\n", "0 -> /dev/null"} {
		if !strings.Contains(got, want) {
			t.Errorf("the task does not see %q", want)
		}
	}
	for _, never := range []string{"secret", "socket:", "/etc/hostname"} {
		if strings.Contains(got, never) {
			t.Errorf("the task or its supervisor holds %q:\n%s", never, got)
		}
	}
}

func TestOutOfMemoryIsTold(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	fp, err := d.Fingerprint(t.Context())
	if err != nil || !fp.Healthy {
		t.Fatalf("%+v, %v", fp, err)
	}
	if !strings.HasPrefix(fp.Facts["limits"], "memory hard") {
		t.Skipf("this machine lets us set no memory limit: %s", fp.Facts["limits"])
	}
	h := start(t, d, func(s *runner.Spec) { s.Resources = placement.Resources{CPU: 100, Memory: 32 * placement.MiB} }, "tail", "/dev/zero")
	exit, err := d.Wait(t.Context(), h)
	if err != nil || !exit.OOM || exit.Code != 137 || !strings.Contains(exit.String(), "memory") {
		t.Errorf("%+v, %v", exit, err)
	}
}

func TestAKilledSupervisorLeavesNothingRunning(t *testing.T) {
	for _, cgroup := range []string{testCgroup, ""} {
		t.Run("cgroup="+cgroup, func(t *testing.T) {
			d := newDriver(t, t.TempDir(), func(c *Config) { c.Cgroup = cgroup })
			h := start(t, d, nil, shell(`setsid sleep 1000 & echo ready; wait`)...)
			r, err := d.Logs(t.Context(), h, 0, true)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err := io.ReadFull(r, make([]byte, 6)); err != nil {
				t.Fatal(err)
			}
			var c claim
			if err := d.dir(h.Task).readJSON("claim", &c); err != nil {
				t.Fatal(err)
			}
			if err := c.signal(unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			var what child
			if err := d.dir(h.Task).readJSON("child", &what); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the command ends with its supervisor", func() bool { return !what.alive() })
			if exit, err := d.Wait(t.Context(), h); err == nil {
				t.Errorf("an exit is invented: %+v", exit)
			}
			if o, err := d.Recover(t.Context(), h); err != nil || o.State != runner.StateGone {
				t.Fatalf("recover: %+v, %v", o, err)
			}
			if err := d.Stop(t.Context(), h, 0); err != nil {
				t.Fatal(err)
			}
			if left := marked("SOVMESH_TASK=" + string(h.Task)); len(left) != 0 {
				t.Errorf("left running: %+v", left)
			}
		})
	}
}

// TestAProcessIsNeverTakenForAnother: a number that is used again, or a boot
// ago, is not our process.
func TestAProcessIsNeverTakenForAnother(t *testing.T) {
	self, err := identify(os.Getpid())
	if err != nil || !self.alive() {
		t.Fatalf("%+v, %v", self, err)
	}
	for name, p := range map[string]process{
		"started at another time": {PID: self.PID, Start: self.Start + 1, Boot: self.Boot},
		"of another boot":         {PID: self.PID, Start: self.Start, Boot: "another"},
		"no process":              {},
	} {
		if f, err := p.open(); p.alive() || f != nil || err != nil {
			t.Errorf("%s: alive %v, opened %v, %v", name, p.alive(), f != nil, err)
		}
		if err := p.signal(unix.SIGKILL); err != nil { // it would end this test
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAFullDiskHidesNoExit fills the disk while a task runs: its output is
// dropped and counted, it can be stopped, and its end is written down.
func TestAFullDiskHidesNoExit(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("this user cannot mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	d := newDriver(t, dir, nil)
	stopped := start(t, d, func(s *runner.Spec) { s.Task = "a.b/1.1" }, "sleep", "1000")
	ended := start(t, d, nil, shell(`head -c 1000000 /dev/zero; exit 6`)...)
	fill, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer fill.Close()
	if _, err := io.Copy(fill, io.LimitReader(zeros{}, 1<<20)); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if exit, err := d.Wait(t.Context(), ended); err != nil || exit.Code != 6 {
		t.Errorf("the end on a full disk: %+v, %v", exit, err)
	}
	if err := d.Stop(t.Context(), stopped, time.Minute); err != nil {
		t.Error(err)
	}
	if exit, err := d.Wait(t.Context(), stopped); err != nil || !exit.Stopped || exit.Killed {
		t.Errorf("the stop on a full disk: %+v, %v", exit, err)
	}
	if _, err := d.Start(t.Context(), runner.Spec{Task: "a.b/2.1", Command: []string{"sleep", "1000"}, Keep: noted}); err == nil {
		t.Error("a task is started that cannot be remembered")
	}
	if o, err := d.Recover(t.Context(), d.handle("a.b/2.1")); err != nil || o.State != runner.StateAbsent {
		t.Errorf("what could not be started: %+v, %v", o, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestWhatCannotBeRunSaysWhy(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(text+"-only", []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
	for i, test := range []struct{ command, reason string }{
		{"no-such-program", "command not found"},
		{"./here", "command not found"},
		{text + "-only", "permission denied"},
		{text, "exec format error"},
		{"", "command not found"},
	} {
		d := newDriver(t, t.TempDir(), func(c *Config) { c.Hold.Paths = []string{filepath.Dir(text)} })
		_, err := d.Start(t.Context(), runner.Spec{Task: placement.TaskID(fmt.Sprintf("a.b/%d.1", i)), Command: []string{test.command}, Keep: noted})
		var e *runner.StartError
		if !errors.As(err, &e) || !strings.Contains(e.Reason, test.reason) || e.Hint() == "" {
			t.Errorf("%q: %v", test.command, err)
		}
	}
}

func TestStatsAndFingerprint(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	h := start(t, d, nil, "sleep", "1000")
	eventually(t, "the process and its memory are seen", func() bool {
		s, err := d.Stats(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		return s.Processes == 1 && s.Memory > 0
	})
	fp, err := newDriver(t, t.TempDir(), func(c *Config) { c.Cgroup = "" }).Fingerprint(t.Context())
	if err != nil || !fp.Healthy || fp.Facts["limits"] != "none are enforced" {
		t.Errorf("%+v, %v", fp, err)
	}
}

// BenchmarkStart is the time from the order to the running program, and to its
// first line.
func BenchmarkStart(b *testing.B) {
	for _, off := range []bool{true, false} {
		for _, cgroup := range []string{testCgroup, ""} {
			b.Run(fmt.Sprintf("held=%v/cgroup=%s", !off, cgroup), func(b *testing.B) { benchmarkStart(b, off, cgroup) })
		}
	}
}

func benchmarkStart(b *testing.B, off bool, cgroup string) {
	cfg := DefaultConfig()
	cfg.Dir, cfg.Cgroup, cfg.Hold.Off = b.TempDir(), cgroup, off
	if os.Geteuid() == 0 {
		cfg.Hold.Network = network(b, cfg.Dir)
	}
	d, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	for i := 0; b.Loop(); i++ {
		id := placement.TaskID(fmt.Sprintf("a.b/%d.1", i))
		h, err := d.Start(b.Context(), runner.Spec{Task: id, Command: shell("echo line; sleep 1000"), Keep: noted})
		if err != nil {
			b.Fatal(err)
		}
		r, err := d.Logs(b.Context(), h, 0, true)
		if err == nil {
			_, err = io.ReadFull(r, make([]byte, 5))
		}
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if i == 0 {
			rss(b, d, h)
		}
		d.spares.filling.Wait()
		if err := errors.Join(r.Close(), d.Destroy(b.Context(), h)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// rss reports what one supervisor costs.
func rss(b *testing.B, d *Driver, h runner.Handle) {
	var c claim
	if err := d.dir(h.Task).readJSON("claim", &c); err != nil {
		b.Fatal(err)
	}
	if _, memory, err := usage(c.PID); err == nil {
		b.ReportMetric(float64(memory)/1e6, "MB/supervisor")
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}
