//go:build linux

// Package boundary holds what a task may reach on the network.
//
// Each task has a network namespace. One that may reach nothing has no device in
// it but a loopback of its own: no packet of it can leave, whatever it does to
// the rules inside. One that may reach something has one more device, and the
// rules are there twice: inside, where a refused packet is answered at once, and
// on the node's side of that device, where the task has no hand. What is not on
// the task's list is refused, counted and told by its destination.
//
// Everything is found again by its name after a restart of the agent, and goes
// with the task. Of the machine's own rules none is changed.
//
// Drivers rely on it: they start their workloads in the namespace.
package boundary

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/claims"
)

// Config is what a Boundary needs; Dir must be set.
type Config struct {
	// Dir holds one file and one mounted namespace per task.
	Dir string
	// Pool4 and Pool6 are what tasks' devices get their addresses of, two for each
	// task. They must be used by nothing else that the node speaks to.
	Pool4, Pool6 netip.Prefix
	// Never are the node's own doors: no task gets there, whatever its list says.
	// An unspecified address stands for every address of the node.
	Never []netip.AddrPort
	// Host is the namespace of the node, by its file; empty is the caller's own.
	Host string
	// Shared is where the agents of one machine find each other's Dir: a device of
	// the node's forwards for as long as a task of any of them needs it. Empty is for
	// one that is alone.
	Shared string
	// Remember is how long a destination is told apart after its last packet.
	Remember time.Duration
	// Distinct is how many destinations are told apart for each task and address
	// family; those beyond are counted together.
	Distinct int
	// Spares is how many namespaces that reach nothing wait for tasks, once there was one.
	Spares int
}

// DefaultConfig has everything but Dir.
func DefaultConfig() Config {
	return Config{
		Pool4: netip.MustParsePrefix("10.213.0.0/16"), Pool6: netip.MustParsePrefix("fd53:6f76:6d65::/112"),
		Shared: filepath.Join(claims.Dir, "networks"), Remember: 30 * 24 * time.Hour, Distinct: 512, Spares: 2,
	}
}

// Boundary makes, finds and removes the networks of tasks.
type Boundary struct {
	cfg    Config
	host   *os.File // the node's own namespace
	spares spares
	turn   chan struct{}             // has one in it while a task's state is read, changed and written
	handed atomic.Pointer[time.Time] // when a turn was last over

	serving  serving
	refusals refusals
}

// New makes the directory and starts nothing. [Boundary.Close] ends what is kept
// in reserve; tasks keep their networks.
func New(cfg Config) (*Boundary, error) {
	var problems []error
	if !filepath.IsAbs(cfg.Dir) {
		problems = append(problems, fmt.Errorf("boundary: Dir %q is not an absolute path", cfg.Dir))
	}
	if !cfg.Pool4.Addr().Is4() || cfg.Pool4.Bits() > 24 || !cfg.Pool6.Addr().Is6() || cfg.Pool6.Bits() > 120 {
		problems = append(problems, errors.New("boundary: Pool4 is to be an IPv4 prefix of /24 or shorter, Pool6 an IPv6 prefix of /120 or shorter"))
	}
	if cfg.Remember <= 0 || cfg.Distinct < 1 || cfg.Spares < 0 {
		problems = append(problems, errors.New("boundary: a setting is out of range; begin with DefaultConfig"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if cfg.Host == "" {
		// Not /proc/self: that is the first thread's, which may be elsewhere.
		cfg.Host = "/proc/thread-self/ns/net"
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("boundary: %w", err)
	}
	host, err := os.Open(cfg.Host)
	if err != nil {
		return nil, fmt.Errorf("boundary: open the node's network namespace: %w", err)
	}
	cfg.Pool4, cfg.Pool6 = cfg.Pool4.Masked(), cfg.Pool6.Masked()
	return &Boundary{cfg: cfg, host: host, turn: make(chan struct{}, 1), spares: spares{ready: make(chan *os.File, cfg.Spares)}}, nil
}

// Config is what it was made with: for a supervisor that makes a task's network
// in its stead.
func (b *Boundary) Config() Config { return b.cfg }

// Close gives back what New and the tasks' starts opened, once. Tasks keep their
// networks.
func (b *Boundary) Close() error {
	b.closeServing()
	b.closeSpares()
	if err := b.host.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
