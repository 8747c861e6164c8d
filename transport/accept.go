package transport

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// classes are the ALPNs that the socket answers, one connection each per peer:
// bulk in one class then costs the others nothing but bandwidth.
var classes = identity.Classes()

// hello opens every raft and gossip stream and every inference connection, and is
// answered by its first byte. A QUIC dial succeeds before the server has looked
// at the client's certificate: only an answer says that it was accepted.
//
// It is this long because a peer that was restarted answers no packet of fewer
// than 42 bytes with a stateless reset: a bare byte would wait for its timeout.
const hello = "Sovmesh: a peer speaks, are you there?\n"

// helloTimeout bounds how long an accepted stream may keep its first byte back.
const helloTimeout = 5 * time.Second

// acceptLoop hands each connection to its class until the listener ends.
func (e *Endpoint) acceptLoop(ln *quic.Listener) error {
	for {
		c, err := ln.Accept(e.ctx)
		if err != nil {
			if e.ctx.Err() != nil || errors.Is(err, quic.ErrServerClosed) || errors.Is(err, quic.ErrTransportClosed) {
				return nil
			}
			return err
		}
		if !e.spawn(func() { e.serve(c) }) {
			_ = c.CloseWithError(codeShutdown, "the node stops")
		}
	}
}

// serve runs one accepted connection to its end.
func (e *Endpoint) serve(c *quic.Conn) {
	class := identity.Class(c.ConnectionState().TLS.NegotiatedProtocol)
	who, err := e.adopt(c, nil)
	if err != nil {
		_ = c.CloseWithError(codeRefused, "no identity")
		return
	}
	e.counts.accepted.Add(1)
	switch class {
	case identity.ClassHTTP:
		e.serveH3(c)
	case identity.ClassRaft:
		e.serveStreams(c, e.greeted(who, e.raft.deliver))
	case identity.ClassGossip:
		e.serveStreams(c, e.greeted(who, e.gossip.deliver))
	case identity.ClassInfer:
		e.serveInfer(c, who)
	default:
		_ = c.CloseWithError(codeRefused, "no such class")
	}
}

// serveStreams gives every stream of a connection to handle, in a goroutine.
func (e *Endpoint) serveStreams(c *quic.Conn, handle func(*quic.Conn, *quic.Stream)) {
	for {
		s, err := c.AcceptStream(context.Background()) // ends with the connection
		if err != nil {
			return
		}
		if !e.spawn(func() { handle(c, s) }) {
			return
		}
	}
}

// greeted answers a stream's hello before it hands the stream on.
func (e *Endpoint) greeted(who identity.ID, deliver func(*Conn) bool) func(*quic.Conn, *quic.Stream) {
	return func(c *quic.Conn, s *quic.Stream) {
		if err := answerHello(s); err != nil {
			e.counts.garbage.Add(1)
			cancelBoth(s, codeHello)
			return
		}
		conn := newConn(c, s, who)
		if !deliver(conn) {
			_ = conn.Close()
		}
	}
}

// answerHello reads the hello and gives its first byte back.
func answerHello(s *quic.Stream) error {
	if err := s.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	var b [len(hello)]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return err
	}
	if string(b[:]) != hello {
		return errors.New("not a hello")
	}
	if _, err := s.Write(b[:1]); err != nil {
		return err
	}
	return s.SetDeadline(time.Time{})
}

// sayHello writes the hello and waits for its answer until deadline.
func sayHello(ctx context.Context, s *quic.Stream, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	stop := context.AfterFunc(ctx, func() { cancelBoth(s, codeCanceled) })
	defer stop()
	if err := s.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := s.Write([]byte(hello)); err != nil {
		return err
	}
	// Read may give (1, io.EOF): ReadFull takes that for the byte it is.
	var b [1]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return err
	}
	if b[0] != hello[0] {
		return errors.New("the peer answered something else than a hello")
	}
	return s.SetDeadline(time.Time{})
}

// cancelBoth ends both directions of a stream at once, without an end mark.
func cancelBoth(s *quic.Stream, code quic.StreamErrorCode) {
	s.CancelRead(code)
	s.CancelWrite(code)
}
