package runner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// bringSecrets lays a task's secrets down for its driver, in a directory of the
// task's own that is in memory. It returns the directory, empty for no secrets.
// What cannot be kept out of a disk is not started.
func (r *Runner) bringSecrets(ctx context.Context, t *task) (string, error) {
	r.mu.Lock()
	job, id := t.job, t.rec.Task
	r.mu.Unlock()
	if job.Spec.Setup == nil || len(job.Spec.Setup.Secrets) == 0 {
		return "", nil
	}
	if r.cfg.Secrets == nil || r.cfg.SecretsDir == "" {
		return "", &StartError{Task: id, Reason: "this node has no directory in memory for secrets", Advice: "give the node's user one: /run, $XDG_RUNTIME_DIR or /dev/shm as a tmpfs"}
	}
	r.secrets.Lock() // held against the removal of what all secrets lie in
	defer r.secrets.Unlock()
	all, err := r.cfg.Secrets(ctx, id, &job)
	if err != nil {
		return "", &StartError{Task: id, Reason: err.Error(), Advice: "submit the job again"}
	}
	dir := r.secretsOf(id)
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("secrets of task %s: %w", id, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("secrets of task %s: %w", id, err)
	}
	for name, secret := range all {
		if err := os.WriteFile(filepath.Join(dir, name), secret, 0o400); err != nil {
			_ = os.RemoveAll(dir)
			return "", fmt.Errorf("secrets of task %s: %w", id, err)
		}
	}
	return dir, nil
}

func (r *Runner) secretsOf(id placement.TaskID) string {
	return filepath.Join(r.cfg.SecretsDir, strings.ReplaceAll(string(id), "/", "_"))
}

// dropSecrets removes what a task was given. Nothing is there for most.
func (r *Runner) dropSecrets(id placement.TaskID) {
	if r.cfg.SecretsDir == "" {
		return
	}
	r.secrets.Lock()
	defer r.secrets.Unlock()
	if err := os.RemoveAll(r.secretsOf(id)); err != nil {
		r.log.Error("remove the secrets of a task that is over", "task", id, "err", err)
	}
	_ = os.Remove(r.cfg.SecretsDir) // the last one leaves nothing behind
}

// sweepSecrets removes what tasks left that no record has as live: an agent may
// have ended between a task's end and this.
func (r *Runner) sweepSecrets(live map[placement.TaskID]bool) {
	if r.cfg.SecretsDir == "" {
		return
	}
	kept := make(map[string]bool, len(live))
	for id := range live {
		kept[filepath.Base(r.secretsOf(id))] = true
	}
	entries, err := os.ReadDir(r.cfg.SecretsDir)
	if err != nil {
		return // it is made with the first task that has secrets
	}
	defer func() { _ = os.Remove(r.cfg.SecretsDir) }() // if that leaves it empty
	for _, e := range entries {
		if !kept[e.Name()] {
			_ = os.RemoveAll(filepath.Join(r.cfg.SecretsDir, e.Name())) // tried again at the next start
		}
	}
}
