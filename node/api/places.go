package api

import (
	"net/http"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// The bounds of the connections to services that go through one node: no tenant and
// no other region takes the places of the rest.
const (
	maxServices       = 4096            // all of them
	maxTenantServices = maxServices / 4 // of one tenant of this region
	maxAbroadServices = maxServices / 4 // of all other regions together
	maxRegionServices = maxServices / 8 // of one other region
	maxServiceHeads   = maxServices / 4 // those that have not said yet what they want
)

// share is one place of at most so many that somebody may have.
type share struct {
	of   string
	most int
}

// places counts who has how many. The zero value is ready.
type places struct {
	mu    sync.Mutex
	taken map[string]int // guarded by mu; only those that have any
}

// take takes all of the places, or none.
func (p *places) take(all ...share) (release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range all {
		if p.taken[one.of] >= one.most {
			return nil, newProblem(http.StatusTooManyRequests, "streams.full", "too many connections to services at once on this node", "ask again in a moment").retry(time.Second)
		}
	}
	if p.taken == nil {
		p.taken = make(map[string]int)
	}
	for _, one := range all {
		p.taken[one.of]++
	}
	return func() { p.give(all) }, nil
}

func (p *places) give(all []share) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range all {
		if p.taken[one.of]--; p.taken[one.of] == 0 {
			delete(p.taken, one.of)
		}
	}
}

// ofTenant is a place of a tenant's, as this region knows it.
func ofTenant(t placement.TenantID) []share {
	return []share{{"all", maxServices}, {"tenant " + string(t), maxTenantServices}}
}

// ofRegion is a place of another region's.
func ofRegion(r placement.RegionID) []share {
	return []share{{"all", maxServices}, {"abroad", maxAbroadServices}, {"region " + string(r), maxRegionServices}}
}

// tenantOf is whose task it is, as far as this node knows: a task that is not known
// here to run there yet shares the places of nobody.
func (s *Server) tenantOf(node placement.NodeID, task placement.TaskID) placement.TenantID {
	if v, err := s.view(); err == nil {
		if t := v.Task(task); t != nil && t.Node == node {
			return t.Tenant
		}
	}
	return ""
}
