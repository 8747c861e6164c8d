package node

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// inMemory reports whether files below path are on no disk. Swap aside, that is
// true of the two file systems that live in memory.
func inMemory(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC)
}

// private reports whether path is a directory, and no link to one, that this
// process' user alone may enter.
func private(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == uint32(os.Geteuid())
}
