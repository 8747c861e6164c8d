//go:build linux

package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// execute runs a command in a task and returns what it printed.
func execute(t *testing.T, d *Driver, h runner.Handle, req runner.ExecRequest, command ...string) (string, runner.Exit, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	var mu sync.Mutex
	both := writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return out.Write(p)
	})
	req.Command, req.Stdout, req.Stderr = command, both, both
	exit, err := d.Exec(ctx, h, req)
	return out.String(), exit, err
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// runsAs counts a task's processes by a word of their command line.
func runsAs(h runner.Handle, word string) (n int) {
	for _, p := range marked("SOVMESH_TASK=" + string(h.Task)) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		if slices.Contains(strings.Split(string(line), "\x00"), word) {
			n++
		}
	}
	return n
}

func TestExec(t *testing.T) {
	for name, change := range map[string]func(*Config){"held": nil, "not held": func(c *Config) { c.Hold.Off = true }, "no groups": func(c *Config) { c.Cgroup = "" }} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, t.TempDir(), change)
			h := start(t, d, func(s *runner.Spec) { s.Env = map[string]string{"MODE": "batch"} }, "sleep", "1000")
			if out, exit, err := execute(t, d, h, runner.ExecRequest{}, shell(`echo out; echo err >&2; exit 7`)...); err != nil || exit.Code != 7 || exit.At.IsZero() || !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") {
				t.Errorf("%+v, %v, %q", exit, err, out)
			}
			out, exit, err := execute(t, d, h, runner.ExecRequest{Env: map[string]string{"GIVEN": "yes", "SOVMESH_TASK": "another"}}, shell(`env; pwd`)...)
			for _, want := range []string{"MODE=batch\n", "GIVEN=yes\n", "SOVMESH_TASK=a.b/0.1\n", d.dir(h.Task).path("work") + "\n"} {
				if !strings.Contains(out, want) {
					t.Errorf("%+v, %v: no %q in %q", exit, err, want, out)
				}
			}
			text := strings.Repeat("through and back\n", 50000)
			if out, exit, err := execute(t, d, h, runner.ExecRequest{Stdin: strings.NewReader(text)}, "cat"); err != nil || exit.Code != 0 || out != text {
				t.Errorf("%+v, %v, %d of %d bytes", exit, err, len(out), len(text))
			}
			if out, exit, err := execute(t, d, h, runner.ExecRequest{}, "cat"); err != nil || exit.Code != 0 || out != "" {
				t.Errorf("without input: %+v, %v, %q", exit, err, out)
			}
			if out, exit, err := execute(t, d, h, runner.ExecRequest{TTY: true, Size: runner.TermSize{Columns: 101, Rows: 37}}, shell(`tty -s && stty size </dev/tty`)...); err != nil || exit.Code != 0 || !strings.Contains(out, "37 101") {
				t.Errorf("a terminal: %+v, %v, %q", exit, err, out)
			}
			if _, exit, err := execute(t, d, h, runner.ExecRequest{}, shell(`kill -TERM $$`)...); err != nil || exit.Code != 143 || exit.Signal != "SIGTERM" {
				t.Errorf("%+v, %v", exit, err)
			}
			var refused *runner.StartError
			if _, _, err := execute(t, d, h, runner.ExecRequest{}, "/no-such-program"); !errors.As(err, &refused) || !strings.Contains(err.Error(), "/no-such-program") || refused.Hint() == "" {
				t.Errorf("%v", err)
			}
			// What it leaves does not hold its end up, and belongs to the task.
			began := time.Now()
			if out, exit, err := execute(t, d, h, runner.ExecRequest{}, shell(`setsid sleep 999 & echo gone`)...); err != nil || exit.Code != 0 || out != "gone\n" || time.Since(began) > 30*time.Second {
				t.Errorf("%+v, %v, %q", exit, err, out)
			}
			eventually(t, "what it left runs", func() bool { return runsAs(h, "999") == 1 })
			if o, err := d.Recover(t.Context(), h); err != nil || o.State != runner.StateRunning {
				t.Errorf("the task: %+v, %v", o, err)
			}
			if err := d.Stop(t.Context(), h, 0); err != nil {
				t.Fatal(err)
			}
			if left := marked("SOVMESH_TASK=" + string(h.Task)); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
			if _, _, err := execute(t, d, h, runner.ExecRequest{}, "true"); err == nil {
				t.Error("a task that has ended runs commands")
			}
		})
	}
}

// TestAnInterruptReachesACommandOnATerminal types ^C.
func TestAnInterruptReachesACommandOnATerminal(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	h := start(t, d, nil, "sleep", "1000")
	in, keys := io.Pipe()
	go func() {
		eventually(t, "it runs", func() bool { return runsAs(h, "998") == 1 })
		_, _ = keys.Write([]byte{3})
	}()
	if _, exit, err := execute(t, d, h, runner.ExecRequest{TTY: true, Stdin: in}, "sleep", "998"); err != nil || exit.Signal != "SIGINT" {
		t.Errorf("%+v, %v", exit, err)
	}
	_ = keys.Close()
}

var statusLines = regexp.MustCompile(`(?m)^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp|Seccomp_filters|NSpid|SigBlk):.*$|^Max open files.*$`)

// TestAnExecutedCommandIsHeldAsTheTaskIs: the same namespaces, user, privileges,
// filters and groups, and what no task can do it cannot do either.
func TestAnExecutedCommandIsHeldAsTheTaskIs(t *testing.T) {
	d := heldDriver(t, nil)
	look := `for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done; cat /proc/self/status /proc/self/limits; cat /proc/self/cgroup`
	h := start(t, d, nil, shell(look+`; echo ready; sleep 1000`)...)
	var own string
	eventually(t, "the task has looked at itself", func() bool {
		r, err := d.Logs(t.Context(), h, 0, false)
		if err != nil {
			return false
		}
		defer r.Close()
		data, _ := io.ReadAll(r)
		own = string(data)
		return strings.Contains(own, "ready\n")
	})
	for _, tty := range []bool{false, true} {
		out, exit, err := execute(t, d, h, runner.ExecRequest{TTY: tty}, shell(look)...)
		if err != nil || exit.Code != 0 {
			t.Fatalf("%+v, %v", exit, err)
		}
		out = strings.ReplaceAll(out, "\r", "")
		spaces := func(text string) string { return strings.Join(strings.SplitN(text, "\n", 8)[:7], "\n") }
		if spaces(out) != spaces(own) {
			t.Errorf("its namespaces are %s, the task's %s", spaces(out), spaces(own))
		}
		mine, its := statusLines.FindAllString(out, -1), statusLines.FindAllString(own, -1)
		drop := func(s string) bool { return strings.HasPrefix(s, "NSpid") } // that is its number
		if mine, its = slices.DeleteFunc(mine, drop), slices.DeleteFunc(its, drop); len(mine) < 12 || !slices.Equal(mine, its) {
			t.Errorf("it is held by\n%s, the task by\n%s", mine, its)
		}
	}
	// The task's own may have looked before it was moved: its groups by the kernel now.
	var what child
	if err := d.dir(h.Task).readJSON("child", &what); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := d.Exec(ctx, h, runner.ExecRequest{Command: shell(`sleep 997; true`)})
		ended <- err
	}()
	eventually(t, "the command runs", func() bool { return runsAs(h, "997") == 1 })
	groups := func(pid int) string {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		return string(data)
	}
	eventually(t, "all of the task is in its groups", func() bool {
		at := groups(what.PID)
		return strings.Contains(at, testCgroup) && !slices.ContainsFunc(marked("SOVMESH_TASK="+string(h.Task)), func(p process) bool { return groups(p.PID) != at })
	})
	var c claim
	if err := d.dir(h.Task).readJSON("claim", &c); err != nil {
		t.Fatal(err)
	}
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/cgroup", c.PID))
	if len(threads) == 0 {
		t.Error("the supervisor's threads are not seen")
	}
	for _, at := range threads {
		if data, _ := os.ReadFile(at); strings.Contains(string(data), testCgroup) {
			t.Errorf("a thread of the supervisor stayed in the task's groups:\n%s", data)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	eventually(t, "the command has ended with who wanted it, and what it started too", func() bool { return runsAs(h, "997") == 0 })

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		want string
		args []string
	}{
		{"no such process", []string{"kill", fmt.Sprint(os.Getpid())}},
		{"no such process", []string{"kill", fmt.Sprint(c.PID)}},
		{"operation not permitted", []string{"mount"}},
		{"operation not permitted", []string{"ptrace", "1"}},
		{"operation not permitted", []string{"unshare"}},
		{"operation not permitted", []string{"userns"}},
		{"address family not supported", []string{"vsock"}},
		{"operation not permitted", []string{"raw"}},
		{"no such file", []string{"read", d.dir(h.Task).path("spec")}},
		{"no such file", []string{"read", d.dir(h.Task).path(doorKey)}},
		{"no such file", []string{"read", fmt.Sprintf("/proc/%d/environ", os.Getpid())}},
		{"permission denied", []string{"read", "/etc/shadow"}},
		{"read-only file system", []string{"write", "/usr/bin/task"}},
		{"refused", []string{"connect", "203.0.113.9:443"}},
	} {
		if out, _, err := execute(t, d, h, runner.ExecRequest{}, append([]string{self, attackCommand}, test.args...)...); err != nil || !strings.Contains(out, test.want) && !strings.Contains(out, "prohibited") {
			t.Errorf("%v: %q, %v, want %q", test.args, out, err, test.want)
		}
	}
}

// TestAnExecutedCommandIsWithinTheTasksMemory: it is ended for what it takes
// beyond that, and the task's own end is not told as that later.
func TestAnExecutedCommandIsWithinTheTasksMemory(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	fp, err := d.Fingerprint(t.Context())
	if err != nil || !fp.Healthy {
		t.Fatalf("%+v, %v", fp, err)
	}
	if !strings.HasPrefix(fp.Facts["limits"], "memory hard") {
		t.Skipf("this machine lets us set no memory limit: %s", fp.Facts["limits"])
	}
	h := start(t, d, func(s *runner.Spec) { s.Resources = placement.Resources{CPU: 100, Memory: 32 * placement.MiB} }, shell(`while [ ! -e over ]; do sleep 0.05; done; exit 3`)...)
	_, exit, err := execute(t, d, h, runner.ExecRequest{}, "tail", "/dev/zero")
	if err != nil || exit.Code != 137 || !exit.OOM {
		t.Errorf("%+v, %v", exit, err)
	}
	if fp.Facts["cgroup"] == "v2" {
		return // the whole group ends, and the task with it
	}
	if _, exit, err = execute(t, d, h, runner.ExecRequest{}, "touch", "over"); err != nil || exit.Code != 0 {
		t.Fatalf("the task did not outlive it: %+v, %v", exit, err)
	}
	if exit, err = d.Wait(t.Context(), h); err != nil || exit.Code != 3 || exit.OOM {
		t.Errorf("the task's own end: %+v, %v", exit, err)
	}
}

// TestAnExecutedCommandEndsWithTheTask, and who runs it is told.
func TestAnExecutedCommandEndsWithTheTask(t *testing.T) {
	for _, cgroup := range []string{testCgroup, ""} {
		d := newDriver(t, t.TempDir(), func(c *Config) { c.Cgroup = cgroup })
		h := start(t, d, nil, "sleep", "1000")
		type end struct {
			exit runner.Exit
			err  error
		}
		ended := make(chan end, 1)
		go func() {
			exit, err := d.Exec(t.Context(), h, runner.ExecRequest{Command: shell(`trap "" TERM HUP; setsid sleep 996 & sleep 996; sleep 996`)})
			ended <- end{exit, err}
		}()
		eventually(t, "the command runs", func() bool { return runsAs(h, "996") == 2 })
		if err := d.Stop(t.Context(), h, time.Minute); err != nil {
			t.Fatal(err)
		}
		if e := <-ended; e.err != nil || e.exit.Code != 137 {
			t.Errorf("%+v", e)
		}
		if left := marked("SOVMESH_TASK=" + string(h.Task)); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// TestAnExecutedCommandEndsWithItsAgent, which is killed.
func TestAnExecutedCommandEndsWithItsAgent(t *testing.T) {
	dir := t.TempDir()
	d := newDriver(t, dir, nil)
	h := start(t, d, nil, "sleep", "1000")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tty := range []string{"", "tty"} {
		agent := exec.Command(self, attackCommand, "exec", dir, string(h.Task), tty)
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the command runs", func() bool { return runsAs(h, "995") == 2 })
		_ = agent.Process.Kill()
		_ = agent.Wait()
		eventually(t, "the command has ended, and what it started", func() bool { return runsAs(h, "995") == 0 })
	}
	if _, exit, err := execute(t, d, h, runner.ExecRequest{}, "true"); err != nil || exit.Code != 0 {
		t.Errorf("the next agent: %+v, %v", exit, err)
	}
}

// execAsAgent runs a command that does not end, as another agent would.
func execAsAgent(dir, task string, tty bool) error {
	cfg := DefaultConfig()
	cfg.Dir = dir
	d, err := New(cfg)
	if err != nil {
		return err
	}
	_, err = d.Exec(context.Background(), d.handle(placement.TaskID(task)), runner.ExecRequest{TTY: tty, Command: shell(`trap "" HUP; sleep 995 & sleep 995; sleep 995`)})
	return err
}

// TestADoorIsOpenedByItsKey: another task of the same user may find the socket
// where there are no namespaces, but not read the key.
func TestADoorIsOpenedByItsKey(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	h := start(t, d, nil, "sleep", "1000")
	for _, key := range []string{"", "another"} {
		conn, err := DialUnix(t.Context(), string(d.dir(h.Task)), doorSocket)
		if err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := send(conn.(*net.UnixConn), opening{Key: key}); err != nil {
			t.Fatal(err)
		}
		_ = send(conn.(*net.UnixConn), call{Command: []string{"true"}}, r, w, w) // it may have been shut by then
		var said answer
		if _, err := receive(conn.(*net.UnixConn), &said, maxCall); err == nil {
			t.Errorf("with the key %q: %+v", key, said)
		}
		closeAll([]*os.File{r, w})
		_ = conn.Close()
	}
	if info, err := os.Stat(d.dir(h.Task).path(doorKey)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}
}

// TestADoorIsNotFilledByStrangers: who does not show the key waits outside once there
// are some, and keeps the agent waiting for no longer than they may take.
func TestADoorIsNotFilledByStrangers(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	h := start(t, d, nil, "sleep", "1000")
	var c claim
	if err := d.dir(h.Task).readJSON("claim", &c); err != nil {
		t.Fatal(err)
	}
	sockets := func() (n int) {
		all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", c.PID))
		for _, at := range all {
			if to, _ := os.Readlink(at); strings.HasPrefix(to, "socket:") {
				n++
			}
		}
		return n
	}
	before := sockets()
	for range maxStrangers + 8 {
		conn, err := DialUnix(t.Context(), string(d.dir(h.Task)), doorSocket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	eventually(t, "some are let in", func() bool { return sockets() >= before+maxStrangers })
	if n := sockets(); n > before+maxStrangers {
		t.Errorf("%d strangers are let in, of whom %d may be", n-before, maxStrangers)
	}
	if _, exit, err := execute(t, d, h, runner.ExecRequest{}, "true"); err != nil || exit.Code != 0 {
		t.Errorf("the agent: %+v, %v", exit, err)
	}
}

// TestATaskThatStopsWhatIsStartedInItIsEnded: a command can be stopped before its
// program begins, and that holds up nobody but who wants it.
func TestATaskThatStopsWhatIsStartedInItIsEnded(t *testing.T) {
	d := heldDriver(t, nil)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := start(t, d, nil, self, attackCommand, "stopall")
	eventually(t, "it stops whatever there is", func() bool {
		r, err := d.Logs(t.Context(), h, 0, false)
		if err != nil {
			return false
		}
		defer r.Close()
		data, _ := io.ReadAll(r)
		return strings.Contains(string(data), "ready")
	})
	for range 64 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, _ = d.Exec(ctx, h, runner.ExecRequest{Command: []string{"true"}})
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.Stop(ctx, h, 0); err != nil {
		t.Errorf("it is not ended: %v", err)
	}
	if left := marked("SOVMESH_TASK=" + string(h.Task)); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// FuzzReceive: whatever comes to a door is bounded, and so are the files that come
// along, none of which is left once the caller has closed what it was given.
func FuzzReceive(f *testing.F) {
	f.Add(uint8(0), []byte("\x00\x00\x00\x02{}"))
	f.Add(uint8(3), []byte("\x00\x00\x00\x10{\"key\":\"a\"}     "))
	f.Add(uint8(5), []byte("\x00\x00\x00\x02{}"))
	f.Add(uint8(2), []byte("\xff\xff\xff\xff{}"))
	f.Add(uint8(4), []byte("\x00"))
	handed, err := os.Create(filepath.Join(f.TempDir(), "handed"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = handed.Close() })
	open := func() (n int) {
		all, _ := filepath.Glob("/proc/self/fd/*")
		for _, at := range all {
			if to, _ := os.Readlink(at); to == handed.Name() {
				n++
			}
		}
		return n
	}
	f.Fuzz(func(t *testing.T, count uint8, data []byte) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var ends [2]net.Conn
		for i, fd := range fds {
			file := os.NewFile(uintptr(fd), "pair")
			if ends[i], err = net.FileConn(file); err != nil {
				t.Fatal(err)
			}
			_ = file.Close()
		}
		defer ends[1].Close()
		var along []int
		for range count % 8 {
			along = append(along, int(handed.Fd()))
		}
		var rights []byte
		if len(along) > 0 {
			rights = unix.UnixRights(along...)
		}
		_, _, _ = ends[0].(*net.UnixConn).WriteMsgUnix(data[:min(len(data), 4<<10)], rights, nil)
		_ = ends[0].Close()
		var c call
		files, err := receive(ends[1].(*net.UnixConn), &c, maxCall)
		if len(files) > min(len(along), 4) { // room for three is room for four
			t.Errorf("%d files of %d: %v", len(files), len(along), err)
		}
		closeAll(files)
		if n := open(); n != 1 {
			t.Errorf("%d descriptors are left of %d that came along", n-1, len(along))
		}
	})
}
