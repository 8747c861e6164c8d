//go:build linux

// Package process runs jobs as plain processes of this machine.
//
// Each task has a supervisor: a second process made from this same program, in
// a session of its own, that starts the command, keeps its output in bounded
// files, ends the whole tree when told to, and leaves the exit in a file. The
// agent may be killed, restarted or replaced at any instant: the supervisor does
// not need it, and the next agent finds the task by its directory.
//
// A process is held in as far as this machine can: a root, a network, processes
// and a user of its own where the agent is root, Landlock and a filter of system
// calls everywhere, its cgroup's limits where there is one. DESIGN.md says how;
// [Driver.Fingerprint] says what holds on this machine, and [Driver.Inspect] what
// holds one task. What the job says of its network is held to, or it is not started.
//
// The program's main must begin with
//
//	if len(os.Args) > 1 && os.Args[1] == process.SupervisorCommand {
//		os.Exit(process.SupervisorMain(os.Args[2:]))
//	}
//
// before it does anything else: it is on the way of every task's start.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// SupervisorCommand is the first argument of a supervisor.
const SupervisorCommand = "task-supervisor"

// Config is what the driver needs; Dir must be set.
type Config struct {
	// Name is the driver's, "process" unless something is built upon it: see [Work].
	Name string
	// Dir holds one directory per task: what it was told, its output, its
	// working directory and its exit. It must be on a local disk.
	Dir string
	// Supervisor is the command line that ends in [SupervisorMain].
	Supervisor []string
	// Cgroup is the name of the group, at the root of each hierarchy, below which
	// tasks have theirs; empty is for no groups and no limits.
	Cgroup string
	// A task's output is kept in LogFiles files of LogFileSize bytes; the oldest
	// is dropped for a new one.
	LogFileSize int64
	LogFiles    int
	// Spares is how many supervisors wait for tasks, once there was one.
	Spares int
	// Hold says how tasks are held in.
	Hold Hold
	// StartTimeout bounds the wait for a supervisor's first word.
	StartTimeout time.Duration
}

// DefaultConfig has everything but Dir.
func DefaultConfig() Config {
	return Config{
		Name:       string(placement.KindProcess),
		Supervisor: []string{"/proc/self/exe", SupervisorCommand}, Cgroup: "sovmesh",
		LogFileSize: 8 << 20, LogFiles: 4, Spares: 2, StartTimeout: 20 * time.Second,
		Hold: Hold{FirstUser: firstUser, Users: users},
	}
}

// Driver is the runner.Driver of processes.
type Driver struct {
	cfg     Config
	spares  spares
	ability ability
	mu      sync.Mutex // held while a task's orders are read, changed and written
}

var (
	_ runner.Driver   = (*Driver)(nil)
	_ runner.Leaser   = (*Driver)(nil)
	_ runner.Measurer = (*Driver)(nil)

	_ runner.Inspector = (*Driver)(nil)
	_ runner.Counter   = (*Driver)(nil)
	_ runner.Dialer    = (*Driver)(nil)
	_ runner.Keeper    = (*Driver)(nil)
	_ runner.Execer    = (*Driver)(nil)
)

// New makes the directory and starts nothing. [Driver.Close] ends what the
// driver keeps in reserve; tasks go on.
func New(cfg Config) (*Driver, error) {
	var problems []error
	if !filepath.IsAbs(cfg.Dir) {
		problems = append(problems, fmt.Errorf("process driver: Dir %q is not an absolute path", cfg.Dir))
	}
	if cfg.Name == "" || len(cfg.Supervisor) == 0 || cfg.LogFileSize < 1<<10 || cfg.LogFiles < 1 || cfg.StartTimeout <= 0 {
		problems = append(problems, errors.New("process driver: a setting is out of range; begin with DefaultConfig"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("process driver: %w", err)
	}
	return &Driver{cfg: cfg, spares: spares{ready: make(chan *supervised, max(cfg.Spares, 0))}}, nil
}

// Name is "process", or that of the driver which is built upon this one.
func (d *Driver) Name() string { return d.cfg.Name }

// Fingerprint tries what tasks will need.
func (d *Driver) Fingerprint(context.Context) (runner.Fingerprint, error) {
	fp := runner.Fingerprint{Healthy: true, Version: "1", Facts: d.holdFacts()}
	if u, err := user.Current(); err == nil {
		fp.Facts["user"] = u.Username
	}
	for k, v := range probeCgroups(d.cfg.Cgroup) {
		fp.Facts[k] = v
	}
	probe, err := os.CreateTemp(d.cfg.Dir, ".probe")
	if err == nil {
		err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		fp.Healthy, fp.Reason = false, "its directory takes no files: "+err.Error()
	}
	return fp, nil
}

func (d *Driver) handle(id placement.TaskID) runner.Handle {
	return runner.Handle{Version: 1, Driver: d.Name(), Task: id}
}

func (d *Driver) dir(id placement.TaskID) taskDir {
	return taskDir(filepath.Join(d.cfg.Dir, dirName(id)))
}
