package scheduler

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// QuotaLimit is why a job waits whose tenant would hold more than it may.
const QuotaLimit Constraint = "quota.limit"

// The order of the queue, see DESIGN.md beside this file:
//
//  1. jobs that stay within what their tenant is guaranteed,
//  2. jobs that have waited longer than [placement.AgedAfter], the oldest first,
//  3. all others;
//
// within 1 and 3 by priority, then by what the tenant holds beyond its guarantee
// (its dominant share, divided by its weight, the least first), then by age.
const (
	rankEntitled = iota
	rankAged
	rankRest
)

// tenancy is a tenant's line of waiting jobs and what it holds while the plan is made.
type tenancy struct {
	id    placement.TenantID
	share placement.TenantShare
	jobs  []queued // by priority, then by age
	rank  int      // of the first
	stale bool     // rank and over are older than what it was given
	over  int64    // dominant share over guarantee, by weight, in millionths
	joint *joint   // with the other tenants of its region; nil for one of the own region
	knows int      // changes of joint that its bounds show
}

// joint is what binds all tenants of another region together, as this plan leaves
// it: what one of them is given, all of them hold.
type joint struct {
	of      placement.TenantID
	bounds  []placement.Bound
	changes int
}

// refresh brings the bounds that the tenant has in common with others up to date.
func (t *tenancy) refresh() {
	if t.joint == nil || t.knows == t.joint.changes {
		return
	}
	t.knows, t.stale = t.joint.changes, true
	next := 0
	for i := range t.share.Bounds {
		if t.share.Bounds[i].Tenant == t.joint.of {
			t.share.Bounds[i] = t.joint.bounds[next]
			next++
		}
	}
}

// tell lets the others know what the tenant was given.
func (t *tenancy) tell() {
	if t.joint == nil || len(t.joint.bounds) == 0 {
		return
	}
	t.joint.changes++
	t.joint.bounds, t.knows = t.common(), t.joint.changes
}

// common are the bounds that the tenant has in common with others.
func (t *tenancy) common() (out []placement.Bound) {
	for _, b := range t.share.Bounds {
		if b.Tenant == t.joint.of {
			out = append(out, b)
		}
	}
	return out
}

// queued is a waiting job and its place in the snapshot, where a tenant's jobs
// of one priority stand in the order of their submission.
type queued struct {
	*placement.Job
	at int
}

func byAge(a, b queued) int {
	return cmp.Or(a.SubmittedAt.Compare(b.SubmittedAt), cmp.Compare(a.at, b.at))
}

// lines is a heap of tenants, who comes next first.
type lines []*tenancy

func (l lines) Len() int      { return len(l) }
func (l lines) Swap(i, j int) { l[i], l[j] = l[j], l[i] }
func (l *lines) Push(x any)   { *l = append(*l, x.(*tenancy)) }
func (l *lines) Pop() any {
	old := *l
	last := old[len(old)-1]
	*l = old[:len(old)-1]
	return last
}

func (l lines) Less(i, j int) bool {
	a, b := l[i], l[j]
	return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(b.jobs[0].Spec.Priority, a.jobs[0].Spec.Priority),
		cmp.Compare(a.over, b.over), byAge(a.jobs[0], b.jobs[0])) < 0
}

// serve takes the wanted jobs in the order of the queue, which what is given to
// one tenant changes for the next.
func (p *planner) serve() {
	var aged []queued
	all := lines{}
	for i := range p.s.Wanted {
		job := queued{p.s.Wanted[i], i}
		if job.Aged(p.s.Now) {
			aged = append(aged, job)
		}
		t := p.tenancy(job.Tenant)
		if t.jobs = append(t.jobs, job); len(t.jobs) == 1 {
			all = append(all, t)
		}
	}
	slices.SortFunc(aged, func(a, b queued) int {
		return cmp.Or(a.QueuedAt.Compare(b.QueuedAt), byAge(a, b))
	})
	for _, t := range all {
		slices.SortFunc(t.jobs, func(a, b queued) int {
			return cmp.Or(cmp.Compare(b.Spec.Priority, a.Spec.Priority), byAge(a, b))
		})
		p.rank(t)
	}
	heap.Init(&all)
	done := make(map[placement.JobID]bool, len(p.s.Wanted))
	for len(all) > 0 {
		t := all[0]
		t.refresh()
		switch {
		case done[t.jobs[0].ID]:
			t.jobs = t.jobs[1:]
		case t.stale: // it was given something out of turn
		case t.rank != rankEntitled && len(aged) > 0:
			job := aged[0]
			if aged = aged[1:]; done[job.ID] {
				continue // it had its turn as one that its tenant is guaranteed
			}
			done[job.ID], p.lines[job.Tenant].stale = true, true
			p.want(job.Job)
			continue
		default:
			done[t.jobs[0].ID] = true
			p.want(t.jobs[0].Job)
			t.jobs = t.jobs[1:]
		}
		if len(t.jobs) == 0 {
			heap.Pop(&all)
			continue
		}
		p.rank(t)
		heap.Fix(&all, 0)
	}
}

// tenancy finds a tenant's line.
func (p *planner) tenancy(id placement.TenantID) *tenancy {
	t := p.lines[id]
	if t == nil {
		t = &tenancy{id: id, share: placement.TenantShare{Weight: 1}}
		if p.s.Share != nil {
			t.share = p.s.Share(id)
			t.share.Bounds = slices.Clone(t.share.Bounds) // counted on in this plan
		}
		p.lines[id] = t
		p.join(t)
	}
	t.refresh()
	return t
}

// join finds those with whom the tenant has bounds in common.
func (p *planner) join(t *tenancy) {
	region := t.id.Region()
	if region == "" {
		return
	}
	if t.joint = p.joint[region]; t.joint == nil {
		t.joint = &joint{of: placement.EveryTenant(region)}
		t.joint.bounds = t.common()
		p.joint[region] = t.joint
	}
}

// rank works out where the first job of a tenant's line stands.
func (p *planner) rank(t *tenancy) {
	t.refresh()
	t.over, t.stale = p.dominant(t), false
	t.rank = rankRest
	if t.share.Covers(t.id, t.jobs[0].Job) {
		t.rank = rankEntitled
	}
}

// dominant is the largest part of the region, in millionths, that the tenant
// holds of any resource beyond its guarantee, divided by its weight.
func (p *planner) dominant(t *tenancy) int64 {
	gpus, cores := t.share.Guaranteed(t.id)
	part := func(held, guaranteed, all int64) int64 {
		if all <= 0 || held <= guaranteed {
			return 0
		}
		return int64(float64(held-guaranteed) / float64(all) * 1e6)
	}
	all := p.estate()
	return max(part(t.share.GPUs, gpus*1000, all.gpus), part(int64(t.share.CPU), cores*1000, all.cpu), part(int64(t.share.Memory), 0, all.memory)) / int64(max(1, t.share.Weight))
}

// estate is what the region's nodes have.
type estate struct{ gpus, cpu, memory int64 }

func (p *planner) estate() estate {
	if p.all == (estate{}) {
		for _, n := range p.s.Nodes {
			for i := range n.Inventory.Devices {
				if d := &n.Inventory.Devices[i]; d.Profile != "" {
					p.all.gpus += int64(placement.ProfileWeight(d.Profile))
				} else if !d.Partitioned { // its instances count in its place
					p.all.gpus += int64(placement.WholeGPU)
				}
			}
			p.all.cpu += int64(n.Inventory.CPU)
			p.all.memory += int64(n.Inventory.Memory)
		}
	}
	return p.all
}

// charge counts for the tenant what a job was given.
func (p *planner) charge(job *placement.Job, at *space, devices []string) {
	if p.avoiding {
		p.named = append(p.named, placement.Assignment{Job: job.ID, Node: at.node.ID})
	}
	t := p.tenancy(job.Tenant)
	r := job.Spec.Resources
	each := int64(r.PerDevice())
	t.share.GPUs += int64(r.Weight()) * int64(len(devices))
	t.share.CPU += r.CPU
	t.share.Memory += r.Memory
	for i := range t.share.Bounds {
		b := &t.share.Bounds[i]
		if b.Class == placement.ClassCPUs {
			b.Held += int64(r.CPU)
			continue
		}
		for _, id := range devices {
			if b.Of(modelOf(at.node, id)) {
				b.Held += each
			}
		}
	}
	t.tell()
}

func modelOf(n *placement.Node, device string) string {
	for i := range n.Inventory.Devices {
		if n.Inventory.Devices[i].UUID == device {
			return n.Inventory.Devices[i].Model
		}
	}
	return ""
}

// limited is the bound that keeps a job from starting whatever it is given, and
// barred the classes of devices that it may not be given, joined by commas.
func (t *tenancy) limited(job *placement.Job) (whole *placement.Bound, barred string) {
	var names []string
	for i := range t.share.Bounds {
		b := &t.share.Bounds[i]
		if !b.Exceeds(wouldTake(b, job)) {
			continue
		}
		if b.Class == placement.ClassGPUs || b.Class == placement.ClassCPUs {
			return b, ""
		}
		names = append(names, b.Class)
	}
	return nil, strings.Join(names, ",")
}

// wouldTake is what the job takes of a bound's class if every device that it is
// given is of it. What the job calls a model does not count: any word of a model
// names it (80GB is an H100 too), and what is given is judged by what it is.
func wouldTake(b *placement.Bound, job *placement.Job) int64 {
	r := job.Spec.Resources
	r.GPUModel = ""
	return b.Needs(r, job.Spec.Size())
}

// overLimit explains a job that waits for its tenant's limit. Alone it names the
// bound and what the tenant itself holds, nobody else's load.
func (p *planner) overLimit(job *placement.Job, b *placement.Bound) Explanation {
	e := p.explainClass(p.class(job))
	if e.Outcome != Fits && e.Outcome != Full {
		return e
	}
	needs := wouldTake(b, job)
	who := "tenant " + string(b.Tenant)
	if b.Tenant != job.Tenant {
		who = "the tenants of region " + string(job.Tenant.Region())
	}
	e.Outcome, e.Code = Full, QuotaLimit
	e.Reason = fmt.Sprintf("%s may hold %d of %s: %s are held, and it asks for %s", who, b.Limit, b.Class, thousandths(b.Held), thousandths(needs))
	e.Hint = "it waits for a task of its own tenant to end; a higher limit is set with: sovmesh tenant set --limit"
	if needs > int64(b.Limit)*1000 {
		e.Outcome = Impossible
		e.Hint = "ask for less, or have the limit raised: sovmesh tenant set --limit"
	}
	return e
}

// thousandths writes 2500 as 2.5.
func thousandths(n int64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%d.%03d", n/1000, n%1000), "0"), ".")
}

// barredBound is the bound that bars the first of the classes: of several of one
// class the one that the job would exceed.
func (t *tenancy) barredBound(job *placement.Job, barred string) *placement.Bound {
	first, _, _ := strings.Cut(barred, ",")
	for i := range t.share.Bounds {
		if b := &t.share.Bounds[i]; b.Class == first && b.Exceeds(wouldTake(b, job)) {
			return b
		}
	}
	return nil
}

// waitedSince is when a job began to wait.
func waitedSince(job *placement.Job) time.Time {
	if job.QueuedAt.IsZero() {
		return job.SubmittedAt
	}
	return job.QueuedAt
}
