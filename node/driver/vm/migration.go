//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/placement"
)

// What QEMU is asked about moves.
// https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html#migration

// statusEvery is how often QEMU is asked while nothing is at stake, and
// switchEvery while the guest stands still.
const (
	statusEvery = 100 * time.Millisecond
	switchEvery = 2 * time.Millisecond
)

// control runs what needs the monitor for moves of a task's machine.
func (d *Driver) control(ctx context.Context, id placement.TaskID, do func(*qmp.Client) error) error {
	m, err := d.dialControl(ctx, id)
	if err != nil {
		return err
	}
	defer m.Close()
	return do(m)
}

func (d *Driver) dialControl(ctx context.Context, id placement.TaskID) (*qmp.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, monitorPatience)
	defer cancel()
	conn, err := process.DialUnix(ctx, filepath.Join(d.TaskDir(id), qemu.Home), moveSocket)
	if err != nil {
		return nil, fmt.Errorf("open the monitor: %w", err)
	}
	return qmp.New(ctx, conn)
}

// migration is QEMU's word for how far the memory got.
type migration struct {
	Status string `json:"status"`
	Error  string `json:"error-desc"`
	RAM    *struct {
		Sent   int64 `json:"transferred"`
		Total  int64 `json:"total"`
		Left   int64 `json:"remaining"`
		Rounds int   `json:"dirty-sync-count"`
	} `json:"ram"`
	Downtime int64 `json:"downtime"` // milliseconds, once it is over
}

// ask is one question, which QEMU answers at once.
func ask(ctx context.Context, m *qmp.Client, command string, args, out any) error {
	ctx, cancel := context.WithTimeout(ctx, monitorPatience)
	defer cancel()
	return m.Run(ctx, command, args, out)
}

// moveState is whether the guest runs, and the migration's status.
func moveState(ctx context.Context, m *qmp.Client) (runs bool, status string, err error) {
	var machine struct{ Running bool }
	var mig migration
	err = ask(ctx, m, "query-migrate", nil, &mig)
	if err == nil {
		err = ask(ctx, m, "query-status", nil, &machine)
	}
	return machine.Running, mig.Status, err
}

// underWayStatus reports whether a migration may still complete.
func underWayStatus(status string) bool {
	switch status {
	case "", "none", "failed", "cancelled", "completed":
		return false
	}
	return true
}

// job is a copy of a disk that QEMU makes.
type job struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Done   int64  `json:"current-progress"`
	Total  int64  `json:"total-progress"`
	Error  string `json:"error"`
}

// moveName is that of a move's job and node for a disk.
func moveName(i int) string { return fmt.Sprintf("move%d", i) }

func moveJobs(ctx context.Context, m *qmp.Client) ([]job, error) {
	var all, mine []job
	if err := ask(ctx, m, "query-jobs", nil, &all); err != nil {
		return nil, err
	}
	for _, j := range all {
		if strings.HasPrefix(j.ID, "move") {
			mine = append(mine, j)
		}
	}
	return mine, nil
}

// sweepPatience bounds the end of a move that is given up.
const sweepPatience = 20 * time.Second

// sweep ends whatever a move left in a source's QEMU: the migration, the copies
// of disks and their nodes. The guest stands or runs as QEMU leaves it.
func sweep(ctx context.Context, m *qmp.Client) error {
	ctx, cancel := context.WithTimeout(ctx, sweepPatience)
	defer cancel()
	for cancelled := false; ; {
		var mig migration
		if err := ask(ctx, m, "query-migrate", nil, &mig); err != nil {
			return err
		}
		if !underWayStatus(mig.Status) {
			break
		}
		if !cancelled {
			if err := ask(ctx, m, "migrate_cancel", nil, nil); err != nil {
				return err
			}
			cancelled = true
		}
		if pause(ctx, 10*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("QEMU does not give the migration up: it is %s", mig.Status)
		}
	}
	if err := endMirrors(ctx, m, true); err != nil {
		return err
	}
	return dropNodes(ctx, m)
}

// endMirrors ends the copies of disks and waits for it. Without force each of
// them is whole at that instant, and what went wrong with one is the error.
func endMirrors(ctx context.Context, m *qmp.Client, force bool) error {
	jobs, err := moveJobs(ctx, m)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if j.Status == "concluded" {
			continue
		}
		err := ask(ctx, m, "block-job-cancel", map[string]any{"device": j.ID, "force": force}, nil)
		if err != nil && !force {
			return err
		}
	}
	for {
		if jobs, err = moveJobs(ctx, m); err != nil {
			return err
		}
		left := 0
		for _, j := range jobs {
			switch {
			case j.Status != "concluded":
				left++
				continue
			case j.Error != "" && !force:
				return fmt.Errorf("copy a disk: %s", j.Error)
			}
			if err := ask(ctx, m, "job-dismiss", map[string]string{"id": j.ID}, nil); err != nil && !force {
				return err
			}
		}
		if left == 0 {
			return nil
		}
		if pause(ctx, switchEvery); ctx.Err() != nil {
			return fmt.Errorf("the copies of disks do not end: %w", ctx.Err())
		}
	}
}

// dropNodes removes the ways to the other side's disks.
func dropNodes(ctx context.Context, m *qmp.Client) error {
	var nodes []struct {
		Name string `json:"node-name"`
	}
	if err := ask(ctx, m, "query-named-block-nodes", map[string]bool{"flat": true}, &nodes); err != nil {
		return err
	}
	for _, n := range nodes {
		if strings.HasPrefix(n.Name, "move") {
			if err := ask(ctx, m, "blockdev-del", map[string]string{"node-name": n.Name}, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// letRun lets the guest go on, unless it is to stand; it then is as it was.
func letRun(ctx context.Context, m *qmp.Client, paused bool) error {
	if paused {
		return nil
	}
	var machine struct {
		Running bool
		Status  string
	}
	if err := ask(ctx, m, "query-status", nil, &machine); err != nil || machine.Running {
		return err
	}
	if machine.Status == "inmigrate" {
		return errors.New("the guest is not there")
	}
	return ask(ctx, m, "cont", nil, nil)
}

// capabilities switches a migration's on.
func capabilities(ctx context.Context, m *qmp.Client, names ...string) error {
	type capability struct {
		Name  string `json:"capability"`
		State bool   `json:"state"`
	}
	var all []capability
	for _, name := range names {
		all = append(all, capability{name, true})
	}
	return ask(ctx, m, "migrate-set-capabilities", map[string]any{"capabilities": all}, nil)
}
