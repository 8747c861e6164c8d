package placement

import "testing"

func TestOverlapping(t *testing.T) {
	taken := []string{"/etc", "/srv/shared/"}
	tests := []struct {
		name  string
		paths []string
		which int // of the paths; -1 is none
		with  string
	}{
		{"apart", []string{"/data", "/data2", "/srv/other"}, -1, ""},
		{"at a place", []string{"/data", "/etc"}, 1, "/etc"},
		{"within a place", []string{"/etc/x"}, 0, "/etc"},
		{"around a place", []string{"/srv"}, 0, "/srv/shared/"},
		{"around all", []string{"/"}, 0, "/etc"},
		{"a name that begins alike", []string{"/etcetera"}, -1, ""},
		{"by a way round", []string{"/data/../etc/x"}, 0, "/etc"},
		{"within another", []string{"/a", "/a/b"}, 1, "/a"},
		{"around another", []string{"/a/b", "/a"}, 1, "/a/b"},
		{"twice", []string{"/a", "/b/../a/"}, 1, "/a"},
	}
	for _, c := range tests {
		var volumes []Volume
		for _, p := range c.paths {
			volumes = append(volumes, Volume{Name: "v", Path: p})
		}
		v, with := Overlapping(volumes, taken)
		which := -1
		for i := range volumes {
			if v == &volumes[i] {
				which = i
			}
		}
		if which != c.which || with != c.with {
			t.Errorf("%s: %d overlaps %q", c.name, which, with)
		}
	}
}
