//go:build linux

// Package inputs puts the inputs of tasks on disks for machines.
//
// What a job names by digest becomes one read-only ext4 file system, which all
// machines that have the same names and digests share. The rule: a disk is what its
// name says, byte for byte, wherever it is made. So every input is compared again as
// it is written, and a guest that is moved to another node finds on the disk that is
// made there what it had begun to read here. The drivers of machines rely on it.
//
// A task's directory holds a link to its disk: who uses one is counted by the file
// system, and an agent that was killed loses no count.
package inputs

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"github.com/sovmesh/sovmesh/node/driver/image"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// How a guest finds the disk, and a task's directory its link.
const (
	Serial = "inputs"         // of the disk: /dev/disk/by-id/virtio-inputs
	Label  = "sovmesh-inputs" // of the file system, at most 16 bytes
	File   = "inputs.ext4"
)

// version stands for how disks are made. Two nodes that make them differently must
// not name them alike.
const version = "sovmesh inputs 1"

// Config says where disks lie, and bounds them.
type Config struct {
	// Dir is the store's own, on the file system of the tasks' directories.
	Dir string
	// Most bounds what one disk holds, in bytes.
	Most int64
	// Reserve is what making a disk leaves free of the file system, in bytes.
	Reserve int64
	// Keep is how long a disk is kept that no task has; it is fresh at least.
	Keep time.Duration
}

// Store keeps the disks of one driver's tasks, each once.
type Store struct {
	cfg   Config
	turns image.Turns // one at a time makes a disk
	mu    sync.Mutex  // held while it is seen how old disks are, and they are removed
}

// fresh is how long a disk stays in any case: between its making and its link.
const fresh = 10 * time.Minute

// partial begins the name of a disk that is being written.
const partial = ".new-"

// New makes the directory, and removes what an agent that was killed had not
// written whole, and what nobody has had for long.
func New(cfg Config) (*Store, error) {
	if !filepath.IsAbs(cfg.Dir) || cfg.Most <= 0 || cfg.Reserve < 0 || cfg.Keep < 0 {
		return nil, fmt.Errorf("disks of inputs: %q is no absolute path, or a bound is out of range", cfg.Dir)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(cfg.Dir, partial+"*"))
	for _, f := range left {
		err = errors.Join(err, os.Remove(f))
	}
	s := &Store{cfg: cfg}
	_ = s.Collect() // what cannot be removed is tried again
	return s, err
}

// part is an input on its way to a disk.
type part struct {
	placement.Input
	size int64
}

// Disk has a task's inputs on a disk, and returns its name: what guests see of two
// disks of one name is the same. It is empty for a task that has none.
func (s *Store) Disk(ctx context.Context, spec runner.Spec) (name string, err error) {
	if spec.InputsDir == "" || spec.Setup == nil || len(spec.Setup.Inputs) == 0 {
		return "", nil
	}
	all, whole, err := s.parts(spec)
	if err != nil {
		return "", err
	}
	name = diskName(all)
	release, err := s.turns.Take(ctx, name)
	if err != nil {
		return "", err
	}
	defer release()
	if s.has(name) {
		return name, nil
	}
	_ = s.Collect() // what it leaves is counted next
	// Beside the content there are a table of files and the place that a file's last
	// block does not fill.
	size := whole + whole/64 + 16<<20
	if err := s.room(size); err != nil {
		return "", fmt.Errorf("inputs of task %s: %w", spec.Task, err)
	}
	err = s.write(until{ctx: ctx, unwanted: spec.Unwanted}, name, spec.InputsDir, all, size)
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("there is no space for their disk on the node: %w", err)
	}
	if err != nil {
		return "", fmt.Errorf("inputs of task %s: %w", spec.Task, err)
	}
	return name, nil
}

// has reports whether a disk is there; from now on it is fresh.
func (s *Store) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	return os.Chtimes(s.path(name), now, now) == nil
}

// parts are a task's inputs by name, with their sizes, and those together.
func (s *Store) parts(spec runner.Spec) (all []part, whole int64, err error) {
	for _, in := range spec.Setup.Inputs {
		st, err := os.Lstat(filepath.Join(spec.InputsDir, filepath.Base(in.Name)))
		if err == nil && !st.Mode().IsRegular() {
			err = errors.New("it is no plain file")
		}
		if err != nil {
			return nil, 0, fmt.Errorf("input %s of task %s: %w", in.Name, spec.Task, err)
		}
		all = append(all, part{in, st.Size()})
		whole += st.Size()
	}
	if whole > s.cfg.Most {
		return nil, 0, &runner.StartError{Task: spec.Task, Reason: fmt.Sprintf("its inputs have %d bytes together, and a machine is given %d at most here", whole, s.cfg.Most), Advice: "name fewer or smaller ones, or let the guest fetch them"}
	}
	slices.SortFunc(all, func(a, b part) int { return strings.Compare(a.Name, b.Name) })
	return all, whole, nil
}

// diskName is that of what the inputs amount to, in their order.
func diskName(all []part) string {
	sum := sha256.New()
	fmt.Fprintln(sum, version)
	for _, in := range all {
		fmt.Fprintf(sum, "%q %q\n", in.Name, in.Digest)
	}
	return "inputs-" + hex.EncodeToString(sum.Sum(nil)) + ".ext4"
}

func (s *Store) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

// room refuses a disk that would fill the node's.
func (s *Store) room(size int64) error {
	free, err := runner.Free(s.cfg.Dir)
	if err != nil {
		return err
	}
	if free-size < s.cfg.Reserve {
		return fmt.Errorf("their disk takes %d MiB, and the node's has %d MiB free, of which %d MiB stay free: %w", size>>20, free>>20, s.cfg.Reserve>>20, syscall.ENOSPC)
	}
	return nil
}

// write makes a disk, whole or not at all.
func (s *Store) write(end until, name, dir string, all []part, size int64) (err error) {
	f, err := os.CreateTemp(s.cfg.Dir, partial)
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close() // it was, if all went well
		if err != nil {
			_ = os.Remove(f.Name()) // with it the space it took
		}
	}()
	r, pipe := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := pack(end, pipe, dir, all)
		_ = pipe.CloseWithError(err)
		packed <- err
	}()
	err = tar2ext4.ConvertTarToExt4(r, f, tar2ext4.MaximumDiskSize(size))
	_ = r.CloseWithError(err)
	if cause := <-packed; cause != nil && !errors.Is(cause, io.ErrClosedPipe) {
		err = cause // rather than what came of it
	}
	if err != nil {
		return err
	}
	// The name of a file system: s_volume_name of the superblock, which has no checksum
	// here. https://docs.kernel.org/filesystems/ext4/super.html
	if _, err := f.WriteAt([]byte(Label), 1024+0x78); err != nil {
		return err
	}
	// Machines read it as users of their own.
	if err := errors.Join(f.Chmod(0o444), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.path(name)); err != nil {
		return err
	}
	return syncDir(s.cfg.Dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// pack writes the inputs as a tar stream that says nothing of when or by whom.
func pack(end until, w io.Writer, dir string, all []part) error {
	out := tar.NewWriter(w)
	for _, in := range all {
		if err := add(end, out, dir, in); err != nil {
			return err
		}
	}
	return out.Close()
}

// errOther is an input that is not what the job names.
var errOther = errors.New("it is not the file that the job names by its digest any more")

func add(end until, out *tar.Writer, dir string, in part) error {
	f, err := os.OpenFile(filepath.Join(dir, in.Name), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	end.r = f
	h := &tar.Header{Typeflag: tar.TypeReg, Name: in.Name, Mode: 0o444, Size: in.size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(out, sum)}, end, make([]byte, 1<<20)); err != nil {
		return fmt.Errorf("input %s: %w", in.Name, err)
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != in.Digest {
		return fmt.Errorf("input %s: %w: it is %s", in.Name, errOther, got)
	}
	return nil
}

// until is a reader that ends with a context, or with the want of its task.
type until struct {
	ctx      context.Context
	unwanted func() bool // may be nil
	r        io.Reader
}

var errUnwanted = errors.New("the task was told to end")

func (u until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	if u.unwanted != nil && u.unwanted() {
		return 0, errUnwanted
	}
	return u.r.Read(p)
}

// Link gives the disk of that name to the task whose directory it is, as [File].
func (s *Store) Link(name, dir string) error {
	if err := os.Link(s.path(name), filepath.Join(dir, File)); err != nil {
		return fmt.Errorf("give the task the disk of its inputs: %w", err)
	}
	return nil
}

// Collect removes disks that no task has had for long.
func (s *Store) Collect() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, statErr := e.Info()
		if statErr != nil || !strings.HasPrefix(e.Name(), "inputs-") || time.Since(info.ModTime()) < max(s.cfg.Keep, fresh) {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink == 1 {
			err = errors.Join(err, os.Remove(s.path(e.Name())))
		}
	}
	return err
}
