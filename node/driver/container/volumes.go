//go:build linux

package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/sovmesh/sovmesh/node/driver/keep"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

var _ runner.Keeper = (*Driver)(nil)

// ShowsOutputs says that a container finds its directory of outputs; where its
// engine or this agent cannot, its start is refused.
func (d *Driver) ShowsOutputs() bool { return true }

// noOutputs says why what containers leave cannot be kept by an agent of that
// user; empty if it can.
func noOutputs(uid int, f *engineFacts) string {
	switch {
	case uid != 0:
		return "its agent is not root, and may neither read nor remove what a container's user writes"
	case f.Rootless:
		return "its engine is not root's, and cannot show a container what is the agent's alone"
	}
	return ""
}

// addOutputs gives the container the task's directory for what it leaves, unless
// there is a reason why not. Who writes there may be known to the image alone, or
// be another one than who begins: everybody may. On the node nobody else enters
// the directory that it lies in.
func addOutputs(h *container.HostConfig, s *runner.Spec, setup *placement.Setup, why string) error {
	if s.OutputsDir == "" {
		return nil
	}
	if why != "" {
		return refuse(s, "this node keeps no outputs of container jobs: "+why, "leave outputs out, or choose a node whose agent and engine are root")
	}
	var err error
	if uid, gid, ok := userOf(setup.User); ok { // it may set its times and its mode too
		err = os.Lchown(s.OutputsDir, uid, gid)
	}
	if err = errors.Join(err, os.Chmod(s.OutputsDir, 0o777|os.ModeSticky)); err != nil {
		return startError(s.Task, fmt.Errorf("make the directory of its outputs: %w", err))
	}
	h.Mounts = append(h.Mounts, mount.Mount{Type: mount.TypeBind, Source: s.OutputsDir, Target: runner.OutputsPath})
	return nil
}

// userOf reads uid or uid:gid; false for a name, or nothing.
func userOf(user string) (uid, gid int, ok bool) {
	switch n, _ := fmt.Sscanf(user, "%d:%d", &uid, &gid); n {
	case 0:
		return 0, 0, false
	case 1:
		gid = uid
	}
	return uid, gid, true
}

// Kept are the jobs that have volumes here.
func (d *Driver) Kept() (map[placement.JobID]time.Time, error) {
	return keep.Jobs(filepath.Join(d.cfg.Dir, "volumes"))
}

// Forget removes a job's volumes. None of its tasks may run.
func (d *Driver) Forget(job placement.JobID) error {
	return keep.Forget(filepath.Join(d.cfg.Dir, "volumes"), job)
}
