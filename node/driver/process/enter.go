//go:build linux

package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// cell is a thread of the supervisor that has become what the command is to be:
// in its namespaces and its root, under its rules, without its privileges. What
// it starts is so too, and lives no longer than it does; the supervisor's other
// threads are as before.
type cell struct {
	do    chan func()
	tid   int // of the thread
	init  int // the first process of the namespace; 0 without one
	bound []runner.Boundary
	h     *held
}

// enter makes a cell. Nothing of it is left if it fails: its thread ends.
func (s *supervisor) enter() (*cell, error) {
	c := &cell{do: make(chan func()), h: s.spec.Held}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		c.tid = unix.Gettid()
		err := s.become(c)
		ready <- err
		if err != nil {
			return // and the thread with it
		}
		for f := range c.do {
			f()
		}
	}()
	return c, <-ready
}

// run does something on the cell's thread.
func (c *cell) run(f func()) {
	done := make(chan struct{})
	c.do <- func() { defer close(done); f() }
	<-done
}

// leave ends the first process of the namespace, and with it all others there.
func (c *cell) leave() {
	if c != nil && c.init > 0 {
		_ = unix.Kill(c.init, unix.SIGKILL)
	}
}

// become turns the calling thread into the cell's.
func (s *supervisor) become(c *cell) error {
	if err := s.becomeApart(c); err != nil {
		return err
	}
	if err := s.becomeNetwork(c); err != nil {
		return err
	}
	return s.becomePowerless(c)
}

func (c *cell) holds(what, how string) {
	c.bound = append(c.bound, runner.Boundary{What: what, Holds: true, How: how})
}

func (c *cell) lacks(what, how string) {
	c.bound = append(c.bound, runner.Boundary{What: what, How: how})
}

// becomeApart enters namespaces and the task's root.
func (s *supervisor) becomeApart(c *cell) error {
	c.lacks("kernel", "the node's own: a fault in it is a way out")
	if !c.h.Namespaces {
		c.lacks("root", "the node's own files are in its sight: the agent cannot make namespaces")
		c.lacks("processes", "it sees the node's processes: the agent cannot make namespaces")
		return nil
	}
	var net *os.File
	if c.h.Net != "" {
		f, err := os.Open(c.h.Net)
		if err != nil {
			return fmt.Errorf("open the task's network: %w", err)
		}
		defer f.Close()
		net = f
	}
	if c.h.User != 0 {
		for _, dir := range []string{"work", "tmp"} {
			if err := os.Chown(s.dir.path(dir), c.h.User, c.h.User); err != nil {
				return err
			}
		}
		for _, v := range c.h.Volumes {
			if err := giveVolume(v, c.h.User); err != nil {
				return err
			}
		}
		if h := c.h.Outputs; h != nil {
			if err := giveVolume(*h, c.h.User); err != nil {
				return err
			}
		}
		if err := giveSecrets(c.h.Secrets, c.h.User); err != nil {
			return err
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("make the task's namespaces: %w", err)
	}
	if net != nil {
		if err := unix.Setns(int(net.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the task's network: %w", err)
		}
	}
	if err := unix.Sethostname([]byte(hostName(s.spec.Spec))); err != nil {
		return err
	}
	if err := makeRoot(s.dir, c.h); err != nil {
		return err
	}
	var err error
	if c.init, err = makeInit(); err != nil {
		return err
	}
	if err := closeKernel(); err != nil {
		return err
	}
	seen := "a root of its own: the node's programs and settings, read-only; its work directory and /tmp"
	if len(c.h.Paths) > 0 {
		seen += "; and what the operator shares: " + strings.Join(c.h.Paths, ", ")
	}
	c.holds("root", seen)
	c.holds("processes", "namespaces of its own of processes, host name and System V's objects: it sees and signals no other task's")
	return nil
}

// giveVolume makes the top of a volume the task's: each task of a job has
// another user.
func giveVolume(v bind, user int) error {
	if v.ReadOnly {
		return os.Chmod(v.From, 0o755)
	}
	return os.Chown(v.From, user, user)
}

// giveSecrets makes the files the task's, whose user is no other task's.
func giveSecrets(b *bind, user int) error {
	if b == nil {
		return nil
	}
	return filepath.WalkDir(b.From, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, user, user)
	})
}

// hostName is what the task believes that its machine is called.
func hostName(s runner.Spec) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return -1
	}, s.Name)
	if name = strings.Trim(name[:min(len(name), 63)], "-"); name == "" {
		return "task"
	}
	return name
}

// becomeNetwork tells what the agent decided of the network.
func (s *supervisor) becomeNetwork(c *cell) error {
	switch {
	case c.h.Net != "":
		// The agent tells of it, who can count.
	case c.h.Alone:
		c.holds("network", "a network namespace of its own with nothing in it, not even a loopback")
	case s.spec.Setup != nil && s.spec.Setup.Network != nil && s.spec.Setup.Network.Host:
		c.lacks("network", "the node's own, as the job asks and the operator allows")
	default:
		c.lacks("network", "the node's own: the agent cannot make network namespaces")
	}
	return nil
}

// becomePowerless gives up what the thread could do as the agent's.
func (s *supervisor) becomePowerless(c *cell) error {
	if unix.Geteuid() == 0 {
		if err := dropCapabilities(); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	c.holds("privileges", "no capabilities, and no program gives it any (no_new_privs)")
	if c.h.User != 0 {
		c.holds("user", fmt.Sprintf("a user of its own, %d", c.h.User))
	} else {
		c.lacks("user", fmt.Sprintf("the agent's own, %d", unix.Geteuid()))
	}
	version := landlockVersion()
	if version > 0 {
		if err := landlock(version, !c.h.Namespaces, s.places(c.h)); err != nil {
			return err
		}
		c.holds("files", fmt.Sprintf("Landlock %d: it reads the node's programs and settings, and writes its work directory, /tmp and what it was given", version))
	} else {
		c.lacks("files", "this kernel has no Landlock")
	}
	switch err := filter(c.h.Alone); {
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		c.lacks("system calls", "they are not filtered on this machine")
	case err != nil:
		return err
	case c.h.Alone:
		c.holds("system calls", "mounting, tracing, kernel modules, BPF, clocks and the like are denied (seccomp), and sockets of other families than IP; namespaces of users and networks are not, for it is started in such")
	default:
		c.holds("system calls", "mounting, tracing, kernel modules, BPF, clocks, namespaces and the like are denied (seccomp), and sockets of other families than IP and Unix")
	}
	return nil
}

// dropCapabilities empties the bounding set, so that a program started later has
// none, whoever it runs as. The thread keeps those it has until then: the
// kernel wants some of it for the change of users.
func dropCapabilities() error {
	for c := uintptr(0); c <= 63; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the last one that the kernel knows has gone
		}
		if err != nil {
			return fmt.Errorf("give up capability %d: %w", c, err)
		}
	}
	return nil
}

// places are those of Landlock's rules.
func (s *supervisor) places(h *held) []place {
	var all []place
	for _, dir := range placement.NodePlaces() {
		all = append(all, place{dir, mayRead})
	}
	write := []string{s.dir.path("work"), "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts", "/dev/shm", "/proc"}
	write = append(write, h.Paths...)
	if h.Devices {
		write = append(write, gpuDevices()...)
	}
	if h.Namespaces {
		write = append(write, "/tmp", "/var/tmp")
		all = append(all, place{"/", unix.LANDLOCK_ACCESS_FS_READ_DIR}, place{"/run", mayRead}, place{"/dev", unix.LANDLOCK_ACCESS_FS_READ_DIR})
	} else {
		write = append(write, s.dir.path("tmp"))
	}
	if h.Secrets != nil {
		all = append(all, place{h.Secrets.To, mayRead})
	}
	if h.Inputs != nil {
		all = append(all, place{h.Inputs.To, mayRead})
	}
	if h.Outputs != nil {
		write = append(write, h.Outputs.To)
	}
	for _, v := range h.Volumes {
		if v.ReadOnly {
			all = append(all, place{v.To, mayRead})
		} else {
			write = append(write, v.To)
		}
	}
	for _, w := range write {
		all = append(all, place{filepath.Clean(w), mayWrite})
	}
	return all
}

// apply puts what only the start itself can do into its attributes.
func (c *cell) apply(attr *syscall.SysProcAttr) {
	if c.init != 0 {
		// It ends with the namespace, and could not be told of its parent's end: from
		// in there it has none.
		attr.Pdeathsig = 0
	}
	if c.h.User != 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(c.h.User), Gid: uint32(c.h.User), Groups: []uint32{}}
	}
	if c.h.Alone {
		attr.Cloneflags |= unix.CLONE_NEWUSER | unix.CLONE_NEWNET
		uid, gid := unix.Geteuid(), unix.Getegid()
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	}
}

// tryAlone starts a program in a network of nothing, as a task would be.
func tryAlone() error {
	uid, gid := unix.Geteuid(), unix.Getegid()
	p, err := os.StartProcess("/proc/self/exe", []string{"true", SupervisorCommand}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
	}})
	if err != nil {
		return fmt.Errorf("make a user namespace: %w", err)
	}
	_ = p.Kill()
	_, err = p.Wait()
	return err
}
