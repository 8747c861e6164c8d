//go:build linux

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/fetch"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

const (
	restoreFresh = "restore.new"
	restoreDir   = "restore"
)

// RestoreDisks makes the disks of a snapshot beside those in use while the guest
// runs. Then it stands; a rename decides that these are its disks; QEMU lets go
// of the old ones and takes them; and the machine is reset, as by its button. What was
// cut off before the rename has changed nothing, and what was cut off after it is
// done by the next agent ([Driver.completeRestore]), or the next start.
func (d *Driver) RestoreDisks(ctx context.Context, h runner.Handle, name string) (snap runner.DiskSnapshot, err error) {
	m, t, release, err := d.changing(h.Task)
	if err != nil {
		return snap, err
	}
	defer release()
	if snap, err = d.named(h.Task, name); err != nil {
		return snap, err
	}
	fresh := filepath.Join(d.kept(h.Task), restoreFresh)
	if err = d.stage(ctx, h.Task, &m, t, filepath.Join(d.snapshots(h.Task), name), fresh); err == nil {
		err = ctx.Err() // the last moment at which nothing has changed
	}
	if err != nil {
		return snap, errors.Join(fmt.Errorf("set the disks of task %s back to %s: %w", h.Task, name, explainSpace(err)), os.RemoveAll(fresh))
	}
	long, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*monitorPatience)
	defer cancel()
	err = d.askLong(long, h, func(ctx context.Context, m *qmp.Client) error { return d.restore(ctx, m, h.Task, t, fresh) })
	if err != nil {
		err = fmt.Errorf("set the disks back to %s: %w", name, err)
		if !d.restoring(h.Task) {
			err = errors.Join(err, os.RemoveAll(fresh))
		}
		return snap, err
	}
	return snap, nil
}

// restoreNote, in a task's directory, says that its disks are being set back: its guest
// stands, and nobody but who completes that lets it go on.
const restoreNote = "disks-set-back"

type beingRestored struct {
	// Stood: somebody held it still before; it begins anew when it is resumed.
	Stood bool `json:"stood,omitempty"`
}

// staysStill changes what is noted, where something is.
func staysStill(dir string, stood bool) error {
	if !there(dir, restoreNote) {
		return nil
	}
	return writeJSON(filepath.Join(dir, restoreNote), beingRestored{stood})
}

// endStill lets the guest go on, unless it stood before, and takes the note away.
func endStill(ctx context.Context, m *qmp.Client, dir string) error {
	var n beingRestored
	if err := readJSON(filepath.Join(dir, restoreNote), &n); err != nil {
		return err
	}
	if !n.Stood {
		if err := ask(ctx, m, "cont", nil, nil); err != nil {
			return err
		}
	}
	return os.Remove(filepath.Join(dir, restoreNote))
}

// restore does what the machine has to stand still for.
func (d *Driver) restore(ctx context.Context, m *qmp.Client, id placement.TaskID, t told, fresh string) error {
	dir, at := d.TaskDir(id), d.kept(id)
	var machine struct{ Status string }
	err := ask(ctx, m, "query-status", nil, &machine)
	if err == nil {
		stood := (machine.Status == "paused" || machine.Status == "prelaunch") && !heldStill(dir)
		err = writeJSON(filepath.Join(dir, restoreNote), beingRestored{stood})
	}
	if err != nil {
		return fmt.Errorf("note that it stands still: %w", explainSpace(err))
	}
	if err = ask(ctx, m, "stop", nil, nil); err == nil {
		d.mark("stands")
		err = os.Rename(fresh, filepath.Join(at, restoreDir))
	}
	if err != nil {
		return errors.Join(err, endStill(ctx, m, dir))
	}
	if err := syncDir(at); err != nil {
		return d.undecide(ctx, m, id, err)
	}
	d.mark("decided")
	failed := d.swap(ctx, m, t, d.restored)
	if failed == nil {
		return d.beginAnew(ctx, m, id, t)
	}
	// QEMU does not take them: it keeps those that it had.
	if err := d.swap(ctx, m, t, func(one disk) string { return one.Path }); err != nil {
		return errors.Join(failed, fmt.Errorf("and it stands still, for it does not take the old ones either; resume it to try again, or end it: its next start has the snapshot's: %w", err))
	}
	return d.undecide(ctx, m, id, failed)
}

// undecide has a guest, whose QEMU has the disks that it had, go on with them. One
// whose next start would have others stands, rather than write what is lost then.
func (d *Driver) undecide(ctx context.Context, m *qmp.Client, id placement.TaskID, why error) error {
	at := d.kept(id)
	err := os.Rename(filepath.Join(at, restoreDir), filepath.Join(at, restoreFresh))
	if err == nil {
		err = syncDir(at)
	}
	if err != nil {
		return errors.Join(why, fmt.Errorf("and it stands still, for that cannot be taken back; resume it to try again: %w", err))
	}
	return errors.Join(why, endStill(ctx, m, d.TaskDir(id)))
}

// restoring reports whether it is decided that a task's disks are others, and they
// do not have their names yet.
func (d *Driver) restoring(id placement.TaskID) bool {
	_, err := os.Lstat(filepath.Join(d.kept(id), restoreDir))
	return err == nil
}

// restored is where a disk's new content lies: beside it, or in its place already.
func (d *Driver) restored(one disk) string {
	path := filepath.Join(filepath.Dir(one.Path), restoreDir, filepath.Base(one.Path))
	if _, err := os.Lstat(path); err != nil {
		return one.Path
	}
	return path
}

// completeRestore does the rest of what an agent that was killed had decided, if it
// had. The guest stands.
func (d *Driver) completeRestore(ctx context.Context, m *qmp.Client, id placement.TaskID) error {
	_, t, err := d.told(id)
	if err != nil {
		return err
	}
	if err := ask(ctx, m, "stop", nil, nil); err != nil {
		return err
	}
	if !d.restoring(id) {
		return errors.Join(d.endRestore(id), endStill(ctx, m, d.TaskDir(id)))
	}
	if err := d.swap(ctx, m, t, d.restored); err != nil {
		return err
	}
	return d.beginAnew(ctx, m, id, t)
}

// beginAnew gives the new disks their names and resets the machine, whose QEMU has
// them already.
func (d *Driver) beginAnew(ctx context.Context, m *qmp.Client, id placement.TaskID, t told) error {
	d.mark("swapped")
	for _, one := range t.Disks {
		if one.Kept && d.restored(one) != one.Path {
			_ = os.Truncate(one.Path, 0) // QEMU may keep it open, and its space with it
		}
	}
	if err := d.nameRestored(id); err != nil {
		return err
	}
	d.mark("named")
	// Until here whoever is next does all of it again: a guest must not go on with the
	// memory that it had on other disks.
	if err := reset(ctx, m); err != nil {
		return err
	}
	d.mark("reset")
	if err := d.endRestore(id); err != nil {
		return err
	}
	d.mark("done")
	return endStill(ctx, m, d.TaskDir(id))
}

// reset resets a machine that stands. QEMU answers before it has done it, and a guest
// that went on in between would write what it has in memory.
func reset(ctx context.Context, m *qmp.Client) error {
	if err := ask(ctx, m, "system_reset", nil, nil); err != nil {
		return err
	}
	for {
		var machine struct{ Status string }
		if err := ask(ctx, m, "query-status", nil, &machine); err != nil || machine.Status == "prelaunch" {
			return err
		}
		if pause(ctx, jobEvery); ctx.Err() != nil {
			return fmt.Errorf("QEMU has not reset it: it is %s: %w", machine.Status, ctx.Err())
		}
	}
}

// settleRestore gives disks that were decided on their names, for a guest that has
// ended. It may be cut off anywhere, and done again.
func (d *Driver) settleRestore(id placement.TaskID) error {
	if err := d.nameRestored(id); err != nil {
		return err
	}
	return d.endRestore(id)
}

func (d *Driver) nameRestored(id placement.TaskID) error {
	at := d.kept(id)
	from := filepath.Join(at, restoreDir)
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, os.Rename(filepath.Join(from, e.Name()), filepath.Join(at, e.Name())))
	}
	if err == nil {
		err = syncDir(at)
	}
	if err != nil {
		return fmt.Errorf("put back the disks of task %s: %w", id, err)
	}
	return nil
}

// endRestore removes what is left of a restore that is done, or was never decided.
func (d *Driver) endRestore(id placement.TaskID) error {
	at := d.kept(id)
	err := os.Remove(filepath.Join(at, restoreDir))
	if err == nil {
		err = syncDir(at)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("put back the disks of task %s: %w", id, err)
	}
	return os.RemoveAll(filepath.Join(at, restoreFresh))
}

// stage makes the disks that a snapshot has, whole and on the disk.
func (d *Driver) stage(ctx context.Context, id placement.TaskID, m *qemu.Machine, t told, from, to string) error {
	if err := errors.Join(os.RemoveAll(to), os.Mkdir(to, 0o700)); err != nil {
		return err
	}
	for i, one := range t.Disks {
		if !one.Kept {
			continue
		}
		path := filepath.Join(to, filepath.Base(one.Path))
		if err := d.stageOne(ctx, id, one, filepath.Join(from, copyName(i, one)), path); err != nil {
			return fmt.Errorf("disk %s: %w", one.Name, err)
		}
		if err := m.Own(path); err != nil {
			return err
		}
	}
	return syncDir(to)
}

func (d *Driver) stageOne(ctx context.Context, id placement.TaskID, one disk, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	size, err := inspectQcow2(in) // QEMU wrote it, and may have been taken over by its guest
	switch {
	case err != nil:
		return fmt.Errorf("its copy was damaged: %w", err)
	case size > one.Size:
		return fmt.Errorf("its copy has %d bytes and it has %d, and is not made larger by that", size, one.Size)
	}
	st, err := in.Stat()
	if err != nil {
		return err
	}
	need, err := takes(from)
	if err != nil {
		return err
	}
	if err := d.room(id, need); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if one.Format == Qcow2 {
		err = copySparse(ctx, out, in)
	} else if err = out.Truncate(one.Size); err == nil {
		err = unpackQcow2(ctx, out, in, st.Size())
	}
	return errors.Join(err, out.Sync(), out.Close())
}

// copySparse copies what is in a file, and leaves its holes. Where the file system
// can, both share what is in them.
func copySparse(ctx context.Context, to, from *os.File) error {
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return nil
	}
	st, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(st.Size()); err != nil {
		return err
	}
	for at := int64(0); at < st.Size(); {
		data, err := from.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole up to its end
		}
		if err != nil {
			return err
		}
		if at, err = from.Seek(data, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(to, data), fetch.Reading(ctx, io.NewSectionReader(from, data, at-data))); err != nil {
			return err
		}
	}
	return nil
}

// swap has QEMU let go of the kept disks and take other files for them, under the
// same names and at the same devices. The guest stands. It may be cut off
// anywhere, and done again.
func (d *Driver) swap(ctx context.Context, m *qmp.Client, t told, path func(disk) string) error {
	for i, one := range t.Disks {
		if !one.Kept {
			continue
		}
		if err := swapOne(ctx, m, i, one, path(one)); err != nil {
			return fmt.Errorf("take another file for disk %s: %w", one.Name, err)
		}
	}
	return nil
}

func swapOne(ctx context.Context, m *qmp.Client, i int, one disk, path string) error {
	node, blank := fmt.Sprintf("disk%d", i), fmt.Sprintf("blank%d", i)
	device, on, err := deviceOf(ctx, m, node, blank)
	if err != nil {
		return err
	}
	nodes, err := nodeNames(ctx, m)
	if err != nil {
		return err
	}
	attach := func(name string) error {
		return ask(ctx, m, "qom-set", map[string]any{"path": device, "property": "drive", "value": name}, nil)
	}
	if !nodes[blank] {
		if err := ask(ctx, m, "blockdev-add", map[string]any{"driver": "null-co", "node-name": blank, "size": one.Size, "read-zeroes": true}, nil); err != nil {
			return err
		}
	}
	if on != blank {
		if err := attach(blank); err != nil {
			return err
		}
	}
	for _, name := range []string{node, node + "-file"} {
		if nodes[name] {
			if err := ask(ctx, m, "blockdev-del", map[string]any{"node-name": name}, nil); err != nil {
				return err
			}
		}
	}
	if err := addDisk(ctx, m, i, one, path); err != nil {
		return err
	}
	if err := attach(node); err != nil {
		return err
	}
	return ask(ctx, m, "blockdev-del", map[string]any{"node-name": blank}, nil)
}

// addDisk has QEMU open a disk's file as it did at its start (see [layout.machine]), by
// a descriptor: its user has no way to the file.
func addDisk(ctx context.Context, m *qmp.Client, i int, one disk, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := m.RunFD(ctx, "add-fd", nil, &set, f); err != nil {
		return err
	}
	node := fmt.Sprintf("disk%d", i)
	err = ask(ctx, m, "blockdev-add", map[string]any{
		"driver": "file", "node-name": node + "-file", "filename": fmt.Sprintf("/dev/fdset/%d", set.ID), "discard": "unmap",
	}, nil)
	// What QEMU uses stays open; else it is closed with this.
	if err = errors.Join(err, ask(ctx, m, "remove-fd", map[string]int{"fdset-id": set.ID}, nil)); err != nil {
		return err
	}
	format := map[string]any{"driver": string(one.Format), "node-name": node, "file": node + "-file", "discard": "unmap"}
	if i == 0 {
		format["backing"] = "base"
	}
	if err := ask(ctx, m, "blockdev-add", format, nil); err != nil {
		return err
	}
	if one.Format != Qcow2 {
		return nil // it was made as large as it is to be
	}
	return ask(ctx, m, "block_resize", map[string]any{"node-name": node, "size": one.Size}, nil)
}

// deviceOf is the device that has one of the nodes, and which of them.
func deviceOf(ctx context.Context, m *qmp.Client, nodes ...string) (device, on string, err error) {
	var all []struct {
		Qdev     string `json:"qdev"`
		Inserted *struct {
			Node string `json:"node-name"`
		} `json:"inserted"`
	}
	if err := ask(ctx, m, "query-block", nil, &all); err != nil {
		return "", "", err
	}
	for _, b := range all {
		for _, node := range nodes {
			if b.Inserted != nil && b.Inserted.Node == node && b.Qdev != "" {
				return b.Qdev, node, nil
			}
		}
	}
	return "", "", fmt.Errorf("QEMU has no device with %s", nodes[0])
}

func nodeNames(ctx context.Context, m *qmp.Client) (map[string]bool, error) {
	var all []json.RawMessage
	if err := ask(ctx, m, "query-named-block-nodes", map[string]bool{"flat": true}, &all); err != nil {
		return nil, err
	}
	names := make(map[string]bool)
	for _, one := range all {
		var n struct {
			Name string `json:"node-name"`
		}
		if err := json.Unmarshal(one, &n); err != nil {
			return nil, err
		}
		names[n.Name] = true
	}
	return names, nil
}
