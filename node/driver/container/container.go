//go:build linux

// Package container runs jobs in containers of a Docker or Podman engine, which
// it speaks to through the Docker Engine API.
//
// A task has one container, whose name is made from the task's own, and one
// supervisor of ours beside the agent (see [process.Elsewhere]): it makes the
// container, attaches to it before it starts, keeps every byte that it prints,
// ends it when told to or when its lease ends, and writes its exit down. So
// whatever becomes of the agent, output has no hole, an exit is not missed, and
// nothing that the engine does not itself forget is lost.
//
// A container gets no more than its job says: an image by its digest, no network,
// a root that is read-only, no capability, no way to new privileges, and bounds
// on memory, processors and processes. What the engine was asked for is looked at
// again once it runs, for there are engines that accept a request and drop it.
//
// The program's main must begin with
//
//	if len(os.Args) > 1 && os.Args[1] == container.SupervisorCommand {
//		os.Exit(container.SupervisorMain(os.Args[2:]))
//	}
package container

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// SupervisorCommand is the first argument of a container's supervisor.
const SupervisorCommand = "container-supervisor"

// SupervisorMain supervises the container of the task whose directory is args[0].
func SupervisorMain(args []string) int { return process.Supervise(args, &work{}) }

// Config is what the driver needs; Dir, Host and Instance must be set.
type Config struct {
	// Dir holds what is kept of tasks, of images and in volumes, on a local disk.
	Dir string
	// Host is where the engine answers, unix:///run/docker.sock for one; see [Detect].
	Host string
	// Instance tells this agent's containers from those of others on one engine:
	// the region's name and the node's, for one.
	Instance string
	// Supervisor is the command line that ends in [SupervisorMain].
	Supervisor []string
	// ImageDirs are the directories below which jobs may name images on disk,
	// symbolic links resolved; none by default.
	ImageDirs []string
	// AuthFile has the credentials of private registries, in the form of Docker's
	// config.json; empty is for none.
	AuthFile string
	// Mirrors replaces the beginning of an image's name by that of the region's
	// mirror, at the end of a path component; the longest one that fits is taken.
	// What a mirror gives has the digest that was asked for or is refused.
	Mirrors map[string]string
	// Transport reaches registries; nil is for images on disk and at the engine alone.
	Transport http.RoundTripper
	// PlainRegistries are those that speak HTTP without TLS, as host or host:port.
	PlainRegistries []string
	// Hold says how containers' networks are held to their jobs' lists; of the rest
	// of it nothing counts here. Without its Network lists are refused.
	Hold process.Hold
	// Gate is the program that holds a container's command back until its network
	// is there, where the engine starts it at once: the micro-VMs' init, which needs
	// no library of the image's. Empty is the one beside this program.
	Gate string
	// AllowHostNetwork lets jobs have the node's own network.
	AllowHostNetwork bool
	// Capabilities are those that a job may keep, without CAP_.
	Capabilities []string
	// Ulimits are given to every container, by name ("nofile", "nproc"). Without
	// any, containers have the engine's, or what the engine itself may have at
	// the most where its own are above that.
	Ulimits map[string]int64
	// CDIDirs are where the engine finds its CDI specifications.
	CDIDirs []string
	// KeepImages is how long an image is kept that no task here needs.
	KeepImages time.Duration
	// PullTimeout bounds the wait for an image.
	PullTimeout time.Duration
	// A task's output is kept in LogFiles files of LogFileSize bytes.
	LogFileSize int64
	LogFiles    int
	// Spares is how many supervisors wait for tasks, once there was one.
	Spares int
	// StartTimeout bounds the engine's making and starting of a container.
	StartTimeout time.Duration
	// Log takes the progress of images; nil is for nowhere.
	Log *slog.Logger
}

// DefaultConfig has everything but Dir, Host and Instance.
func DefaultConfig() Config {
	return Config{
		Supervisor: []string{"/proc/self/exe", SupervisorCommand}, Transport: http.DefaultTransport,
		// What a program needs that begins as root and becomes somebody else, or
		// listens below 1024.
		Capabilities: []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"},
		CDIDirs:      []string{"/etc/cdi", "/var/run/cdi"},
		KeepImages:   7 * 24 * time.Hour, PullTimeout: 30 * time.Minute,
		LogFileSize: 8 << 20, LogFiles: 4, Spares: 2, StartTimeout: 2 * time.Minute,
	}
}

// Driver is the runner.Driver of containers.
type Driver struct {
	*process.Driver // directories, supervisors, exits, output and leases of tasks
	cfg             Config
	engine          *client.Client
	log             *slog.Logger
	images          imageStore

	mu    sync.Mutex
	facts *engineFacts // what the engine last said of itself; guarded by mu
}

var (
	_ runner.Driver    = (*Driver)(nil)
	_ runner.Preparer  = (*Driver)(nil)
	_ runner.Leaser    = (*Driver)(nil)
	_ runner.Measurer  = (*Driver)(nil)
	_ runner.Execer    = (*Driver)(nil)
	_ runner.Dialer    = (*Driver)(nil)
	_ runner.Pauser    = (*Driver)(nil)
	_ runner.Inspector = (*Driver)(nil)
	_ runner.Counter   = (*Driver)(nil)
)

// New makes the directories and starts nothing; the engine need not answer yet.
// Close ends what the driver keeps in reserve; tasks go on.
func New(cfg Config) (*Driver, error) {
	var problems []error
	say := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("container driver: "+format, args...))
	}
	if !filepath.IsAbs(cfg.Dir) {
		say("Dir %q is not an absolute path", cfg.Dir)
	}
	if cfg.Instance == "" || len(cfg.Instance) > 200 {
		say("Instance %q is empty or longer than 200 bytes", cfg.Instance)
	}
	for _, dir := range cfg.ImageDirs {
		if !filepath.IsAbs(dir) {
			say("image directory %q is not an absolute path", dir)
		}
	}
	if len(cfg.Supervisor) == 0 || cfg.KeepImages < 0 || cfg.PullTimeout <= 0 || cfg.StartTimeout <= 0 {
		say("a setting is out of range; begin with DefaultConfig")
	}
	engine, err := client.New(client.WithHost(cfg.Host), client.WithTraceOptions())
	if err != nil || cfg.Host == "" {
		say("Host %q is no engine's address: %v", cfg.Host, err)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	below := process.DefaultConfig()
	below.Name, below.Dir, below.Cgroup = string(placement.KindContainer), filepath.Join(cfg.Dir, "tasks"), ""
	below.Supervisor, below.LogFileSize, below.LogFiles = cfg.Supervisor, cfg.LogFileSize, cfg.LogFiles
	below.Hold = cfg.Hold
	below.Spares, below.StartTimeout = cfg.Spares, cfg.StartTimeout+10*time.Second
	p, err := process.New(below)
	if err != nil {
		return nil, err
	}
	d := &Driver{Driver: p, cfg: cfg, engine: engine, log: cfg.Log, images: imageStore{dir: filepath.Join(cfg.Dir, "images")}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	for _, dir := range []string{d.images.dir, filepath.Join(cfg.Dir, "volumes")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("container driver: %w", err)
		}
	}
	return d, nil
}

// Close ends the spare supervisors and the connections to the engine.
func (d *Driver) Close() error { return errors.Join(d.Driver.Close(), d.engine.Close()) }

// containerName is the one name that a task's container ever has, so that it is
// found by its task alone.
func (d *Driver) containerName(id placement.TaskID) string {
	return "sovmesh-" + short(d.cfg.Instance) + "-" + strings.ReplaceAll(string(id), "/", "_")
}

// Detect finds an engine's socket where distributions have it, Docker's first.
func Detect() (host string, err error) {
	places := []string{"/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock"}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		places = append(places, filepath.Join(dir, "docker.sock"), filepath.Join(dir, "podman", "podman.sock"))
	}
	for _, path := range places {
		if st, err := os.Stat(path); err == nil && st.Mode().Type() == os.ModeSocket {
			return "unix://" + path, nil
		}
	}
	return "", fmt.Errorf("no container engine: there is none of %s; install docker.io, or podman and start podman.socket", strings.Join(places, ", "))
}
