// Package outputs keeps the files that tasks leave to be fetched.
//
// A task has a directory to write to while it runs. When it has ended its regular
// files are counted, hashed and kept, up to its job's bounds; all else goes. What
// lies there was made by somebody who may mean harm: links, pipes, endless trees,
// names that are none. The rules: nothing is opened before it lies, under a number,
// in a directory that no workload ever saw, and is a regular file there; no name of
// a workload's is used as a path once the list is written; every count has a bound;
// and what is not kept is removed by node/tree, whatever its depth.
//
// The runner makes, gathers and removes them; the API lists and reads them.
package outputs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/node/tree"
	"github.com/sovmesh/sovmesh/placement"
)

// What lies in a task's directory.
const (
	dirFiles = "files" // the workload's own
	dirKept  = "kept"  // what is kept of it, under numbers
	fileList = "list.json"
)

// maxList bounds the file of a list, in bytes.
const maxList = 32 << 20

// Store keeps them below one directory, which is the node's alone.
type Store struct{ dir string }

// New is a store below dir, which is made with the first task.
func New(dir string) *Store { return &Store{dir} }

func (s *Store) path(id placement.TaskID) string {
	return filepath.Join(s.dir, strings.ReplaceAll(string(id), "/", "_"))
}

// Make is the directory that a task that is to start writes to. It is there
// already if an earlier start was cut off.
func (s *Store) Make(id placement.TaskID) (string, error) {
	dir := filepath.Join(s.path(id), dirFiles)
	if err := errors.Join(os.MkdirAll(s.path(id), 0o700), os.MkdirAll(dir, 0o700)); err != nil {
		return "", fmt.Errorf("outputs of task %s: %w", id, err)
	}
	return dir, nil
}

// Gather keeps what a task that has ended left, and says what that is. It is done
// once: asked again, also after a crash, it gives the same list.
func (s *Store) Gather(ctx context.Context, id placement.TaskID, most placement.Outputs) (*placement.OutputList, error) {
	if done, err := s.List(id); !errors.Is(err, fs.ErrNotExist) {
		return done, err
	}
	root, err := os.OpenRoot(s.path(id))
	if err != nil {
		return nil, fmt.Errorf("outputs of task %s: %w", id, err)
	}
	defer root.Close()
	var list *kept
	if err = errors.Join(root.RemoveAll(dirKept), root.Mkdir(dirKept, 0o700)); err == nil { // of a try that was cut off
		list, err = gather(ctx, root, most.Bounds())
	}
	if err == nil {
		err = s.write(id, list)
	}
	if err != nil {
		return nil, fmt.Errorf("outputs of task %s: %w", id, err)
	}
	return &list.OutputList, nil
}

// kept is the list as it lies on the disk. Numbers are those of the files in
// dirKept, in the order of the list.
type kept struct {
	placement.OutputList
	Numbers []int `json:"numbers"`
}

// write puts the list in its place in one step: from then on it is what was left.
func (s *Store) write(id placement.TaskID, list *kept) error {
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	name := filepath.Join(s.path(id), fileList)
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(name+".new", name)
	}
	return err
}

func (s *Store) read(id placement.TaskID) (*kept, error) {
	f, err := os.Open(filepath.Join(s.path(id), fileList))
	if err != nil {
		return nil, fmt.Errorf("outputs of task %s: %w", id, err)
	}
	defer f.Close()
	var list kept
	if err = json.NewDecoder(io.LimitReader(f, maxList)).Decode(&list); err == nil {
		err = list.Check()
	}
	if err == nil && len(list.Numbers) != len(list.Files) {
		err = errors.New("it has not one number for each file")
	}
	if err != nil {
		return nil, fmt.Errorf("the list of outputs of task %s: %w", id, err)
	}
	return &list, nil
}

// List is what was kept of a task. Before it has ended, and of one that keeps
// nothing, the error is an fs.ErrNotExist.
func (s *Store) List(id placement.TaskID) (*placement.OutputList, error) {
	list, err := s.read(id)
	if err != nil {
		return nil, err
	}
	return &list.OutputList, nil
}

// Open reads the file of a task that has the digest: as many bytes as the list
// says. Whether they are still the same is for the reader to compare.
func (s *Store) Open(id placement.TaskID, digest string) (io.ReadCloser, error) {
	list, err := s.read(id)
	if err != nil {
		return nil, err
	}
	for i, f := range list.Files {
		if f.Digest != digest {
			continue
		}
		file, err := os.Open(filepath.Join(s.path(id), dirKept, strconv.Itoa(list.Numbers[i])))
		if err != nil {
			return nil, fmt.Errorf("an output of task %s: %w", id, err)
		}
		return struct {
			io.Reader
			io.Closer
		}{io.LimitReader(file, f.Size), file}, nil
	}
	return nil, fmt.Errorf("task %s kept no output of that digest: %w", id, fs.ErrNotExist)
}

// Sweep removes what of a task was not kept. It may take long, and goes on where
// it was cut off.
func (s *Store) Sweep(ctx context.Context, id placement.TaskID) error {
	root, err := os.OpenRoot(s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer root.Close()
		err = tree.Remove(ctx, root, dirFiles)
	}
	if err != nil {
		return fmt.Errorf("remove what task %s left beside its outputs: %w", id, err)
	}
	return nil
}

// Drop removes all of a task's. Nothing may be there.
func (s *Store) Drop(ctx context.Context, id placement.TaskID) error {
	if err := tree.RemoveAll(ctx, s.path(id)); err != nil {
		return fmt.Errorf("remove the outputs of task %s: %w", id, err)
	}
	return nil
}
