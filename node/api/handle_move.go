package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
)

// Moves is where the streams of tasks arrive that are moved to this node.
type Moves interface {
	// Expects reports whether the task waits for what it takes over. It judges who
	// asks, by the ledger: a [*MoveRefusal] says that nothing of it is taken from there.
	Expects(from placement.NodeID, task placement.TaskID) (ready bool, err error)
	// Deliver hands the task a stream, which ends with the move.
	Deliver(task placement.TaskID, name string, conn net.Conn) error
}

// MoveRefusal is the answer to a node that has nothing to hand over.
type MoveRefusal struct{ Reason string }

func (e *MoveRefusal) Error() string { return e.Reason }

// CodeNotReady is the code of a task that does not wait for its move yet.
const CodeNotReady = "task.not-ready"

// maxStreamName bounds the name of a move's stream, in bytes.
const maxStreamName = 64

// MoveReady is the answer to asking whether a task waits.
type MoveReady struct {
	Ready bool `json:"ready"`
}

// mediaMove is the type of a move's streams: the drivers' own bytes.
const mediaMove = "application/octet-stream"

// moveTask takes one stream of a running task that is moved to this node, from the
// node that runs it and from no other. Without a name it says whether the task waits.
func moveTask(s *Server, c *call) error {
	task, name := c.taskInPath(), c.r.URL.Query().Get("stream")
	if s.cfg.Moves == nil {
		return newProblem(http.StatusConflict, CodeNoPart, "this node takes no tasks", "see which do: sovmesh node list")
	}
	ready, err := s.cfg.Moves.Expects(c.caller.Node, task)
	var no *MoveRefusal
	switch {
	case errors.As(err, &no):
		return newProblem(http.StatusForbidden, CodeRole, no.Reason, "only the node whose task is moved here may send it, while it is")
	case err != nil:
		return err
	case len(name) > maxStreamName:
		return &InputError{Code: CodeUsage, Message: "the name of the stream is too long", Help: fmt.Sprintf("use %d bytes at most", maxStreamName)}
	case name == "":
		return c.writeJSON(http.StatusOK, MoveReady{Ready: ready})
	case !ready:
		return newProblem(http.StatusConflict, CodeNotReady, "task "+string(task)+" does not wait here for what it takes over", "ask again in a moment")
	}
	here, there := net.Pipe()
	if err := s.cfg.Moves.Deliver(task, name, here); err != nil {
		return newProblem(http.StatusConflict, CodeNotReady, err.Error(), "each stream of a move is opened once")
	}
	c.carry(there)
	return nil
}

// carry takes bytes between the request and a connection until either ends.
func (c *call) carry(conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(c.r.Context(), func() { _ = conn.Close() })()
	control := http.NewResponseController(c.w)
	_ = control.EnableFullDuplex() // where it is not known it is so anyway
	c.w.Header().Set("Content-Type", mediaMove)
	c.w.WriteHeader(http.StatusOK)
	_ = control.Flush() // an error shows at the next write
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.CopyBuffer(onlyWriter{conn}, onlyReader{c.r.Body}, make([]byte, moveBuffer))
		_ = conn.Close() // its sender has ended it, or is gone
	}()
	buf := make([]byte, moveBuffer)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := c.w.Write(buf[:n]); err != nil {
				break
			}
			_ = control.Flush()
		}
		if err != nil {
			break
		}
	}
	_ = conn.Close()
	c.endBody()
	<-done
}

// moveBuffer is how much of a stream is passed on at once, in bytes.
const moveBuffer = 128 << 10

// onlyReader and onlyWriter hide shortcuts that would ignore the buffer.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }

// MoveReady asks the node that is to take over a task whether it waits for it. It
// goes by the connection of the tenant's sessions, which is there then when the guest
// stands still and they go along.
func (m *MeshClient) MoveReady(ctx context.Context, p transport.Peer, task placement.TaskID) (bool, error) {
	out, err := meshJSON[MoveReady](ctx, m, p, meshCall{method: http.MethodPost, path: movePath(task, ""), cargo: m.session(transport.CargoStatus)}, struct{}{})
	if err != nil {
		return false, err
	}
	return out.Ready, nil
}

func movePath(task placement.TaskID, stream string) string {
	return "/tasks/" + string(task) + "/move?" + url.Values{"stream": {stream}}.Encode()
}

// MoveStream opens one stream of a move, under the policy of the task's job. session
// is one that outlives the move: a person's, of the tenant that the client is for.
// Closing the connection ends it; ctx bounds its opening alone.
func (m *MeshClient) MoveStream(ctx context.Context, p transport.Peer, policy residency.Policy, task placement.TaskID, name string, session bool) (net.Conn, error) {
	here, there := net.Pipe()
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	opening := context.AfterFunc(ctx, end)
	fail := func(err error) (net.Conn, error) {
		end()
		_ = here.Close()
		_ = there.Close()
		return nil, errors.Join(err, context.Cause(ctx))
	}
	req, err := http.NewRequestWithContext(life, http.MethodPost, "https://"+p.Addr+MeshPrefix+movePath(task, name), there)
	if err != nil {
		return fail(fmt.Errorf("open a stream of a move: %w", err))
	}
	req.Header.Set("Content-Type", mediaMove)
	what := transport.Cargo{Kind: transport.CargoJob, Policy: policy, Lasting: transport.LastingMove, Whose: string(task)}
	if session {
		what = m.lasting(transport.LastingSession, what)
	}
	res, err := m.mesh.Do(life, p, what, req)
	if err != nil {
		return fail(err)
	}
	if res.StatusCode/100 != 2 {
		defer res.Body.Close()
		if res.Request == nil {
			res.Request = req
		}
		return fail(readProblem(res))
	}
	if !opening() {
		_ = res.Body.Close()
		return fail(nil)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.CopyBuffer(onlyWriter{there}, onlyReader{res.Body}, make([]byte, moveBuffer))
		_ = there.Close()
		_ = res.Body.Close()
		end()
	}()
	return &moveConn{Conn: here, done: done, end: end}, nil
}

// moveConn is the sending side of a stream. Its end waits until what was written
// is on its way, and not for long.
type moveConn struct {
	net.Conn
	done chan struct{}
	end  context.CancelFunc
}

func (c *moveConn) Close() error {
	err := c.Conn.Close()
	late := time.NewTimer(endWithin)
	defer late.Stop()
	select {
	case <-c.done:
	case <-late.C:
		c.end()
		<-c.done
	}
	return err
}
