//go:build linux

package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/keep"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// identifyFile describes a file by what changes when its content does.
func identifyFile(f *os.File) (seenFile, error) {
	st, err := f.Stat()
	if err != nil {
		return seenFile{}, err
	}
	sys := st.Sys().(*syscall.Stat_t)
	return seenFile{
		Path: f.Name(), Dev: uint64(sys.Dev), Ino: sys.Ino, Size: st.Size(),
		Mod: st.ModTime().UnixNano(), Birth: sys.Ctim.Nano(),
	}, nil
}

func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:12])
}

// disk is one of a machine's, as its guest numbers them.
type disk struct {
	Name string `json:"name"` // root, or as the job calls it
	Path string `json:"path"`
	// Size is what the guest sees, in bytes.
	Size   int64  `json:"size"`
	Format Format `json:"format"`
	Kept   bool   `json:"kept,omitempty"` // outlives the task
}

// kept is the directory of what a job's copy keeps on this node.
func (d *Driver) kept(id placement.TaskID) string {
	return filepath.Join(d.cfg.Dir, "disks", place(id))
}

// rootDisk is the one that a machine boots from, an overlay on its image: a
// service's is kept, with the image that it was begun on, a batch job's goes
// with its task. base is the image that it lies on, which for a kept disk may be
// an older one than the job names now.
func (d *Driver) rootDisk(s runner.Spec, img Image) (root disk, base Image, err error) {
	size := max(img.Virtual, int64(s.Setup.RootSize))
	if want := int64(s.Setup.RootSize); want != 0 && want < img.Virtual {
		return root, img, refuse(s, fmt.Sprintf("write root_size of %d bytes or more, or none", img.Virtual),
			"the disk that it asks for (%d bytes) is smaller than its image (%d bytes)", want, img.Virtual)
	}
	size = (size + 511) &^ 511
	if size > int64(d.cfg.MaxDisk) {
		return root, img, refuse(s, "ask for a smaller one", "a disk of %d bytes is more than a disk may have here", size)
	}
	if !s.Service {
		return disk{Name: "root", Path: filepath.Join(d.TaskDir(s.Task), "root.qcow2"), Size: size, Format: Qcow2}, img, nil
	}
	root = disk{Name: "root", Path: filepath.Join(d.kept(s.Task), "root.qcow2"), Size: size, Format: Qcow2, Kept: true}
	begun, err := d.begunOn(s, root.Path)
	if err != nil {
		return root, img, err
	}
	if begun == nil {
		return root, img, d.beginRoot(root, img)
	}
	if begun.Digest != img.Digest {
		return root, img, refuse(s, "submit it as a new job, which begins with the new image; this one's disk lies on the old",
			"its disk on this node was begun on image %s and cannot be put on %s", begun.Digest, img.Digest)
	}
	f, err := os.Open(root.Path)
	if err != nil {
		return root, img, err
	}
	defer f.Close()
	// QEMU wrote it, and may have been taken over by its guest.
	have, err := inspectQcow2(f)
	if err != nil {
		return root, img, refuse(s, "its disk was damaged; submit the job anew", "its disk on this node: %v", err)
	}
	if s.Setup.RootSize != 0 && size < have {
		return root, img, refuse(s, fmt.Sprintf("write root_size of %d bytes or more, or none", have), "its disk has %d bytes and is not made smaller", have)
	}
	root.Size = max(size, have)
	return root, *begun, nil
}

// rootNote, beside a kept root disk, says which image it lies on.
const rootNote = "root.json"

// begunOn is the image that a kept root disk lies on; nil if there is no disk.
// One whose note is lost is never taken for none: what is on it may be all that
// a service has.
func (d *Driver) begunOn(s runner.Spec, path string) (*Image, error) {
	var begun Image
	err := readJSON(filepath.Join(d.kept(s.Task), rootNote), &begun)
	_, disk := os.Lstat(path)
	switch gone := errors.Is(disk, fs.ErrNotExist); {
	case err == nil && gone: // cut off before it had its name
		return &begun, os.Rename(path+".new", path)
	case err == nil:
		return &begun, nil
	case errors.Is(err, fs.ErrNotExist) && gone:
		return nil, nil
	}
	return nil, refuse(s, fmt.Sprintf("have the node's operator restore %s in %s from a copy, or save the disk beside it and submit the job anew", rootNote, d.kept(s.Task)),
		"its disk on this node is there, and what it lies on cannot be read: %v", err)
}

// beginRoot makes a kept root disk. It gets its name once it is whole and what it
// lies on is written down: one without that would be nothing.
func (d *Driver) beginRoot(root disk, img Image) error {
	dir, fresh := filepath.Dir(root.Path), root.Path+".new"
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.RemoveAll(fresh)); err != nil {
		return err
	}
	if err := newQcow2(fresh, root.Size); err != nil {
		return fmt.Errorf("make the root disk: %w", explainSpace(err))
	}
	if err := errors.Join(syncDir(fresh), writeJSON(filepath.Join(dir, rootNote), img)); err != nil {
		return err
	}
	if err := os.Rename(fresh, root.Path); err != nil {
		return err
	}
	return syncDir(dir)
}

// extraDisks are those that the job names, plain files that are kept: made when
// they are missing, grown when they are too small, never made smaller.
func (d *Driver) extraDisks(s runner.Spec) ([]disk, error) {
	var all []disk
	for _, want := range s.Setup.Disks {
		one := disk{Name: want.Name, Path: filepath.Join(d.kept(s.Task), "disk-"+want.Name+".raw"), Size: (int64(want.Size) + 511) &^ 511, Format: Raw, Kept: true}
		if filepath.Base(one.Path) != "disk-"+want.Name+".raw" || want.Size <= 0 || one.Size > int64(d.cfg.MaxDisk) ||
			want.Name == "root" || slices.ContainsFunc(all, func(o disk) bool { return o.Name == one.Name }) {
			return nil, refuse(s, "give each disk a plain name of its own and a size", "disk %q of %d bytes cannot be made", want.Name, want.Size)
		}
		if err := os.MkdirAll(d.kept(s.Task), 0o700); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(one.Path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		switch {
		case err != nil:
		case st.Size() > one.Size:
			err = refuse(s, fmt.Sprintf("write a size of %d bytes or more", st.Size()), "its disk %s has %d bytes and is not made smaller", want.Name, st.Size())
		case st.Size() < one.Size:
			err = explainSpace(f.Truncate(one.Size))
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// own gives the kept disks to the machine's user of this time.
func own(m *qemu.Machine, disks []disk) error {
	for _, one := range disks {
		if one.Kept {
			if err := m.Own(one.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

// Kept are the jobs that have disks here.
func (d *Driver) Kept() (map[placement.JobID]time.Time, error) {
	_ = d.inputs.Collect() // it is asked now and then: what no task has goes too
	return keep.Jobs(filepath.Join(d.cfg.Dir, "disks"))
}

// Forget removes what a job kept on this node beyond its tasks: its disks. None
// of its tasks may run.
func (d *Driver) Forget(job placement.JobID) error {
	dir := filepath.Join(d.cfg.Dir, "disks")
	err := keep.Forget(dir, job)
	for _, name := range []string{".fresh-" + string(job) + ".*", ".before-" + string(job) + ".*", ".gone-" + string(job) + ".*"} { // of moves
		found, globErr := filepath.Glob(filepath.Join(dir, name))
		err = errors.Join(err, globErr)
		for _, left := range found {
			err = errors.Join(err, os.RemoveAll(left))
		}
	}
	return err
}
