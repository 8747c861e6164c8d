//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denied are the calls that no task needs and that reach past its boundary: into
// other processes, the kernel, the machine's clock or its mounts.
var denied = []uint32{
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSCONFIG,
	unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_CHROOT,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD,
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_SYSLOG, unix.SYS_VHANGUP, unix.SYS_LOOKUP_DCOOKIE,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
}

// families are the kinds of socket a task may make: others, those between
// virtual machines above all, are in no network namespace.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET}

// newNamespaces are the flags of clone(2) that make a namespace.
const newNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// Offsets in struct seccomp_data (linux/seccomp.h): the number, the architecture,
// and the lower half of the first argument.
const (
	dataNumber = 0
	dataArch   = 4
	dataFirst  = 16
)

// program is the filter in the kernel's classic BPF. Calls of another
// architecture than ours end the task: their numbers mean other things.
//
// A task whose network of nothing is made at its start, in a user namespace, may
// make more of both: its own start is under the filter already. Such a namespace
// gives it nothing that the rest of the filter would not deny. It has no root of
// its own either, so that a socket in the node's files (a session bus, an engine's)
// would lead out of its network: it makes no Unix sockets but pairs.
func program(alone bool) []unix.SockFilter {
	namespaces := uint32(newNamespaces)
	if alone {
		namespaces &^= unix.CLONE_NEWUSER | unix.CLONE_NEWNET
	}
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		least = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		some  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		give  = unix.BPF_RET | unix.BPF_K
	)
	no := func(e uint32) unix.SockFilter {
		return unix.SockFilter{Code: give, K: unix.SECCOMP_RET_ERRNO | e}
	}
	yes := unix.SockFilter{Code: give, K: unix.SECCOMP_RET_ALLOW}
	p := []unix.SockFilter{
		{Code: load, K: dataArch},
		{Code: equal, K: auditArch, Jt: 1},
		{Code: give, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: load, K: dataNumber},
	}
	if foreignFrom != 0 {
		p = append(p, unix.SockFilter{Code: least, K: foreignFrom, Jf: 1}, no(uint32(unix.ENOSYS)))
	}
	for _, n := range append(denied, deniedHere...) {
		p = append(p, unix.SockFilter{Code: equal, K: n, Jf: 1}, no(uint32(unix.EPERM)))
	}
	p = append(p,
		unix.SockFilter{Code: equal, K: unix.SYS_CLONE, Jf: 4},
		unix.SockFilter{Code: load, K: dataFirst},
		unix.SockFilter{Code: some, K: namespaces, Jf: 1},
		no(uint32(unix.EPERM)),
		yes,
		unix.SockFilter{Code: equal, K: unix.SYS_SOCKET, Jt: 1},
		yes,
		unix.SockFilter{Code: load, K: dataFirst},
	)
	for _, f := range families {
		if alone && f == unix.AF_UNIX {
			continue
		}
		p = append(p, unix.SockFilter{Code: equal, K: f, Jf: 1}, yes)
	}
	return append(p, no(uint32(unix.EAFNOSUPPORT)))
}

// filter puts the program before every call of the calling thread, and of all
// that it starts. It cannot be taken off.
func filter(alone bool) error {
	p := program(alone)
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); e != 0 {
		return fmt.Errorf("filter system calls: %w", e)
	}
	return nil
}
