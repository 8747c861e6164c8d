//go:build linux

package process

import (
	"path/filepath"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/keep"
	"github.com/sovmesh/sovmesh/placement"
)

// Kept are the jobs that have volumes here. A driver that is built upon this one
// has none of them.
func (d *Driver) Kept() (map[placement.JobID]time.Time, error) {
	if d.cfg.Hold.Volumes == "" {
		return nil, nil
	}
	return keep.Jobs(d.cfg.Hold.Volumes)
}

// Forget removes a job's volumes. None of its tasks may run.
func (d *Driver) Forget(job placement.JobID) error {
	if d.cfg.Hold.Volumes == "" {
		return nil
	}
	return keep.Forget(d.cfg.Hold.Volumes, job)
}

// ShowsOutputs says that a task finds its directory of outputs. A driver that is
// built upon this one has its own word.
func (d *Driver) ShowsOutputs() bool { return true }

// volumes is where a job's volumes are.
func (d *Driver) volumes(job placement.JobID) string {
	return filepath.Join(d.cfg.Hold.Volumes, dirName(placement.TaskID(job)))
}
