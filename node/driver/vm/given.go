//go:build linux

package vm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// givenFile, beside a copy's disks, says that a task of this node may have gone on
// elsewhere with newer ones: the task was destroyed here after the other side had
// heard that it has all of it, and before the ledger's word was heard. It holds
// that task's name.
const givenFile = "given"

// markGiven keeps what lies in a task's place from being booted. It is on the disk
// when it returns; where nothing is kept there is nothing to mark.
func (d *Driver) markGiven(id placement.TaskID) error {
	at := d.kept(id)
	err := writeSynced(filepath.Join(at, givenFile), []byte(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(at)
	}
	if err != nil {
		return fmt.Errorf("mark the disks of task %s, which may have gone on elsewhere: %w", id, explainSpace(err))
	}
	return nil
}

// settleGiven does what the ledger says of a place that such a task left.
func (d *Driver) settleGiven(id placement.TaskID, here bool) error {
	at := d.kept(id)
	who, err := os.ReadFile(filepath.Join(at, givenFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case string(who) != string(id): // of another move
		return nil
	case !here:
		return d.dropPlace(place(id))
	}
	if err := os.Remove(filepath.Join(at, givenFile)); err != nil {
		return err
	}
	return syncDir(at)
}

// notGiven refuses to start a machine on disks that may be old.
func (d *Driver) notGiven(s runner.Spec) error {
	at := d.kept(s.Task)
	who, err := os.ReadFile(filepath.Join(at, givenFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return refuse(s, fmt.Sprintf("see where it went on: sovmesh job show; only if its move was given up are these disks the newest: the node's operator then removes %s from %s", givenFile, at),
		"task %.100q was sent from this node to another and removed here before the region's ledger had decided where it goes on: its disks here may be old", who)
}
