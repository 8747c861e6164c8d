//go:build linux

package microvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/keep"
	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// mostDisks bounds a machine's disks beside its image's: a small machine has few
// places for devices.
const mostDisks = 4

// place names what a job's copy keeps on this node between its attempts.
func place(id placement.TaskID) string {
	ordinal, _, _ := id.Member()
	return fmt.Sprintf("%s.%d", id.Job(), ordinal)
}

// volumeFile is where a volume lies: a disk with a journalled file system, as
// large as it has been filled.
func (d *Driver) volumeFile(id placement.TaskID, name string) string {
	return filepath.Join(d.cfg.Dir, "volumes", place(id), name+".ext4")
}

// volumes is what a machine has of its job's.
type volumes struct {
	files  []qemu.File
	shares []qemu.Share
	mounts []wire.Disk
}

// volumes says what a task's volumes are, and makes those that are not there yet. A
// disk is one copy's: two machines cannot write to one file system.
func (d *Driver) volumes(ctx context.Context, s runner.Spec) (out volumes, err error) {
	all := setupOf(s).Volumes
	if len(all) > mostDisks {
		return out, &runner.StartError{Task: s.Task, Reason: fmt.Sprintf("%d volumes are more than the %d that a micro-VM has places for", len(all), mostDisks), Advice: "put several into one"}
	}
	if slices.ContainsFunc(all, func(v placement.Volume) bool { return !v.Shared }) {
		if err := d.unused(ctx, s); err != nil {
			return out, err
		}
	}
	defer keep.Touch(filepath.Dir(d.volumeFile(s.Task, "")))
	for i, v := range all {
		at := path.Clean(v.Path)
		covers := slices.ContainsFunc(placement.KernelPlaces(), func(t string) bool { return placement.Within(at, t) || placement.Within(t, at) })
		if !path.IsAbs(v.Path) || v.Name == "" || strings.ContainsAny(v.Name, "/\x00") || strings.HasPrefix(v.Name, ".") || covers || at == runner.SecretsPath || at == runner.InputsPath {
			return out, &runner.StartError{Task: s.Task, Reason: fmt.Sprintf("its volume %q cannot be at %s", v.Name, v.Path), Advice: "write a name, and a path as /data or /var/lib/NAME"}
		}
		name := fmt.Sprint("volume", i)
		out.mounts = append(out.mounts, wire.Disk{Serial: name, Path: at, ReadOnly: v.ReadOnly, Shared: v.Shared, Give: true})
		if v.Shared {
			share, err := d.share(s, name, v)
			if err != nil {
				return out, err
			}
			out.shares = append(out.shares, share)
			continue
		}
		file := d.volumeFile(s.Task, v.Name)
		if err := makeVolume(ctx, file, int64(d.cfg.VolumeSize)); err != nil {
			if errors.Is(err, exec.ErrNotFound) {
				return out, &runner.StartError{Task: s.Task, Reason: fmt.Sprintf("its volumes cannot be made: %v", err), Advice: "install e2fsprogs on the node"}
			}
			return out, fmt.Errorf("start task %s: volume %s: %w", s.Task, v.Name, err)
		}
		out.files = append(out.files, qemu.File{Name: name, Path: file, Write: !v.ReadOnly})
	}
	// What lies within another is mounted after it.
	slices.SortStableFunc(out.mounts, func(a, b wire.Disk) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// unused makes sure that no other task of this node has the same volumes. That
// one still has them may change: it is no fault of the job.
func (d *Driver) unused(ctx context.Context, s runner.Spec) error {
	all, err := d.base.List(ctx)
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.State == runner.StateRunning && o.Handle.Task != s.Task && place(o.Handle.Task) == place(s.Task) {
			return fmt.Errorf("start task %s: its volumes on this node are in use by task %s until that has ended", s.Task, o.Handle.Task)
		}
	}
	return nil
}

// makeVolume makes an empty file system, whole or not at all; one that is there
// stays as it is.
func makeVolume(ctx context.Context, file string, size int64) error {
	if _, err := os.Lstat(file); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	fresh := file + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(fresh)
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", fresh).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mke2fs: %w: %.200s", err, out)
	}
	if f, err = os.Open(fresh); err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		return err
	}
	return os.Rename(fresh, file)
}

// Kept are the jobs that have volumes here.
func (d *Driver) Kept() (map[placement.JobID]time.Time, error) {
	_ = d.inputs.Collect() // it is asked now and then: what no task has goes too
	return keep.Jobs(filepath.Join(d.cfg.Dir, "volumes"))
}

// Forget removes what a job kept on this node beyond its tasks: its volumes. None
// of its tasks may run.
func (d *Driver) Forget(job placement.JobID) error {
	return keep.Forget(filepath.Join(d.cfg.Dir, "volumes"), job)
}

// diskArgs plug disks in, each known in the guest by its serial number.
func diskArgs(name string, readOnly bool) []string {
	mode := "off"
	if readOnly {
		mode = "on"
	}
	return []string{
		"-drive", fmt.Sprintf("id=%s,file=@%s@,format=raw,if=none,readonly=%s,cache=writeback,discard=unmap", name, name, mode),
		"-device", fmt.Sprintf("virtio-blk-device,drive=%s,serial=%s", name, name),
	}
}
