//go:build linux

package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/fetch"
	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
)

// jobEvery is how often a copy that QEMU makes is looked at.
const jobEvery = 100 * time.Millisecond

// Snapshot copies the machine's disks, memory, console and what QEMU says of it
// into a directory, without ending it. Disks and memory are of one instant: the
// machine stands still from the moment that the copies of its disks begin until
// its memory is written; the disks are copied on while it runs again, each block
// before it is written anew. QEMU writes through descriptors that it is handed,
// for its user sees no file of the node.
func (d *Driver) Snapshot(ctx context.Context, h runner.Handle, dir string) (snap runner.Snapshot, err error) {
	release, err := d.steady(h.Task)
	if err != nil {
		return snap, err
	}
	defer release()
	_, t, err := d.told(h.Task)
	if err != nil {
		return snap, err
	}
	snap.At = time.Now()
	c := copier{dir: dir, task: d.TaskDir(h.Task), disks: t.Disks, snap: &snap}
	err = d.askLong(ctx, h, c.run)
	if err == nil {
		err = c.console(ctx, d, h)
	}
	if err == nil {
		err = c.sum(ctx)
	}
	if err != nil {
		return snap, fmt.Errorf("snapshot of task %s: %w", h.Task, err)
	}
	return snap, nil
}

// copier makes one snapshot.
type copier struct {
	dir   string
	task  string // the task's directory
	disks []disk
	snap  *runner.Snapshot
	m     *qmp.Client
	sets  []int // descriptor sets that QEMU was given
	nodes []string
	parts []runner.SnapshotPart
	room  func() error // asked while disks are copied; nil for nobody
}

func (c *copier) part(name, what string) {
	c.parts = append(c.parts, runner.SnapshotPart{Name: name, What: what})
}

func (c *copier) run(ctx context.Context, m *qmp.Client) error {
	c.m = m
	if err := c.sweep(ctx); err != nil {
		return err
	}
	defer c.tidy()
	var status struct{ Status string }
	if err := m.Run(ctx, "query-status", nil, &status); err != nil {
		return err
	}
	if err := c.records(ctx); err != nil {
		return err
	}
	for i := range c.disks {
		if err := c.target(ctx, i); err != nil {
			return err
		}
	}
	err := c.stand(ctx, status.Status == "running")
	if err == nil {
		err = c.finish(ctx)
	}
	return err
}

// heldFile, in a task's directory, says that a snapshot holds its guest still. An
// agent that ends meanwhile leaves it, and the next one lets the guest go on.
const heldFile = "held-for-snapshot"

// longPatience bounds the wait for a QEMU that writes its guest's memory, which it
// does not stop in the middle: until then it answers nothing.
const longPatience = 10 * time.Minute

// stand does what the machine has to stand still for. Whatever went wrong, and
// whoever does not wait for it any more, one that ran goes on.
func (c *copier) stand(ctx context.Context, ran bool) (err error) {
	began := time.Now()
	if ran {
		if err := writeJSON(filepath.Join(c.task, heldFile), began); err != nil {
			return fmt.Errorf("note that it stands still: %w", explainSpace(err))
		}
		defer func() {
			again, cancel := context.WithTimeout(context.WithoutCancel(ctx), longPatience)
			defer cancel()
			err = errors.Join(err, goOn(again, c.m, c.task))
			c.snap.Paused = time.Since(began)
		}()
	}
	// A QEMU that has been told stops, whether its answer is waited for or not.
	if err := ask(context.WithoutCancel(ctx), c.m, "stop", nil, nil); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.still(ctx)
}

// goOn lets a guest go on that is noted to be held still, and no other: one that
// somebody paused has no note.
func goOn(ctx context.Context, m *qmp.Client, task string) error {
	if !heldStill(task) {
		return nil
	}
	if err := m.Run(ctx, "cont", nil, nil); err != nil {
		return err
	}
	return dropHeld(task)
}

// heldStill reports whether a guest is noted to be held still.
func heldStill(task string) bool {
	_, err := os.Lstat(filepath.Join(task, heldFile))
	return err == nil
}

// dropHeld removes the note.
func dropHeld(task string) error {
	if err := os.Remove(filepath.Join(task, heldFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// letGo lets a guest go on that an agent held still which was killed over it; one
// whose disks were being set back goes on with those that it was to have.
func (d *Driver) letGo(ctx context.Context, o *runner.Observed) {
	dir := d.TaskDir(o.Handle.Task)
	if !heldStill(dir) && !there(dir, restoreNote) || o.State != runner.StateRunning {
		return
	}
	done, err := d.moving(o.Handle.Task)
	if err != nil {
		return // a snapshot of ours
	}
	defer done()
	if n, err := d.note(o.Handle.Task); n != nil || err != nil {
		return // a move decides about it
	}
	ctx, cancel := context.WithTimeout(ctx, recoverPatience)
	defer cancel()
	_ = d.askLong(ctx, o.Handle, func(ctx context.Context, m *qmp.Client) error {
		if there(dir, restoreNote) {
			return d.completeRestore(ctx, m, o.Handle.Task)
		}
		return goOn(ctx, m, dir)
	})
}

// copyName is that of a disk's copy, which is qcow2 whatever the disk is.
func copyName(i int, one disk) string {
	return fmt.Sprintf("disk%d-%s.qcow2", i, filepath.Base(one.Name))
}

// target makes the file that a disk is copied to, and hands it to QEMU.
func (c *copier) target(ctx context.Context, i int) error {
	name := copyName(i, c.disks[i])
	if err := newQcow2(filepath.Join(c.dir, name), c.disks[i].Size); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(c.dir, name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := c.m.RunFD(ctx, "add-fd", nil, &set, f); err != nil {
		return err
	}
	c.sets = append(c.sets, set.ID)
	node := fmt.Sprintf("copy%d", i)
	err = c.m.Run(ctx, "blockdev-add", map[string]any{
		"driver": "qcow2", "node-name": node,
		"file": map[string]any{"driver": "file", "filename": fmt.Sprintf("/dev/fdset/%d", set.ID), "locking": "off"},
	}, nil)
	if err != nil {
		return err
	}
	c.nodes = append(c.nodes, node)
	c.part(name, "disk")
	return nil
}

// still begins the copies and writes the memory, while the machine stands.
func (c *copier) still(ctx context.Context) error {
	for i := range c.disks {
		err := c.m.Run(ctx, "blockdev-backup", map[string]any{
			"job-id": fmt.Sprintf("copy%d", i), "device": fmt.Sprintf("disk%d", i), "target": fmt.Sprintf("copy%d", i),
			"sync": "full", "auto-dismiss": false,
		}, nil)
		if err != nil {
			return err
		}
	}
	if err := c.memory(ctx); err != nil {
		c.snap.Missing = append(c.snap.Missing, "memory: "+err.Error())
	}
	return nil
}

// memory writes the guest's memory as an ELF core, as tools for crashes read it.
func (c *copier) memory(ctx context.Context) error {
	f, err := os.OpenFile(filepath.Join(c.dir, "memory.elf"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.m.RunFD(ctx, "getfd", map[string]string{"fdname": "memory"}, nil, f); err != nil {
		return err
	}
	if err := c.m.Run(ctx, "dump-guest-memory", map[string]any{"paging": false, "protocol": "fd:memory"}, nil); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	c.part("memory.elf", "memory")
	return nil
}

// finish waits until the disks are copied.
func (c *copier) finish(ctx context.Context) error {
	tick := time.NewTicker(jobEvery)
	defer tick.Stop()
	for {
		var jobs []struct {
			ID     string `json:"id"`
			Status string `json:"status"`
			Error  string `json:"error"`
		}
		if err := c.m.Run(ctx, "query-jobs", nil, &jobs); err != nil {
			return err
		}
		left := 0
		for _, j := range jobs {
			switch {
			case j.Status == "concluded" && j.Error != "":
				return fmt.Errorf("copy a disk (%s): %s", j.ID, j.Error)
			case j.Status != "concluded":
				left++
			}
		}
		if left == 0 {
			return nil
		}
		if c.room != nil {
			if err := c.room(); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sweep ends what an agent left in QEMU that was killed while it made a copy.
func (c *copier) sweep(ctx context.Context) error {
	var nodes []struct {
		Name string `json:"node-name"`
	}
	if err := c.m.Run(ctx, "query-named-block-nodes", map[string]bool{"flat": true}, &nodes); err != nil {
		return err
	}
	for _, n := range nodes {
		if strings.HasPrefix(n.Name, "copy") {
			c.nodes = append(c.nodes, n.Name)
		}
	}
	c.tidy()
	c.nodes = nil
	return nil
}

// tidy takes back what QEMU was given.
func (c *copier) tidy() {
	ctx, cancel := context.WithTimeout(context.Background(), monitorPatience)
	defer cancel()
	var jobs []struct{ ID, Status string }
	if c.m.Run(ctx, "query-jobs", nil, &jobs) == nil {
		for _, j := range jobs {
			if j.Status != "concluded" {
				_ = c.m.Run(ctx, "block-job-cancel", map[string]any{"device": j.ID, "force": true}, nil)
			}
		}
		for range 100 {
			left := 0
			for _, j := range jobs {
				if c.m.Run(ctx, "job-dismiss", map[string]string{"id": j.ID}, nil) != nil && c.jobThere(ctx, j.ID) {
					left++
				}
			}
			if left == 0 || ctx.Err() != nil {
				break
			}
			pause(ctx, jobEvery)
		}
	}
	for _, node := range c.nodes {
		_ = c.m.Run(ctx, "blockdev-del", map[string]string{"node-name": node}, nil)
	}
	for _, set := range c.sets {
		_ = c.m.Run(ctx, "remove-fd", map[string]int{"fdset-id": set}, nil)
	}
}

func (c *copier) jobThere(ctx context.Context, id string) bool {
	var jobs []struct{ ID string }
	if c.m.Run(ctx, "query-jobs", nil, &jobs) != nil {
		return false
	}
	for _, j := range jobs {
		if j.ID == id {
			return true
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// records is what QEMU says of the machine.
func (c *copier) records(ctx context.Context) error {
	all := make(map[string]json.RawMessage)
	for _, q := range []string{"query-status", "query-version", "query-cpus-fast", "query-named-block-nodes", "query-pci", "query-chardev"} {
		var answer json.RawMessage
		if err := c.m.Run(ctx, q, nil, &answer); err != nil {
			c.snap.Missing = append(c.snap.Missing, q+": "+err.Error())
			continue
		}
		all[q] = answer
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	c.part("machine.json", "records")
	return os.WriteFile(filepath.Join(c.dir, "machine.json"), data, 0o600)
}

// console copies what is kept of the machine's output.
func (c *copier) console(ctx context.Context, d *Driver, h runner.Handle) error {
	r, err := d.Logs(ctx, h, 0, false)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.OpenFile(filepath.Join(c.dir, "console.log"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	c.part("console.log", "console")
	return errors.Join(err, f.Close())
}

// sum hashes every part as it lies there.
func (c *copier) sum(ctx context.Context) error {
	for _, p := range c.parts {
		f, err := os.Open(filepath.Join(c.dir, p.Name))
		if err != nil {
			return err
		}
		hash := sha256.New()
		p.Size, err = io.Copy(hash, fetch.Reading(ctx, f))
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		p.SHA256 = hex.EncodeToString(hash.Sum(nil))
		c.snap.Parts = append(c.snap.Parts, p)
	}
	return nil
}
