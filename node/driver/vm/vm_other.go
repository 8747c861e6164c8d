//go:build !linux

// Package vm runs jobs as full virtual machines; it needs Linux.
package vm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
)

// SupervisorCommand is the first argument of a machine's supervisor.
const SupervisorCommand = "vm-supervisor"

// Config is what the driver needs.
type Config struct {
	Dir, Cgroup string
	ImageDirs   []string
	Supervisor  []string
	HostNetwork bool
	Hold        process.Hold
	PCI         func(uuid string) (string, error)
	HTTP        *http.Client
	Probe       func(ctx context.Context, binary string) (qemu.Accel, error)
}

// DefaultConfig is empty.
func DefaultConfig() Config { return Config{} }

// Driver cannot be made here.
type Driver struct{ runner.Driver }

// New fails.
func New(Config) (*Driver, error) {
	return nil, errors.New("vm driver: it needs Linux")
}

// Close does nothing.
func (d *Driver) Close() error { return nil }

// SupervisorMain fails.
func SupervisorMain([]string) int {
	fmt.Fprintln(os.Stderr, SupervisorCommand+" needs Linux")
	return 2
}
