package placement

import (
	"path"
	"slices"
	"strings"
)

// NodePlaces are the parts of a node that every process sees in its root and may
// not change.
func NodePlaces() []string {
	return []string{"/usr", "/etc", "/opt", "/nix", "/sys", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}
}

// OwnPlaces are those that each process has of its own.
func OwnPlaces() []string { return []string{"/proc", "/dev", "/run", "/tmp", "/var/tmp"} }

// KernelPlaces are those of a workload's own kernel, over which nothing is laid,
// whatever kind it is.
func KernelPlaces() []string { return []string{"/proc", "/sys", "/dev"} }

// Within reports whether a place is another one or lies below it; both are clean
// absolute paths.
func Within(a, b string) bool {
	return a == b || strings.HasPrefix(a, strings.TrimSuffix(b, "/")+"/")
}

// Misplaced is the first volume that cannot lie where the job says, within or
// around what else the workload sees, and what is there; nil if all can. What one
// node's operator shares beside is for that node to say.
func (s *Setup) Misplaced(kind Kind) (*Volume, string) {
	if s == nil || kind != KindProcess {
		return nil, ""
	}
	return Overlapping(s.Volumes, append(NodePlaces(), OwnPlaces()...))
}

// Overlapping is the first volume that lies within or around a place that is taken
// or another volume, and which; nil if none does.
func Overlapping(volumes []Volume, taken []string) (*Volume, string) {
	taken = slices.Clone(taken)
	for i := range volumes {
		v, at := &volumes[i], path.Clean(volumes[i].Path)
		for _, t := range taken {
			if Within(at, t) || Within(t, at) {
				return v, t
			}
		}
		taken = append(taken, at)
	}
	return nil, ""
}
