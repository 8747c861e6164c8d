package outputs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"syscall"
)

// remove takes dirFiles away, level by level: each directory is brought up to one
// of ours before it is emptied, so that no tree is too deep for the node's open
// files or for the length of a path.
func remove(ctx context.Context, root *os.Root) error {
	if err := root.Mkdir(dirGone, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	r := &remover{ctx: ctx, root: root}
	old, err := r.names(dirGone)
	if err != nil {
		return err
	}
	for _, name := range old { // of a removal that was cut off
		if n, err := strconv.Atoi(name); err == nil {
			r.next = max(r.next, n+1)
		}
	}
	if err := r.bring(dirFiles); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for {
		dirs, err := r.names(dirGone)
		if err != nil {
			return err
		}
		if len(dirs) == 0 {
			return root.Remove(dirGone)
		}
		for _, dir := range dirs {
			if err := r.empty(path.Join(dirGone, dir)); err != nil {
				return err
			}
		}
	}
}

type remover struct {
	ctx  context.Context
	root *os.Root
	next int // number in dirGone
}

// some is how many names are read at once.
const some = 1024

// names are some of those in a directory.
func (r *remover) names(dir string) ([]string, error) {
	f, err := r.root.OpenFile(dir, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(some)
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
	err := r.root.Rename(dir, path.Join(dirGone, strconv.Itoa(r.next)))
	r.next++
	return err
}

// empty removes a directory below which there is nothing but files, once its own
// directories were brought up.
func (r *remover) empty(dir string) error {
	for {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		names, err := r.names(dir)
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
