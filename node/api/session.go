package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// reachHere opens the session on this node and runs it to its end.
func (s *Server) reachHere(c *call, what string, head ReachHead, frames *frameReader) error {
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	if what == ReachExec {
		return s.execHere(ctx, cancel, c, head, frames)
	}
	var conn io.ReadWriteCloser
	var err error
	if what == ReachConsole {
		conn, err = s.cfg.Inside.Console(ctx, head.Task)
	} else {
		conn, err = s.cfg.Inside.Dial(ctx, head.Task, head.Port)
	}
	if err != nil {
		return reachProblem(err)
	}
	s.converse(ctx, cancel, c, conn, frames)
	return nil
}

// converse carries a session between its caller and a connection until either ends.
func (s *Server) converse(ctx context.Context, cancel func(), c *call, conn io.ReadWriteCloser, frames *frameReader) {
	defer conn.Close()
	// A task that goes on talking, or says nothing, does not keep a session whose
	// caller has gone.
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	out := c.answerFrames()
	pumped := c.pump(cancel, frames, connSink{conn})
	_, err := io.Copy(out.as(frameOut), conn)
	end := ReachEnd{}
	if err != nil && ctx.Err() == nil {
		end.Problem = c.endProblem(fmt.Errorf("the connection to the task broke off: %w", err))
	}
	_ = out.json(frameEnd, end) // the caller is gone: nobody to tell
	cancel()
	_ = conn.Close()
	c.endBody()
	<-pumped
}

// sink takes what comes from the caller.
type sink interface {
	io.Writer
	closeWrite()
	resize(TermSize)
}

// pump takes frames to the sink until they end. A caller that vanished ends the
// session.
func (c *call) pump(cancel func(), frames *frameReader, to sink) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			kind, payload, err := frames.next()
			switch {
			case errors.Is(err, io.EOF):
				to.closeWrite()
				return
			case err != nil:
				cancel()
				to.closeWrite()
				return
			case kind == frameIn:
				if _, err := to.Write(payload); err != nil {
					// Nobody reads it: what comes after is read and dropped, so that
					// the end of the request is seen.
					to.closeWrite()
				}
			case kind == frameInEnd:
				to.closeWrite()
			case kind == frameResize:
				var size TermSize
				if json.Unmarshal(payload, &size) == nil && size.Columns > 0 && size.Rows > 0 && size.Columns < 1<<15 && size.Rows < 1<<15 {
					to.resize(size)
				}
			}
		}
	}()
	return done
}

type connSink struct{ io.ReadWriteCloser }

func (c connSink) resize(TermSize) {}

// closeWrite ends one direction where the connection can; a console has no end.
func (c connSink) closeWrite() {
	if half, ok := c.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // it is gone already
	}
}

type execSink struct {
	*io.PipeWriter
	sizes chan TermSize
}

func (e execSink) closeWrite() { _ = e.Close() }

// resize keeps the newest size alone.
func (e execSink) resize(s TermSize) {
	select {
	case <-e.sizes:
	default:
	}
	e.sizes <- s
}

func (s *Server) execHere(ctx context.Context, cancel func(), c *call, head ReachHead, frames *frameReader) error {
	stdin, feed := io.Pipe()
	sizes := make(chan TermSize, 1)
	out := c.answerFrames()
	pumped := c.pump(cancel, frames, execSink{feed, sizes})
	exit, err := s.cfg.Inside.Exec(ctx, head.Task, ExecRequest{
		Command: head.Command, Env: head.Env, TTY: head.TTY, Size: head.Size, Resize: sizes,
		Stdin: stdin, Stdout: out.as(frameOut), Stderr: out.as(frameErr),
	})
	end := ReachEnd{Exit: &exit}
	if err != nil {
		end = ReachEnd{Problem: c.endProblem(err)}
	}
	_ = out.json(frameEnd, end) // the caller is gone: nobody to tell
	_ = stdin.CloseWithError(io.ErrClosedPipe)
	c.endBody()
	<-pumped
	return nil
}
