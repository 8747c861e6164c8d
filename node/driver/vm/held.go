//go:build linux

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// moveFile, in a task's directory, says that the task is on its way from one
// node to another. It is there before anything of the move is, and goes when the
// move is decided and done. While it is there nobody lets the guest go on but
// [Driver.Finish], and QEMU itself, at the source, when the move failed before
// the target had all of it.
const moveFile = "move"

// note is what moveFile holds.
type note struct {
	Way   way       `json:"way"`
	Stage moveStage `json:"stage"`
	// Paused: somebody held it still before it was moved; it stays so after.
	Paused bool `json:"paused,omitempty"`
	// Cleared: what the job keeps on this node was settled too.
	Cleared bool `json:"cleared,omitempty"`
	// Shared: what the job keeps lies where the other node has it too.
	Shared bool `json:"shared,omitempty"`
}

type way string

const (
	out way = "out"
	in  way = "in"
)

// moveStage is how far a move got on this side.
type moveStage string

const (
	underWay moveStage = "under way" // it may not be whole here, or not there
	said     moveStage = "said"      // the other side may have heard that it has all
	whole    moveStage = "whole"     // taken in; the other side said that it stands
	goesOn   moveStage = "goes on"   // decided: here
	gaveUp   moveStage = "gave up"   // decided: on the other side
)

// note reads what is written down of a task's move; nil if it is in none.
func (d *Driver) note(id placement.TaskID) (*note, error) {
	var n note
	err := readJSON(filepath.Join(d.TaskDir(id), moveFile), &n)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("task %s: read how far its move got: %w", id, err)
	}
	return &n, nil
}

// writeNote has it on the disk when it returns.
func writeNote(dir string, n note) error {
	if err := writeJSON(filepath.Join(dir, moveFile), n); err != nil {
		return fmt.Errorf("write down how far the move got: %w", explainSpace(err))
	}
	return nil
}

// readyNote has a note on the disk before its time, so that to write it down is
// then but to give it its name.
func readyNote(dir string, n note) (write func() error, err error) {
	data, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	ahead := filepath.Join(dir, moveFile+".ahead")
	if err := writeSynced(ahead, data); err != nil {
		return nil, fmt.Errorf("write down how far the move got: %w", explainSpace(err))
	}
	return func() error {
		err := os.Rename(ahead, filepath.Join(dir, moveFile))
		if err == nil {
			err = syncDir(dir)
		}
		if err != nil {
			return fmt.Errorf("write down how far the move got: %w", explainSpace(err))
		}
		return nil
	}, nil
}

// removeNote ends the move on this side.
func (d *Driver) removeNote(id placement.TaskID) error {
	dir := d.TaskDir(id)
	if err := os.Remove(filepath.Join(dir, moveFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(dir)
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncDir has a directory, or a file, on the disk as it is now.
func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// use is what this process does with a task that a move cannot go beside, or
// the move itself.
type use struct {
	moving bool
	still  bool // the move holds it still
	others int  // who need it to stay as it is
}

// steady keeps moves of a task away until it is released; it fails while there
// is one.
func (d *Driver) steady(id placement.TaskID) (release func(), err error) {
	n, err := d.note(id)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.uses[id]
	if u == nil {
		u = &use{}
	}
	if u.moving || n != nil {
		return nil, fmt.Errorf("task %s is being moved to another node: it goes on where the region's ledger says, and can be held still or copied then", id)
	}
	u.others++
	d.uses[id] = u
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if u.others--; u.others == 0 {
			delete(d.uses, id)
		}
	}, nil
}

// moving makes this the one move of a task.
func (d *Driver) moving(id placement.TaskID) (done func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.uses[id] != nil {
		return nil, fmt.Errorf("move task %s: it is being moved, held still or copied just now; try again", id)
	}
	d.uses[id] = &use{moving: true}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.uses, id)
	}, nil
}

// stands says whether the move under way holds the task still.
func (d *Driver) stands(id placement.TaskID, still bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if u := d.uses[id]; u != nil {
		u.still = still
	}
}

// hold fills in what a move means for what is seen of a task.
func (d *Driver) hold(ctx context.Context, o *runner.Observed) {
	n, err := d.note(o.Handle.Task)
	if n == nil && err == nil {
		return
	}
	if err == nil && n.Stage == gaveUp {
		if o.State == runner.StateExited {
			o.State, o.Exit = runner.StateGone, nil // its end is told where it goes on
		}
		return
	}
	if o.State != runner.StateRunning {
		return
	}
	if err == nil && n.Way == in {
		o.Held = runner.HeldReceived
		return
	}
	d.mu.Lock()
	u := d.uses[o.Handle.Task]
	mine, still := u != nil && u.moving, u != nil && u.still
	d.mu.Unlock()
	if mine && !still {
		return
	}
	if !mine && err == nil && n.Stage == underWay && d.cameBack(ctx, o.Handle) {
		return
	}
	o.Held = runner.HeldSent
}

// recoverPatience bounds the question to a QEMU that may hang.
const recoverPatience = 3 * time.Second

// cameBack finds out, after the agent that moved a task was killed, whether the
// move failed while the guest still ran: then it never left, and goes on, with
// nothing of the move in its QEMU. One of which the other side may have all is
// not asked: a QEMU that its guest has taken over would say what it likes.
func (d *Driver) cameBack(ctx context.Context, h runner.Handle) bool {
	done, err := d.moving(h.Task)
	if err != nil {
		return false
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, recoverPatience)
	defer cancel()
	err = d.control(ctx, h.Task, func(m *qmp.Client) error {
		runs, status, err := moveState(ctx, m)
		if err == nil && (!runs || underWayStatus(status)) {
			err = errors.New("it stands")
		}
		if err == nil {
			err = sweep(ctx, m)
		}
		return err
	})
	return err == nil && d.removeNote(h.Task) == nil
}
