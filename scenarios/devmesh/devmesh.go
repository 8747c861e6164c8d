// Package devmesh runs a whole mesh in one process on the sockets of loopback:
// every region with a CA, a raft group and a gossip pool of its own, joined and
// federated by the very steps that operators take. Nothing in it is simulated
// but the devices, and, when asked for, a cut between regions.
//
// The rule that must hold: what runs here is the code of the agent, built by
// package node. This package only hands out ports and directories, presses the
// buttons that operators press, and reports. `sovmesh dev`, `sovmesh demo`,
// scripts and the bench stand on it.
//
// It is for one user on one machine: all regions' keys lie in one directory.
package devmesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// MaxNodes bounds the nodes of a region, MaxRegions the regions: it is one
// process on one machine.
const (
	MaxNodes   = 32
	MaxRegions = 32
)

// Config is what a mesh is made of.
type Config struct {
	Regions []Region
	// Nodes is how many nodes each region has.
	Nodes int
	// Dir is an absolute path. It keeps everything; a second start on the same
	// directory goes on with what is there.
	Dir string
	// Mesh is the mesh's domain.
	Mesh string
	// Program is the version that nodes report.
	Program string
	// CPU and Memory are what a node offers, whatever the machine has.
	CPU    placement.MilliCPU
	Memory placement.Bytes
	// Drivers makes the drivers of one node; models dials its model servers.
	Drivers func(cfg node.Config, models Dialer) (map[string]runner.Driver, error)
	// Inputs, if set, is where a node has the files from that jobs name by digest.
	Inputs func(cfg node.Config) runner.Inputs
	// Tune, if set, changes a node's configuration before it is used.
	Tune func(*node.Config)
	// Severable lets [Mesh.Cut] and [Mesh.Kill] work. It costs speed: packets
	// then pass through this package one by one.
	Severable bool
	// Level is from where on nodes log, each to a file beside its directory.
	Level slog.Level
	// Progress is told what is being done, in plain lines; it may be nil.
	Progress func(line string)
}

// Dialer opens a connection to a model server on a node's loopback.
type Dialer func(ctx context.Context, addr string) (net.Conn, error)

// Region is one region to be founded. Its operator is a local one without a
// parent, its facts count as documented today.
type Region struct {
	Name                 placement.RegionID
	Country, Subdivision string
	// Devices are simulated ones, as gpu.Parse reads them.
	Devices string
}

// DefaultConfig has three nodes a region, each offering 64 cores and 256 GiB.
func DefaultConfig() Config {
	return Config{
		Nodes: 3, Mesh: "mesh.internal", Program: "dev", CPU: 64_000, Memory: 256 * placement.GiB,
		Drivers: Drivers, Level: slog.LevelInfo,
	}
}

// DefaultDevices is what a dev node pretends to have.
const DefaultDevices = "sim:8xH100"

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	if len(c.Regions) == 0 || len(c.Regions) > MaxRegions {
		errs = append(errs, fmt.Errorf("devmesh: %d regions; one to %d are possible", len(c.Regions), MaxRegions))
	}
	if c.Nodes < 1 || c.Nodes > MaxNodes {
		errs = append(errs, fmt.Errorf("devmesh: %d nodes a region; one to %d are possible", c.Nodes, MaxNodes))
	}
	if !filepath.IsAbs(c.Dir) {
		errs = append(errs, fmt.Errorf("devmesh: the directory %q is not an absolute path", c.Dir))
	}
	if c.Drivers == nil {
		errs = append(errs, errors.New("devmesh: Drivers must be given"))
	}
	return errors.Join(errs...)
}

// Mesh is a running mesh, or one that is going to run.
type Mesh struct {
	cfg     Config
	net     *fabric
	regions []*region
	ready   chan struct{}
	record  record
	saving  sync.Mutex // held while record is changed and written

	fail    context.CancelCauseFunc // ends Run; set by it before any node starts
	running sync.WaitGroup          // the nodes
}

// New lays the mesh out and starts nothing.
func New(cfg Config) (*Mesh, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	m := &Mesh{cfg: cfg, net: newFabric(), ready: make(chan struct{})}
	for _, r := range cfg.Regions {
		reg := &region{mesh: m, Region: r, dir: filepath.Join(cfg.Dir, string(r.Name))}
		for i := range cfg.Nodes {
			name := placement.NodeID(fmt.Sprintf("%s-n%d", r.Name, i+1))
			reg.nodes = append(reg.nodes, &Node{mesh: m, region: reg, Name: name, Region: r.Name, Dir: filepath.Join(reg.dir, string(name)), site: siteName(r.Name, i)})
		}
		m.regions = append(m.regions, reg)
	}
	return m, nil
}

// siteName is the place of a node within its region: every node has its own,
// so that a site: item can be tried.
func siteName(r placement.RegionID, i int) string { return fmt.Sprintf("%s-site%d", r, i+1) }

// Ready is closed once every region takes jobs and sees every other.
func (m *Mesh) Ready() <-chan struct{} { return m.ready }

// Run serves until ctx ends or a node fails. It leaves no goroutine, no process
// and no open port; what it wrote stays in the directory.
func (m *Mesh) Run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	m.fail = fail
	err := m.load()
	if err == nil {
		err = m.assemble(ctx)
	}
	if err == nil {
		close(m.ready)
		<-ctx.Done()
	}
	m.stop()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// assemble does what operators do, in their order.
func (m *Mesh) assemble(ctx context.Context) error {
	begin := time.Now()
	for _, r := range m.regions {
		for _, n := range r.nodes {
			if err := n.open(); err != nil {
				return err
			}
		}
	}
	if err := m.save(); err != nil { // the ports are kept: ledgers name them
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, r := range m.regions {
		g.Go(func() error { return r.raise(gctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	m.say("%d regions of %d nodes run after %s", len(m.regions), m.cfg.Nodes, since(begin))
	if err := m.federate(ctx); err != nil {
		return err
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	m.say("every region sees every other after %s", since(begin))
	return m.hand(ctx)
}

func since(t time.Time) time.Duration { return time.Since(t).Round(10 * time.Millisecond) }

func (m *Mesh) say(format string, args ...any) { m.cfg.Progress(fmt.Sprintf(format, args...)) }

// stop ends all nodes at once and waits for them.
func (m *Mesh) stop() {
	for _, r := range m.regions {
		for _, n := range r.nodes {
			n.end()
		}
	}
	m.running.Wait()
	for _, r := range m.regions {
		if r.client != nil {
			r.client.Close()
		}
		for _, n := range r.nodes {
			n.close()
		}
	}
}

// Nodes are the nodes of a region; none if there is no such region.
func (m *Mesh) Nodes(name placement.RegionID) []*Node {
	if r := m.find(name); r != nil {
		return r.nodes
	}
	return nil
}

// RegionDir is where a region keeps everything: its nodes' directories and logs.
func (m *Mesh) RegionDir(name placement.RegionID) string {
	return filepath.Join(m.cfg.Dir, string(name))
}

// Access is how a person of a region reaches it, once the mesh is ready: the
// configuration of a client of one of its nodes, with every role.
func (m *Mesh) Access(n *Node) api.ClientConfig {
	return api.ClientConfig{Addr: n.API, Token: n.region.session, CA: []byte(n.region.ca)}
}

func (m *Mesh) find(name placement.RegionID) *region {
	for _, r := range m.regions {
		if r.Name == name {
			return r
		}
	}
	return nil
}
