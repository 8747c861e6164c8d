//go:build linux

package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// callsOf are the system calls by which a program of one kind makes sockets to the
// host. Their numbers are those of x86, which guests are. socketcall has its family
// in memory, where no filter looks: it is not there, and libraries then do without it.
type callsOf struct {
	arch               uint32
	socket, socketcall uint32
}

// ioUringSetup is one number everywhere; its rings make sockets past any filter.
const ioUringSetup = 425

// foreign marks the calls of the third kind of program (x32), which guests have not.
const foreign = 0x40000000

// vsockFilter is a filter in the kernel's classic BPF (seccomp(2)) that lets pass
// everything but sockets of AF_VSOCK.
func vsockFilter() []unix.SockFilter {
	const (
		number, arch, first = 0, 4, 16 // in struct seccomp_data of linux/seccomp.h

		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		least = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		give  = unix.BPF_RET | unix.BPF_K
	)
	no := func(e unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: give, K: unix.SECCOMP_RET_ERRNO | uint32(e)}
	}
	yes := unix.SockFilter{Code: give, K: unix.SECCOMP_RET_ALLOW}
	p := []unix.SockFilter{{Code: load, K: arch}}
	for _, c := range []callsOf{{unix.AUDIT_ARCH_X86_64, 41, foreign}, {unix.AUDIT_ARCH_I386, 359, 102}} {
		calls := []unix.SockFilter{
			{Code: load, K: number},
			{Code: least, K: foreign, Jf: 1}, no(unix.ENOSYS),
			{Code: equal, K: ioUringSetup, Jf: 1}, no(unix.ENOSYS),
			{Code: equal, K: c.socketcall, Jf: 1}, no(unix.ENOSYS),
			{Code: equal, K: c.socket, Jt: 1}, yes,
			{Code: load, K: first},
			{Code: equal, K: unix.AF_VSOCK, Jf: 1}, no(unix.EAFNOSUPPORT),
			yes,
		}
		p = append(append(p, unix.SockFilter{Code: equal, K: c.arch, Jf: uint8(len(calls))}), calls...)
	}
	return append(p, no(unix.ENOSYS))
}

// denyVsock keeps the calling thread, and all that it starts, from making sockets to
// the host. The control channel leads to the node past every network: only init has it.
func denyVsock() error {
	p := vsockFilter()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); e != 0 {
		return fmt.Errorf("deny sockets to the host: %w", e)
	}
	return nil
}
