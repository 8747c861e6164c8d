//go:build linux

package vm

import "testing"

// Under the interpreter a look at what was written counts only if the guest stood:
// QEMU says in which order the two were.
func TestWhenQEMULooked(t *testing.T) {
	stop, first, second := happening{name: "STOP"}, happening{"MIGRATION_PASS", 1}, happening{"MIGRATION_PASS", 2}
	for name, c := range map[string]struct {
		all  []happening
		lost bool
	}{
		"it stood before":            {[]happening{stop, second}, false},
		"it looked before":           {[]happening{second, stop}, true},
		"only as the copy began":     {[]happening{first, {name: "BLOCK_JOB_READY"}, stop}, false},
		"it does not say":            {nil, true},
		"it does not say that it is": {[]happening{first}, true},
	} {
		if got := lookedBefore(c.all); got != c.lost {
			t.Errorf("%s: a write may be lost: %t", name, got)
		}
	}
}

// A guest stands late, and never later than for half of what it has.
func TestHowLateAGuestStands(t *testing.T) {
	for _, c := range []struct{ total, last int64 }{{128, 64}, {192, 64}, {512, 64}, {1024, 128}, {8192, 1024}} {
		var m migration
		m.RAM = &struct {
			Sent   int64 `json:"transferred"`
			Total  int64 `json:"total"`
			Left   int64 `json:"remaining"`
			Rounds int   `json:"dirty-sync-count"`
		}{Total: c.total << 20, Left: c.last << 20}
		if m.nearEnd(1) {
			t.Errorf("of %d MiB it stands before %d are left", c.total, c.last)
		}
		if m.RAM.Left--; !m.nearEnd(1) || !m.nearEnd(2) {
			t.Errorf("of %d MiB it does not stand when less than %d are left", c.total, c.last)
		}
	}
	if (migration{}).nearEnd(1) {
		t.Error("it stands before anything was sent")
	}
}
