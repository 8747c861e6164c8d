package placement

import "strings"

// DiskSnapshotMaxName bounds the name of a snapshot of a task's disks, in bytes.
const DiskSnapshotMaxName = 40

// ValidDiskSnapshotName reports whether a snapshot of disks may be called so: small
// letters, digits and hyphens. It is the name of a directory too.
func ValidDiskSnapshotName(name string) bool {
	return name != "" && len(name) <= DiskSnapshotMaxName && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}
