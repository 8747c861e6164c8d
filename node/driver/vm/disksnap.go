//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Snapshots of disks lie beside the disks that they are of, and go with them:
//
//	JOB.N/snapshots/NAME/       disk0-root.qcow2, disk1-NAME.qcow2 and the note, written last
//	JOB.N/snapshots/.new-NAME   one that is being made
//	JOB.N/snapshots/.gone-NAME  one that is being removed
//	JOB.N/restore.new           disks as a snapshot has them, while they are made
//	JOB.N/restore               the same, once it is decided that they are the disks
const (
	snapshotsDir  = "snapshots"
	snapshotNote  = "snapshot.json"
	mostSnapshots = 8 // of a job's copy
)

// refuseSnapshot is a snapshot of disks that is not made, found or used.
func refuseSnapshot(id placement.TaskID, advice, format string, args ...any) error {
	return &runner.DiskSnapshotError{Task: id, Reason: fmt.Sprintf(format, args...), Advice: advice}
}

func (d *Driver) snapshots(id placement.TaskID) string {
	return filepath.Join(d.kept(id), snapshotsDir)
}

// diskSnapshots are those of a task's copy that are whole, oldest first.
func (d *Driver) diskSnapshots(id placement.TaskID) ([]runner.DiskSnapshot, error) {
	entries, err := os.ReadDir(d.snapshots(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("task %s: see what snapshots its disks have: %w", id, err)
	}
	var all []runner.DiskSnapshot
	for _, e := range entries {
		if !e.IsDir() || !placement.ValidDiskSnapshotName(e.Name()) {
			continue
		}
		var s runner.DiskSnapshot
		if err := readJSON(filepath.Join(d.snapshots(id), e.Name(), snapshotNote), &s); err != nil {
			return nil, fmt.Errorf("task %s: snapshot %s: %w", id, e.Name(), err)
		}
		s.Name = e.Name()
		all = append(all, s)
	}
	slices.SortStableFunc(all, func(a, b runner.DiskSnapshot) int { return a.At.Compare(b.At) })
	return all, nil
}

// DiskSnapshots are those that there are.
func (d *Driver) DiskSnapshots(_ context.Context, h runner.Handle) ([]runner.DiskSnapshot, error) {
	return d.diskSnapshots(h.Task)
}

// named finds a snapshot by its name.
func (d *Driver) named(id placement.TaskID, name string) (runner.DiskSnapshot, error) {
	all, err := d.diskSnapshots(id)
	if err != nil {
		return runner.DiskSnapshot{}, err
	}
	for _, s := range all {
		if s.Name == name {
			return s, nil
		}
	}
	return runner.DiskSnapshot{}, refuseSnapshot(id, "see which there are: sovmesh job snapshot ID --list", "its disks have no snapshot %.80q", name)
}

// changing keeps moves of a task away, and others who make, remove or use its snapshots.
func (d *Driver) changing(id placement.TaskID) (m qemu.Machine, t told, release func(), err error) {
	steady, err := d.steady(id)
	if err != nil {
		return m, t, nil, err
	}
	claim := "snapshots " + place(id)
	d.mu.Lock()
	_, taken := d.starting[claim]
	if !taken {
		d.starting[claim] = id
	}
	d.mu.Unlock()
	if taken {
		steady()
		return m, t, nil, refuseSnapshot(id, "try again when that is over", "a snapshot of its disks is being made, removed or used just now")
	}
	release = func() {
		d.release([]string{claim})
		steady()
	}
	if m, t, err = d.told(id); err == nil && (d.restoring(id) || there(d.TaskDir(id), restoreNote)) {
		err = refuseSnapshot(id, "let it go on first: sovmesh job resume", "its disks are being set back, which was cut off")
	}
	if err == nil { // one that was cut off before it was decided
		err = os.RemoveAll(filepath.Join(d.kept(id), restoreFresh))
	}
	if err != nil {
		release()
		return m, t, nil, err
	}
	return m, t, release, nil
}

// SnapshotDisks has QEMU copy the kept disks, from one instant on: what the guest
// writes over from then on is copied before.
func (d *Driver) SnapshotDisks(ctx context.Context, h runner.Handle, name string) (snap runner.DiskSnapshot, err error) {
	if !placement.ValidDiskSnapshotName(name) {
		return snap, refuseSnapshot(h.Task, fmt.Sprintf("write up to %d small letters, digits and hyphens", placement.DiskSnapshotMaxName), "a snapshot cannot be called %.80q", name)
	}
	_, t, release, err := d.changing(h.Task)
	if err != nil {
		return snap, err
	}
	defer release()
	if !t.keeps() {
		return snap, refuseSnapshot(h.Task, "a service keeps its first disk, and every job keeps those of disks:", "it has no disk that outlives it")
	}
	all, err := d.diskSnapshots(h.Task)
	if err != nil {
		return snap, err
	}
	for _, s := range all {
		if s.Name == name {
			return snap, refuseSnapshot(h.Task, "choose another name, or remove that one first", "its disks have a snapshot %s, of %s", name, s.At.UTC().Format(time.RFC3339))
		}
	}
	if len(all) >= mostSnapshots {
		return snap, refuseSnapshot(h.Task, "remove one first: sovmesh job snapshot ID --remove NAME", "its disks have %d snapshots, which is the most", len(all))
	}
	if err := d.room(h.Task, 0); err != nil {
		return snap, err
	}
	dir := d.snapshots(h.Task)
	fresh := filepath.Join(dir, ".new-"+name)
	if err := errors.Join(sweepDir(dir), os.MkdirAll(fresh, 0o700)); err != nil {
		return snap, explainSpace(err)
	}
	i := &instant{d: d, h: h, snap: &snap}
	i.copier = copier{dir: fresh, task: d.TaskDir(h.Task), disks: t.Disks, snap: &runner.Snapshot{}, room: func() error { return d.room(h.Task, 0) }}
	if err = d.askLong(ctx, h, i.run); err == nil {
		err = i.keep(filepath.Join(dir, name))
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("snapshot %s of task %s: %w", name, h.Task, explainSpace(err)), os.RemoveAll(fresh))
		return runner.DiskSnapshot{}, err
	}
	snap.Name = name
	return snap, nil
}

// sweepDir removes what was cut off while it was made or removed.
func sweepDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// room refuses what would take more of the node's disk than may be used.
func (d *Driver) room(id placement.TaskID, need int64) error {
	free, err := runner.Free(filepath.Join(d.cfg.Dir, "disks"))
	if err != nil {
		return fmt.Errorf("see how much space is left on the node: %w", err)
	}
	if free-need < int64(d.cfg.Reserve) {
		return refuseSnapshot(id, "remove snapshots that are not needed any more, or have the node's operator free some space",
			"it needs more space than there is: the node's disk has %d MiB free, %d MiB of them stay free, and %d MiB more are needed", free>>20, d.cfg.Reserve>>20, need>>20)
	}
	return nil
}

// instant copies the kept disks of one instant.
type instant struct {
	copier
	d    *Driver
	h    runner.Handle
	snap *runner.DiskSnapshot
}

func (i *instant) run(ctx context.Context, m *qmp.Client) error {
	i.m = m
	if err := i.sweep(ctx); err != nil {
		return err
	}
	defer i.tidy()
	type action struct {
		Type string         `json:"type"`
		Data map[string]any `json:"data"`
	}
	var actions []action
	for n, one := range i.disks {
		if !one.Kept {
			continue
		}
		if err := i.target(ctx, n); err != nil {
			return err
		}
		what := "full"
		if n == 0 {
			what = "top" // what lies beneath is the image, and stays so
		}
		actions = append(actions, action{"blockdev-backup", map[string]any{
			"job-id": fmt.Sprintf("copy%d", n), "device": fmt.Sprintf("disk%d", n), "target": fmt.Sprintf("copy%d", n), "sync": what, "auto-dismiss": false,
		}})
		i.snap.Disks = append(i.snap.Disks, one.Name)
	}
	thaw, why := i.d.freeze(ctx, i.h)
	i.snap.At = time.Now()
	err := ask(ctx, m, "transaction", map[string]any{"actions": actions}, nil)
	thawed := thaw()
	i.snap.Frozen, i.snap.Why = why == "", why
	if err = errors.Join(err, thawed); err != nil {
		return err
	}
	return i.finish(ctx)
}

// keep has the copies on the disk, and then their name.
func (i *instant) keep(at string) error {
	for _, p := range i.parts {
		path := filepath.Join(i.dir, p.Name)
		if err := syncDir(path); err != nil {
			return err
		}
		taken, err := takes(path)
		if err != nil {
			return err
		}
		i.snap.Bytes += taken
	}
	if err := writeJSON(filepath.Join(i.dir, snapshotNote), i.snap); err != nil {
		return err
	}
	if err := os.Rename(i.dir, at); err != nil {
		return err
	}
	return syncDir(filepath.Dir(at))
}

// takes is how much of the node's disk a file takes.
func takes(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, err
	}
	return st.Blocks * 512, nil
}

// RemoveDiskSnapshot removes one, in one step as far as others see it.
func (d *Driver) RemoveDiskSnapshot(_ context.Context, h runner.Handle, name string) error {
	_, _, release, err := d.changing(h.Task)
	if err != nil {
		return err
	}
	defer release()
	if _, err := d.named(h.Task, name); err != nil {
		return err
	}
	dir := d.snapshots(h.Task)
	err = sweepDir(dir)
	if err == nil {
		err = os.Rename(filepath.Join(dir, name), filepath.Join(dir, ".gone-"+name))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err == nil {
		err = sweepDir(dir)
	}
	if err != nil {
		return fmt.Errorf("task %s: remove snapshot %s: %w", h.Task, name, err)
	}
	return nil
}

// frozenFile, in a task's directory, says that its guest's file systems are held
// still for a snapshot. An agent that ends meanwhile leaves it, and the next one
// lets them go on.
const frozenFile = "frozen-for-snapshot"

// pingPatience is how long a guest's agent has to say that it is there.
const pingPatience = 2 * time.Second

// freeze has the guest's agent hold its file systems still. why is empty if it
// does. thaw is to be called in any case.
func (d *Driver) freeze(ctx context.Context, h runner.Handle) (thaw func() error, why string) {
	nothing := func() error { return nil }
	first, cancel := context.WithTimeout(ctx, pingPatience)
	defer cancel()
	if d.withAgent(first, h, func(ctx context.Context, g *qmp.Guest) error { return g.Run(ctx, "guest-ping", nil, nil) }) != nil {
		return nothing, "no agent answers in its guest"
	}
	if err := writeJSON(filepath.Join(d.TaskDir(h.Task), frozenFile), time.Now()); err != nil {
		return nothing, "it cannot be written down that its guest is frozen: " + err.Error()
	}
	frozen := 0
	err := d.withAgent(ctx, h, func(ctx context.Context, g *qmp.Guest) error {
		return g.Run(ctx, "guest-fsfreeze-freeze", nil, &frozen)
	})
	switch {
	case err != nil:
		why = fmt.Sprintf("its agent did not freeze its file systems: %.200s", err)
	case frozen <= 0:
		why = "its agent found no file system to freeze"
	}
	return func() error {
		again, cancel := context.WithTimeout(context.WithoutCancel(ctx), deafPatience)
		defer cancel()
		return d.thaw(again, h)
	}, why
}

// thaw lets the guest's file systems go on. An agent that is busy is asked again.
func (d *Driver) thaw(ctx context.Context, h runner.Handle) error {
	for {
		err := d.withAgent(ctx, h, func(ctx context.Context, g *qmp.Guest) error {
			return g.Run(ctx, "guest-fsfreeze-thaw", nil, nil)
		})
		if err == nil || errors.As(err, new(*qmp.Error)) { // one that froze nothing may have nothing to thaw
			return errors.Join(err, os.Remove(filepath.Join(d.TaskDir(h.Task), frozenFile)))
		}
		if pause(ctx, jobEvery); ctx.Err() != nil {
			return fmt.Errorf("its guest's file systems stay frozen, for its agent does not answer: %w", err)
		}
	}
}

// thawLeft thaws a guest whose agent of the node's was killed while it was frozen.
func (d *Driver) thawLeft(ctx context.Context, o *runner.Observed) {
	if o.State != runner.StateRunning || !there(d.TaskDir(o.Handle.Task), frozenFile) {
		return
	}
	done, err := d.moving(o.Handle.Task)
	if err != nil {
		return // a snapshot of ours
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, recoverPatience)
	defer cancel()
	_ = d.thaw(ctx, o.Handle)
}
