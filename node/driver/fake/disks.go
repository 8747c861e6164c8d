package fake

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

var _ runner.DiskSnapshotter = (*Driver)(nil)

// A task in memory has one disk, on which there is nothing: its snapshots are
// their names, and what it prints says that it was set back to one.

// SnapshotDisks keeps a name.
func (d *Driver) SnapshotDisks(_ context.Context, h runner.Handle, name string) (runner.DiskSnapshot, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	if _, err := d.alive(h); err != nil {
		return runner.DiskSnapshot{}, err
	}
	if !placement.ValidDiskSnapshotName(name) {
		return runner.DiskSnapshot{}, &runner.DiskSnapshotError{Task: h.Task, Reason: fmt.Sprintf("a snapshot cannot be called %q", name), Advice: "write another name"}
	}
	if _, err := d.snapshot(h, name); err == nil {
		return runner.DiskSnapshot{}, &runner.DiskSnapshotError{Task: h.Task, Reason: "its disks have a snapshot " + name, Advice: "choose another name, or remove that one first"}
	}
	snap := runner.DiskSnapshot{Name: name, At: time.Now().UTC(), Disks: []string{"root"}, Bytes: 4096, Why: "a task in memory has no agent"}
	if d.world.snaps == nil {
		d.world.snaps = make(map[placement.TaskID][]runner.DiskSnapshot)
	}
	d.world.snaps[h.Task] = append(d.world.snaps[h.Task], snap)
	return snap, nil
}

// snapshot finds one by its name. The caller holds mu.
func (d *Driver) snapshot(h runner.Handle, name string) (runner.DiskSnapshot, error) {
	for _, s := range d.world.snaps[h.Task] {
		if s.Name == name {
			return s, nil
		}
	}
	return runner.DiskSnapshot{}, &runner.DiskSnapshotError{Task: h.Task, Reason: fmt.Sprintf("its disks have no snapshot %.80q", name), Advice: "see which there are"}
}

// DiskSnapshots are the names that it was given.
func (d *Driver) DiskSnapshots(_ context.Context, h runner.Handle) ([]runner.DiskSnapshot, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	return slices.Clone(d.world.snaps[h.Task]), nil
}

// RemoveDiskSnapshot forgets one.
func (d *Driver) RemoveDiskSnapshot(_ context.Context, h runner.Handle, name string) error {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	if _, err := d.snapshot(h, name); err != nil {
		return err
	}
	d.world.snaps[h.Task] = slices.DeleteFunc(d.world.snaps[h.Task], func(s runner.DiskSnapshot) bool { return s.Name == name })
	return nil
}

// RestoreDisks prints which one it was set back to.
func (d *Driver) RestoreDisks(_ context.Context, h runner.Handle, name string) (runner.DiskSnapshot, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	t, err := d.alive(h)
	if err != nil {
		return runner.DiskSnapshot{}, err
	}
	snap, err := d.snapshot(h, name)
	if err == nil {
		t.print("set back to " + name + "\n")
		t.touch()
	}
	return snap, err
}
