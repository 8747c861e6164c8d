//go:build linux

package vm

import (
	"fmt"
	"path/filepath"

	"github.com/sovmesh/sovmesh/node/runner"
)

// inside is what a guest had on a kept disk when it had come to rest.
type inside struct {
	Packages map[string]string `json:"packages,omitempty"`
	Services map[string]string `json:"services,omitempty"`
}

func (d *Driver) insideFile(h runner.Handle) string {
	return filepath.Join(d.kept(h.Task), "inside.json")
}

// keepsRoot reports whether the task's first disk outlives it.
func (d *Driver) keepsRoot(h runner.Handle) bool {
	_, t, err := d.told(h.Task)
	return err == nil && len(t.Disks) > 0 && t.Disks[0].Kept
}

// Remembered is what was found on the disk of the task's copy when it had settled,
// by this task or one before it.
func (d *Driver) Remembered(h runner.Handle) (runner.Actual, bool) {
	var in inside
	if !d.keepsRoot(h) || readJSON(d.insideFile(h), &in) != nil {
		return runner.Actual{}, false
	}
	return runner.Actual{Packages: in.Packages, Services: in.Services}, true
}

// Remember keeps that beside the disk; it goes with it.
func (d *Driver) Remember(h runner.Handle, a runner.Actual) error {
	if !d.keepsRoot(h) {
		return nil
	}
	if err := writeJSON(d.insideFile(h), inside{a.Packages, a.Services}); err != nil {
		return fmt.Errorf("task %s: %w", h.Task, err)
	}
	return nil
}
