//go:build linux

package vm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// What a killed agent left of a move goes, and nothing else: the place may be other
// nodes' too.
func TestSignsOfKilledAgentsGo(t *testing.T) {
	dir, id := t.TempDir(), randomID()
	disks := newDriver(t, dir, nil).disks()
	long := time.Now().Add(-2 * signRest)
	for name, old := range map[string]bool{
		probeName + id: true, storageFile + "-" + id: true, // left
		probeName + randomID(): false, storageFile: true, probeName + "short": true, "notes-" + id: true,
	} {
		path := filepath.Join(disks, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if old {
			if err := os.Chtimes(path, long, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	kept := filepath.Join(disks, probeName+randomID())
	if err := errors.Join(os.Mkdir(kept, 0o700), os.Chtimes(kept, long, long)); err != nil {
		t.Fatal(err)
	}
	newDriver(t, dir, nil)
	entries, err := os.ReadDir(disks)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if len(left) != 5 || slices.Contains(left, probeName+id) || slices.Contains(left, storageFile+"-"+id) {
		t.Errorf("left: %v", left)
	}
}
