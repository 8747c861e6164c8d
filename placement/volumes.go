package placement

import "strings"

// NodePlaces are the parts of a node that every process sees in its root and may
// not change.
func NodePlaces() []string {
	return []string{"/usr", "/etc", "/opt", "/nix", "/sys", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}
}

// OwnPlaces are those that each process has of its own.
func OwnPlaces() []string { return []string{"/proc", "/dev", "/run", "/tmp", "/var/tmp"} }

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
	taken := append(NodePlaces(), OwnPlaces()...)
	for i := range s.Volumes {
		v := &s.Volumes[i]
		for _, t := range taken {
			if Within(v.Path, t) || Within(t, v.Path) {
				return v, t
			}
		}
		taken = append(taken, v.Path)
	}
	return nil, ""
}
