package devmesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/driver/inference"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Node is one node of the mesh.
type Node struct {
	Name   placement.NodeID
	Region placement.RegionID
	Dir    string // its data directory
	API    string // https://127.0.0.1:port
	QUIC   string // 127.0.0.1:port

	mesh   *Mesh
	region *region
	site   string

	mu     sync.Mutex         // guards what follows
	socket net.PacketConn     // open while a start is coming, or it runs
	http   *listener          // likewise
	log    *os.File           // likewise
	cancel context.CancelFunc // nil while it does not run
	done   chan struct{}      // closed when the last run has ended
	node   *node.Node
	// drivers are those of the coming or present run.
	drivers map[string]runner.Driver
}

// open takes the node's ports: those that it had before, or free ones.
func (n *Node) open() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	had := n.mesh.ports(n.Name)
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: had.UDP})
	if err != nil {
		return portError(n.Name, "UDP", had.UDP, err)
	}
	tcp, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", had.TCP))
	if err != nil {
		_ = udp.Close()
		return portError(n.Name, "TCP", had.TCP, err)
	}
	n.QUIC, n.API = udp.LocalAddr().String(), "https://"+tcp.Addr().String()
	n.mesh.setPorts(n.Name, ports{UDP: udp.LocalAddr().(*net.UDPAddr).Port, TCP: tcp.Addr().(*net.TCPAddr).Port})
	n.http, n.socket = newListener(tcp), udp
	at := n.mesh.net.register(n, udp, tcp)
	if n.mesh.cfg.Severable {
		n.socket = &tap{PacketConn: udp, net: n.mesh.net, at: at}
	}
	return nil
}

func portError(n placement.NodeID, what string, port int, err error) error {
	if port == 0 {
		return fmt.Errorf("node %s: no free %s port: %w", n, what, err)
	}
	return &PortError{Node: n, What: what, Port: port, Err: err}
}

// PortError is a port that the mesh used before and cannot have now.
type PortError struct {
	Node placement.NodeID
	What string
	Port int
	Err  error
}

func (e *PortError) Error() string {
	return fmt.Sprintf("node %s had %s port %d and cannot have it now: %v", e.Node, e.What, e.Port, e.Err)
}

// Hint says what to do.
func (e *PortError) Hint() string {
	return "stop what uses the port (another dev mesh on the same --data?), or begin a new one with another --data"
}

func (e *PortError) Unwrap() error { return e.Err }

// config is the node's configuration; join is its join token, if it has one.
func (n *Node) config(join string) node.Config {
	c := node.DefaultConfig()
	c.Node, c.Data, c.QUIC, c.API, c.Join = n.Name, n.Dir, n.QUIC, n.API, join
	c.Hosts, c.Site = []string{"localhost", "127.0.0.1"}, n.site
	c.CPU, c.Memory, c.Program = n.mesh.cfg.CPU, n.mesh.cfg.Memory, n.mesh.cfg.Program
	// All of it is one machine: contact needs less patience than over a WAN.
	c.Heartbeat, c.Summaries = 500*time.Millisecond, 500*time.Millisecond
	if n.mesh.cfg.Tune != nil {
		n.mesh.cfg.Tune(&c)
	}
	return c
}

// deps are real ones but for the devices.
func (n *Node) deps(c node.Config) (node.Deps, error) {
	models := func(ctx context.Context, addr string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}
	drivers, err := n.makeDrivers(c, models)
	if err != nil {
		return node.Deps{}, fmt.Errorf("node %s: %w", n.Name, err)
	}
	logTo, err := n.openLog()
	if err != nil {
		return node.Deps{}, err
	}
	pretended, err := gpu.Parse(n.region.Devices, string(n.Name))
	if err != nil {
		return node.Deps{}, fmt.Errorf("node %s: %w", n.Name, err)
	}
	var inputs runner.Inputs
	if n.mesh.cfg.Inputs != nil {
		inputs = n.mesh.cfg.Inputs(c)
	}
	return node.Deps{
		Socket: n.socket, HTTP: n.http, Models: models, Dial: n.mesh.Dial(n.Region), Drivers: drivers,
		GPUs: gpu.Fixed(pretended), Inputs: inputs,
		Log: slog.New(slog.NewTextHandler(logTo, &slog.HandlerOptions{Level: n.mesh.cfg.Level})),
		Now: time.Now, StopTasksOnExit: true,
	}, nil
}

func (n *Node) makeDrivers(c node.Config, models Dialer) (_ map[string]runner.Driver, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.drivers == nil {
		n.drivers, err = n.mesh.cfg.Drivers(c, models)
	}
	return n.drivers, err
}

// endDrivers ends what drivers keep beside tasks, such as spare supervisors.
func (n *Node) endDrivers() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.drivers {
		if c, ok := d.(io.Closer); ok {
			_ = c.Close() // the node's tasks have ended; nothing depends on it
		}
	}
	n.drivers = nil
}

// openLog opens the node's log, beside its directory.
func (n *Node) openLog() (*os.File, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.log != nil {
		return n.log, nil
	}
	err := os.MkdirAll(filepath.Dir(n.Dir), 0o700)
	if err == nil {
		n.log, err = os.OpenFile(n.Dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("log of node %s: %w", n.Name, err)
	}
	return n.log, nil
}

// Drivers are those that need nothing but this program: processes, and model
// servers that are already there.
func Drivers(c node.Config, models Dialer) (map[string]runner.Driver, error) {
	cfg := process.DefaultConfig()
	cfg.Dir = filepath.Join(c.Data, "tasks")
	hold, err := process.DefaultHold(c.Data)
	if err != nil {
		return nil, err
	}
	hold.HostNetwork, hold.Users = true, 0 // one person's jobs, on that person's machine
	cfg.Hold = hold
	processes, err := process.New(cfg)
	if err != nil {
		return nil, err
	}
	inf := inference.DefaultConfig()
	inf.Dial = models
	servers, err := inference.New(inf)
	if err != nil {
		return nil, err
	}
	drivers := map[string]runner.Driver{processes.Name(): processes}
	drivers[servers.Name()] = inference.NewServers(servers, drivers)
	return drivers, nil
}

// start runs the node until [Node.end]. A node that ends by itself ends the mesh.
func (n *Node) start() error {
	c := n.config("")
	deps, err := n.deps(c)
	if err != nil {
		return err
	}
	nd, err := node.New(c, deps)
	if err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.node, n.cancel, n.done = nd, cancel, make(chan struct{})
	done := n.done
	n.mesh.running.Go(func() {
		defer close(done)
		defer n.endDrivers()
		defer cancel()
		if err := nd.Run(ctx); err != nil && ctx.Err() == nil {
			n.mesh.fail(fmt.Errorf("node %s: %w; see %s.log", n.Name, err, n.Dir))
		}
	})
	return nil
}

// wait returns once the node serves its region.
func (n *Node) wait(ctx context.Context) error {
	n.mu.Lock()
	nd := n.node
	n.mu.Unlock()
	select {
	case <-nd.Ready():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end asks the node to stop and does not wait.
func (n *Node) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cancel != nil {
		n.cancel()
		n.cancel = nil
	}
}

// close gives the ports back. The node does not run any more.
func (n *Node) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.socket != nil {
		_ = n.socket.Close()
		n.socket = nil
	}
	if n.http != nil {
		_ = n.http.Close()
		n.http = nil
	}
	if n.log != nil {
		_ = n.log.Close()
		n.log = nil
	}
}

// Leads reports whether the node believes that it leads its region.
func (n *Node) Leads() bool {
	n.mu.Lock()
	nd, runs := n.node, n.cancel != nil
	n.mu.Unlock()
	if nd == nil || !runs {
		return false
	}
	leader, ok := nd.Leader()
	return ok && leader == n.Name
}

// Kill takes a node away without a goodbye, as a machine that loses its power:
// its packets and connections end at once, and its tasks with it. It needs
// Config.Severable.
func (m *Mesh) Kill(n *Node) error {
	if !m.cfg.Severable {
		return errors.New("devmesh: Kill needs Config.Severable")
	}
	m.net.silence(n.Name, true)
	n.mu.Lock()
	if n.http != nil {
		n.http.abort()
	}
	n.mu.Unlock()
	n.end()
	return nil
}

// Restart starts a node that [Mesh.Kill] took away, at its old addresses, and
// returns once it serves.
func (m *Mesh) Restart(ctx context.Context, n *Node) error {
	n.mu.Lock()
	done := n.done
	n.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	n.close()
	m.net.silence(n.Name, false)
	if err := n.open(); err != nil {
		return err
	}
	if err := n.start(); err != nil {
		return err
	}
	return n.wait(ctx)
}

// running is the node of the last start.
func (n *Node) running() *node.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.node
}
