//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/boundary/boundarytest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// attackCommand makes the test binary an attacker: args[0] says of what kind. It
// says on one line what became of it.
const attackCommand = "test-attack"

func attackMain(args []string) int {
	what, err := args[0], error(nil)
	switch what {
	case "mount":
		err = unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "")
	case "ptrace":
		pid, _ := strconv.Atoi(args[1])
		err = unix.PtraceAttach(pid)
	case "kill":
		pid, _ := strconv.Atoi(args[1])
		err = unix.Kill(pid, 0)
	case "stopall": // whatever is started beside it, for as long as it lives
		fmt.Println("ready")
		for {
			_ = unix.Kill(-1, unix.SIGSTOP)
		}
	case "unshare":
		err = unix.Unshare(unix.CLONE_NEWUSER)
	case "userns": // by the call that a filter cannot look into
		request := [8]uint64{unix.CLONE_NEWUSER, 0, 0, 0, uint64(unix.SIGCHLD)}
		if _, _, e := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&request)), unsafe.Sizeof(request), 0); e != 0 {
			err = e
		}
	case "vsock":
		_, err = unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	case "raw":
		_, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	case "keys":
		_, err = unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, true)
	case "read":
		_, err = os.ReadFile(args[1])
	case "write":
		err = os.WriteFile(args[1], []byte("x"), 0o644)
	case "exec":
		err = execAsAgent(args[1], args[2], args[3] == "tty")
	case "connect", "listen": // and hear what the other side says until it ends
		var c net.Conn
		if c, err = net.Dial("tcp", args[1]); err == nil {
			if what == "listen" {
				said, _ := io.ReadAll(c)
				what += " " + string(said)
			}
			_ = c.Close()
		}
	}
	fmt.Println(what, err)
	return 0
}

// attack runs one as a task of its own and returns what it said.
func attack(t *testing.T, d *Driver, n int, change func(*runner.Spec), args ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := start(t, d, func(s *runner.Spec) {
		s.Task = placement.JobID("a.b").Task(n, 1)
		if change != nil {
			change(s)
		}
	}, append([]string{self, attackCommand}, args...)...)
	return strings.TrimSpace(printed(t, d, h))
}

// heldDriver is one whose tasks see this test's program, and what holds them.
func heldDriver(t *testing.T, change func(*Config)) *Driver {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("tasks have namespaces and users of their own only where the agent is root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(self, 0o755); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, t.TempDir(), func(c *Config) {
		c.Hold.Paths = []string{self}
		if change != nil {
			change(c)
		}
	})
	if err := errors.Join(d.able().namespaces, d.able().network); err != nil {
		t.Skipf("this machine makes no namespaces: %v", err)
	}
	return d
}

// TestWhatATaskCannotDo: each of these is done where the tasks are not held in,
// but for what no user without privileges may do anyway.
func TestWhatATaskCannotDo(t *testing.T) {
	d := heldDriver(t, nil)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(secret), 0o755); err != nil {
		t.Fatal(err)
	}
	other := start(t, d, func(s *runner.Spec) { s.Task = "a.b/50.1" }, shell(`umask 0; echo mine >file; echo ready; sleep 1000`)...)
	r, err := d.Logs(t.Context(), other, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	var what child
	if err := d.dir(other.Task).readJSON("child", &what); err != nil {
		t.Fatal(err)
	}
	theirs := fmt.Sprint(what.PID)
	for i, test := range []struct {
		want string
		args []string
	}{
		{"operation not permitted", []string{"mount"}},
		{"operation not permitted", []string{"ptrace", "1"}},
		{"operation not permitted", []string{"unshare"}},
		{"operation not permitted", []string{"userns"}},
		{"address family not supported", []string{"vsock"}},
		{"operation not permitted", []string{"raw"}},
		{"operation not permitted", []string{"keys"}},
		{"no such process", []string{"kill", theirs}},
		{"no such file", []string{"read", filepath.Join(string(d.dir(other.Task)), "work", "file")}},
		{"no such file", []string{"read", filepath.Join(string(d.dir(other.Task)), "spec")}},
		{"no such file", []string{"read", secret}},
		{"no such file", []string{"read", "/proc/" + theirs + "/environ"}},
		{"permission denied", []string{"read", "/proc/1/environ"}},
		{"permission denied", []string{"read", "/etc/shadow"}},
		{"read-only file system", []string{"write", "/usr/bin/task"}},
		{"read-only file system", []string{"write", "/proc/sys/kernel/hostname"}},
	} {
		if got := attack(t, d, i, nil, test.args...); !strings.Contains(got, test.want) {
			t.Errorf("%v: %q, want %q", test.args, got, test.want)
		}
	}
	if got := attack(t, d, 60, nil, "write", "file"); got != "write <nil>" {
		t.Errorf("it cannot write its own directory: %q", got)
	}
}

// TestATaskReachesNothingUnasked connects to this machine, where somebody
// listens: refused, counted by destination, and told after the end.
func TestATaskReachesNothingUnasked(t *testing.T) {
	d := heldDriver(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	api := l.Addr().String()
	if got := attack(t, d, 0, nil, "connect", api); !strings.Contains(got, "refused") {
		t.Errorf("the agent's own port: %q", got)
	}
	for i, n := range []*placement.Network{nil, {}} {
		got := attack(t, d, 1+i, func(s *runner.Spec) { s.Setup = &placement.Setup{Network: n} }, "connect", "203.0.113.9:443")
		if !strings.Contains(got, "refused") && !strings.Contains(got, "prohibited") {
			t.Errorf("an address outside its list: %q", got)
		}
		h := d.handle(placement.JobID("a.b").Task(1+i, 1))
		if _, err := d.Wait(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		all, err := d.Denied(t.Context(), h)
		if err != nil || !slices.ContainsFunc(all, func(x runner.Denial) bool { return x.Destination == "203.0.113.9:443/tcp" && x.Packets > 0 }) {
			t.Errorf("denied: %+v, %v", all, err)
		}
	}
	host := func(s *runner.Spec) { s.Setup = &placement.Setup{Network: &placement.Network{Host: true}} }
	_, err = d.Start(t.Context(), hostSpec(host))
	var refused *runner.StartError
	if !errors.As(err, &refused) || refused.Hint() == "" {
		t.Errorf("the node's network, which it gives to nobody: %v", err)
	}
	open := heldDriver(t, func(c *Config) { c.Hold.HostNetwork = true })
	if got := attack(t, open, 0, host, "connect", api); got != "connect <nil>" {
		t.Errorf("the node's network, where that is allowed: %q", got)
	}
}

func hostSpec(change func(*runner.Spec)) runner.Spec {
	s := runner.Spec{Task: "a.b/9.1", Job: "a.b", Command: []string{"true"}, Keep: noted}
	change(&s)
	return s
}

// TestWhatHoldsIsTold: every boundary in words while the task runs, and a door
// into it for its node.
func TestWhatHoldsIsTold(t *testing.T) {
	d := heldDriver(t, nil)
	h := start(t, d, nil, shell("sleep 1000")...)
	a, err := d.Inspect(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	for _, b := range a.Boundary {
		said[b.What] = b.Holds
		if b.How == "" {
			t.Errorf("%+v", b)
		}
	}
	for _, what := range []string{"root", "processes", "user", "privileges", "system calls", "files", "network"} {
		if !said[what] {
			t.Errorf("%s does not hold: %+v", what, a.Boundary)
		}
	}
	if said["kernel"] {
		t.Error("a kernel of its own is claimed")
	}
	if _, err := d.Dial(t.Context(), h, 9); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a port where nothing listens: %v", err)
	}
	nets, err := d.cfg.Hold.Network.List()
	if err != nil || len(nets) != 1 {
		t.Errorf("%+v, %v", nets, err)
	}
	if err := d.Destroy(context.WithoutCancel(t.Context()), h); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(d.cfg.Dir, ".user-*"))
	nets, err2 := d.cfg.Hold.Network.List()
	if len(left) != 0 || len(nets) != 0 || err != nil || err2 != nil {
		t.Errorf("left: %v, %+v, %v, %v", left, nets, err, err2)
	}
}

// TestAVolumeOutlivesItsTask is written by one task and read by the next, each a
// user of its own.
func TestAVolumeOutlivesItsTask(t *testing.T) {
	d := heldDriver(t, func(c *Config) { c.Hold.Volumes = filepath.Join(filepath.Dir(c.Dir), "volumes") })
	with := func(n int) func(*runner.Spec) {
		return func(s *runner.Spec) {
			s.Task = placement.JobID("a.b").Task(n, 1)
			s.Setup = &placement.Setup{Volumes: []placement.Volume{{Name: "data", Path: "/data"}}}
		}
	}
	h := start(t, d, with(0), shell("umask 022; echo kept >/data/file")...)
	if exit, err := d.Wait(t.Context(), h); err != nil || exit.Code != 0 {
		t.Fatal(exit, err)
	}
	if got := printed(t, d, start(t, d, with(1), shell("cat /data/file; touch /data/more && echo more")...)); got != "kept\nmore\n" {
		t.Errorf("%q", got)
	}
	long := time.Now().Add(-40 * 24 * time.Hour) // as long as a service runs
	if err := os.Chtimes(d.volumes("a.b"), long, long); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(d.volumes("a.b")); err != nil || time.Since(info.ModTime()) > time.Hour {
		t.Errorf("a task that had the volume has just ended, and it was last used at %v, %v", info.ModTime(), err)
	}
	bad := hostSpec(func(s *runner.Spec) {
		s.Setup = &placement.Setup{Volumes: []placement.Volume{{Name: "../../etc", Path: "/data"}}}
	})
	if _, err := d.Start(t.Context(), bad); err == nil {
		t.Error("a volume outside the volumes is taken")
	}
}

// A task reads its job's secrets where it is told to, as its own user, and no
// other task's.
func TestSecretsAreTheTasksOwn(t *testing.T) {
	d := heldDriver(t, nil)
	dirs := map[int]string{}
	for n := range 2 {
		dirs[n] = filepath.Join(t.TempDir(), "task")
		if err := os.Mkdir(dirs[n], 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dirs[n], "TOKEN"), fmt.Appendf(nil, "secret %d", n), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	h := start(t, d, func(s *runner.Spec) { s.SecretsDir = dirs[0] }, "/bin/sh", "-c", `cat "$SOVMESH_SECRETS"/TOKEN; ls "$SOVMESH_SECRETS"`)
	if got := printed(t, d, h); got != "secret 0TOKEN\n" {
		t.Errorf("it prints %q", got)
	}
	other := start(t, d, func(s *runner.Spec) { s.Task, s.SecretsDir = placement.JobID("a.b").Task(1, 1), dirs[1] }, "/bin/cat", filepath.Join(dirs[0], "TOKEN"))
	if got := printed(t, d, other); strings.Contains(got, "secret 0") {
		t.Errorf("another task reads %q", got)
	}
}

// Where tasks run as the agent's own user, and that is user 0, the kernel's
// switches are closed all the same: one of them runs a program of the node.
func TestUserZeroDoesNotTurnTheKernelsSwitches(t *testing.T) {
	d := heldDriver(t, func(c *Config) { c.Hold.Users = 0 })
	for i, path := range []string{"/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"} {
		if _, err := os.Stat(path); err != nil {
			continue // a kernel without it
		}
		if got := attack(t, d, i, nil, "write", path); !strings.Contains(got, "read-only file system") {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// A volume's place is made by a privileged hand: it must not be where a task may
// have laid a link before.
func TestVolumesLieApart(t *testing.T) {
	d := heldDriver(t, func(c *Config) {
		c.Hold.Volumes, c.Hold.Paths = filepath.Join(filepath.Dir(c.Dir), "volumes"), append(c.Hold.Paths, "/srv/shared")
	})
	for _, paths := range [][]string{{"/run"}, {"/run/x"}, {"/tmp/x"}, {"/etc"}, {"/"}, {"/data", "/data/x"}, {"/data/x", "/data"}, {"/srv/shared/x"}, {"/srv"}, {"/proc/sys"}, {"/usr/lib/x"}, {"/data/../etc"}} {
		s := runner.Spec{Task: "a.b/0.1", Job: "a.b", Command: []string{"/bin/true"}, Setup: &placement.Setup{}, Keep: func(runner.Handle) error { return nil }}
		for i, p := range paths {
			s.Setup.Volumes = append(s.Setup.Volumes, placement.Volume{Name: fmt.Sprint("v", i), Path: p})
		}
		_, err := d.Start(t.Context(), s)
		var refused *runner.StartError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "volume") {
			t.Errorf("volumes at %v: %v", paths, err)
		}
	}
}

// A task that multiplies without end is held to its number of processes.
func TestATaskHasSoManyProcesses(t *testing.T) {
	d := heldDriver(t, nil)
	h := start(t, d, func(s *runner.Spec) { s.Setup = &placement.Setup{Pids: 20} },
		"/bin/sh", "-c", `sleep 1; i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; echo all`)
	if got := printed(t, d, h); strings.Contains(got, "all") {
		t.Errorf("it has sixty processes and may have twenty: %q", got)
	}
}

func TestAFailedStartKeepsNoUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("users of their own for tasks: root is missing")
	}
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "no-directory")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, dir, func(c *Config) { c.Hold.Volumes = file })
	s := runner.Spec{Task: "a.b/0.1", Job: "a.b", Command: shell("true"), Keep: func(runner.Handle) error { return nil }, Setup: &placement.Setup{Volumes: []placement.Volume{{Name: "data", Path: "/data"}}}}
	if _, err := d.Start(t.Context(), s); err == nil {
		t.Fatal("a volume that cannot be made is no problem")
	}
	left, err := filepath.Glob(filepath.Join(dir, ".user-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("it keeps %v, %v", left, err)
	}
}

// TestTwoAgentsGiveNoUserTwice: of one machine, each with its own data.
func TestTwoAgentsGiveNoUserTwice(t *testing.T) {
	shared, seen := t.TempDir(), map[string]int{}
	var agents []*Driver
	for n := range 3 {
		agents = append(agents, heldDriver(t, func(c *Config) {
			c.Hold.Claims, c.Hold.FirstUser, c.Hold.Users = shared, firstUser, 3*Parts // three for each
		}))
		for i := range 3 {
			who := start(t, agents[n], func(s *runner.Spec) { s.Task = placement.JobID("a.b").Task(i, 1) }, "/usr/bin/id", "-u")
			uid := strings.TrimSpace(printed(t, agents[n], who))
			if had, taken := seen[uid]; taken || uid == "0" {
				t.Errorf("agent %d gives %s, which agent %d gave", n, uid, had)
			}
			seen[uid] = n
		}
	}
	if _, err := agents[0].takeUser("a.b/9.1"); err == nil || !strings.Contains(err.Error(), "this agent's") {
		t.Errorf("one more than its part: %v", err)
	}
}

// A process finds its services by their names, and reaches no more by them.
func TestAProcessReachesItsServices(t *testing.T) {
	d := heldDriver(t, nil)
	list := func(s *runner.Spec) {
		s.Setup = &placement.Setup{Network: &placement.Network{Allow: []string{"service:web", "service:db"}}}
		s.Connect = boundarytest.Service
	}
	for n, x := range []struct{ at, says string }{
		{"db.service.sovmesh:5432", "listen the service db 5432 <nil>"},
		{"198.19.0.1:80", "listen the service web 80 <nil>"},
		{"198.19.0.3:80", "refused"},
		{"192.0.2.1:80", "refused"},
	} {
		if text := attack(t, d, n, list, "listen", x.at); !strings.Contains(text, x.says) {
			t.Errorf("%s: %q", x.at, text)
		}
	}
	if text := attack(t, d, 8, list, "listen", "web.service.sovmesh:81"); strings.Contains(text, "the service") {
		t.Errorf("%q", text)
	}
	h := runner.Handle{Task: placement.JobID("a.b").Task(8, 1)}
	all, err := d.Denied(t.Context(), h)
	if err != nil || !slices.ContainsFunc(all, func(x runner.Denial) bool { return x.Destination == "service:web:81/tcp" && x.Packets == 1 }) {
		t.Errorf("%+v, %v", all, err)
	}
	_, err = d.Start(t.Context(), runner.Spec{Task: placement.JobID("a.b").Task(9, 1), Command: []string{"/bin/true"},
		Setup: &placement.Setup{Network: &placement.Network{Allow: []string{"service:db"}}}, Keep: func(runner.Handle) error { return nil }})
	if !errors.As(err, new(*runner.StartError)) {
		t.Errorf("a node that carries no connections: %v", err)
	}
}
