//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/sovmesh/sovmesh/node/driver/boundary"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Network is one of a machine's own, held to a list: QEMU is handed a tap in the
// task's namespace, and runs in that namespace itself, so that whoever takes QEMU
// over reaches no more than the guest did. "@#tap@" in the machine's arguments is
// the tap's descriptor: -netdev tap,fd=@#tap@. The guest's address is
// [boundary.MachineAddress].
type Network struct {
	Boundary boundary.Config `json:"boundary"`
	Policy   boundary.Policy `json:"policy"`
	// Bare is for a machine without a network device: QEMU runs in a namespace that
	// reaches nothing, and is handed no tap.
	Bare bool `json:"bare,omitempty"`
	// DHCP answers a guest that asks for its address.
	DHCP bool `json:"dhcp,omitempty"`
	// Ports are opened on the node's loopback and lead to the guest's: node's to guest's.
	Ports map[int]int `json:"ports,omitempty"`
}

// tapFile is the name of the tap among a machine's files.
const tapFile = "tap"

// NewNetwork is the network that a hold gives a machine; nil where the hold has
// none to give. What the job says that cannot be held to is a *runner.StartError.
func NewNetwork(h process.Hold, s runner.Spec) (*Network, error) {
	p, err := h.Policy(s)
	if err != nil {
		return nil, err
	}
	if h.Network == nil {
		if p.Empty() {
			return nil, nil
		}
		return nil, &runner.StartError{Task: s.Task, Reason: "this node cannot hold a machine to a list of what it may reach: it gives tasks no networks of their own", Advice: "run it on a node whose agent is root"}
	}
	n := &Network{Boundary: h.Network.Config(), Policy: p}
	n.Boundary.Spares = 0
	if s.Setup == nil {
		return n, nil
	}
	for _, one := range s.Setup.Ports {
		if one.Host != 0 {
			if n.Ports == nil {
				n.Ports = make(map[int]int)
			}
			n.Ports[one.Host] = one.Port
		}
	}
	return n, nil
}

// network is what a supervisor keeps of its machine's.
type network struct {
	b       *boundary.Boundary
	told    *Network
	task    placement.TaskID
	path    string
	listens map[net.Listener]int // with the guest's ports
}

// raise makes the network, and hands the tap, if it has one, and the namespace on.
func (n *Network) raise(s runner.Spec) (w *network, tap, ns *os.File, err error) {
	b, err := boundary.New(n.Boundary)
	if err != nil {
		return nil, nil, nil, err
	}
	w = &network{b: b, told: n, task: s.Task, listens: make(map[net.Listener]int)}
	up := b.Machine
	if n.Bare {
		up = b.Up
	}
	at, err := up(context.Background(), s.Task, n.Policy)
	if err == nil {
		w.path = at.Path
	}
	if err == nil && !n.Bare {
		tap, err = boundary.OpenTap(at.Path)
	}
	if err == nil {
		ns, err = os.Open(at.Path)
	}
	for host, guest := range n.Ports {
		if err != nil {
			break
		}
		var l net.Listener
		if l, err = net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", host)); err != nil {
			err = &runner.StartError{Task: s.Task, Reason: fmt.Sprintf("port %d of the node's loopback cannot be opened for it: %v", host, err), Advice: "choose another host port, or leave it out: the port is reached through the mesh all the same"}
			break
		}
		w.listens[l] = guest
	}
	if err != nil {
		for _, f := range []*os.File{tap, ns} {
			if f != nil {
				_ = f.Close()
			}
		}
		w.close()
		return nil, nil, nil, process.NetworkProblem(s, err)
	}
	return w, tap, ns, nil
}

func (w *network) close() {
	if w == nil {
		return
	}
	for l := range w.listens {
		_ = l.Close()
	}
	_ = w.b.Close()
}

// maxForwards bounds the connections by a machine's ports on the node at one time.
const maxForwards = 256

// serve answers the guest and whoever comes by its ports, until ctx ends.
func (w *network) serve(ctx context.Context) {
	if w == nil {
		return
	}
	defer w.close()
	var wg sync.WaitGroup
	if w.told.DHCP {
		wg.Go(func() { _ = boundary.ServeDHCP(ctx, w.path, w.told.Policy.DNS) })
	}
	slots := make(chan struct{}, maxForwards)
	for l, port := range w.listens {
		stop := context.AfterFunc(ctx, func() { _ = l.Close() })
		defer stop()
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				select {
				case slots <- struct{}{}:
					wg.Go(func() { defer func() { <-slots }(); w.lead(ctx, c, port) })
				default:
					_ = c.Close()
				}
			}
		})
	}
	wg.Wait()
}

// lead joins a connection to a port of the guest's.
func (w *network) lead(ctx context.Context, c net.Conn, port int) {
	defer c.Close()
	g, err := w.b.DialMachine(ctx, w.task, port)
	if err != nil {
		return
	}
	defer g.Close()
	defer context.AfterFunc(ctx, func() { _, _ = c.Close(), g.Close() })()
	one := func(to, from net.Conn) {
		if _, err := io.Copy(to, from); err == nil || errors.Is(err, io.EOF) {
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
		_, _ = to.Close(), from.Close()
	}
	var wg sync.WaitGroup
	wg.Go(func() { one(g, c) })
	one(c, g)
	wg.Wait()
}
