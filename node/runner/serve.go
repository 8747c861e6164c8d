package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"

	"github.com/sovmesh/sovmesh/placement"
)

// Serve connects to a port of a running task for another task of its tenant. Ports
// that a service does not declare, and other tenants' tasks, are refused here too,
// whatever the asking node knows. The connection ends with the task's run here: a
// guest that is gone, or goes on elsewhere, would leave it open for ever.
func (r *Runner) Serve(ctx context.Context, id placement.TaskID, tenant placement.TenantID, port int) (net.Conn, error) {
	r.mu.Lock()
	t := r.tasks[id]
	may := t != nil && tenant != "" && t.rec.Tenant == tenant && slices.Contains(t.rec.Serves, port)
	r.mu.Unlock()
	if !may {
		return nil, &NotServedError{id, port}
	}
	conn, err := r.dialService(ctx, id, port)
	if err != nil {
		return nil, err
	}
	s := newServedConn(r, t, conn)
	r.mu.Lock()
	over, status := t.over(), t.rec.Status
	if !over {
		if t.served == nil {
			t.served = make(map[*servedConn]bool)
		}
		t.served[s] = true
	}
	r.mu.Unlock()
	if over {
		_ = conn.Close()
		return nil, &NotRunningError{id, status}
	}
	return s, nil
}

func (r *Runner) dialService(ctx context.Context, id placement.TaskID, port int) (net.Conn, error) {
	d, h, err := part[Dialer](r, id, partDial)
	if err != nil {
		return nil, err
	}
	if s, ok := d.(ServiceDialer); ok {
		return s.DialService(ctx, h, port)
	}
	return d.Dial(ctx, h, port)
}

// servedConn is known to its task while it is open. One that ends before both of its
// ends have said so is reset, where the connection can be, and so is one whose agent
// dies: the service does not take half a request for a whole one.
type servedConn struct {
	net.Conn
	r     *Runner
	task  *task
	heard atomic.Bool // the service has ended what it says
	told  atomic.Bool // it was told the end of what it hears
}

func newServedConn(r *Runner, t *task, conn net.Conn) *servedConn {
	s := &servedConn{Conn: conn, r: r, task: t}
	s.linger(0)
	return s
}

func (s *servedConn) linger(seconds int) {
	if c, ok := s.Conn.(interface{ SetLinger(int) error }); ok {
		_ = c.SetLinger(seconds) // it is gone already
	}
}

func (s *servedConn) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		s.heard.Store(true)
	}
	return n, err
}

// Close is idempotent, as is that of every connection.
func (s *servedConn) Close() error {
	if s.heard.Load() && s.told.Load() {
		s.linger(-1)
	}
	s.r.mu.Lock()
	delete(s.task.served, s)
	s.r.mu.Unlock()
	return s.Conn.Close()
}

// CloseWrite ends one direction, where the connection can.
func (s *servedConn) CloseWrite() error {
	half, ok := s.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	err := half.CloseWrite()
	if err == nil {
		s.told.Store(true)
	}
	return err
}

// unserve ends what other tasks have open to a task that is over.
func (r *Runner) unserve(t *task) {
	r.mu.Lock()
	open := t.served
	t.served = nil
	r.mu.Unlock()
	for s := range open {
		_ = s.Conn.Close()
	}
}

// NotServedError is the answer to connecting, as a service's, to what is none.
type NotServedError struct {
	Task placement.TaskID
	Port int
}

func (e *NotServedError) Error() string {
	return fmt.Sprintf("task %s serves no port %d to whoever asks", e.Task, e.Port)
}

// Hint says who may have it.
func (e *NotServedError) Hint() string {
	return "a service is reached by tasks of its own tenant, at the ports that its job declares"
}
