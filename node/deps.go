package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/sovmesh/sovmesh/consensus"
	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/transport/attest"
)

// Deps are the places where a node touches the world. Production passes real
// ones; scenarios/mesh passes simulated ones.
type Deps struct {
	// Socket carries everything between nodes: QUIC and gossip.
	Socket net.PacketConn
	// HTTP is the app listener, before TLS.
	HTTP net.Listener
	// Resolvers are those in the region that jobs here may name.
	Resolvers []netip.Addr
	// Models dials model servers on this node's loopback.
	Models func(ctx context.Context, addr string) (net.Conn, error)
	// Dial opens the TCP connections to app listeners of other nodes (joining,
	// federating); nil means the operating system's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Storage keeps the raft log and snapshots; nil means files below the data
	// directory.
	Storage consensus.Storage
	Drivers map[string]runner.Driver
	// Inputs fetches the files of jobs; nil is for a node that fetches none.
	Inputs runner.Inputs
	// GPUs sees the machine's accelerators and what becomes of them; nil means it
	// has none.
	GPUs  gpu.Source
	Quote attest.Quoter
	Log   *slog.Logger
	Now   func() time.Time
	// StopTasksOnExit ends the node's tasks with it: for a mesh that shall leave
	// nothing behind, never in production.
	StopTasksOnExit bool
}

func (d Deps) validate() error {
	var errs []error
	if d.Socket == nil || d.HTTP == nil {
		errs = append(errs, errors.New("node: Socket and HTTP must be given"))
	}
	if d.Models == nil {
		errs = append(errs, errors.New("node: Models must be given: a dialer of model servers on this node"))
	}
	if d.Log == nil || d.Now == nil {
		errs = append(errs, errors.New("node: Log and Now must be given"))
	}
	return errors.Join(errs...)
}

func (d Deps) now() time.Time {
	if d.Now == nil {
		return time.Now()
	}
	return d.Now()
}
