//go:build linux

package process

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// foreignFrom is the first number of the x32 calls, which would pass by the list.
const foreignFrom = 0x40000000

var deniedHere = []uint32{unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT, unix.SYS_USTAT, unix.SYS_SYSFS, unix.SYS_USELIB, unix.SYS_CREATE_MODULE}
