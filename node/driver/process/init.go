//go:build linux

package process

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The first process of a task's namespace of processes is a copy of the
// supervisor that runs nothing but the few calls below: it mounts the task's
// /proc, says so, and then only collects what the task leaves behind. The
// command is the second one, a child of the supervisor like any other. When the
// first one ends, the kernel ends all the rest.

// prelude are the arguments of the calls, made beforehand: the copy of a program
// of many threads may not ask for memory.
type prelude struct {
	fs, place *byte
	name      *byte
	mask      *uint64
	say       uintptr
}

// makeInit makes the namespace's first process. The calling thread has asked for
// the namespace, is in the task's root, and keeps what it forks alive.
func makeInit() (pid int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	defer w.Close()
	all := ^uint64(0)
	child := uint64(1) << (unix.SIGCHLD - 1)
	var p prelude
	if p.fs, err = unix.BytePtrFromString("proc"); err != nil {
		return 0, err
	}
	if p.place, err = unix.BytePtrFromString("/proc"); err != nil {
		return 0, err
	}
	if p.name, err = unix.BytePtrFromString("task-init"); err != nil {
		return 0, err
	}
	p.mask, p.say = &child, w.Fd()
	// Its signals stay blocked: the handlers it inherits are those of a program
	// that is not there any more.
	var before uint64
	if _, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&before)), 8, 0, 0); e != 0 {
		return 0, e
	}
	n, e := forkInit(&p)
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&before)), 0, 8, 0, 0)
	if e != 0 {
		return 0, fmt.Errorf("make the first process of the namespace: %w", e)
	}
	_ = w.Close()
	said := make([]byte, 1)
	if k, err := r.Read(said); err != nil || k != 1 || said[0] != 0 {
		_ = unix.Kill(int(n), unix.SIGKILL)
		if k == 1 {
			err = syscall.Errno(said[0])
		}
		return 0, fmt.Errorf("mount the task's /proc: %w", err)
	}
	return int(n), nil
}

// forkInit copies the calling thread. In the copy it never returns, and does
// nothing that needs Go's runtime: no memory, no stack, no locks.
//
//go:nosplit
//go:norace
//go:noinline
func forkInit(p *prelude) (uintptr, syscall.Errno) {
	pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 || pid != 0 {
		return pid, e
	}
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(p.name)), 0, 0, 0, 0)
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0)
	_, _, e = syscall.RawSyscall6(unix.SYS_MOUNT, uintptr(unsafe.Pointer(p.fs)), uintptr(unsafe.Pointer(p.place)), uintptr(unsafe.Pointer(p.fs)),
		unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, 0, 0)
	status := byte(e)
	syscall.RawSyscall6(unix.SYS_WRITE, p.say, uintptr(unsafe.Pointer(&status)), 1, 0, 0, 0)
	if e != 0 {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 1, 0, 0, 0, 0, 0)
	}
	if _, _, e = syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, 0, uintptr(^uint32(0)), 0, 0, 0, 0); e != 0 {
		for fd := uintptr(0); fd < 1024; fd++ { // before Linux 5.9
			syscall.RawSyscall6(unix.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
		}
	}
	for {
		_, _, e = syscall.RawSyscall6(unix.SYS_WAIT4, ^uintptr(0), 0, 0, 0, 0, 0)
		if e == syscall.ECHILD {
			syscall.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(p.mask)), 0, 0, 8, 0, 0)
		}
	}
}
