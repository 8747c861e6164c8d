package agents

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// proc is a process as a task's directory names it: a number alone may have
// been used again.
type proc struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
}

// alive reports whether exactly this process still runs.
func (p proc) alive() bool {
	start, state, ok := startOf(p.PID)
	return ok && start == p.Start && state != 'Z'
}

// startOf reads when a process began, and its state.
func startOf(pid int) (start uint64, state byte, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false
	}
	_, rest, _ := bytes.Cut(data[max(bytes.LastIndexByte(data, ')'), 0):], []byte(") "))
	f := strings.Fields(string(rest))
	if len(f) < 20 {
		return 0, 0, false
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	return start, f[0][0], err == nil
}

// Running reports whether a process with this number runs.
func Running(pid int) bool {
	_, state, ok := startOf(pid)
	return ok && state != 'Z'
}

// endTasks ends the tasks that outlived their agents: first the commands, whose
// supervisors then write the end down and go, then whoever did not.
func endTasks(ctx context.Context, dir string) error {
	commands, err := named(dir, "child")
	if err != nil {
		return err
	}
	supervisors, err := named(dir, "claim")
	if err != nil {
		return err
	}
	for _, c := range commands {
		if c.alive() {
			_ = unix.Kill(c.PID, unix.SIGKILL)
		}
	}
	err = Until(ctx, func(context.Context) string {
		for _, s := range supervisors {
			if s.alive() {
				return fmt.Sprintf("supervisor %d of a task still runs", s.PID)
			}
		}
		return ""
	})
	for _, s := range supervisors {
		if s.alive() {
			_ = unix.Kill(s.PID, unix.SIGKILL)
		}
	}
	return errors.Join(err, endNetworks(dir))
}

// endNetworks lets go of the networks of tasks that no agent saw end.
func endNetworks(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case e.IsDir() || filepath.Ext(path) != ".net":
			return nil
		}
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
		return nil
	})
}

// named reads the process that each task directory below dir names in a file.
func named(dir, file string) ([]proc, error) {
	var out []proc
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // it ended while we looked
		case err != nil:
			return err
		case e.Name() != file || e.IsDir():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		var p proc
		if json.Unmarshal(data, &p) == nil && p.PID > 1 {
			out = append(out, p)
		}
		return nil
	})
	return out, err
}
