package gateway

import (
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// catalog is what a view holds about inference, by model name.
type catalog struct {
	models map[string][]deployment
	sites  []string // of the region's nodes, sorted; "" for nodes without one
}

// deployment is one inference job that is not over, with its live tasks. A job
// that runs in another region has none here.
type deployment struct {
	job   *placement.Job
	tasks []*placement.Task
}

// catalogs keeps the newest catalog. Building one walks the jobs, so it may take
// a twentieth of the time at most: routing then lags behind the ledger by twenty
// builds, a fraction of a millisecond in most regions. Nothing lawful rests on
// it: tags, facts and law are read from the newest view each time, and the node
// that executes looks its task up there.
type catalogs struct {
	mu    sync.Mutex
	now   *catalog  // guarded by mu
	index uint64    // of the view it was built from; guarded by mu
	next  time.Time // not built again before; guarded by mu
}

func (c *catalogs) of(v *state.View) *catalog {
	c.mu.Lock()
	defer c.mu.Unlock()
	start := time.Now()
	if c.now != nil && (v.Index() == c.index || start.Before(c.next)) {
		return c.now
	}
	c.now, c.index = newCatalog(v), v.Index()
	c.next = time.Now().Add(20 * time.Since(start))
	return c.now
}

func newCatalog(v *state.View) *catalog {
	c := &catalog{models: map[string][]deployment{}}
	sites := map[string]bool{}
	for _, n := range v.Nodes() {
		sites[n.Site] = true
	}
	c.sites = slices.Sorted(maps.Keys(sites))
	jobs := v.Jobs("", math.MaxInt, func(j *placement.Job) bool {
		return j.Kind == placement.KindInference && !j.Status.Terminal() && !j.StopRequested
	})
	for _, j := range jobs {
		d := deployment{job: j}
		for _, t := range v.TasksOf(j.ID) {
			if t.Status.Live() {
				d.tasks = append(d.tasks, t)
			}
		}
		for _, model := range j.Spec.Models {
			c.models[model] = append(c.models[model], d)
		}
	}
	return c
}

func (d deployment) running() bool {
	return slices.ContainsFunc(d.tasks, func(t *placement.Task) bool { return t.Status == placement.TaskRunning })
}

// visible reports whether a tenant may call the deployment.
func (g *Gateway) visible(j *placement.Job, tenant placement.TenantID) bool {
	return j.Tenant == tenant || g.cfg.Shared(j)
}
