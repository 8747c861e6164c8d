package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// A connection to a service is two directions, each with an end of its own, over
// every node on its way. An end is passed on only if it was told: whatever else
// stops a direction breaks the whole connection, so that nobody takes a part for
// everything. A session of a person's (see session.go) ends with either end.
//
// A connection that a judgement ended tells its caller why; what then still waits for
// a caller that reads nothing is given up soon.

// carryService carries a connection between its caller and a service until both have
// ended what they say, or something broke. The caller is told first that it is there.
func (s *Server) carryService(ctx context.Context, cancel func(), c *call, conn net.Conn, frames *frameReader) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	out := c.answerFrames()
	_ = out.write(frameOut, nil) // the caller is gone: nobody to tell
	ruled, stop := c.ruled(ctx, conn)
	defer stop()
	t := tunnelIn{frames: frames, conn: conn, broken: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(t.done)
		if t.run() != nil {
			cancel()
		}
	}()
	_, err := io.Copy(out.as(frameOut), conn)
	end := ReachEnd{}
	if err != nil {
		end.Problem = c.brokenProblem(err)
	}
	_ = out.json(frameEnd, end) // the caller is gone: nobody to tell
	if err == nil {
		select {
		case <-t.done:
		case <-t.broken:
		case <-ruled:
		case <-ctx.Done():
		}
	}
	cancel()
	_ = conn.Close()
	c.endBody()
	<-t.done
}

// ruled is closed once a judgement ended the connection; nil if none does. From then
// on writing to the caller is bounded, so that one that reads nothing keeps no place.
func (c *call) ruled(ctx context.Context, conn net.Conn) (ended <-chan struct{}, stop func()) {
	judged, ok := conn.(interface{ Ended() <-chan struct{} })
	if !ok {
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-judged.Ended():
			_ = http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(endWithin))
		case <-ctx.Done():
		}
	})
	return judged.Ended(), func() { cancel(); watch.Wait() }
}

// brokenProblem is why a connection broke off, as its caller may know it: whether a
// rule ended it, and to another region nothing else.
func (c *call) brokenProblem(err error) *Problem {
	if refusedService(err) {
		return problemOf(c.serviceProblem(err))
	}
	return c.endProblem(fmt.Errorf("the connection to the service broke off: %w", err))
}

// tunnelIn takes what comes from the caller of a service to it.
type tunnelIn struct {
	frames *frameReader
	conn   net.Conn
	broken chan struct{} // closed once the service takes nothing more
	done   chan struct{} // closed at the end of run
}

// run ends with the caller's body. It fails if that ended before the caller had told
// the end of what it says.
func (t *tunnelIn) run() error {
	told, broken := false, false
	for {
		kind, payload, err := t.frames.next()
		switch {
		case errors.Is(err, io.EOF) && told:
			return nil
		case err != nil:
			return errors.Join(ErrCutOff, err)
		case told || broken:
			// Nobody reads it: what comes after is dropped, so that the end of the
			// body is seen, and what the service says goes on.
		case kind == frameInEnd:
			told = true
			if half, ok := t.conn.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite() // it is gone already, or has no such end
			}
		case kind == frameIn:
			if _, err := t.conn.Write(payload); err != nil {
				broken = true
				close(t.broken)
			}
		}
	}
}
