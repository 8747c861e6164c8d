//go:build linux

package process

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// TestWithoutRootATaskReachesNothing: an agent that is not root starts a task
// whose job says that it reaches nothing, in a network of nothing.
func TestWithoutRootATaskReachesNothing(t *testing.T) {
	if os.Geteuid() == 0 {
		runAsNobody(t)
		return
	}
	cfg := DefaultConfig()
	cfg.Dir, cfg.Cgroup = filepath.Join(t.TempDir(), "tasks"), ""
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := d.able().alone; err != nil {
		t.Skipf("this machine lets no user make a network of nothing: %v", err)
	}
	job := placement.JobID("fra-1.01jd0000000000000000000000")
	h, err := d.Start(t.Context(), runner.Spec{
		Task: job.Task(0, 1), Job: job, Command: []string{"/bin/sh", "-c", "tail -n +3 /proc/net/dev; echo done"},
		Setup: &placement.Setup{Network: &placement.Network{}}, Keep: func(runner.Handle) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	exit, err := d.Wait(t.Context(), h)
	r, logs := d.Logs(t.Context(), h, 0, true)
	if logs != nil {
		t.Fatal(logs)
	}
	defer r.Close()
	said, _ := io.ReadAll(r)
	if err != nil || exit.Code != 0 || !strings.Contains(string(said), "done") || strings.Contains(string(said), "eth") {
		t.Errorf("%+v, %v:\n%s", exit, err, said)
	}
	if err := d.Destroy(t.Context(), h); err != nil {
		t.Error(err)
	}
}

// runAsNobody runs the test once more, as a user without any privilege.
func runAsNobody(t *testing.T) {
	t.Helper()
	const nobody = 65534
	dir, err := os.MkdirTemp("", "nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "process.test")
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(program, data, 0o755)
	}
	if err == nil {
		err = os.Chown(dir, nobody, nobody)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{}}}
	out, err := cmd.CombinedOutput()
	if _, why, found := strings.Cut(string(out), "this machine lets no user"); found && err == nil {
		line, _, _ := strings.Cut(why, "\n")
		t.Skip("this machine lets no user" + line)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A socket in the node's files is no way out of a network of nothing.
func TestWhoIsAloneMakesNoUnixSockets(t *testing.T) {
	type made struct {
		unix, inet, pair error
		filter           error
	}
	try := func(alone bool) made {
		done := make(chan made)
		go func() {
			runtime.LockOSThread() // and never unlocked: the filter goes with the thread
			var m made
			if m.filter = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); m.filter == nil {
				m.filter = filter(alone)
			}
			open := func(fds [2]int, err error) error {
				if err == nil {
					_, _ = unix.Close(fds[0]), unix.Close(fds[1])
				}
				return err
			}
			one := func(family int) error {
				fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
				return open([2]int{fd, -1}, err)
			}
			m.unix, m.inet = one(unix.AF_UNIX), one(unix.AF_INET)
			m.pair = open(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0))
			done <- m
		}()
		return <-done
	}
	if m := try(true); m.filter != nil {
		t.Skipf("this machine filters no system calls: %v", m.filter)
	} else if !errors.Is(m.unix, unix.EAFNOSUPPORT) || m.inet != nil || m.pair != nil {
		t.Errorf("alone: %+v", m)
	}
	if m := try(false); m.unix != nil || m.inet != nil || m.pair != nil {
		t.Errorf("with a root of its own: %+v", m)
	}
}
