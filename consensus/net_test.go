package consensus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/sovmesh/sovmesh/placement"
)

// fabric is a network of pipes. A node is reached by its name, as by its
// certificate; an address that is not the node's is an error, and links can be cut.
type fabric struct {
	mu     sync.Mutex
	layers map[placement.NodeID]*pipeLayer
	cut    map[placement.NodeID]bool
	conns  map[placement.NodeID][]net.Conn
}

func newFabric() *fabric {
	return &fabric{layers: map[placement.NodeID]*pipeLayer{}, cut: map[placement.NodeID]bool{}, conns: map[placement.NodeID][]net.Conn{}}
}

type arrival struct {
	conn net.Conn
	from placement.NodeID
}

type pipeLayer struct {
	f    *fabric
	self placement.NodeID
	in   chan arrival
	done chan struct{}
	once sync.Once
}

func (f *fabric) layer(self placement.NodeID) *pipeLayer {
	l := &pipeLayer{f: f, self: self, in: make(chan arrival), done: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.layers[self] = l
	return l
}

func (l *pipeLayer) Accept() (net.Conn, placement.NodeID, error) {
	select {
	case a := <-l.in:
		return a.conn, a.from, nil
	case <-l.done:
		return nil, "", net.ErrClosed
	}
}

func (l *pipeLayer) Close() error { l.once.Do(func() { close(l.done) }); return nil }

func (l *pipeLayer) Dial(ctx context.Context, node placement.NodeID, addr string) (net.Conn, error) {
	f := l.f
	f.mu.Lock()
	to, cut := f.layers[node], f.cut[node] || f.cut[l.self]
	f.mu.Unlock()
	if to == nil || cut {
		return nil, errors.New("no route")
	}
	if addr != address(node) {
		return nil, fmt.Errorf("nobody at %s", addr)
	}
	here, there := net.Pipe()
	f.mu.Lock()
	f.conns[l.self] = append(f.conns[l.self], here)
	f.conns[node] = append(f.conns[node], here)
	f.mu.Unlock()
	select {
	case to.in <- arrival{there, l.self}:
		return here, nil
	case <-to.done:
	case <-ctx.Done():
	}
	here.Close()
	there.Close()
	return nil, errors.New("refused")
}

// isolate cuts a node off, or lets it back.
func (f *fabric) isolate(node placement.NodeID, cut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut[node] = cut
	for _, c := range f.conns[node] {
		c.Close()
	}
	f.conns[node] = nil
}

func address(node placement.NodeID) string { return "127.0.0.1:7" + string(node[1:]) }
