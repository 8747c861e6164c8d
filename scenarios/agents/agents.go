// Package agents runs real `sovmesh agent` processes on loopback: it founds a
// region with the real `sovmesh region init`, lets nodes join by real join
// tokens, starts, kills and restarts them, and federates regions by the very
// commands that operators type.
//
// Two rules hold. Everything lies below one directory, and everything that was
// started is ended by its process id when the world is closed: the agents and
// the tasks that, by design, outlive them. And nothing waits for a fixed time:
// every wait is for a condition, until a deadline of its context.
//
// The tests named TestProcesses_ and scenarios/bench stand on it. What can be
// shown in virtual time belongs to scenarios/mesh.
package agents

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"
)

// World is a directory with agents below it, and the program they run.
type World struct {
	// Program is the path of the sovmesh program.
	Program string
	// Dir keeps everything.
	Dir string

	mu     sync.Mutex
	agents []*Agent // guarded by mu
}

// New is a world without agents. The directory exists already.
func New(program, dir string) *World { return &World{Program: program, Dir: dir} }

// Shared is a directory that tasks see too, and may write: everything else that
// they see of the machine is read-only.
func (w *World) Shared() string { return filepath.Join(w.Dir, "shared") }

// share lets tasks of an agent see [World.Shared]; it completes its config.
func (w *World) share(config string) error {
	err := os.MkdirAll(w.Shared(), 0o700)
	if err == nil {
		err = os.Chmod(w.Shared(), 0o777) // each task is a user of its own
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "tasks: {share: [%q]}\n", w.Shared())
	return errors.Join(err, f.Close())
}

// ProgramEnv names the variable that holds the path of a program to test, for
// a run that shall not build its own.
const ProgramEnv = "SOVMESH_PROGRAM"

// Build builds the program as `make build` does (no cgo, stripped) into dir,
// and returns its path; or it returns what [ProgramEnv] names.
func Build(ctx context.Context, dir string) (string, error) {
	if given := os.Getenv(ProgramEnv); given != "" {
		return filepath.Abs(given)
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, "sovmesh")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, "./cli/sovmesh")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build sovmesh: %w\n%s", err, out)
	}
	return to, nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return string(out[:len(out)-1]), nil
}

// Agents are all agents of the world in the order they were made.
func (w *World) Agents() []*Agent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.agents)
}

// closeWithin bounds the end of a world.
const closeWithin = 30 * time.Second

// Close ends every agent, and every task that is left. Nothing of the world
// runs when it returns nil.
func (w *World) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	var errs []error
	for _, a := range w.Agents() {
		if err := a.Kill(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, endTasks(ctx, w.Dir))...)
}

// pollEvery is how often a condition is looked at that nobody announces.
const pollEvery = 5 * time.Millisecond

// Until returns nil once the condition holds. A condition gives what is still
// missing, empty when nothing is; the last such word is part of the error.
func Until(ctx context.Context, missing func(context.Context) string) error {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		word := missing(ctx)
		if word == "" {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("%s (%w)", word, context.Cause(ctx))
		}
	}
}

// Machine says in a line what a measurement was made on: cores and load.
func Machine() string {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return fmt.Sprintf("%d cores", runtime.NumCPU())
	}
	var one, five, fifteen string
	_, _ = fmt.Sscan(string(load), &one, &five, &fifteen)
	return fmt.Sprintf("%d cores, load average %s %s %s", runtime.NumCPU(), one, five, fifteen)
}
