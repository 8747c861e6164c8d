// Package tree removes directories that workloads filled.
//
// The rule: no tree costs more than a few open files and short paths, whatever its
// depth, and no link in it leads anywhere. Each directory is brought up to one of
// ours before it is emptied, so that a tree goes level by level; what is cut off
// goes on with the next try. os.RemoveAll holds one file open for each level, and a
// workload that makes enough of them takes all that its node's agent may open.
//
// The drivers, what they keep of jobs, and node/outputs rely on it.
package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"syscall"
)

// gone is where directories are brought to be emptied, below the node's own one.
const gone = ".gone"

// RemoveAll removes a directory of the node's own and all below it; nothing may be
// there. Its directories go first, then its files: until the last moment the node
// finds what it wrote down there itself. Nobody may change it meanwhile.
func RemoveAll(ctx context.Context, dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return os.Remove(dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != gone {
			dirs = append(dirs, e.Name())
		}
	}
	if err := Remove(ctx, root, dirs...); err != nil {
		return fmt.Errorf("remove what is below %s: %w", dir, err)
	}
	return os.RemoveAll(dir) // there are files alone
}

// Remove removes directories in one of the node's own; any may be missing. What an
// earlier call was cut off from goes too.
func Remove(ctx context.Context, root *os.Root, dirs ...string) error {
	if err := root.Mkdir(gone, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	r := &remover{ctx: ctx, root: root}
	old, err := r.names(gone, -1)
	if err != nil {
		return err
	}
	for _, name := range old { // of a removal that was cut off
		if n, err := strconv.Atoi(name); err == nil {
			r.next = max(r.next, n+1)
		}
	}
	for _, dir := range dirs {
		if err := r.bring(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for {
		dirs, err := r.names(gone, some)
		if err != nil {
			return err
		}
		if len(dirs) == 0 {
			return root.Remove(gone)
		}
		for _, dir := range dirs {
			if err := r.empty(path.Join(gone, dir)); err != nil {
				return err
			}
		}
	}
}

type remover struct {
	ctx  context.Context // of the one call
	root *os.Root
	next int // number in gone
}

// some is how many names are read at once.
const some = 1024

// names are so many of those in a directory; -1 is all.
func (r *remover) names(dir string, most int) ([]string, error) {
	f, err := r.root.OpenFile(dir, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(most)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// bring gives a directory a number of ours. Its owner may have closed it to all,
// the node's own user too.
func (r *remover) bring(dir string) error {
	if err := r.root.Chmod(dir, 0o700); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	err := r.root.Rename(dir, path.Join(gone, strconv.Itoa(r.next)))
	r.next++
	return err
}

// empty removes a directory, once its own directories were brought up.
func (r *remover) empty(dir string) error {
	for {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		names, err := r.names(dir, some)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return r.root.Remove(dir)
		}
		for _, name := range names {
			at := path.Join(dir, name)
			info, err := r.root.Lstat(at)
			if err != nil {
				return err
			}
			if info.IsDir() {
				err = r.bring(at)
			} else {
				err = r.root.Remove(at)
			}
			if err != nil {
				return err
			}
		}
	}
}
