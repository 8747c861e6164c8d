package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
)

// A service in a job's list is a name: that of the tenant's own jobs of the type
// service. A connection to it is made for a task by a node that holds the state of
// the region, which knows where the tenant's services run: here, or in a region to
// which their home forwarded them. A job's home knows all of its tenant's; a region
// that runs a forwarded job asks the home for those that it does not run itself.
//
// Two policies count for each connection. What the task says goes to where the
// service runs, under the task's; what the service answers goes to where the task
// runs, under the service's. Every region on the way asks for itself.

// seeker is a task that wants to reach a service.
type seeker struct {
	service string
	port    int
	job     placement.JobID
	tenant  placement.TenantID // as this region knows it
	layers  []placement.Layer  // of the task's job
	at      *placement.Region  // where it runs
	site    string
	node    placement.NodeID  // where it runs, in this region
	via     *placement.Region // where the connection came from; nil: from this region
	home    *placement.Region // what forwarded the job here; nil: nobody, or not a peer any more
	only    bool              // replicas of this region alone: whoever asks knows the others
}

// replica is one place where a service runs.
type replica struct {
	job    *placement.Job
	task   *placement.Task // nil: in region, which finds one
	node   *placement.Node
	region *placement.Region
	near   int
	rtt    time.Duration
}

// How near a replica is.
const (
	nearNode = iota
	nearSite
	nearRegion
	nearPeer
)

// CallService connects a task of this region to a port of a service in its list.
// node is where the task runs, by the certificate of whoever asks.
func (s *Server) CallService(ctx context.Context, node placement.NodeID, task placement.TaskID, service string, port int) (net.Conn, error) {
	// What this node has applied may be old, and the law that it knows with it.
	v, err := s.recent(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := s.callService(ctx, v, node, task, service, port)
	if err == nil || ctx.Err() != nil {
		return conn, err
	}
	// A task that began this moment, or a service that has moved, is known to the
	// region's quorum.
	now, unknown := s.fresh(ctx)
	if unknown != nil || now.Index() == v.Index() {
		return nil, err
	}
	return s.callService(ctx, now, node, task, service, port)
}

func (s *Server) callService(ctx context.Context, v *state.View, node placement.NodeID, task placement.TaskID, service string, port int) (net.Conn, error) {
	return s.connectService(ctx, v, func(v *state.View) (*seeker, error) { return ownSeeker(v, node, task, service, port) })
}

// ownSeeker is a task of this region.
func ownSeeker(v *state.View, node placement.NodeID, task placement.TaskID, service string, port int) (*seeker, error) {
	t := v.Task(task)
	var j *placement.Job
	if t != nil && t.Node == node && t.Status.Live() {
		j = v.Job(t.Job)
	}
	if j == nil {
		return nil, callerOver{newProblem(http.StatusForbidden, CodeRole, "node "+string(node)+" runs no task "+quoteWord(string(task)), "a node connects its own tasks")}
	}
	if !allowsService(j, service) {
		return nil, notListed(service)
	}
	w := &seeker{service: service, port: port, job: j.ID, tenant: t.Tenant, layers: j.Policy, at: v.Self(), node: node}
	if r := v.Region(j.Origin); r != nil && !r.Self && r.State == placement.PeerActive && j.ID.Home() == r.ID {
		w.home = r
	}
	if n := v.Node(node); n != nil {
		w.site = n.Site
	}
	return w, nil
}

func allowsService(j *placement.Job, service string) bool {
	return j.Spec.Setup != nil && j.Spec.Setup.Network.Allows(service)
}

// The codes of a connection to a service that is refused.
const (
	CodeServiceList = "service.not-listed"
	CodeServicePort = "service.port"
)

func notListed(service string) *Problem {
	return newProblem(http.StatusForbidden, CodeServiceList, "the job's list does not name the service "+quoteWord(service), "add service:NAME to network.allow")
}

// connectService tries the places where the service runs, the nearest first. A
// refusal is told only if nothing was reached that is allowed. seek is who asks, by a
// view: an open connection is judged again by later ones.
func (s *Server) connectService(ctx context.Context, v *state.View, seek func(*state.View) (*seeker, error)) (net.Conn, error) {
	who, err := seek(v)
	if err != nil {
		return nil, err
	}
	w, by := *who, s.judgedBy(v)
	var refused, failed error
	note := func(err error) {
		if err = guarded(err); refusedService(err) {
			refused = errors.Join(refused, err)
		} else {
			failed = errors.Join(failed, err)
		}
	}
	for _, r := range s.replicas(v, w) {
		conn, err := s.tryReplica(ctx, v, w, r)
		if err == nil {
			return s.standing.keep(conn, seek, route{replica: r}, by), nil
		}
		if note(err); ctx.Err() != nil {
			break
		}
	}
	if w.home != nil && ctx.Err() == nil {
		conn, err := s.askRegion(ctx, v, w, w.home, ServiceHead{Port: w.port, Job: w.job, Site: w.site})
		if err == nil {
			return s.standing.keep(conn, seek, route{replica: replica{region: w.home}, home: true}, by), nil
		}
		note(err)
	}
	switch {
	case failed != nil:
		return nil, problemOf(reachProblem(failed))
	case refused != nil:
		return nil, problemOf(refused)
	}
	return nil, newProblem(http.StatusConflict, CodeNotRunning, "no task of the service "+quoteWord(w.service)+" runs that could be reached from here", "start a job of that name and of the type service; see it: sovmesh job list")
}

// replicas are the places of a service that this region knows of, the nearest
// first, those that are as near as others in turns.
func (s *Server) replicas(v *state.View, w seeker) []replica {
	is := func(j *placement.Job) bool {
		return j != nil && j.Tenant == w.tenant && j.Name == w.service && j.Spec.Type == placement.TypeService && !j.Status.Terminal()
	}
	var out []replica
	for _, n := range v.Nodes() {
		for _, t := range v.TasksOn(n.ID) {
			if t.Status != placement.TaskRunning || t.Tenant != w.tenant || t.Stop {
				continue
			}
			if j := v.Job(t.Job); is(j) {
				out = append(out, replica{job: j, task: t, node: n, near: nearness(w, n)})
			}
		}
	}
	if turn := int(s.turn.Add(1)); len(out) > 1 {
		out = append(out[turn%len(out):len(out):len(out)], out[:turn%len(out)]...)
	}
	if !w.only {
		out = append(out, s.abroadOf(v, w, is)...)
	}
	slices.SortStableFunc(out, func(a, b replica) int {
		if a.near != b.near {
			return a.near - b.near
		}
		return int(a.rtt - b.rtt)
	})
	return out
}

func nearness(w seeker, n *placement.Node) int {
	switch {
	case w.via != nil:
		return nearRegion
	case n.ID == w.node:
		return nearNode
	case n.Site == w.site:
		return nearSite
	}
	return nearRegion
}

// abroadOf are the regions to which jobs of the service were forwarded, each once.
func (s *Server) abroadOf(v *state.View, w seeker, is func(*placement.Job) bool) (out []replica) {
	for _, j := range v.Forwarding() {
		if !is(j) || j.Origin != "" || j.Forward == nil || j.Forward.State != placement.ForwardPlaced {
			continue
		}
		r := v.Region(j.Forward.Region)
		known := slices.ContainsFunc(out, func(o replica) bool { return o.region.ID == j.Forward.Region })
		if r == nil || known || r.ID == w.at.ID || w.via != nil && r.ID == w.via.ID {
			continue
		}
		_, link := s.link(r.ID)
		out = append(out, replica{job: j, region: r, near: nearPeer, rtt: link.RTT})
	}
	return out
}

// tryReplica reaches one place, if both policies allow it.
func (s *Server) tryReplica(ctx context.Context, v *state.View, w seeker, r replica) (net.Conn, error) {
	ask := func(to placement.RegionID, cargo transport.Cargo) error { return s.cfg.Peers.Permit(ctx, to, cargo) }
	if err := s.lawfulService(v, w, r, ask); err != nil {
		return nil, err
	}
	if r.region != nil {
		return s.serviceAbroad(ctx, v, w, r.region)
	}
	if !slices.Contains(r.job.Spec.Serves(), w.port) {
		return nil, newProblem(http.StatusForbidden, CodeServicePort, fmt.Sprintf("the service %s declares no port %d", quoteWord(w.service), w.port), "declare it: ports: [{port: N}]")
	}
	if r.node.ID == s.cfg.Self && s.cfg.Inside != nil {
		return dialled(ctx, serviceOpens, func(ctx context.Context) (net.Conn, error) {
			return s.cfg.Inside.Serve(ctx, r.task.ID, w.tenant, w.port)
		})
	}
	asked, cancel := context.WithTimeout(ctx, serviceOpens)
	defer cancel()
	return s.mesh.For(w.tenant).openService(asked, s.peerOf(r.node), cargo(transport.CargoStatus), "/tasks/"+string(r.task.ID)+"/serve", ServiceHead{Port: w.port, Tenant: w.tenant})
}

// lawfulService judges both directions between a task and one replica. ask is the
// egress guard.
func (s *Server) lawfulService(v *state.View, w seeker, r replica, ask permits) error {
	law, own := v.Law(residency.DateOf(s.now())), ""
	if n := v.Node(s.cfg.Self); n != nil {
		own = n.Site
	}
	from := w.via // where the task's bytes come from, and the answers go
	if from == nil {
		from = v.Self()
	}
	to := placement.Crossing{Layers: w.layers, From: from, To: v.Self(), Law: law}
	if r.region != nil {
		to.From, to.To = v.Self(), r.region
	} else {
		to.Site = r.node.Site
	}
	back := placement.Crossing{Layers: r.job.Policy, From: v.Self(), To: w.at, Site: w.site, Law: law}
	if r.region != nil {
		back.From = r.region
	}
	end := w.via == nil && w.node == s.cfg.Self || r.node != nil && r.node.ID == s.cfg.Self
	for what, x := range map[string]placement.Crossing{"what the job says": to, "what the service answers": back} {
		if !end { // the bytes pass this node, wherever it stands
			x.Via, x.ViaSite = v.Self(), own
		}
		if ruling := x.Judge(); !ruling.Permitted() {
			return s.unlawful(what, ruling.Decision)
		}
	}
	if w.via == nil {
		return nil
	}
	// The answers leave this region: the endpoint's own guard is asked as well.
	policy, err := v.PolicyOf(r.job)
	if err != nil {
		return err
	}
	answer := transport.Cargo{Kind: transport.CargoJob, Policy: policy}
	if w.via.ID != w.at.ID {
		answer.Use = placement.UseEnter // it passes there, on its way to where the task runs
	}
	return ask(w.via.ID, answer)
}

func (s *Server) unlawful(what string, d residency.Decision) *Problem {
	p := problemOfDecision(d, what+" may not go there: "+d.Reason, "the tags of both jobs have to allow the regions of both")
	// Nobody knows whether it is allowed, so it is not: and it is told as that.
	p.Status = http.StatusForbidden
	p.Title = http.StatusText(p.Status)
	return p
}

// serviceAbroad asks another region for its replicas.
func (s *Server) serviceAbroad(ctx context.Context, v *state.View, w seeker, to *placement.Region) (net.Conn, error) {
	head := ServiceHead{Port: w.port, Job: w.job, Tenant: w.tenant, Site: w.site, Policy: w.layers}
	if w.via != nil {
		head.Region = w.at.ID
	}
	return s.askRegion(ctx, v, w, to, head)
}

func (s *Server) askRegion(ctx context.Context, v *state.View, w seeker, to *placement.Region, head ServiceHead) (net.Conn, error) {
	peer, ok := s.doorOf(to)
	if !ok {
		return nil, newProblem(http.StatusServiceUnavailable, CodePeerUnknown, "no front door of region "+string(to.ID)+" is known", "try again soon: sovmesh region list")
	}
	law := v.Law(residency.DateOf(s.now()))
	policy, err := law.Read(w.layers)
	if err != nil {
		return nil, err
	}
	asked, cancel := context.WithTimeout(ctx, serviceOpens)
	defer cancel()
	return s.mesh.For(w.tenant).openService(asked, peer, transport.Cargo{Kind: transport.CargoJob, Policy: policy}, "/services"+seg(w.service), head)
}
