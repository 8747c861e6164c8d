package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/gpu/nvml"
	"github.com/sovmesh/sovmesh/gpu/probe"
	"github.com/sovmesh/sovmesh/gpu/sysfs"
	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/driver/inference"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/transport/attest"
)

// driverNames are the drivers that this program can run.
var driverNames = []string{"process", "inference", "container", "microvm", "vm"}

// sockets are a node's two ends on the network, with one address: UDP for
// everything between nodes, TCP for the app listener.
type sockets struct {
	udp net.PacketConn
	tcp net.Listener
}

// openSockets listens on both. With port 0 a port is found that is free for
// both.
func openSockets(ctx context.Context, addr string) (*sockets, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, usage("write host:port, as in 0.0.0.0:7443", "%s is no address to listen on", quoteWord(addr))
	}
	const tries = 16 // another program may hold the UDP port of a free TCP port
	var last error
	for range tries {
		tcp, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, listenFault(addr+" (TCP)", err)
		}
		_, bound, _ := net.SplitHostPort(tcp.Addr().String()) // what the system gave has a port
		udp, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", net.JoinHostPort(host, bound))
		if err == nil {
			return &sockets{udp: udp, tcp: tcp}, nil
		}
		last = listenFault(addr+" (UDP)", err)
		_ = tcp.Close() // nothing was accepted on it
		if port != "0" {
			break
		}
	}
	return nil, last
}

// addr is host:port as it was bound.
func (s *sockets) addr() string { return s.tcp.Addr().String() }

// close may follow the node's own closing.
func (s *sockets) close() { _, _ = s.udp.Close(), s.tcp.Close() }

// The words for devices that are found, not pretended.
const (
	gpusAuto = "auto" // whatever is there
	gpusNVML = "nvml" // NVIDIA's, also where their library is not found beforehand
)

// composition says how a node meets this machine.
type composition struct {
	gpus    string   // auto, none or sim:8xH100
	drivers []string // nil: every one that works here
	log     *slog.Logger
	now     func() time.Time
	// stopTasks ends the node's tasks with it.
	stopTasks bool
	tasks     taskRules
	workloads workloadRules
	hold      process.Hold // how tasks are held in; each driver has its own share
	probe     prober       // nil: each driver tries the machine itself
}

// taskRules are the operator's, for tasks that are processes.
type taskRules struct {
	hostNetwork bool         // jobs may ask for the node's own network
	share       []string     // what tasks see of the node's disks, where it is
	sameUser    bool         // tasks run as the agent's user
	resolvers   []netip.Addr // those in the region, which jobs may ask for
}

// holdOf is how processes are held in on a node.
func holdOf(cfg node.Config, s *sockets, rules taskRules) (process.Hold, error) {
	doors := []string{cfg.QUIC, strings.TrimPrefix(cfg.API, "https://")}
	if s.tcp != nil {
		doors = append(doors, s.addr())
	}
	var ports []uint16
	for _, addr := range doors {
		if _, text, err := net.SplitHostPort(addr); err == nil {
			if n, err := strconv.ParseUint(text, 10, 16); err == nil && n > 0 {
				ports = append(ports, uint16(n))
			}
		}
	}
	h, err := process.DefaultHold(cfg.Data, ports...)
	h.HostNetwork, h.Paths, h.Resolvers = rules.hostNetwork, rules.share, rules.resolvers
	if rules.sameUser {
		h.Users = 0
	}
	return h, err
}

// compose makes the real dependencies of a node: drivers below its data
// directory, devices, the dialer of model servers. The returned function ends
// what the drivers keep; tasks go on.
func compose(cfg node.Config, s *sockets, o composition) (node.Deps, func(), error) {
	deps := node.Deps{
		Socket: s.udp, HTTP: s.tcp, Models: dialModel, Dial: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		Drivers: map[string]runner.Driver{}, Quote: attest.None{}, Log: o.log, Now: o.now, StopTasksOnExit: o.stopTasks,
	}
	end := func() {}
	wanted := o.drivers
	if wanted == nil {
		wanted = driverNames
	}
	var err error
	if deps.GPUs, err = devices(o.gpus, string(cfg.Node), o.log); err != nil {
		return deps, end, err
	}
	if o.hold, err = holdOf(cfg, s, o.tasks); err != nil {
		return deps, end, fmt.Errorf("networks of tasks: %w", err)
	}
	if slices.Contains(wanted, "process") {
		c := process.DefaultConfig()
		c.Dir, c.Hold = filepath.Join(cfg.Data, "tasks"), o.hold
		d, err := process.New(c)
		if err != nil {
			return deps, end, fmt.Errorf("process driver: %w", err)
		}
		end = func() {
			if err := d.Close(); err != nil {
				o.log.Warn("spare supervisors did not end", "err", err)
			}
		}
		deps.Drivers["process"] = d
	}
	deps.Resolvers = o.tasks.resolvers
	deps.Inputs = o.workloads.inputs(filepath.Join(cfg.Data, "inputs"))
	if slices.Contains(wanted, "inference") {
		c := inference.DefaultConfig()
		c.Dial = dialModel
		d, err := inference.New(c)
		if err != nil {
			end()
			return deps, func() {}, fmt.Errorf("inference driver: %w", err)
		}
		deps.Drivers["inference"] = inference.NewServers(d, deps.Drivers)
	}
	more, err := workloadDrivers(cfg, o, wanted, deps.GPUs)
	if err != nil {
		end()
		return deps, func() {}, err
	}
	maps.Copy(deps.Drivers, more)
	return deps, end, nil
}

// dialModel reaches a model server on this node's loopback; nothing else may be
// spoken to in the name of a job.
func dialModel(ctx context.Context, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s is not on this node's loopback", addr)
	}
	return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
}

// devices reads a setting of devices: auto sees what the kernel tells of, and
// NVIDIA's where their library is; nvml insists on it; all else is fixed.
func devices(spec, seed string, log *slog.Logger) (gpu.Source, error) {
	if spec != gpusNVML && spec != gpusAuto && spec != "" {
		fixed, err := gpu.Parse(spec, seed)
		return gpu.Fixed(fixed), err
	}
	sources := []gpu.Source{sysfs.New("/sys", lookEvery, log.With("part", "sysfs"))}
	if spec != gpusNVML && !nvml.Present(os.Getenv("LD_LIBRARY_PATH")) {
		log.Info("no NVML on this machine: this node offers no NVIDIA devices")
		return sources[0], nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("the GPU probe needs this program's own path: %w", err)
	}
	cfg := probe.DefaultConfig()
	cfg.Command, cfg.Log = []string{self, nvml.ChildCommand}, log.With("part", "gpu-probe")
	child, err := probe.New(cfg)
	if err != nil {
		return nil, err
	}
	return gpu.Join(append(sources, child)...), nil
}

// lookEvery is how often the kernel's files on devices are read.
const lookEvery = 10 * time.Second
