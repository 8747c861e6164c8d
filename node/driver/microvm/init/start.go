//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
)

// searchPath is what an image that says nothing is searched by.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// start brings a run up and returns what has to be done while it runs.
func (s *session) start(id uint32, c wire.Command) (*run, []func(), error) {
	if len(c.Argv) == 0 {
		return nil, nil, errors.New("there is no command, and the image names none")
	}
	root, err := os.Open(s.m.root)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	who, err := findUser(root, c.User)
	if err != nil {
		return nil, nil, err
	}
	env := environment(c, who)
	file, err := find(root, c.Argv[0], lookup(env, "PATH"), c.Dir)
	if err != nil {
		return nil, nil, err
	}
	r := &run{id: id}
	attr := &syscall.ProcAttr{Dir: "/", Env: env, Sys: &syscall.SysProcAttr{Setsid: true}}
	if c.Dir != "" {
		attr.Dir = c.Dir
	}
	if s.m.own {
		attr.Sys.Chroot = s.m.root
		attr.Sys.Credential = &syscall.Credential{Uid: who.uid, Gid: who.gid, Groups: who.groups}
		if s.m.cgroup != nil {
			attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(s.m.cgroup.Fd())
		}
	}
	pumps, theirs, err := s.wire(r, c, attr)
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}()
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock() // so that nobody collects it before it is known
	r.pid, err = s.m.fork(file, c.Argv, attr)
	if err != nil {
		return nil, nil, fmt.Errorf("%s cannot be run: %w", file, err)
	}
	s.runs[id], s.m.running[r.pid] = r, true
	return r, pumps, nil
}

// fork starts a command with the capabilities that are kept. They are taken
// from a thread of its own, of which the command inherits what is left.
func (m *machine) fork(file string, argv []string, attr *syscall.ProcAttr) (int, error) {
	type result struct {
		pid int
		err error
	}
	done := make(chan result, 1)
	go func() {
		if m.own {
			runtime.LockOSThread() // never unlocked: the thread ends with us
			err := m.dropCapabilities()
			if err == nil && m.noVsock {
				err = denyVsock()
			}
			if err != nil {
				done <- result{err: err}
				return
			}
		}
		pid, err := syscall.ForkExec(file, argv, attr)
		done <- result{pid, err}
	}()
	r := <-done
	return r.pid, r.err
}

func (m *machine) dropCapabilities() error {
	for c := uint(0); c < 64; c++ {
		if m.capabilities[c] {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); errors.Is(err, unix.EINVAL) {
			break // beyond the last one
		} else if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	return nil
}

// wire connects a run's streams and returns what copies them, and the files
// that are the command's.
func (s *session) wire(r *run, c wire.Command, attr *syscall.ProcAttr) (pumps []func(), theirs []*os.File, err error) {
	if r.id != 0 {
		r.gate, r.stdin = wire.NewGate(), wire.NewQueue()
	}
	if c.TTY {
		master, slave, err := openTerminal(s.m.root, s.m.own)
		if err != nil {
			return nil, nil, fmt.Errorf("open a terminal: %w", err)
		}
		if c.Cols > 0 && c.Rows > 0 {
			_ = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: c.Cols, Row: c.Rows})
		}
		r.tty = master
		attr.Files = []uintptr{slave.Fd(), slave.Fd(), slave.Fd()}
		attr.Sys.Setctty, attr.Sys.Ctty = true, 0
		r.outs.Add(1)
		return []func(){func() { s.send(r, wire.Stdout, master) }, func() { s.feed(r, master, false) }}, []*os.File{slave}, nil
	}
	var in *os.File
	if r.stdin == nil {
		in, err = os.Open(os.DevNull)
	} else {
		var feed *os.File
		in, feed, err = os.Pipe()
		pumps = append(pumps, func() { s.feed(r, feed, true) })
	}
	if err != nil {
		return nil, nil, err
	}
	theirs = append(theirs, in)
	attr.Files = []uintptr{in.Fd()}
	for _, t := range []wire.Type{wire.Stdout, wire.Stderr} {
		out, write, err := os.Pipe()
		if err != nil {
			return nil, theirs, err
		}
		theirs = append(theirs, write)
		attr.Files = append(attr.Files, write.Fd())
		r.outs.Add(1)
		pumps = append(pumps, func() { s.send(r, t, out) })
	}
	return pumps, theirs, nil
}

// send copies what a run prints, as far as there is credit.
func (s *session) send(r *run, t wire.Type, from io.ReadCloser) {
	defer r.outs.Done()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			part := len(rest)
			if r.gate != nil {
				if part = r.gate.Take(part); part == 0 {
					return
				}
			}
			if s.w.Send(t, r.id, rest[:part]) != nil {
				return
			}
			rest = rest[part:]
		}
		if err != nil {
			return
		}
	}
}

// feed copies what the host types, and gives credit for what was taken.
func (s *session) feed(r *run, to *os.File, whole bool) {
	if whole {
		defer to.Close()
	}
	buf := make([]byte, 32<<10)
	for {
		n := r.stdin.Get(buf)
		if n == 0 {
			if !whole {
				_, _ = to.Write([]byte{4}) // what a terminal reads as the end
			}
			return
		}
		_, err := to.Write(buf[:n])
		_ = s.w.SendCredit(r.id, n)
		if err != nil && !errors.Is(err, unix.EPIPE) {
			return
		}
	}
}

// openTerminal makes a pair: ours, and the command's.
func openTerminal(root string, own bool) (master, slave *os.File, err error) {
	dir := "/dev/pts"
	multiplexer := "/dev/ptmx"
	if own {
		dir = path.Join(root, "dev/pts")
		multiplexer = path.Join(dir, "ptmx")
	}
	master, err = os.OpenFile(multiplexer, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	var n int
	if err == nil {
		n, err = unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	}
	if err == nil {
		slave, err = os.OpenFile(path.Join(dir, strconv.Itoa(n)), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		_ = master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

// account is who a command runs as.
type account struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// findUser reads "name", "uid", "name:group" or "uid:gid"; names are those of
// the image's own files.
func findUser(root *os.File, user string) (account, error) {
	name, group, _ := strings.Cut(user, ":")
	a := account{home: "/"}
	if name == "" {
		name = "0"
	}
	id, number := strconv.ParseUint(name, 10, 32)
	known := false
	scan(root, "etc/passwd", func(f []string) bool {
		if len(f) < 6 || (f[0] != name && (number != nil || f[2] != name)) {
			return true
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil {
			return true
		}
		a.uid, a.gid, a.home, known = uint32(uid), uint32(gid), f[5], true
		return false
	})
	if !known {
		if number != nil {
			return a, fmt.Errorf("the image has no user %q", name)
		}
		a.uid = uint32(id)
	}
	if a.uid == 0 && !known {
		a.home = "/root"
	}
	if group == "" {
		return a, nil
	}
	if gid, err := strconv.ParseUint(group, 10, 32); err == nil {
		a.gid = uint32(gid)
		return a, nil
	}
	found := false
	scan(root, "etc/group", func(f []string) bool {
		if len(f) < 3 || f[0] != group {
			return true
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		a.gid, found = uint32(gid), err == nil
		return !found
	})
	if !found {
		return a, fmt.Errorf("the image has no group %q", group)
	}
	return a, nil
}

// scan reads the lines of a file of the image, up to a MiB of it, until use
// has enough.
func scan(root *os.File, name string, use func([]string) bool) {
	f, err := openIn(root, name, unix.O_RDONLY)
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(io.LimitReader(f, 1<<20)); lines.Scan(); {
		if !use(strings.Split(lines.Text(), ":")) {
			return
		}
	}
}

// openIn opens a path as a process whose root this is would.
func openIn(root *os.File, name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// find looks a program up as a shell in dir would.
func find(root *os.File, name, paths, dir string) (string, error) {
	if strings.Contains(name, "/") {
		full := name
		if !path.IsAbs(full) {
			full = path.Join("/", dir, full)
		}
		if err := executable(root, full); err != nil {
			return "", fmt.Errorf("command not found: %s: %w", name, err)
		}
		return full, nil
	}
	for _, p := range strings.Split(paths, ":") {
		full := path.Join("/", p, name)
		if executable(root, full) == nil {
			return full, nil
		}
	}
	return "", fmt.Errorf("command not found: %s is not in %s", name, paths)
}

func executable(root *os.File, name string) error {
	f, err := openIn(root, name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Mode()&0o111 == 0) {
		err = unix.EACCES
	}
	return err
}

// environment is the command's, with what every program expects.
func environment(c wire.Command, who account) []string {
	env := append([]string(nil), c.Env...)
	defaults := []string{"PATH=" + searchPath, "HOME=" + who.home}
	if c.TTY {
		defaults = append(defaults, "TERM=xterm")
	}
	for _, d := range defaults {
		if key, _, _ := strings.Cut(d, "="); lookup(env, key) == "" {
			env = append(env, d)
		}
	}
	return env
}

// lookup is the last value of a variable.
func lookup(env []string, key string) string {
	value := ""
	for _, e := range env {
		if k, v, _ := strings.Cut(e, "="); k == key {
			value = v
		}
	}
	return value
}

// siginfoPID is si_pid, behind si_signo, si_errno, si_code and, where words have
// 64 bits, their padding. sigaction(2)
func siginfoPID(info *unix.Siginfo) int {
	offset := uintptr(12)
	if unsafe.Sizeof(uintptr(0)) == 8 {
		offset = 16
	}
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), offset)))
}
