//go:build !linux

// Package process runs jobs as plain processes; it needs Linux (cgroups,
// pidfd, /proc). Elsewhere [New] says so, and the node works without it.
package process

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/boundary"
	"github.com/sovmesh/sovmesh/node/runner"
)

// SupervisorCommand is the first argument of a supervisor.
const SupervisorCommand = "task-supervisor"

// Config is as on Linux.
type Config struct {
	Name         string
	Dir, Cgroup  string
	Supervisor   []string
	LogFileSize  int64
	LogFiles     int
	Spares       int
	StartTimeout time.Duration
	Hold         Hold
}

// Hold is as on Linux, as far as it goes.
type Hold struct {
	Off, HostNetwork bool
	Paths            []string
	Volumes          string
	FirstUser, Users int
	Resolve          func(runner.Spec) boundary.Resolver
	Resolvers        []netip.Addr
}

// Share is the same.
func (h Hold) Share() (Hold, error) { return h, nil }

// DefaultHold is empty here.
func DefaultHold(string, ...uint16) (Hold, error) { return Hold{}, nil }

// DefaultConfig is empty here.
func DefaultConfig() Config { return Config{} }

// Driver does not exist here.
type Driver struct{ runner.Driver }

// New fails: this system has no process driver.
func New(Config) (*Driver, error) {
	return nil, fmt.Errorf("the process driver on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Close does nothing.
func (d *Driver) Close() error { return nil }

// SupervisorMain fails as New does.
func SupervisorMain([]string) int {
	fmt.Fprintln(os.Stderr, SupervisorCommand+": not on "+runtime.GOOS)
	return 2
}
