package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// ServiceHead is the first frame of a connection to a service that a job's list
// names. What follows are frames as of [ReachConnect]; the answer begins with an
// empty one of output once the service is reached.
type ServiceHead struct {
	Port int `json:"port"`
	// Tenant is whose task asks, as the receiver knows the tenant within its own
	// region, or the sender's region its own.
	Tenant placement.TenantID `json:"tenant,omitempty"`
	// The rest crosses borders alone. Job is whose task asks, Region and Site where
	// that runs; without a region it is the sender's.
	Job    placement.JobID    `json:"job,omitempty"`
	Region placement.RegionID `json:"region,omitempty"`
	Site   string             `json:"site,omitempty"`
	// Policy is what the task's bytes go under; a job's home knows it without.
	Policy []placement.Layer `json:"policy,omitempty"`
}

func (h *ServiceHead) validate() error {
	bad := func(help, format string, args ...any) error {
		return &InputError{Code: CodeUsage, Message: fmt.Sprintf(format, args...), Help: help}
	}
	switch {
	case h.Port < 1 || h.Port > 65535:
		return bad("send a port from 1 to 65535", "port %d is none", h.Port)
	case len(h.Policy) > maxServiceLayers:
		return bad("send the effective policy's layers", "a policy of %d layers is none", len(h.Policy))
	case len(h.Site) > 64:
		return bad("send the name of a site", "the site's name is too long")
	}
	return nil
}

// maxServiceLayers bounds the layers of a policy that comes with a connection.
const maxServiceLayers = 16

// serviceOpens bounds how long one replica of a service may take to be reached.
const serviceOpens = 8 * time.Second

// openService opens a connection at another node: the answer's first frame says
// whether the service was reached. ctx bounds the opening alone.
func (m *MeshClient) openService(ctx context.Context, p transport.Peer, what transport.Cargo, path string, head ServiceHead) (net.Conn, error) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	opening := context.AfterFunc(ctx, end)
	body, feed := io.Pipe()
	fail := func(err error) (net.Conn, error) {
		end()
		_ = body.Close()
		return nil, errors.Join(err, context.Cause(ctx))
	}
	req, err := http.NewRequestWithContext(life, http.MethodPost, "https://"+p.Addr+MeshPrefix+path, body)
	if err != nil {
		return fail(fmt.Errorf("connect to a service: %w", err))
	}
	req.Header.Set("Content-Type", MediaFrames)
	out := &frameWriter{w: feed}
	go func() {
		if err := out.json(frameHead, head); err != nil { // the request ended before it was read
			_ = feed.CloseWithError(err)
		}
	}()
	res, err := m.mesh.Do(life, p, m.lasting(transport.LastingService, what), req)
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
	c := &serviceConn{in: &frameReader{r: res.Body}, out: out, feed: feed, body: res.Body, end: end, over: make(chan struct{})}
	if _, err := c.next(); err != nil {
		_ = res.Body.Close()
		return fail(err)
	}
	if !opening() {
		_ = res.Body.Close()
		return fail(nil)
	}
	return c, nil
}

// serviceConn is the near end of a connection that goes through the mesh. It has no
// deadlines: whoever uses it closes it.
type serviceConn struct {
	in   *frameReader
	out  *frameWriter
	feed *io.PipeWriter
	body io.Closer
	end  context.CancelFunc
	left []byte // of the frame that was read last; the reader's
	done error  // how it ended; the reader's, and anybody's once over is closed
	over chan struct{}
	once sync.Once
}

// next is the next frame's bytes; io.EOF is the end that the other side told.
func (c *serviceConn) next() ([]byte, error) {
	if c.done != nil {
		return nil, c.done
	}
	defer func() {
		if c.done != nil {
			close(c.over)
		}
	}()
	kind, payload, err := c.in.next()
	switch {
	case err != nil:
		c.done = errors.Join(ErrCutOff, err)
	case kind == frameOut:
		return payload, nil
	case kind == frameEnd:
		end := ReachEnd{}
		if err := json.Unmarshal(payload, &end); err != nil {
			c.done = fmt.Errorf("the end of the connection cannot be read: %w", err)
		} else if c.done = io.EOF; end.Problem != nil {
			c.done = end.Problem
		}
	default:
		c.done = errors.New("a frame came that is none of a connection")
	}
	return nil, c.done
}

func (c *serviceConn) Read(p []byte) (int, error) {
	for len(c.left) == 0 {
		var err error
		if c.left, err = c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}

func (c *serviceConn) Write(p []byte) (int, error) {
	n, err := c.out.as(frameIn).Write(p)
	if err != nil {
		err = errors.Join(err, c.ruled())
	}
	return n, err
}

// ruled is the rule that ended the connection, as the other side told it, nil if none
// did: it stops reading a moment before what it tells is read here.
func (c *serviceConn) ruled() error {
	late := time.NewTimer(endWithin)
	defer late.Stop()
	select {
	case <-c.over:
		if refusedService(c.done) {
			return c.done
		}
	case <-late.C:
	}
	return nil
}

// CloseWrite says that nothing more comes.
func (c *serviceConn) CloseWrite() error { return c.out.write(frameInEnd, nil) }

// Close ends both directions. A body that is ended before the connection is torn
// down is no broken one to the other side.
func (c *serviceConn) Close() error {
	c.once.Do(func() {
		_ = c.feed.Close()
		_ = c.body.Close()
		c.end()
	})
	return nil
}

// A service has no address that its callers are told.
func (c *serviceConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *serviceConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *serviceConn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c *serviceConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *serviceConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// Service has a node of the own region that holds its state connect a task of this
// node to a port of a service in its list.
func (m *MeshClient) Service(ctx context.Context, p transport.Peer, task placement.TaskID, service string, port int) (net.Conn, error) {
	return m.openService(ctx, p, cargo(transport.CargoStatus), "/tasks/"+string(task)+"/services"+seg(service), ServiceHead{Port: port})
}

// dialled is a connection whose dialler may end it with its context: that lasts as
// long as the connection does, and within bounds its opening alone.
func dialled(ctx context.Context, within time.Duration, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	opens, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	opening := context.AfterFunc(opens, end)
	conn, err := dial(life)
	if err == nil && opening() {
		return &heldConn{Conn: conn, end: end}, nil
	}
	end()
	if err == nil {
		_ = conn.Close()
	}
	return nil, errors.Join(err, context.Cause(opens))
}

type heldConn struct {
	net.Conn
	end context.CancelFunc
}

func (c *heldConn) Close() error {
	defer c.end()
	return c.Conn.Close()
}

// CloseWrite ends one direction, where the connection can.
func (c *heldConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// refusedService is an answer that says no by a rule.
func refusedService(err error) bool {
	var p *Problem
	return errors.As(err, &p) && p.Status == http.StatusForbidden
}
