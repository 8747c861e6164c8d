//go:build linux

package process

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

	"github.com/sovmesh/sovmesh/placement"
)

// freezePatience bounds the wait until every thread of a task stands.
const freezePatience = 5 * time.Second

// Freeze holds all that runs of a task still, whatever it would rather do, until
// [Driver.Thaw]; it can be ended meanwhile. It lasts beyond the agent. By its
// cgroup where that is of the unified hierarchy and it is in it; else the process
// that was launched is stopped by a signal, which no process can let itself go on
// from. Of a task that has ended it does nothing; one of which nothing says what
// was launched is an error.
func (d *Driver) Freeze(ctx context.Context, id placement.TaskID) error {
	what, err := d.launched(id)
	if err == nil && what.PID == 0 {
		err = errors.New("which process was launched for it is not written down")
	}
	if err != nil {
		return fmt.Errorf("freeze task %s: %w", id, err)
	}
	if !what.alive() {
		return nil
	}
	dir := freezable(what)
	if dir == "" {
		err = what.signal(unix.SIGSTOP)
	} else {
		err = os.WriteFile(filepath.Join(dir, freezeFile), []byte("1"), 0)
	}
	ctx, cancel := context.WithTimeout(ctx, freezePatience)
	defer cancel()
	for err == nil && what.alive() && !stopped(dir, what) {
		tick := time.NewTimer(time.Millisecond)
		select {
		case <-tick.C:
		case <-ctx.Done():
			err = fmt.Errorf("it does not stand: %w", ctx.Err())
		}
		tick.Stop()
	}
	if err != nil {
		return fmt.Errorf("freeze task %s: %w", id, err)
	}
	return nil
}

// Thaw lets a task go on that was frozen; of any other it does nothing.
func (d *Driver) Thaw(id placement.TaskID) error {
	what, err := d.launched(id)
	if err != nil || !what.alive() {
		return err
	}
	if dir := freezable(what); dir != "" {
		if err = os.WriteFile(filepath.Join(dir, freezeFile), []byte("0"), 0); errors.Is(err, fs.ErrNotExist) {
			err = nil // it has just ended
		}
	}
	if state, _, _, seen := stat(what.PID); err == nil && seen == nil && state == 'T' {
		err = what.signal(unix.SIGCONT)
	}
	if err != nil {
		return fmt.Errorf("thaw task %s: %w", id, err)
	}
	return nil
}

// Frozen reports whether a task that lives is frozen.
func (d *Driver) Frozen(id placement.TaskID) bool {
	what, err := d.launched(id)
	return err == nil && what.alive() && stopped(freezable(what), what)
}

// launched is what was launched for a task, empty if that is not written down.
func (d *Driver) launched(id placement.TaskID) (what child, err error) {
	err = d.dir(id).readJSON("child", &what)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return what, err
}

// freezeFile is that of cgroup v2.
// https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files
const freezeFile = "cgroup.freeze"

// freezable is the cgroup by which a task can be frozen; empty for none. The task
// has one and is not in it where the kernel refused to start it there, and an empty
// one says of itself that it is frozen.
func freezable(what child) string {
	for _, dir := range what.Cgroups {
		if _, err := os.Stat(filepath.Join(dir, freezeFile)); err == nil && slices.Contains(members(dir), what.PID) {
			return dir
		}
	}
	return ""
}

// stopped reports whether the whole cgroup stands, or without one the process.
func stopped(dir string, what child) bool {
	if dir == "" {
		state, _, _, err := stat(what.PID)
		return err == nil && state == 'T'
	}
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	return err == nil && strings.Contains(string(data), "frozen 1")
}
