//go:build linux

package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// taskDir is the directory of one task:
//
//	spec      what to run; written by the agent, read by the supervisor
//	held      how it is held in; written by the agent before it starts a supervisor
//	orders    what the agent wants of the supervisor; a slot
//	claim     who supervises; made once, by link(2), and never changed
//	void      the claim that nobody shall; linked where it is wanted
//	child     what was started
//	exit      how it ended; a slot
//	log.N     output from byte N on
//	work/     the task's working directory
//	tmp/      its /tmp
//	root/     where its root is put together; empty to everybody else
type taskDir string

// dirName is the name of the task's directory.
func dirName(id placement.TaskID) string { return strings.ReplaceAll(string(id), "/", "_") }

func (t taskDir) path(name string) string { return filepath.Join(string(t), name) }

// slotSize is the fixed size of a slot in bytes. A slot is written once in full
// when the task is made, so that a disk that fills up later cannot keep the
// end of a task, or the order to end it, from being written down.
const slotSize = 4096

// maxSpec bounds what a supervisor reads as its spec, in bytes.
const maxSpec = 4 << 20

// spec is what the supervisor is told.
type spec struct {
	runner.Spec
	Cgroup      string `json:"cgroup"`
	LogFileSize int64  `json:"log_file_size"`
	LogFiles    int    `json:"log_files"`
	// Held is read from a file of its own: it is decided once the task is known.
	Held *held `json:"-"`
	// Told and Limits are those of an [Order].
	Told   json.RawMessage      `json:"told,omitempty"`
	Limits *placement.Resources `json:"limits,omitempty"`
}

// pids is how many processes the task may have; 0 is no bound, for what is built
// upon this driver and counts its own.
func (s *spec) pids() int {
	switch {
	case s.Told != nil || s.Limits != nil:
		return 0
	case s.Setup != nil && s.Setup.Pids > 0:
		return s.Setup.Pids
	}
	return placement.DefaultPids
}

// limits are what the task's cgroups hold it to.
func (s *spec) limits() placement.Resources {
	if s.Limits != nil {
		return *s.Limits
	}
	return s.Resources
}

// orders is what the agent wants. A later order is written over the earlier.
type orders struct {
	Stop       bool          `json:"stop,omitempty"`
	Grace      time.Duration `json:"grace,omitempty"`
	StopAt     time.Time     `json:"stop_at,omitzero"`
	LeaseUntil time.Time     `json:"lease_until,omitzero"`
}

// claim names the task's supervisor. Void is claimed by an agent that wants
// certainty that no supervisor will ever start the task.
type claim struct {
	process
	Void bool `json:"void,omitempty"`
}

// child is what the supervisor started.
type child struct {
	process
	Since   time.Time `json:"since"`
	Cgroups []string  `json:"cgroups,omitempty"` // directories
	// Init is the first process of the task's namespace, and Boundary what the
	// supervisor holds the task by.
	Init     int               `json:"init,omitempty"`
	Boundary []runner.Boundary `json:"boundary,omitempty"`
}

// make lays the directory out beside its place and moves it there in one step,
// so that no supervisor ever sees half of it. fill, which may be nil, adds to it
// meanwhile. It fails with fs.ErrExist if there is one.
func (t taskDir) make(s spec, fill func(dir string) error) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	fresh := taskDir(filepath.Join(filepath.Dir(string(t)), ".new-"+filepath.Base(string(t))))
	err = errors.Join(
		os.RemoveAll(string(fresh)), // of a start that was cut off
		os.Mkdir(string(fresh), 0o700),
		os.WriteFile(fresh.path("spec"), data, 0o600),
		os.WriteFile(fresh.path("void"), []byte(`{"void":true}`), 0o600),
		fresh.makeSlot("orders"),
		fresh.makeSlot("exit"),
		os.Mkdir(fresh.path("work"), 0o700),
		os.Mkdir(fresh.path("tmp"), 0o700),
	)
	if err == nil && fill != nil {
		err = fill(string(fresh))
	}
	if err == nil {
		err = os.Rename(string(fresh), string(t))
	}
	if err != nil {
		_ = os.RemoveAll(string(fresh))
	}
	return err
}

func (t taskDir) makeSlot(name string) error {
	return os.WriteFile(t.path(name), bytes.Repeat([]byte{' '}, slotSize), 0o600)
}

// writeSlot replaces a slot's content in place.
func (t taskDir) writeSlot(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) >= slotSize {
		return fmt.Errorf("%s: %d bytes do not fit", name, len(data))
	}
	data = append(data, bytes.Repeat([]byte{' '}, slotSize-len(data))...)
	f, err := os.OpenFile(t.path(name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	return errors.Join(err, f.Sync(), f.Close())
}

// readSlot reads a slot and reports whether anything was ever written to it. A
// reader that meets a write half done sees no JSON, and reads again.
func (t taskDir) readSlot(name string, v any) (bool, error) {
	for tries := 0; ; tries++ {
		data, err := readBounded(t.path(name), slotSize)
		if err != nil {
			return false, err
		}
		if data = bytes.TrimSpace(data); len(data) == 0 {
			return false, nil
		}
		if err = json.Unmarshal(data, v); err == nil {
			return true, nil
		}
		if tries == 100 {
			return false, fmt.Errorf("%s: %w", t.path(name), err)
		}
	}
}

func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return data, err
}

func (t taskDir) readJSON(name string, v any) error {
	data, err := readBounded(t.path(name), maxSpec)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", t.path(name), err)
	}
	return nil
}

// takeClaim makes the claim, once for ever: of two that try, one gets
// fs.ErrExist.
func (t taskDir) takeClaim(c claim) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(string(t), ".claim")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Link(f.Name(), t.path("claim"))
	}
	_ = os.Remove(f.Name())
	return err
}

// voidClaim claims the task for nobody. It needs no space on the disk.
func (t taskDir) voidClaim() error { return os.Link(t.path("void"), t.path("claim")) }

// exit is the task's end, if it is written down.
func (t taskDir) exit() (*runner.Exit, error) {
	var e runner.Exit
	ok, err := t.readSlot("exit", &e)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if !ok || err != nil {
		return nil, err
	}
	return &e, nil
}
