package node

import (
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// services carries the connections of this node's tasks to the services in their
// lists: a node that holds the region's state judges and finds where they run.
type services struct{ n *Node }

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
func (s services) Connect(ctx context.Context, task placement.TaskID, service string, port int) (net.Conn, error) {
	conn, err := s.connect(ctx, task, service, port)
	if err != nil {
		e := serviceError{err}
		if ctx.Err() == nil {
			s.n.logOf("services").Info("a task did not reach a service", "task", task, "service", service, "port", port, "refused", e.Refused(), "err", err)
		}
		return nil, e
	}
	return conn, nil
}

func (s services) connect(ctx context.Context, task placement.TaskID, service string, port int) (net.Conn, error) {
	if s.n.group != nil {
		return s.n.server.CallService(ctx, s.n.who.Node, task, service, port)
	}
	errs := []error{errors.New("no node that holds the region's state answers")}
	for _, voter := range s.n.voters() {
		conn, err := s.n.mesh.Service(ctx, voter, task, service, port)
		var gone *transport.UnreachableError
		if err == nil || !errors.As(err, &gone) {
			return conn, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
