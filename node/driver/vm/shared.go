//go:build linux

package vm

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Nodes may keep what jobs keep in the same place: their directories "disks" are
// one directory that all of them see. What lies there is not copied when a machine
// moves between them. QEMU's own locks on a disk see to it that one machine at a
// time writes to it: the target takes them when its guest goes on.

// storageFile, in that directory, names it; selfFile, beside it, names this node.
const (
	storageFile = ".storage-id"
	selfFile    = "node-id"
)

// probeName begins the names of files by which one node shows another that it
// sees the same directory.
const probeName = ".probe-"

// idBytes is the length of such names' random part.
const idBytes = 16

func randomID() string {
	var b [idBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// named is the name that a file holds; it is written once and stays.
func named(path string) (string, error) {
	fresh := fmt.Sprintf("%s-%s", path, randomID())
	for range 2 {
		data, err := os.ReadFile(path)
		if err == nil && !isID(string(data)) {
			return "", fmt.Errorf("%s does not hold a name: %.80q; remove it", path, data)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return string(data), err
		}
		err = writeSynced(fresh, []byte(randomID()))
		if err == nil {
			err = os.Link(fresh, path) // of two at once, one
		}
		err = errors.Join(ignoring(err, fs.ErrExist), ignoring(os.Remove(fresh), fs.ErrNotExist), syncDir(filepath.Dir(path)))
		if err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("%s came and went", path)
}

func ignoring(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

func isID(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 2*idBytes
}

func (d *Driver) disks() string { return filepath.Join(d.cfg.Dir, "disks") }

// self names this node to others that keep disks in the same place.
func (d *Driver) self() (string, error) { return named(filepath.Join(d.cfg.Dir, selfFile)) }

// shows says where this node keeps disks, and puts a sign there which nobody knows
// yet: a node made from a copy of another has its name too, and not its disks.
func (d *Driver) shows() (storage, probe string, done func(), err error) {
	if storage, err = named(filepath.Join(d.disks(), storageFile)); err != nil {
		return "", "", nil, fmt.Errorf("name the place of its disks: %w", err)
	}
	probe = randomID()
	path := filepath.Join(d.disks(), probeName+probe)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return "", "", nil, fmt.Errorf("show the place of its disks: %w", explainSpace(err))
	}
	return storage, probe, func() { _ = os.Remove(path) }, nil
}

// sees reports whether this node keeps disks where another says that it does. What
// cannot be told is an error: where a place that both see is taken for two, the end
// of the move at its source removes the only disks that there are.
func (d *Driver) sees(storage, probe string) (bool, error) {
	if storage == "" && probe == "" {
		return false, nil // nothing of it is kept
	}
	if !isID(storage) || !isID(probe) {
		return false, fmt.Errorf("the other node names the place of its disks %.80q, and its sign there %.80q", storage, probe)
	}
	at := filepath.Join(d.disks(), storageFile)
	mine, err := named(at)
	if err != nil {
		return false, fmt.Errorf("tell whether both nodes keep disks in the same place: %w", err)
	}
	if mine != storage {
		return false, nil
	}
	_, err = os.Lstat(filepath.Join(d.disks(), probeName+probe))
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("both nodes' disks lie in a place of the same name, and what the other node put there is not seen here: "+
			"if one was made from a copy of the other, remove %s on this node, which writes a new one; if both see one directory, mount it so that what one writes the other sees at once", at)
	}
	return false, fmt.Errorf("tell whether both nodes keep disks in the same place: %w", err)
}
