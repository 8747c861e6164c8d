// Package keep is what drivers keep of jobs on a node beyond their tasks:
// volumes, disks. Each job has a directory of its own, or one for each of its
// copies, below one of the driver's.
//
// The rule: what is kept goes only by [Forget], and whole; how long it was not
// used is known by its directory's own time. The drivers of processes,
// containers, micro-VMs and machines rely on it, so that the runner forgets all
// of them alike.
package keep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/tree"
	"github.com/sovmesh/sovmesh/placement"
)

// Jobs are those that have a directory below dir, with when it was last used.
func Jobs(dir string) (map[placement.JobID]time.Time, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("see what is kept of jobs: %w", err)
	}
	all := make(map[placement.JobID]time.Time)
	for _, e := range entries {
		job := jobOf(e.Name())
		info, err := e.Info()
		if job == "" || err != nil || !e.IsDir() {
			continue
		}
		if info.ModTime().After(all[job]) {
			all[job] = info.ModTime()
		}
	}
	return all, nil
}

// jobOf reads JOB and JOB.COPY; a job's id is its region's, a dot, and 26 letters
// and digits.
func jobOf(name string) placement.JobID {
	if strings.HasPrefix(name, ".") {
		return ""
	}
	i := strings.LastIndexByte(name, '.')
	if i > 0 && len(name)-i-1 < 26 && strings.Trim(name[i+1:], "0123456789") == "" {
		name = name[:i]
	}
	if i := strings.LastIndexByte(name, '.'); i <= 0 || len(name)-i-1 != 26 {
		return ""
	}
	return placement.JobID(name)
}

// Touch notes that what is kept there is in use; nothing may be there.
func Touch(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now)
}

// Forget removes all that is kept of a job below dir.
func Forget(dir string, job placement.JobID) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if job != "" && jobOf(e.Name()) == job {
			err = errors.Join(err, tree.RemoveAll(context.Background(), filepath.Join(dir, e.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("forget what is kept of job %s: %w", job, err)
	}
	return nil
}
