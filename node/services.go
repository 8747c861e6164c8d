package node

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// services carries the connections of this node's tasks to the services in their
// lists: a node that holds the region's state judges and finds where they run.
type services struct {
	n      *Node
	failed failures
}

// askWithin bounds what one of the nodes that hold the state may take, so that
// another one is asked within the bound of a connection (see the boundary).
const askWithin = 12 * time.Second

// serviceError is why a service was not reached.
type serviceError struct{ error }

// Refused reports whether a rule said no: of who may reach what, or of where bytes
// may go.
func (e serviceError) Refused() bool {
	var p *api.Problem
	return errors.As(e.error, &p) && p.Status == http.StatusForbidden
}

func (e serviceError) Unwrap() error { return e.error }

// Connect is [runner.Config.Connect].
func (s *services) Connect(ctx context.Context, task placement.TaskID, service string, port int) (net.Conn, error) {
	what := wanted{task, service, port}
	if err := s.failed.recent(what, time.Now()); err != nil {
		return nil, err
	}
	conn, err := s.connect(ctx, task, service, port)
	if err != nil {
		e := serviceError{err}
		if ctx.Err() == nil && s.failed.note(what, e, time.Now()) {
			s.n.logOf("services").Info("a task did not reach a service", "task", task, "service", service, "port", port, "refused", e.Refused(), "err", err)
		}
		return nil, e
	}
	return ruledConn{conn}, nil
}

// ruledConn is a connection to a service that a rule may end while it is open: what
// it fails with tells so, as what was not reached does.
type ruledConn struct{ net.Conn }

func (c ruledConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, ruled(err)
}

func (c ruledConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, ruled(err)
}

// CloseWrite ends one direction, where the connection can.
func (c ruledConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// ruled leaves the end of what a service says as it is.
func ruled(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return serviceError{err}
}

// connect asks the nodes that hold the state, those at this node's own site first:
// the bytes pass the one that connects, and a tag may not allow another site.
func (s *services) connect(ctx context.Context, task placement.TaskID, service string, port int) (net.Conn, error) {
	if s.n.group != nil {
		return s.n.server.CallService(ctx, s.n.who.Node, task, service, port)
	}
	errs := []error{errors.New("no node that holds the region's state answers")}
	for _, voter := range s.nearest(s.n.voters()) {
		asked, cancel := context.WithTimeout(ctx, askWithin)
		conn, err := s.n.mesh.For(s.tenantOf(task)).Service(asked, voter, task, service, port)
		cancel()
		if err == nil || ctx.Err() != nil || !anotherMay(err) {
			return conn, err
		}
		if (serviceError{err}).Refused() {
			errs = slices.Insert(errs, 0, err) // it tells more than that others do not answer
		} else {
			errs = append(errs, err)
		}
	}
	return nil, errors.Join(errs...)
}

// tenantOf is whose task it is, as the region said last; of one that it did not yet
// say anything of, nobody's.
func (s *services) tenantOf(task placement.TaskID) placement.TenantID {
	if t := s.n.ledger.View().Task(task); t != nil {
		return t.Tenant
	}
	return ""
}

// nearest sorts nodes of this region by whether they stand at this node's site.
func (s *services) nearest(all []transport.Peer) []transport.Peer {
	if s.n.facts == nil {
		return all
	}
	v := s.n.facts.View()
	site := func(id placement.NodeID) string {
		if n := v.Node(id); n != nil {
			return n.Site
		}
		return ""
	}
	own := site(s.n.who.Node)
	away := func(p transport.Peer) int {
		if site(p.ID.Node) == own {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(all, func(a, b transport.Peer) int { return away(a) - away(b) })
	return all
}

// anotherMay reports whether another node may connect what one did not: that one
// does not answer, has no place left, or is where the bytes may not pass.
func anotherMay(err error) bool {
	var p *api.Problem
	if !errors.As(err, &p) {
		return true
	}
	switch p.Code {
	case api.CodeServiceList, api.CodeServicePort, api.CodeRole:
		return false
	}
	return p.Status == http.StatusForbidden || p.Status == http.StatusTooManyRequests || p.Status >= 500
}
