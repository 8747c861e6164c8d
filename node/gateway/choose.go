package gateway

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Localities, near first: a farther one is used when the nearer ones have no
// replica that may answer.
const (
	rankNode = iota
	rankRegion
	rankLeaving // in this region, on a node that is being emptied
	rankForeign
)

// reach says how far a request may go from here. A request that came over the
// mesh goes no farther than its sender meant it to: at most one hop within the
// region that it entered.
type reach int

const (
	reachNode reach = iota
	reachRegion
	reachMesh
)

// choice collects the targets of one request, and what is to be said if there
// are none.
type choice struct {
	g       *Gateway
	j       *judge
	policy  residency.Policy
	tenant  placement.TenantID
	model   string
	site    string // of this node
	targets []target
	known   bool               // somebody serves the model
	lawful  bool               // and may
	unknown placement.RegionID // and cannot be reached
}

// choose finds the targets that may answer a request. An empty set is an error
// and never a wider set.
func (g *Gateway) choose(j *judge, c *catalog, p residency.Policy, tenant placement.TenantID, model string, far reach) ([]target, *Error) {
	ch := &choice{g: g, j: j, policy: p, tenant: tenant, model: model, site: g.site(j)}
	elsewhere := map[placement.RegionID]bool{}
	for _, d := range c.models[model] {
		if !g.visible(d.job, tenant) {
			continue
		}
		if d.job.Region != "" && d.job.Region != j.self.ID {
			elsewhere[d.job.Region] = true
			continue
		}
		ch.deployment(d, c.sites, far)
	}
	if far == reachMesh {
		for _, r := range j.foreign() {
			if elsewhere[r.ID] || slices.Contains(g.cfg.Peers.Models(r.ID), model) {
				ch.region(r)
			}
		}
	}
	return ch.targets, ch.verdict()
}

// site is the site of this node.
func (g *Gateway) site(j *judge) string {
	if n := j.view.Node(g.cfg.Node); n != nil {
		return n.Site
	}
	return ""
}

// deployment takes in the replicas of one job of this region.
func (ch *choice) deployment(d deployment, sites []string, far reach) {
	ch.known = true
	own, err := ch.j.view.PolicyOf(d.job)
	if err != nil {
		return // its tag is not readable under the law in force: it permits nothing
	}
	p := ch.policy.Meet(own)
	if slices.ContainsFunc(sites, func(s string) bool { return ch.may(p, s) }) {
		ch.lawful = true
	}
	for _, t := range d.tasks {
		// The catalog may lag behind; without a committed placement in the newest
		// view nothing is executed.
		if t = ch.j.view.Task(t.ID); t == nil {
			continue
		}
		n := ch.j.view.Node(t.Node)
		if n == nil || t.Status != placement.TaskRunning || t.Stop || upstreamOf(d.job, t.ID) == "" || !ch.may(p, n.Site) {
			continue
		}
		tg := target{
			region: ch.j.self.ID, node: t.Node, task: t.ID, policy: effective{p}, evidence: d.job.Spec.Evidence,
			key: string(t.ID), rank: rankRegion,
		}
		if n.State == placement.NodeDraining {
			tg.rank = rankLeaving
		}
		switch {
		case t.Node == ch.g.cfg.Node:
			tg.upstream, tg.rank = upstreamOf(d.job, t.ID), rankNode
		case far == reachNode || n.Contact != placement.ContactAlive || n.QUIC == "":
			continue
		// The prompt passes this node on its way to that one.
		case !ch.mayPass(p):
			continue
		default:
			tg.doors = append(tg.doors, ch.g.peer(n))
		}
		ch.targets = append(ch.targets, tg)
	}
}

// upstreamOf is where the model server of a task is asked: the one that its job
// brought, or the one that the job says runs on the node. No job can name a task.
func upstreamOf(job *placement.Job, task placement.TaskID) string {
	switch {
	case job.Spec.ServerKind() != "":
		return placement.TaskURL(task, job.Spec.Setup.Server.Port)
	case strings.HasPrefix(job.Spec.Upstream, "task:"):
		return ""
	}
	return job.Spec.Upstream
}

// may reports whether a site of this region may answer.
func (ch *choice) may(p residency.Policy, site string) bool {
	r := ch.j.here(p, site)
	return r.Permitted()
}

// mayPass reports whether a prompt may pass this node.
func (ch *choice) mayPass(p residency.Policy) bool {
	r := ch.j.enter(p, ch.site)
	return r.Permitted()
}

// region takes in a foreign region that serves the model.
func (ch *choice) region(r *placement.Region) {
	ch.known = true
	ruling := ch.j.there(ch.policy, r, ch.site)
	if !ruling.Permitted() {
		return
	}
	ch.lawful = true
	link := ch.g.cfg.Peers.Link(r.ID)
	doors := ch.g.cfg.Peers.Doors(r.ID)
	if !link.Up || len(doors) == 0 {
		ch.unknown = r.ID
		return
	}
	ch.targets = append(ch.targets, target{
		region: r.ID, doors: doors, policy: effective{ruling.Policy},
		// Nearer regions first; a millisecond more or less is no difference.
		key: "region:" + string(r.ID), rank: rankForeign + int(link.RTT.Milliseconds()/5),
	})
}

// verdict is nil when there is a target.
func (ch *choice) verdict() *Error {
	switch {
	case len(ch.targets) > 0:
		return nil
	case !ch.known:
		return modelNotFound(ch.model)
	case !ch.lawful:
		return ch.j.notPermitted(ch.policy, ch.j.survey(ch.policy), fmt.Sprintf("no deployment of %q may answer a request for", ch.model))
	case ch.unknown != "":
		return regionUnknown(ch.model, ch.unknown)
	}
	return noCapacity(ch.model, "no replica of it is running there now")
}

// flights counts the requests in progress, by target.
type flights struct {
	mu  sync.Mutex
	now map[string]int // guarded by mu; no zeroes
}

// take chooses the nearest target, of the equally near the least busy, and
// counts it at once, so that requests which come together spread. The caller
// gives it back with done.
func (f *flights) take(targets []target) (i int, done func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	best := 0
	for i, t := range targets {
		b := targets[best]
		if t.rank < b.rank || t.rank == b.rank && f.now[t.key] < f.now[b.key] {
			best = i
		}
	}
	key := targets[best].key
	if f.now == nil {
		f.now = map[string]int{}
	}
	f.now[key]++
	return best, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.now[key]--; f.now[key] == 0 {
			delete(f.now, key)
		}
	}
}
