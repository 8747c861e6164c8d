//go:build linux

package process

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
