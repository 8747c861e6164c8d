//go:build !linux

// Package container runs jobs in containers of a Docker or Podman engine; it
// needs Linux. Elsewhere [New] says so, and the node works without it.
package container

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
)

// SupervisorCommand is the first argument of a container's supervisor.
const SupervisorCommand = "container-supervisor"

// Config is as on Linux.
type Config struct {
	Dir, Host, Instance   string
	Supervisor, ImageDirs []string
	AuthFile              string
	Mirrors               map[string]string
	Transport             http.RoundTripper
	PlainRegistries       []string
	Hold                  process.Hold
	Gate                  string
	AllowHostNetwork      bool
	Capabilities, CDIDirs []string
	Ulimits               map[string]int64
	KeepImages            time.Duration
	PullTimeout           time.Duration
	LogFileSize           int64
	LogFiles, Spares      int
	StartTimeout          time.Duration
	Log                   *slog.Logger
}

// DefaultConfig is empty here.
func DefaultConfig() Config { return Config{} }

// Driver does not exist here.
type Driver struct{ runner.Driver }

// New fails: this system has no container driver.
func New(Config) (*Driver, error) {
	return nil, fmt.Errorf("the container driver on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Close does nothing.
func (d *Driver) Close() error { return nil }

// Detect finds none.
func Detect() (string, error) { return "", errors.ErrUnsupported }

// SupervisorMain fails as New does.
func SupervisorMain([]string) int {
	fmt.Fprintln(os.Stderr, SupervisorCommand+": not on "+runtime.GOOS)
	return 2
}
