package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
)

// A connection to a service is judged when it is opened, and again while it is open:
// a law pack, a region's facts, a tag, a rule of a border or a node's site may change
// under it. Every node judges those that it opened for a task or for another region,
// by its own view. What is not known is refused, as it is for a new connection.

// judgeEvery is how often open connections are judged again, at most.
const judgeEvery = 3 * time.Second

// standing are the open connections to services that this node judged. Their number
// is bounded where they come in: by [places], and by what a task may have. The zero
// value is ready.
type standing struct {
	mu   sync.Mutex
	open map[*standingConn]bool // guarded by mu
}

// judgedBy is what a judgement was made by: the state's index, and the day.
type judgedBy struct {
	index uint64
	on    residency.Date
}

// route is where a connection leads: a replica, or the home of the job, which finds
// one by itself.
type route struct {
	replica
	home bool
}

// standingConn is one open connection, with what it takes to judge it again.
type standingConn struct {
	net.Conn
	of    *standing
	seek  func(*state.View) (*seeker, error)
	to    route
	by    judgedBy      // owned by JudgeServices
	ended chan struct{} // closed once a judgement ended it
	once  sync.Once
	why   error // set before ended is closed
}

// keep takes a new connection in. by is what it was judged by: if that is old, it is
// judged again soon.
func (o *standing) keep(conn net.Conn, seek func(*state.View) (*seeker, error), to route, by judgedBy) *standingConn {
	c := &standingConn{Conn: conn, of: o, seek: seek, to: to, by: by, ended: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open == nil {
		o.open = make(map[*standingConn]bool)
	}
	o.open[c] = true
	return c
}

// all are those that are open now.
func (o *standing) all() []*standingConn {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]*standingConn, 0, len(o.open))
	for c := range o.open {
		out = append(out, c)
	}
	return out
}

// end ends the connection for a reason, which both directions fail with from now on.
func (c *standingConn) end(why error) {
	c.once.Do(func() {
		c.why = why
		close(c.ended)
	})
	_ = c.Close()
}

// reason is why a judgement ended it, else err.
func (c *standingConn) reason(err error) error {
	select {
	case <-c.ended:
		return c.why
	default:
		return err
	}
}

// Ended is closed once a judgement has ended the connection.
func (c *standingConn) Ended() <-chan struct{} { return c.ended }

// Read gives nothing more once the connection was ended.
func (c *standingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if why := c.reason(nil); why != nil {
		return 0, why
	}
	return n, err
}

func (c *standingConn) Write(p []byte) (int, error) {
	if why := c.reason(nil); why != nil {
		return 0, why
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		err = c.reason(err)
	}
	return n, err
}

// CloseWrite ends one direction, where the connection can.
func (c *standingConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close is idempotent, as is that of every connection.
func (c *standingConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// callerOver is why a task that is not there any more is not connected. It refuses a
// new connection; one that is open ends by it and is none that a rule refused.
type callerOver struct{ error }

func (e callerOver) Unwrap() error { return e.error }

// JudgeServices judges the open connections to services again whenever the state or
// the day has changed, until ctx ends.
func (s *Server) JudgeServices(ctx context.Context) error {
	every := time.NewTicker(judgeEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
			s.judgeStanding()
		}
	}
}

// judgeStanding is one pass over all that are open.
func (s *Server) judgeStanding() {
	all := s.standing.all()
	if len(all) == 0 {
		return
	}
	v, err := s.view()
	if err != nil {
		return // it has opened none by a state that it never had
	}
	by, ended := s.judgedBy(v), map[string]int{}
	for _, c := range all {
		if c.by == by {
			continue
		}
		c.by = by
		if why := s.judgeAgain(v, c); why != nil {
			c.end(why)
			ended[why.Error()]++
		}
	}
	for why, n := range ended {
		s.cfg.Log.Info("ended open connections to services", "connections", n, "index", by.index, "err", why)
	}
}

func (s *Server) judgedBy(v *state.View) judgedBy {
	return judgedBy{v.Index(), residency.DateOf(s.now())}
}

// judgeAgain is why a connection may not stay open, nil if it may.
func (s *Server) judgeAgain(v *state.View, c *standingConn) error {
	w, err := c.seek(v)
	var over callerOver
	switch {
	case errors.As(err, &over):
		return newProblem(http.StatusConflict, CodeNotRunning, "the task that opened the connection is over, or runs elsewhere", "its next attempt connects by itself")
	case err != nil:
		return refusedNow(err)
	}
	if err := s.lawfulStill(v, w, c.to); err != nil {
		return refusedNow(err)
	}
	return nil
}

// lawfulStill asks all that was asked when the connection was opened, of what is
// known now. The end of the service's own task ends nothing here: its last bytes may
// be on their way, and its own node ends the connection.
func (s *Server) lawfulStill(v *state.View, w *seeker, to route) error {
	ask := s.guardOf(v)
	if to.home {
		if w.home == nil || w.home.ID != to.region.ID {
			return newProblem(http.StatusForbidden, CodeForeignVerb, "region "+string(to.region.ID)+", which connects it, is no active peer any more", "see: sovmesh region list")
		}
		return s.mayAsk(v, w, w.home, ask)
	}
	r := to.replica
	if j := v.Job(r.job.ID); j != nil {
		r.job = j
	}
	if r.region == nil {
		if n := v.Node(r.node.ID); n != nil {
			r.node = n
		}
		return s.lawfulService(v, *w, r, ask)
	}
	now := v.Region(r.region.ID)
	if now == nil || now.State != placement.PeerActive {
		return newProblem(http.StatusForbidden, CodeForeignVerb, "region "+string(r.region.ID)+", where the service runs, is no active peer any more", "see: sovmesh region list")
	}
	r.region = now
	if err := s.lawfulService(v, *w, r, ask); err != nil {
		return err
	}
	return s.mayAsk(v, w, now, ask)
}

// permits asks an egress guard whether cargo may go to another region.
type permits func(to placement.RegionID, cargo transport.Cargo) error

// guardOf is what the egress guard asks, of a view: what is open already is none of
// the requests that the endpoint's own guard counts and logs.
func (s *Server) guardOf(v *state.View) permits {
	guard := &transport.ResidencyGuard{
		Home: s.cfg.Region,
		Region: func(id placement.RegionID) *placement.Region {
			r := v.Region(id)
			if r == nil || !r.Self && r.State != placement.PeerActive {
				return nil
			}
			return r
		},
		Law: func() placement.Law { return v.Law(residency.DateOf(s.now())) },
	}
	return func(to placement.RegionID, cargo transport.Cargo) error {
		if to == s.cfg.Region {
			return nil
		}
		if err := guard.PermitEgress(context.Background(), s.cfg.Region, to, cargo); err != nil {
			return &transport.EgressError{From: s.cfg.Region, To: to, Kind: cargo.Kind, Err: err}
		}
		return nil
	}
}

// mayAsk asks whether what the task says may be sent to a region, as sending asks it.
func (s *Server) mayAsk(v *state.View, w *seeker, to *placement.Region, ask permits) error {
	policy, err := v.Law(residency.DateOf(s.now())).Read(w.layers)
	if err != nil {
		return fmt.Errorf("read the job's policy: %w", err)
	}
	return ask(to.ID, transport.Cargo{Kind: transport.CargoJob, Policy: policy})
}

// refusedNow is a reason as a refusal by a rule: also one for which nothing is known.
func refusedNow(err error) error {
	p := *problemOf(guarded(err))
	if p.Code == CodeInternal {
		p.Code, p.Type, p.Detail = CodeNotLawful, "urn:sovmesh:"+CodeNotLawful, "it cannot be judged any more: "+shortError(err)
	}
	p.Status, p.Title = http.StatusForbidden, http.StatusText(http.StatusForbidden)
	return &p
}

// guarded makes a refusal by the egress guard one by a rule, which is told and counted
// as such also where something is not known.
func guarded(err error) error {
	var egress *transport.EgressError
	if !errors.As(err, &egress) {
		return err
	}
	p := *problemOf(egress)
	p.Status, p.Title = http.StatusForbidden, http.StatusText(http.StatusForbidden)
	return &p
}
