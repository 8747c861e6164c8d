//go:build linux

package main

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
)

// dialTimeout bounds a connection to a port of this very machine.
const dialTimeout = 5 * time.Second

// dial connects a run to a port of the guest's own loopback: no network leads to it.
func (s *session) dial(id uint32, port int) error {
	s.mu.Lock()
	taken, many := s.runs[id] != nil || id == 0, len(s.runs) >= wire.MaxRuns
	r := &run{id: id, gate: wire.NewGate(), stdin: wire.NewQueue(), gone: make(chan struct{})}
	if !taken && !many {
		s.runs[id] = r
	}
	s.mu.Unlock()
	switch {
	case taken:
		return fmt.Errorf("run %d is there already", id)
	case many:
		return s.w.SendJSON(wire.Failed, id, wire.Failure{Reason: fmt.Sprintf("%d commands and connections are open in it already", wire.MaxRuns), Advice: "end some of them"})
	}
	go s.stream(r, port)
	return nil
}

// stream carries one connection until both of its ways have ended, or the host
// has gone.
func (s *session) stream(r *run, port int) {
	defer func() {
		s.mu.Lock()
		delete(s.runs, r.id)
		s.mu.Unlock()
		r.gate.Close()
		r.stdin.End()
	}()
	conn, err := dialLoopback(port)
	if err != nil {
		_ = s.w.SendJSON(wire.Failed, r.id, wire.Failure{Reason: fmt.Sprintf("nothing answers at port %d in it: %v", port, err), Advice: "see that the workload listens there, also on its loopback"})
		return
	}
	defer conn.Close()
	if s.w.Send(wire.Started, r.id, nil) != nil {
		return
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		buf := make([]byte, 32<<10)
		for {
			n := r.stdin.Get(buf)
			if n == 0 {
				_ = conn.CloseWrite()
				return
			}
			_, err := conn.Write(buf[:n])
			_ = s.w.SendCredit(r.id, n)
			if err != nil {
				return
			}
		}
	}()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-r.gone:
			_ = conn.Close()
		case <-ended:
		}
	}()
	r.outs.Add(1)
	s.send(r, wire.Stdout, conn)
	_ = s.w.Send(wire.Stdout, r.id, nil)
	<-fed
	_ = s.w.SendJSON(wire.Exited, r.id, wire.Exit{})
}

// dialLoopback tries both of the loopback's addresses.
func dialLoopback(port int) (*net.TCPConn, error) {
	var first error
	for _, host := range []string{"127.0.0.1", "::1"} {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(host, strconv.Itoa(port)), dialTimeout)
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
