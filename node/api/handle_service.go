package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// serviceCall reads the head of a connection, has it opened and carries it. whose
// says who pays for its place.
func (s *Server) serviceCall(c *call, whose func(head ServiceHead) []share, open func(ctx context.Context, head ServiceHead) (net.Conn, error)) error {
	frames := &frameReader{r: c.r.Body}
	head, err := s.serviceHead(c, frames)
	if err != nil {
		return err
	}
	release, err := s.tunnels.take(whose(head)...)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	conn, err := open(ctx, head)
	if err != nil {
		return c.ending(c.serviceProblem(err))
	}
	s.carryService(ctx, cancel, c, conn, frames)
	return nil
}

// serviceHead reads the head. Of those that have not sent theirs there are few.
func (s *Server) serviceHead(c *call, frames *frameReader) (head ServiceHead, err error) {
	release, err := s.tunnels.take(share{"head", maxServiceHeads})
	if err != nil {
		return head, err
	}
	defer release()
	if err := c.firstFrame(frames, &head); err != nil {
		return head, err
	}
	return head, head.validate()
}

// serviceProblem is why a service was not reached, as the asking side may know it:
// another region hears whether a rule refused it, and nothing of the machines.
func (c *call) serviceProblem(err error) error {
	if c.caller.Kind != CallerForeign {
		return reachProblem(err)
	}
	p := problemOf(reachProblem(err))
	if refusedService(p) {
		out := newProblem(http.StatusForbidden, p.Code, "region "+string(c.s.cfg.Region)+" does not connect the job with the service: their tags, or the job's list, or the service's ports do not allow it", "see what both jobs say; its operators can see more")
		out.Rule = p.Rule
		return out
	}
	return newProblem(http.StatusConflict, CodeNotRunning, "region "+string(c.s.cfg.Region)+" reaches no task of the service", "see whether it runs; its operators can see more")
}

// callService is for the node of a task whose list names the service.
func callService(s *Server, c *call) error {
	whose := func(ServiceHead) []share { return ofTenant(s.tenantOf(c.caller.Node, c.taskInPath())) }
	return s.serviceCall(c, whose, func(ctx context.Context, head ServiceHead) (net.Conn, error) {
		return s.CallService(ctx, c.caller.Node, c.taskInPath(), c.r.PathValue("name"), head.Port)
	})
}

// serveTask is the node's own part: one of its tasks, for a node that holds the
// region's state and has judged.
func serveTask(s *Server, c *call) error {
	if err := s.fromVoter(c); err != nil {
		return err
	}
	whose := func(head ServiceHead) []share { return ofTenant(head.Tenant) }
	return s.serviceCall(c, whose, func(ctx context.Context, head ServiceHead) (net.Conn, error) {
		return s.cfg.Inside.Serve(ctx, c.taskInPath(), head.Tenant, head.Port)
	})
}

// foreignService is for another region: the one that runs a job of ours, or the
// home of a job that reaches for its tenant's services here.
func foreignService(s *Server, c *call) error {
	whose := func(ServiceHead) []share { return ofRegion(c.caller.Region) }
	return s.serviceCall(c, whose, func(ctx context.Context, head ServiceHead) (net.Conn, error) {
		v, err := s.fresh(ctx)
		if err != nil {
			return nil, err
		}
		service, from := c.r.PathValue("name"), c.caller.Region
		return s.connectService(ctx, v, func(v *state.View) (*seeker, error) { return foreignSeeker(v, from, service, head) })
	})
}

// foreignSeeker is who asks from another region, as far as that region may say so:
// of our own job we know the tenant, the list and the policy ourselves; of a job of
// its own it may say whatever it likes, and comes to its own tenants' services alone.
func foreignSeeker(v *state.View, caller placement.RegionID, service string, head ServiceHead) (*seeker, error) {
	from := v.Region(caller)
	if from == nil || from.State != placement.PeerActive {
		return nil, newProblem(http.StatusForbidden, CodeForeignVerb, "region "+string(caller)+" is no active peer of this one", "federate first: sovmesh region invite NAME")
	}
	w := &seeker{service: service, port: head.Port, job: head.Job, at: from, via: from, site: head.Site}
	home := placement.RegionID("")
	if head.Job.Valid() {
		home = head.Job.Home()
	}
	switch home {
	case v.Self().ID:
		return w, w.ofHome(v, head.Job)
	case caller:
		w.tenant, w.only = placement.TenantID(string(caller)+"/"+string(head.Tenant)), true
		if head.Region != "" && head.Region != caller {
			if w.at = v.Region(head.Region); w.at == nil || w.at.State != placement.PeerActive && !w.at.Self {
				return nil, newProblem(http.StatusForbidden, CodeForeignVerb, "the job runs in a region that this one does not know", "only regions that are federated with each other are connected")
			}
		}
		if !w.tenant.Valid() || len(head.Policy) == 0 {
			return nil, &InputError{Code: CodeBody, Message: "the connection has no tenant or no policy", Help: "send those of a job of your own"}
		}
		w.layers = arriving(v, from, head.Policy)
		return w, nil
	}
	return nil, newProblem(http.StatusForbidden, CodeForeignVerb, "the job "+quoteWord(string(head.Job))+" is neither of this region nor of "+string(caller), "its own home connects it")
}

// ofHome fills in what this region knows of a job that it forwarded to where it is
// said to run.
func (w *seeker) ofHome(v *state.View, id placement.JobID) error {
	j := v.Job(id)
	if j == nil || j.Status.Terminal() {
		return callerOver{notRunThere(w.via, id)}
	}
	if j.Origin != "" || j.Forward == nil || j.Forward.State != placement.ForwardPlaced || j.Forward.Region != w.via.ID {
		return notRunThere(w.via, id)
	}
	if !allowsService(j, w.service) {
		return notListed(w.service)
	}
	w.tenant, w.layers = j.Tenant, j.Policy
	return nil
}

func notRunThere(r *placement.Region, id placement.JobID) error {
	return newProblem(http.StatusForbidden, CodeForeignVerb, "region "+string(r.ID)+" runs no job "+quoteWord(string(id))+" of this one", "a region connects the jobs that it was given")
}

// firstFrame reads the head of a session. One that does not come in time ends the
// request.
func (c *call) firstFrame(frames *frameReader, into any) error {
	control := http.NewResponseController(c.w)
	_ = control.EnableFullDuplex()
	_ = control.SetReadDeadline(time.Now().Add(headWithin)) // where there is none, the connection's own bounds count
	kind, payload, err := frames.next()
	_ = control.SetReadDeadline(time.Time{})
	if err == nil && kind != frameHead {
		err = errors.New("the first frame is no head")
	}
	if err == nil {
		err = strictJSON(payload, into)
	}
	if err != nil {
		return &InputError{Code: CodeBody, Message: fmt.Sprintf("the request cannot be read: %v", shortError(err)), Help: "the frames stand in the API's document"}
	}
	return nil
}
