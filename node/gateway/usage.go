package gateway

import (
	"cmp"
	"slices"
	"sync"

	"github.com/sovmesh/sovmesh/placement"
)

// Usage is what requests consumed, as the model servers counted it.
type Usage struct {
	PromptTokens     int64
	CompletionTokens int64
}

// Count is the use of one model by one tenant since the node started.
type Count struct {
	Tenant placement.TenantID
	Model  string
	// Answered requests got a whole answer; Refused ones none at all, or an error
	// of the model server; Cut ones a part of an answer.
	Answered, Refused, Cut int64
	// Uncounted are whole answers whose model server said nothing of tokens.
	Uncounted int64
	Usage
}

type counters struct {
	mu  sync.Mutex
	now map[counted]*Count // guarded by mu
}

type counted struct {
	tenant placement.TenantID
	model  string
}

// add changes one count. Only names of models that exist come here, so the map
// is bounded by tenants times deployments.
func (c *counters) add(tenant placement.TenantID, model string, change func(*Count)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		c.now = map[counted]*Count{}
	}
	key := counted{tenant, model}
	if c.now[key] == nil {
		c.now[key] = &Count{Tenant: tenant, Model: model}
	}
	change(c.now[key])
}

// Snapshot is a copy of the counts of this node, sorted by tenant and model.
func (g *Gateway) Snapshot() []Count {
	g.usage.mu.Lock()
	defer g.usage.mu.Unlock()
	out := make([]Count, 0, len(g.usage.now))
	for _, c := range g.usage.now {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Model, b.Model))
	})
	return out
}

// InFlight is the number of requests that this node has on their way.
func (g *Gateway) InFlight() int {
	g.flights.mu.Lock()
	defer g.flights.mu.Unlock()
	n := 0
	for _, k := range g.flights.now {
		n += k
	}
	return n
}
