//go:build linux

package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A further command is born among the processes of its task, and between taking
// the task's user and beginning its program the task can stop it. Go's own start
// waits for the program in vfork(2), holding up all of the supervisor: its leases,
// its orders and its kills. So the command is a plain copy of the cell's thread, as
// the namespace's first process is, and who waits for its program is nobody that
// the rest waits for.

// birthPatience bounds the wait for a command's program to begin.
const birthPatience = 30 * time.Second

// birth is what a copy does until it is the command, all of it made beforehand: the
// copy of a program of many threads may not ask for memory.
type birth struct {
	path, dir  *byte
	argv, envv **byte
	files      [3]uintptr
	say        uintptr // where it tells why it did not become the command
	cgroup     uintptr // of version 2; 0: none
	user       uintptr // 0: ours
	tty        bool    // files[0] becomes its terminal
	mortal     bool    // it ends with the thread that it is a copy of
	parent     uintptr
	nofile     *unix.Rlimit // nil: as the supervisor's
	nothing    [8]uint64    // a signal's action: the default one
	unblocked  uint64       // its mask of signals
	clone      cloneArgs
	pidfd      int32
}

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// unborn is a command on its way.
type unborn struct {
	pid, pidfd int
	said       *os.File
}

// copies reports whether a command is started by a copy: not with namespaces of its
// own, which are made where the agent is not root, and there the task's user is the
// supervisor's; and not where the calls for users are of 16 bits.
func copies(attr *syscall.ProcAttr) bool {
	return attr.Sys.Cloneflags == 0 && unsafe.Sizeof(uintptr(0)) == 8
}

// bear copies the calling thread, which is the cell's, and returns at once.
func bear(path string, argv []string, attr *syscall.ProcAttr, nofile *unix.Rlimit) (unborn, error) {
	b := &birth{tty: attr.Sys.Setctty, mortal: attr.Sys.Pdeathsig != 0, parent: uintptr(os.Getpid()), nofile: nofile, files: [3]uintptr(attr.Files)}
	var err1, err2, err3, err4 error
	b.path, err1 = unix.BytePtrFromString(path)
	b.dir, err2 = unix.BytePtrFromString(attr.Dir)
	args, err3 := syscall.SlicePtrFromStrings(argv)
	env, err4 := syscall.SlicePtrFromStrings(attr.Env)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return unborn{}, err
	}
	b.argv, b.envv = &args[0], &env[0]
	if c := attr.Sys.Credential; c != nil {
		b.user = uintptr(c.Uid)
	}
	if attr.Sys.UseCgroupFD {
		b.cgroup = uintptr(attr.Sys.CgroupFD)
	}
	b.clone = cloneArgs{
		flags: unix.CLONE_PIDFD | unix.CLONE_INTO_CGROUP, exitSignal: uint64(unix.SIGCHLD),
		cgroup: uint64(b.cgroup),
	}
	said, w, err := os.Pipe()
	if err != nil {
		return unborn{}, err
	}
	defer w.Close()
	b.say = w.Fd()
	// The copy's signals stay blocked until it has forgotten our handlers.
	all := ^uint64(0)
	if _, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&b.unblocked)), 8, 0, 0); e != 0 {
		return unborn{}, errors.Join(e, said.Close())
	}
	pid, e := forkCommand(b)
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&b.unblocked)), 0, 8, 0, 0)
	runtime.KeepAlive(args)
	runtime.KeepAlive(env)
	if e != 0 {
		return unborn{}, errors.Join(e, said.Close())
	}
	return unborn{pid: int(pid), pidfd: int(b.pidfd), said: said}, nil
}

// begun waits until the program has begun, or was ended before. An error is why it
// has not; it may be there still.
func (u unborn) begun() error {
	defer u.said.Close()
	_ = u.said.SetReadDeadline(time.Now().Add(birthPatience))
	why := make([]byte, 8)
	_, err := io.ReadFull(u.said, why)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it did not begin within %v: the task is frozen, or stops what is started in it", birthPatience)
	case err != nil:
		return err
	}
	return syscall.Errno(binary.NativeEndian.Uint64(why))
}

// forkCommand copies the calling thread. In the copy it never returns, and does
// nothing that needs Go's runtime: no memory, no stack, no locks. What it has of
// the supervisor's memory nobody of the task may look into.
//
//go:nosplit
//go:norace
//go:noinline
func forkCommand(b *birth) (uintptr, syscall.Errno) {
	var pid, at uintptr
	var e syscall.Errno
	if b.cgroup != 0 {
		b.clone.pidfd = uint64(uintptr(unsafe.Pointer(&b.pidfd)))
		pid, _, e = syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&b.clone)), unsafe.Sizeof(b.clone), 0, 0, 0, 0)
	} else {
		pid, _, e = syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_PIDFD|uintptr(unix.SIGCHLD), 0, uintptr(unsafe.Pointer(&b.pidfd)), 0, 0, 0)
	}
	if e != 0 || pid != 0 {
		return pid, e
	}
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0)
	for at = 1; at <= 64; at++ {
		syscall.RawSyscall6(unix.SYS_RT_SIGACTION, at, uintptr(unsafe.Pointer(&b.nothing)), 0, 8, 0, 0)
	}
	if _, _, e = syscall.RawSyscall6(unix.SYS_SETSID, 0, 0, 0, 0, 0, 0); e != 0 {
		goto failed
	}
	for at = 0; at < 3; at++ {
		if _, _, e = syscall.RawSyscall6(unix.SYS_DUP3, b.files[at], at, 0, 0, 0, 0); e != 0 {
			goto failed
		}
	}
	// Held up, it holds none of the supervisor's files open. Before Linux 5.9 it does.
	if b.say != 3 {
		if _, _, e = syscall.RawSyscall6(unix.SYS_DUP3, b.say, 3, unix.O_CLOEXEC, 0, 0, 0); e != 0 {
			goto failed
		}
		b.say = 3
	}
	syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, 4, uintptr(^uint32(0)), 0, 0, 0, 0)
	if b.tty {
		if _, _, e = syscall.RawSyscall6(unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 1, 0, 0, 0); e != 0 {
			goto failed
		}
	}
	if b.nofile != nil {
		syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(b.nofile)), 0, 0, 0)
	}
	if b.user != 0 {
		if _, _, e = syscall.RawSyscall6(unix.SYS_SETGROUPS, 0, 0, 0, 0, 0, 0); e != 0 {
			goto failed
		}
		if _, _, e = syscall.RawSyscall6(unix.SYS_SETGID, b.user, 0, 0, 0, 0, 0); e != 0 {
			goto failed
		}
		if _, _, e = syscall.RawSyscall6(unix.SYS_SETUID, b.user, 0, 0, 0, 0, 0); e != 0 {
			goto failed
		}
	}
	if _, _, e = syscall.RawSyscall6(unix.SYS_CHDIR, uintptr(unsafe.Pointer(b.dir)), 0, 0, 0, 0, 0); e != 0 {
		goto failed
	}
	if b.mortal {
		if _, _, e = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0); e != 0 {
			goto failed
		}
		if at, _, _ = syscall.RawSyscall6(unix.SYS_GETPPID, 0, 0, 0, 0, 0, 0); at != b.parent {
			e = syscall.ESRCH
			goto failed
		}
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&b.unblocked)), 0, 8, 0, 0)
	_, _, e = syscall.RawSyscall6(unix.SYS_EXECVE, uintptr(unsafe.Pointer(b.path)), uintptr(unsafe.Pointer(b.argv)), uintptr(unsafe.Pointer(b.envv)), 0, 0, 0)
failed:
	syscall.RawSyscall6(unix.SYS_WRITE, b.say, uintptr(unsafe.Pointer(&e)), unsafe.Sizeof(e), 0, 0, 0)
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 253, 0, 0, 0, 0, 0)
	}
}
