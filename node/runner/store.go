package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Record is what a node remembers of one of its tasks across restarts of the
// agent. It exists from before the task is started until it is collected.
type Record struct {
	Version   int                `json:"version"`
	Task      placement.TaskID   `json:"task"`
	Job       placement.JobID    `json:"job"`
	Kind      placement.Kind     `json:"kind"`
	Tenant    placement.TenantID `json:"tenant,omitempty"`
	Devices   []string           `json:"devices,omitempty"`
	Singleton bool               `json:"singleton,omitempty"`
	Grace     placement.Duration `json:"grace"`
	// MaxRuntime ends the task when it has run so long; 0 is no bound.
	MaxRuntime placement.Duration `json:"max_runtime,omitempty"`
	// RunsSince is when it began on another node, if it was moved here.
	RunsSince time.Time `json:"runs_since,omitzero"`
	// Index is that of the committed view that first showed the assignment.
	Index      uint64    `json:"index"`
	LeaseUntil time.Time `json:"lease_until,omitzero"`
	// Handle is set from just before the task is started.
	Handle *Handle `json:"handle,omitempty"`
	// Declared is what the task is held against while it runs.
	Declared *Declared `json:"declared,omitempty"`
	// Move is set while a move of the task is not decided.
	Move *Moving `json:"move,omitempty"`
	// List is what the task may reach, if names are in it: what they stand for changes.
	List *placement.Network `json:"list,omitempty"`
	// Serves are the ports that other jobs' tasks may reach by the job's name; none
	// unless it is a service.
	Serves []int `json:"serves,omitempty"`
	// Outputs bounds what the task leaves to be fetched; nil for none. Gathered is the
	// digest of the list of what was kept of it, once that is done, for its note.
	Outputs  *placement.Outputs `json:"outputs,omitempty"`
	Gathered *Gathered          `json:"gathered,omitempty"`
	// Noted is what was said of the task in its region's ledger; never changed, but
	// replaced.
	Noted *Noted `json:"noted,omitempty"`
	// Status is the last one that is known; a terminal one is final.
	Status    placement.TaskStatus `json:"status"`
	Reason    string               `json:"reason,omitempty"`
	Exit      *Exit                `json:"exit,omitempty"`
	StartedAt time.Time            `json:"started_at,omitzero"`
	EndedAt   time.Time            `json:"ended_at,omitzero"`
}

// Store keeps the records. A Save that returned nil survives a power cut.
type Store interface {
	Load() (records []Record, floor uint64, err error)
	Save(Record) error
	// Delete forgets a task. floor is the index of the committed view that said
	// the task is over: views before it, in which the task may still look as if
	// it had to be started, are not acted upon any more.
	Delete(id placement.TaskID, floor uint64) error
}

const recordVersion = 1

// maxRecord bounds the size of a record's file in bytes.
const maxRecord = 1 << 20

// Dir is a [Store] of one file per task in a directory of its own.
type Dir struct {
	path string
	mu   sync.Mutex // serialises changes to the directory's floor
	low  uint64     // guarded by mu: the floor on disk
}

// OpenDir makes the directory, readable by its owner only: a record may hold
// what a job's author keeps private.
func OpenDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("open the runner's state: %w", err)
	}
	return &Dir{path: path}, nil
}

// fileName is the task's file: its id with the slash made harmless.
func fileName(id placement.TaskID) string {
	return strings.ReplaceAll(string(id), "/", "_") + ".json"
}

// Load reads every record. A record that cannot be read stops the node: what
// it runs must not be guessed.
func (d *Dir) Load() ([]Record, uint64, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, 0, fmt.Errorf("read the runner's state: %w", err)
	}
	var records []Record
	for _, e := range entries {
		name := e.Name()
		if strings.HasSuffix(name, ".tmp") {
			_ = os.Remove(filepath.Join(d.path, name)) // a save that was cut off
			continue
		}
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		r, err := readRecord(filepath.Join(d.path, name))
		if err != nil {
			return nil, 0, err
		}
		records = append(records, r)
	}
	floor, err := d.floor()
	return records, floor, err
}

func readRecord(path string) (Record, error) {
	var r Record
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxRecord {
		err = fmt.Errorf("it is larger than %d bytes", maxRecord)
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err == nil && (r.Version != recordVersion || r.Task == "") {
		err = fmt.Errorf("version %d of task %q is not known to this program", r.Version, r.Task)
	}
	if err != nil {
		return Record{}, fmt.Errorf("task state %s cannot be read (move it away to start without that task's history): %w", path, err)
	}
	return r, nil
}

// Save replaces the task's file in one step.
func (d *Dir) Save(r Record) error {
	r.Version = recordVersion
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("keep task %s: %w", r.Task, err)
	}
	if err := d.write(fileName(r.Task), data); err != nil {
		return fmt.Errorf("keep task %s: %w", r.Task, err)
	}
	return nil
}

// Delete raises the floor, then removes the file: in the other order a crash
// between the two could let an old view start the task again.
func (d *Dir) Delete(id placement.TaskID, floor uint64) error {
	if err := d.raise(floor); err != nil {
		return fmt.Errorf("forget task %s: %w", id, err)
	}
	err := os.Remove(filepath.Join(d.path, fileName(id)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget task %s: %w", id, err)
	}
	return nil
}

func (d *Dir) raise(floor uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if floor <= d.low {
		return nil
	}
	if err := d.write("floor", fmt.Appendf(nil, "%d\n", floor)); err != nil {
		return err
	}
	d.low = floor
	return nil
}

func (d *Dir) floor() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	data, err := os.ReadFile(filepath.Join(d.path, "floor"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil {
		_, err = fmt.Sscanf(string(data), "%d", &d.low)
	}
	if err != nil {
		return 0, fmt.Errorf("read the runner's floor: %w", err)
	}
	return d.low, nil
}

// write is temporary file, fsync, rename, fsync of the directory.
func (d *Dir) write(name string, data []byte) error {
	f, err := os.CreateTemp(d.path, name+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(d.path, name))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	dir, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
