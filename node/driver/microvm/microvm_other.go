//go:build !linux

// Package microvm runs jobs as micro-VMs; it needs Linux.
package microvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/image"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// The names are as on Linux.
const (
	SupervisorCommand = "microvm-supervisor"
	InitName          = "sovmesh-init"
)

// Config is as on Linux.
type Config struct {
	Dir             string
	Images          image.Source
	Supervisor      []string
	Cgroup, Binary  string
	Vsock           bool
	VsockDevice     string
	Kernel, Modules string
	KernelRoots     []string
	Init            string
	UIDs            int
	Hold            process.Hold
	LogFileSize     int64
	LogFiles        int
	ImageSize       int64
	Keep, Boot      time.Duration
	VolumeSize      placement.Bytes
	Probe           func(ctx context.Context, binary string) (qemu.Accel, error)
}

// DefaultConfig is empty here.
func DefaultConfig() Config { return Config{} }

// Driver does not exist here.
type Driver struct{ runner.Driver }

// New fails: this system has no micro-VMs.
func New(Config) (*Driver, error) {
	return nil, fmt.Errorf("the microvm driver on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Close does nothing.
func (d *Driver) Close() error { return nil }

// SupervisorMain fails as New does.
func SupervisorMain([]string) int {
	fmt.Fprintln(os.Stderr, SupervisorCommand+": not on "+runtime.GOOS)
	return 2
}
