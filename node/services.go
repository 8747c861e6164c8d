package node

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
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
		conn, err := s.n.mesh.Service(asked, voter, task, service, port)
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

// wanted is what a task asked for.
type wanted struct {
	task    placement.TaskID
	service string
	port    int
}

// How long a failure is the answer to who asks again at once, how often one is
// logged, and how many are remembered.
const (
	failureHolds = time.Second
	failureTold  = time.Minute
	failuresMost = 1024
)

// failures remembers what was not reached: a task that tries over and over asks the
// region's nodes once in a while, and fills no log. The zero value is ready.
type failures struct {
	mu  sync.Mutex
	all map[wanted]failure // guarded by mu
}

type failure struct {
	err      error
	at, told time.Time
}

// recent is why it was not reached a moment ago, nil if it is not known.
func (f *failures) recent(w wanted, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known, ok := f.all[w]; ok && now.Sub(known.at) < failureHolds {
		return known.err
	}
	return nil
}

// note remembers a failure and reports whether it is worth a line in the log.
func (f *failures) note(w wanted, err error, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	known, ok := f.all[w]
	if !ok && len(f.all) >= failuresMost {
		for old, one := range f.all {
			if now.Sub(one.told) >= failureTold {
				delete(f.all, old)
			}
		}
		if len(f.all) >= failuresMost {
			clear(f.all) // better to say some of them twice than to grow
		}
	}
	if f.all == nil {
		f.all = make(map[wanted]failure)
	}
	tell := !ok || now.Sub(known.told) >= failureTold
	if tell {
		known.told = now
	}
	known.err, known.at = err, now
	f.all[w] = known
	return tell
}
