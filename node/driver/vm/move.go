//go:build linux

package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

var _ runner.Migrator = (*Driver)(nil)

// moveSocket is QEMU's monitor for moves, in the machine's own directory: one
// that lasts as long as a disk takes to be copied must not keep others waiting.
const moveSocket = "move.sock"

// MoveKey names QEMU by its minor version, for what it writes is read by all
// that have it, and the processor as guests see it: the host's own, under KVM
// without a model, is that of hosts just like it.
func (d *Driver) MoveKey(ctx context.Context) (string, error) {
	a, err := d.probe(ctx)
	if err != nil {
		return "", nil // no task of this node runs at all
	}
	return moveKey(a, d.cfg.Hold.Network != nil)
}

// moveKey is of machines on a tap, or on a network of QEMU's own: the card that a
// guest sees is not the same.
func moveKey(a qemu.Accel, tap bool) (string, error) {
	kind := machineType(a.Version)
	if kind == plainMachine {
		return "", nil // which machine that is, is not known
	}
	cpu := a.CPU
	if cpu == "host" {
		data, err := os.ReadFile("/proc/cpuinfo")
		if err != nil {
			return "", fmt.Errorf("tell the processor: %w", err)
		}
		cpu += "-" + processor(string(data))
	}
	if tap {
		cpu += " tap"
	}
	return kind + " " + a.Name + " " + cpu, nil
}

// processor is short for all of a processor that a guest can tell it by.
func processor(cpuinfo string) string {
	sum := sha256.New()
	first, _, _ := strings.Cut(cpuinfo, "\n\n")
	for line := range strings.Lines(first) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "vendor_id", "cpu family", "model", "stepping", "flags":
			fmt.Fprintf(sum, "%s\n", strings.TrimSpace(value))
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:6])
}

// moveFact says in words which machines of this node can be moved.
func (d *Driver) moveFact(ctx context.Context) string {
	key, err := d.MoveKey(ctx)
	switch {
	case err != nil:
		return "none: " + err.Error()
	case key == "":
		return "none: this QEMU's version is not understood"
	}
	return key
}

// plainMachine is the newest machine of a QEMU, whichever that is.
const plainMachine = "q35"

// machineType is the machine of a version of QEMU, by which other versions know
// it: what a guest was started on, it finds on the other side.
func machineType(version string) string {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 || !number(parts[0]) || !number(parts[1]) {
		return plainMachine
	}
	return "pc-q35-" + parts[0] + "." + parts[1]
}

func number(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// CanMove says what of the machine itself stands against moving it.
func (d *Driver) CanMove(_ context.Context, h runner.Handle) ([]string, error) {
	m, t, err := d.told(h.Task)
	if err != nil {
		return nil, err
	}
	var why []string
	for _, address := range t.PCI {
		why = append(why, fmt.Sprintf("the device %s is handed to it by VFIO, and its state cannot be carried over", address))
	}
	if t.Open {
		why = append(why, "it has the network of this node, and its connections end here")
	}
	if !slices.Contains(m.Args, moveChardev) || m.Type == plainMachine {
		why = append(why, "it was started by a version of the program that did not move machines: it can be after its next start")
	}
	if _, left, err := d.along(h.Task, t.Disks); err != nil {
		return nil, err
	} else if left != "" {
		why = append(why, left)
	}
	return why, nil
}

const moveChardev = "socket,id=move,path=" + moveSocket + ",server=on,wait=off"

// Finish decides about a machine that was handed over.
func (d *Driver) Finish(ctx context.Context, h runner.Handle, here bool) error {
	done, err := d.moving(h.Task)
	if err != nil {
		return err
	}
	defer done()
	d.stands(h.Task, true)
	n, err := d.note(h.Task)
	switch {
	case err != nil:
		return err
	case n == nil:
		return d.decidedBefore(h, here)
	case n.Stage == gaveUp && here:
		return fmt.Errorf("task %s: it was given up here, and goes on on the other side", h.Task)
	case n.Stage == goesOn && !here:
		return fmt.Errorf("task %s: it was decided to go on here", h.Task)
	case here && n.Way == in && n.Stage == underWay:
		return fmt.Errorf("task %s: it was not taken in whole, and cannot go on here", h.Task)
	case here:
		err = d.goOn(ctx, h, n)
	default:
		err = d.giveUp(ctx, h, n)
	}
	if err != nil {
		return fmt.Errorf("decide the move of task %s: %w", h.Task, err)
	}
	return nil
}

// decidedBefore is for a task that is in no move.
func (d *Driver) decidedBefore(h runner.Handle, here bool) error {
	_, err := os.Stat(d.TaskDir(h.Task))
	gone := errors.Is(err, fs.ErrNotExist)
	if gone {
		if err := d.settleGiven(h.Task, here); err != nil {
			return err
		}
	}
	switch {
	case gone && here:
		return fmt.Errorf("task %s: it is not on this node, and cannot go on here", h.Task)
	case !gone && !here:
		return fmt.Errorf("task %s: it is in no move, or was decided to go on here", h.Task)
	}
	return nil
}

// goOn lets the guest run here.
func (d *Driver) goOn(ctx context.Context, h runner.Handle, n *note) error {
	if n.Way == out {
		n.Stage = goesOn
		if err := writeNote(d.TaskDir(h.Task), *n); err != nil {
			return err
		}
		if err := d.Thaw(h.Task); err != nil {
			return err
		}
	}
	err := d.control(ctx, h.Task, func(m *qmp.Client) error {
		if n.Way == out {
			if err := sweep(ctx, m); err != nil {
				return err
			}
		}
		return letRun(ctx, m, n.Paused)
	})
	d.mark("runs")
	if err != nil {
		// One that ended while it stood is decided all the same: its end is told.
		if !d.ends(ctx, h) {
			return err
		}
	}
	d.sessions.goOn(h.Task)
	if n.Way == in {
		// The guest does not stand for this: an agent that is killed before finds it
		// taken in whole, and asks the ledger once more, which says the same.
		n.Stage = goesOn
		if err := writeNote(d.TaskDir(h.Task), *n); err != nil {
			return err
		}
		if err := d.keepPlace(h.Task); err != nil {
			return err
		}
	}
	return d.removeNote(h.Task)
}

// endPatience is how long the end of a QEMU may take to be known.
const endPatience = 5 * time.Second

// ends reports whether the machine has ended, or is just about to.
func (d *Driver) ends(ctx context.Context, h runner.Handle) bool {
	for p := patienceFor(endPatience); ; pause(ctx, statusEvery) {
		o, err := d.Driver.Recover(ctx, h)
		if err == nil && o.State != runner.StateRunning {
			return true
		}
		if p.over() || ctx.Err() != nil {
			return false
		}
	}
}

// giveUp ends the guest's standing still here for good.
func (d *Driver) giveUp(ctx context.Context, h runner.Handle, n *note) error {
	n.Stage = gaveUp
	if err := writeNote(d.TaskDir(h.Task), *n); err != nil {
		return err
	}
	d.sessions.giveUp(h.Task)
	if err := d.Driver.Stop(ctx, h, 0); err != nil {
		return err
	}
	return d.clearPlace(h.Task, n)
}

// clearPlace removes what a job's copy keeps on this node, for it is the other
// node's now, or never came to be here. It does so once.
func (d *Driver) clearPlace(id placement.TaskID, n *note) error {
	if n.Cleared {
		return nil
	}
	var err error
	switch {
	case n.Way == in:
		err = d.discardPlace(id)
	case n.Shared: // it lies where the other node has it
	default:
		err = errors.Join(os.RemoveAll(d.beside("before", place(id))), d.dropPlace(place(id)))
	}
	if err != nil {
		return err
	}
	n.Cleared = true
	return writeNote(d.TaskDir(id), *n)
}

// endMove settles what a task that is destroyed in the middle of a move keeps
// here: what was only coming in goes with it, and what went elsewhere too. What
// was taken in whole may be all that there is of it by now: it stays until
// [Driver.Finish] has heard who has it.
func (d *Driver) endMove(ctx context.Context, h runner.Handle) error {
	n, err := d.note(h.Task)
	switch {
	case err != nil:
		return err // what lies here may be all that there is of it
	case n == nil:
		return nil
	case n.Way == in && n.Stage == whole:
		return undecidedError(h.Task)
	case n.Way == in && n.Stage == goesOn:
		return d.keepPlace(h.Task)
	case n.Way == out && n.Stage == said && !n.Shared:
		return d.markGiven(h.Task)
	case n.Stage == goesOn || (n.Way == out && n.Stage != gaveUp):
		return nil
	}
	if err := d.Driver.Stop(ctx, h, 0); err != nil {
		return err
	}
	return d.clearPlace(h.Task, n)
}

// undecidedError is for what must not be removed before the ledger has said whose
// it is.
func undecidedError(id placement.TaskID) error {
	return fmt.Errorf("task %s was taken in whole, and its disks may be the only ones that there are: the region's ledger decides where it goes on, and nothing of it is removed before", id)
}

// undecided reports whether a move of the task has not been decided.
func (d *Driver) undecided(id placement.TaskID) bool {
	n, err := d.note(id)
	return err != nil || (n != nil && n.Stage != gaveUp)
}

// Stop ends the machine. One that is being moved is not asked first: it would
// have to run to hear it.
func (d *Driver) Stop(ctx context.Context, h runner.Handle, grace time.Duration) error {
	if d.undecided(h.Task) {
		grace = 0
	}
	return d.Driver.Stop(ctx, h, grace)
}

// Wait waits for the machine's end; that of one that went on on another node is
// not told here.
func (d *Driver) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	exit, err := d.Driver.Wait(ctx, h)
	if n, noteErr := d.note(h.Task); err == nil && noteErr == nil && n != nil && n.Stage == gaveUp {
		return runner.Exit{}, fmt.Errorf("wait for task %s: it goes on on another node", h.Task)
	}
	return exit, err
}

// The directories of what jobs keep, beside each other in "disks":
//
//	JOB.N         what copy N of the job keeps here
//	JOB.N/coming  while it is taken in: by which task of which node
//	JOB.N/given   what lies there may be another node's by now: see markGiven
//	.fresh-JOB.N  the place of one that is to be taken in, as it is made
//	.before-JOB.N what lay there before
//	.gone-JOB.N   what is just being removed

func (d *Driver) beside(kind, place string) string {
	return filepath.Join(d.cfg.Dir, "disks", "."+kind+"-"+place)
}

const comingFile = "coming"

// writeComing says which task of which node is taken into a place, and coming
// reads it.
func (d *Driver) writeComing(place string, id placement.TaskID) error {
	self, err := d.self()
	if err != nil {
		return err
	}
	return writeSynced(filepath.Join(place, comingFile), []byte(string(id)+" "+self))
}

func (d *Driver) coming(id placement.TaskID) (who placement.TaskID, mine bool, err error) {
	text, err := os.ReadFile(filepath.Join(d.kept(id), comingFile))
	if err != nil {
		return "", false, err
	}
	self, err := d.self()
	task, node, _ := strings.Cut(string(text), " ")
	return placement.TaskID(task), node == self, err
}

// freshPlace makes an empty place for what a copy keeps, for a task that is
// taken in. It is whole, and says whose it is, before what lay there gives way:
// settlePlace puts that back where it was cut off in between.
func (d *Driver) freshPlace(id placement.TaskID) error {
	at, before, fresh := d.kept(id), d.beside("before", place(id)), d.beside("fresh", place(id))
	if err := errors.Join(os.RemoveAll(fresh), os.RemoveAll(before)); err != nil {
		return err
	}
	err := os.MkdirAll(fresh, 0o700)
	if err == nil {
		err = d.writeComing(fresh, id)
	}
	if err == nil {
		err = syncDir(fresh)
	}
	if err != nil {
		return errors.Join(explainSpace(err), os.RemoveAll(fresh))
	}
	if err := os.Rename(at, before); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, at); err != nil {
		return errors.Join(err, d.putBack(place(id)))
	}
	return syncDir(filepath.Dir(at))
}

// putBack has what lay in a place before lie there again, if nothing does.
func (d *Driver) putBack(place string) error {
	at := filepath.Join(d.cfg.Dir, "disks", place)
	if _, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(d.beside("before", place), at); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncDir(filepath.Dir(at))
}

// discardPlace undoes freshPlace, if the task's it was.
func (d *Driver) discardPlace(id placement.TaskID) error {
	who, mine, err := d.coming(id)
	if err == nil && who == id && mine {
		err = d.dropPlace(place(id))
	} else {
		err = nil
	}
	return errors.Join(err, d.putBack(place(id)))
}

// keepPlace makes what was taken in the copy's own, also on the disk: the move's
// note may go after it.
func (d *Driver) keepPlace(id placement.TaskID) error {
	at := d.kept(id)
	err := os.Remove(filepath.Join(at, comingFile))
	if err == nil {
		err = syncDir(at)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(d.beside("before", place(id)))
}

// dropPlace removes what lies in a place, in one step as far as others see it.
func (d *Driver) dropPlace(place string) error {
	gone := d.beside("gone", place)
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(d.cfg.Dir, "disks", place), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := syncDir(filepath.Dir(gone)); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// settlePlace sees to it that a task which is about to be started finds what its
// copy keeps here, and neither what went to another node nor the half of what
// was to come from one. None of the tasks in others runs.
func (d *Driver) settlePlace(id placement.TaskID, others []runner.Observed) error {
	for _, o := range others {
		if place(o.Handle.Task) != place(id) || o.Handle.Task == id {
			continue
		}
		n, err := d.note(o.Handle.Task)
		if err != nil {
			return err
		}
		if n != nil && n.Stage == gaveUp {
			if err := d.clearPlace(o.Handle.Task, n); err != nil {
				return err
			}
		}
	}
	if err := d.putBack(place(id)); err != nil {
		return err
	}
	who, mine, err := d.coming(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !mine { // what that node has of it, it alone knows
		return undecidedError(who)
	}
	for _, o := range others {
		if o.Handle.Task != who {
			continue
		}
		n, err := d.note(o.Handle.Task)
		switch {
		case err != nil:
			return err
		case n == nil || n.Stage == goesOn: // decided, and cut off in the middle of it
			return d.keepPlace(o.Handle.Task)
		case n.Stage == whole:
			return undecidedError(o.Handle.Task)
		}
	}
	return d.discardPlace(who)
}
