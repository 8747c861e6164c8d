package runner

import "golang.org/x/sys/unix"

// Free is what whoever writes into dir may still write there, in bytes: what the
// file system keeps for its administrator is not free.
func Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
