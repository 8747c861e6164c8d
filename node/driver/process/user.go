//go:build linux

package process

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// A task's own user is a number of the range that no other task has. A file in
// the driver's directory says whose it is: of two that want one number, one
// makes the file. Of several agents on a machine each has a part of the range.

func (d *Driver) userFile(number int) string {
	return filepath.Join(d.cfg.Dir, ".user-"+strconv.Itoa(number))
}

// takeUser gives the task a number, the one it had if it had one.
func (d *Driver) takeUser(id placement.TaskID) (int, error) {
	base, size, err := d.cfg.Hold.Part("processes", d.cfg.Dir, d.cfg.Hold.FirstUser, d.cfg.Hold.Users)
	if err != nil {
		return 0, fmt.Errorf("take a user for task %s: %w", id, err)
	}
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(d.dir(id)))
	first := int(sum.Sum64() % uint64(size))
	for try := range size {
		number := base + (first+try)%size
		switch ok, err := d.claimUser(number, id); {
		case err != nil:
			return 0, fmt.Errorf("take a user for task %s: %w", id, err)
		case ok:
			return number, nil
		}
	}
	return 0, fmt.Errorf("take a user for task %s: all %d of this agent's are taken", id, size)
}

func (d *Driver) claimUser(number int, id placement.TaskID) (bool, error) {
	f, err := os.OpenFile(d.userFile(number), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(string(id))
		return err == nil, errors.Join(err, f.Close())
	}
	if !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	owner, err := os.ReadFile(d.userFile(number))
	return err == nil && bytes.Equal(owner, []byte(id)), nil
}

// forgetUser frees the number of a task that was not held in after all, if it took
// one: its directory does not name it.
func (d *Driver) forgetUser(id placement.TaskID) error {
	if d.cfg.Hold.Users == 0 || os.Geteuid() != 0 {
		return nil
	}
	number, err := d.takeUser(id) // the one it had
	if err != nil {
		return nil // none is free, and so it had none
	}
	return d.giveUserBack(id, number)
}

// giveUserBack frees the number of a task that is removed.
func (d *Driver) giveUserBack(id placement.TaskID, number int) error {
	owner, err := os.ReadFile(d.userFile(number))
	if err != nil || strings.TrimSpace(string(owner)) != string(id) {
		return nil
	}
	return os.Remove(d.userFile(number))
}
