//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/moby/client"

	"github.com/sovmesh/sovmesh/node/runner"
)

const healthFile = "health"

// maxHealthOutput bounds what is kept of a health check's words.
const maxHealthOutput = 300

// watchHealth runs the job's check again and again, the same way on every
// engine and without an agent, and ends the container when it has failed too
// often in a row.
func (w *work) watchHealth(ctx context.Context, dir, id string) {
	h := w.told.Health
	begun, failed := time.Now(), 0
	for {
		if pause(ctx, time.Duration(h.Interval)) != nil {
			return
		}
		why, asked := w.check(ctx, id)
		if ctx.Err() != nil {
			return
		}
		if !asked {
			continue // the engine is away: that is no word about the container
		}
		state := "healthy"
		switch {
		case why == "":
			failed = 0
		case time.Since(begun) < time.Duration(h.Start):
			state = "starting: " + why
		default:
			failed++
			state = fmt.Sprintf("failed %d in a row: %s", failed, why)
		}
		_ = os.WriteFile(filepath.Join(dir, healthFile), []byte(state), 0o600)
		if failed >= h.Retries {
			w.endIll(ctx, id, fmt.Sprintf("unhealthy: its check failed %d times in a row: %s", failed, why))
			return
		}
	}
}

// check runs the check once; empty is that it is well. asked is false if the
// engine could not be reached.
func (w *work) check(ctx context.Context, id string) (why string, asked bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(w.told.Health.Timeout))
	defer cancel()
	var said clipped
	exit, err := execute(ctx, w.engine, w.spec.Task, id, runner.ExecRequest{Command: w.told.Health.Command, Stdout: &said, Stderr: &said})
	words := strings.TrimSpace(strings.ToValidUTF8(string(said.first), ""))
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no end within %v", time.Duration(w.told.Health.Timeout)), true
	case client.IsErrConnectionFailed(err) || isLost(err):
		return "", false
	case err != nil:
		return err.Error(), true
	case exit.Code != 0 && words != "":
		return fmt.Sprintf("%v: %s", exit, words), true
	case exit.Code != 0:
		return exit.String(), true
	}
	return "", true
}

// clipped keeps the first words of a check, whatever else it prints.
type clipped struct{ first []byte }

func (c *clipped) Write(p []byte) (int, error) {
	c.first = append(c.first, p[:min(len(p), maxHealthOutput-len(c.first))]...)
	return len(p), nil
}

// endIll ends the container with a reason that is no stop.
func (w *work) endIll(ctx context.Context, id, why string) {
	w.mu.Lock()
	w.ill = why
	w.mu.Unlock()
	_, _ = w.engine.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: "SIGTERM"})
	if pause(ctx, w.spec.Grace) == nil {
		w.Kill()
	}
}
