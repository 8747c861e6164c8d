//go:build linux

package container

import (
	"path/filepath"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/keep"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

var _ runner.Keeper = (*Driver)(nil)

// ShowsOutputs: not yet.
func (d *Driver) ShowsOutputs() bool { return false }

// Kept are the jobs that have volumes here.
func (d *Driver) Kept() (map[placement.JobID]time.Time, error) {
	return keep.Jobs(filepath.Join(d.cfg.Dir, "volumes"))
}

// Forget removes a job's volumes. None of its tasks may run.
func (d *Driver) Forget(job placement.JobID) error {
	return keep.Forget(filepath.Join(d.cfg.Dir, "volumes"), job)
}
