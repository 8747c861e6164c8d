//go:build linux

package microvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/claims"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// TestSharedVolume gives two copies of a job one directory at the same time, and
// looks at who serves it.
func TestSharedVolume(t *testing.T) {
	needMachine(t)
	if qemu.FindShareServer() == "" || os.Geteuid() != 0 {
		t.Skip("volumes are shared by root with virtiofsd: install qemu-system-common (7.2), and run as root")
	}
	dir := t.TempDir()
	d := newDriver(t, dir, nil)
	var both [2]runner.Handle
	for n := range both {
		s := spec(t, n, "sleep")
		s.Setup = &placement.Setup{User: "1000:1000", Volumes: []placement.Volume{
			{Name: "data", Path: "/srv/data", Shared: true}, {Name: "own", Path: "/srv/data/own"},
		}}
		var err error
		if both[n], err = start(t, d, s); err != nil {
			t.Fatal(err)
		}
	}
	run := func(d *Driver, n int, command ...string) (string, int) {
		out, exit := execIn(t, d, both[n], runner.ExecRequest{Command: append([]string{"/workload"}, command...)})
		return out, exit.Code
	}

	for _, path := range []string{"/srv/data/file", "/srv/data/own/file"} {
		if out, code := run(d, 0, "write", path); code != 0 {
			t.Fatalf("write %s: %q, %d", path, out, code)
		}
	}
	want, _ := run(d, 0, "cat", "/srv/data/file")
	if out, code := run(d, 1, "cat", "/srv/data/file"); code != 0 || out != want || want == "" {
		t.Errorf("the other copy reads %q, %d; want %q", out, code, want)
	}
	if out, code := run(d, 1, "cat", "/srv/data/own/file"); code == 0 {
		t.Errorf("the other copy reads what is this one's own: %q", out)
	}
	at := filepath.Join(dir, "volumes", string(testJob), "data")
	first := d.cfg.ShareUsers
	if st, err := os.Lstat(filepath.Join(at, "file")); err != nil || int(st.Sys().(*syscall.Stat_t).Uid) != first+1000 {
		t.Errorf("on the node it belongs to %v, %v; want %d", st, err, first+1000)
	}

	servers := serversOf(t, at)
	if len(servers) != 2 {
		t.Fatalf("it is served by %v", servers)
	}
	for _, pid := range servers {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		if uid := value(string(status), "Uid:"); uid != fmt.Sprint(first) || value(string(status), "Seccomp:") != "2" {
			t.Errorf("its server is user %s of the node:\n%s", uid, status)
		}
		for _, ns := range []string{"user", "mnt", "pid", "ipc", "uts"} {
			ours, err := os.Readlink("/proc/self/ns/" + ns)
			its, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
			if err != nil || err2 != nil || ours == its {
				t.Errorf("its server has the node's own %s: %v, %v", ns, err, err2)
			}
		}
	}
	actual, err := d.Inspect(t.Context(), both[0])
	if err != nil || !strings.Contains(fmt.Sprint(actual.Boundary), "directories that the copies of its job share") || fmt.Sprint(actual.Mounts) != "[/srv/data /srv/data/own]" {
		t.Errorf("%+v, %v", actual, err)
	}

	// An agent that comes back finds it served: its supervisor holds it.
	again := newDriver(t, dir, nil)
	if out, code := run(again, 1, "write", "/srv/data/later"); code != 0 {
		t.Errorf("after the agent's end: %q, %d", out, code)
	}
	if err := again.Stop(t.Context(), both[0], boots); err != nil {
		t.Fatal(err)
	}
	ended(t, again, both[0])
	left := serversOf(t, at)
	if len(left) != 1 {
		t.Fatalf("one copy has ended, and it is served by %v", left)
	}
	// A server that ends takes its machine along, which would wait for it for ever.
	if err := syscall.Kill(left[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := ended(t, again, both[1]); !strings.Contains(exit.Reason, "virtiofsd ended, which served it") {
		t.Errorf("without its server it ends with %+v", exit)
	}
	if left := serversOf(t, at); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := again.Forget(testJob); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "volumes", "*")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// serversOf are the processes whose root is a directory.
func serversOf(t *testing.T, dir string) (pids []int) {
	t.Helper()
	want, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		var pid int
		if root, err := os.Stat(p + "/root"); err == nil && os.SameFile(root, want) {
			if _, err := fmt.Sscanf(p, "/proc/%d", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// ended waits for a task's end.
func ended(t *testing.T, d *Driver, h runner.Handle) runner.Exit {
	t.Helper()
	type result struct {
		exit runner.Exit
		err  error
	}
	done := make(chan result, 1)
	go func() {
		exit, err := d.Wait(t.Context(), h)
		done <- result{exit, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			t.Fatal(r.err)
		}
		return r.exit
	case <-time.After(boots):
		t.Fatal("it does not end")
	}
	return runner.Exit{}
}

// Two jobs have no user in common, and one job has the same at every start.
func TestSharersHaveUsersOfTheirOwn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives users away: run as root")
	}
	dir := t.TempDir()
	d := newDriver(t, dir, func(c *Config) { c.ShareServer = "/bin/true" })
	const other = placement.JobID("fra-1.01jd0000000000000000000001")
	v := placement.Volume{Name: "data", Path: "/data", Shared: true}
	users := func(d *Driver, job placement.JobID) int {
		t.Helper()
		share, err := d.share(runner.Spec{Task: job.Task(0, 1), Job: job}, "volume0", v)
		if err != nil {
			t.Fatal(err)
		}
		return share.Users
	}
	one, two := users(d, testJob), users(d, other)
	again := newDriver(t, dir, func(c *Config) { c.ShareServer = "/bin/true" })
	if one != d.cfg.ShareUsers || two != one+shareUsers || users(again, testJob) != one || users(again, other) != two {
		t.Errorf("they have %d and %d", one, two)
	}
	// What somebody else's files are is not given to a guest.
	foreign := filepath.Join(dir, "volumes", string(testJob), "foreign")
	if err := errors.Join(os.Mkdir(foreign, 0o755), os.Lchown(foreign, two, two)); err != nil {
		t.Fatal(err)
	}
	v.Name = "foreign"
	if _, err := d.share(runner.Spec{Task: testJob.Task(0, 1), Job: testJob}, "volume0", v); err == nil || !strings.Contains(err.Error(), "none of its job's") {
		t.Errorf("a directory of another job's gives %v", err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "volumes", string(testJob), "link")); err != nil {
		t.Fatal(err)
	}
	v.Name = "link"
	if _, err := d.share(runner.Spec{Task: testJob.Task(0, 1), Job: testJob}, "volume0", v); err == nil || !strings.Contains(err.Error(), "no directory") {
		t.Errorf("a link gives %v", err)
	}
	// What was restored without its owners is root's, as its server would be.
	v.Name = "data"
	for _, group := range []int{0, os.Getegid(), two + 1, d.cfg.ShareUsers - shareUsers, d.cfg.ShareUsers + mostSharers*shareUsers} {
		if err := os.Lchown(filepath.Join(dir, "volumes", string(testJob)), 0, group); err != nil {
			t.Fatal(err)
		}
		var refused *runner.StartError
		if s, err := d.share(runner.Spec{Task: testJob.Task(0, 1), Job: testJob}, "volume0", v); !errors.As(err, &refused) || !strings.Contains(refused.Advice, "restore it with its owners") {
			t.Errorf("with the group %d it is served by %d, %v", group, s.Users, err)
		}
	}
	if err := d.Forget(testJob); err != nil {
		t.Fatal(err)
	}
	if got := users(d, other); got != two {
		t.Errorf("the other job has %d now, and had %d", got, two)
	}
}

// Two agents on one machine give no job the users of the other's.
func TestTwoAgentsShareNoUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives users away: run as root")
	}
	hold, err := process.DefaultHold(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hold.Network.Close() })
	claimed, seen := t.TempDir(), make(map[int]bool)
	for range 2 {
		d := newDriver(t, t.TempDir(), func(c *Config) { c.ShareServer, c.Hold.Claims = "/bin/true", claimed })
		if first := d.cfg.ShareUsers; first < hold.FirstUser+hold.Users || first+mostSharers*shareUsers > 1<<31 {
			t.Errorf("the range from %d on has others' numbers", first)
		}
		for _, job := range []placement.JobID{testJob, "fra-1.01jd0000000000000000000001"} {
			share, err := d.share(runner.Spec{Task: job.Task(0, 1), Job: job}, "volume0", placement.Volume{Name: "data", Path: "/data", Shared: true})
			if err != nil || seen[share.Users] {
				t.Errorf("%s has users from %d on, which another job has, %v", job, share.Users, err)
			}
			seen[share.Users] = true
		}
	}
}

// TestNobodyWaitsForAnotherAgent: while one start waits for another process, or QEMU
// is tried out, all else goes on.
func TestNobodyWaitsForAnotherAgent(t *testing.T) {
	free := func(d *Driver, what string) {
		t.Helper()
		done := make(chan struct{})
		go func() {
			defer close(done)
			d.settled(testJob.Task(0, 1))
			_ = d.Destroy(t.Context(), runner.Handle{Task: testJob.Task(5, 1)})
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Errorf("while %s, other tasks wait", what)
		}
	}
	asked, say := make(chan struct{}), make(chan struct{})
	d := newDriver(t, t.TempDir(), func(c *Config) {
		c.Probe = func(context.Context, string) (qemu.Accel, error) {
			close(asked)
			<-say
			return qemu.Accel{Name: "some"}, nil
		}
	})
	probed := make(chan qemu.Accel, 1)
	go func() {
		a, _ := d.probe(t.Context(), false)
		probed <- a
	}()
	<-asked
	free(d, "QEMU is tried out")
	close(say)
	if a := <-probed; a.Name != "some" {
		t.Errorf("it is probed as %+v", a)
	}

	if os.Geteuid() != 0 {
		t.Skip("only root gives users away: run as root")
	}
	dir := t.TempDir()
	d = newDriver(t, t.TempDir(), func(c *Config) { c.ShareServer, c.Hold.Claims = "/bin/true", dir })
	if err := os.Mkdir(filepath.Join(dir, "shares"), 0o700); err != nil {
		t.Fatal(err)
	}
	unlock, err := claims.Lock(filepath.Join(dir, "shares"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	users := make(chan int, 2)
	for n := range 2 {
		both.Go(func() {
			share, err := d.share(runner.Spec{Task: testJob.Task(n, 1), Job: testJob}, "volume0", placement.Volume{Name: "data", Path: "/data", Shared: true})
			if err != nil {
				t.Error(err)
			}
			users <- share.Users
		})
	}
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(dir, "shares"), &st); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(time.Minute); ; { // proc_locks(5)
		locks, err := os.ReadFile("/proc/locks")
		if err != nil || time.Now().After(until) {
			t.Fatalf("no start waits for the other agent: %v", err)
		}
		if regexp.MustCompile(fmt.Sprintf(`-> FLOCK .*:%d `, st.Ino)).Match(locks) {
			break
		}
	}
	free(d, "another agent is waited for")
	unlock()
	both.Wait()
	if one, two := <-users, <-users; one != two || one == 0 {
		t.Errorf("two copies of one job have the users from %d and from %d on", one, two)
	}
}

func TestWithoutAServerNoVolumeIsShared(t *testing.T) {
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ShareUsers = 0 })
	s := runner.Spec{Task: testJob.Task(0, 1), Job: testJob, Setup: &placement.Setup{Volumes: []placement.Volume{{Name: "data", Path: "/data", Shared: true}}}}
	var refused *runner.StartError
	if _, err := d.volumes(t.Context(), s); !errors.As(err, &refused) || !strings.Contains(refused.Reason, "shares no volumes") || refused.Advice == "" {
		t.Errorf("it gives %v", err)
	}
}
