//go:build linux

package process

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Landlock holds a thread, and all that it starts, to files by their place,
// whatever the mounts and the file modes are. The three calls are made directly:
// they are of one thread, which is just what is wanted here.
// https://docs.kernel.org/userspace-api/landlock.html

const (
	mayRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_EXECUTE
	mayWrite = mayRead | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM |
		unix.LANDLOCK_ACCESS_FS_REFER | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	ofFiles = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
)

// landlockVersion is the kernel's, 0 if it has none.
func landlockVersion() int {
	n, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return 0
	}
	return int(n)
}

// landlockKnows are the rights that a version of it handles.
func landlockKnows(version int) uint64 {
	known := uint64(mayWrite)
	if version < 2 {
		known &^= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version < 3 {
		known &^= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version < 5 {
		known &^= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	return known
}

// place is a file or a directory, and what may be done there and below.
type place struct {
	path   string
	rights uint64
}

// landlock holds the calling thread to the places; one that is not there is left
// out. From version 6 on it finds no abstract sockets of whatever is not held with
// it, and, if signals is set, sends it no signals either. A namespace of processes
// does that already, and its first process has to hear of this thread's end by
// a signal that the kernel sends in the thread's name.
func landlock(version int, signals bool, places []place) error {
	known := landlockKnows(version)
	attr := unix.LandlockRulesetAttr{Handled_access_fs: known}
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if version >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		if signals {
			attr.Scoped |= unix.LANDLOCK_SCOPE_SIGNAL
		}
		size = unsafe.Offsetof(attr.Scoped) + unsafe.Sizeof(attr.Scoped)
	}
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if e != 0 {
		return fmt.Errorf("landlock: make rules: %w", e)
	}
	defer unix.Close(int(fd))
	for _, p := range places {
		if err := landlockAllow(int(fd), p, known); err != nil {
			return err
		}
	}
	if _, _, e := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); e != 0 {
		return fmt.Errorf("landlock: take the rules on: %w", e)
	}
	return nil
}

func landlockAllow(rules int, p place, known uint64) error {
	f, err := os.OpenFile(p.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	rights := p.rights & known
	if !info.IsDir() {
		rights &= ofFiles
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(f.Fd())}
	if _, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(rules), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0); e != 0 {
		return fmt.Errorf("landlock: allow %s: %w", p.path, e)
	}
	return nil
}
