package placement

import (
	"strings"
	"testing"
)

func TestNamesOfDiskSnapshots(t *testing.T) {
	for name, ok := range map[string]bool{
		"before-upgrade": true, "a": true, "2026-11-23": true, strings.Repeat("a", 40): true,
		"": false, strings.Repeat("a", 41): false, "..": false, "../x": false, "a/b": false, ".new-a": false,
		"A": false, "a b": false, "a\x00": false, "ä": false, "a.b": false, "a-\nb": false,
	} {
		if ValidDiskSnapshotName(name) != ok {
			t.Errorf("%q: %t", name, !ok)
		}
	}
}
