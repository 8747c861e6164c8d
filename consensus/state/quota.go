package state

import (
	"maps"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// Bounds of a tenant's settings.
const (
	maxClasses = 16
	maxAmount  = 1_000_000
	maxWeight  = 1000
)

// holding is what live tasks hold of one class of hardware; derived. The row
// of a tenant alone has all of it, one for each model of device its part of that.
type holding struct {
	gpus   int64 // thousandths of devices
	weight int64 // the same, MIG instances by their part of a device
	cpu    placement.MilliCPU
	memory placement.Bytes
	// What of it tasks hold that were told to end.
	leavingGPUs int64
	leavingCPU  placement.MilliCPU
}

func holdingKey(t placement.TenantID, model string) string { return string(t) + "\x00" + model }

// hold counts what a live task holds for its tenant, or takes it away again.
func (s *State) hold(t *taskRecord, sign int64) {
	cpu, memory := placement.MilliCPU(sign)*t.Resources.CPU, placement.Bytes(sign)*t.Resources.Memory
	weight := sign * int64(t.Resources.Weight()) * int64(len(t.Devices))
	s.holdRows(t, func(gpus int64) holding { return holding{gpus: sign * gpus} }, holding{cpu: cpu, memory: memory, weight: weight})
}

// leave counts what a live task holds that was told to end, or takes it away again.
func (s *State) leave(t *taskRecord, sign int64) {
	s.holdRows(t, func(gpus int64) holding { return holding{leavingGPUs: sign * gpus} }, holding{leavingCPU: placement.MilliCPU(sign) * t.Resources.CPU})
}

// holdRows adds to the rows that a task counts in: so many thousandths of devices
// to each, by class, and the rest to those of tenants alone.
func (s *State) holdRows(t *taskRecord, devices func(gpus int64) holding, rest holding) {
	rows := []placement.TenantID{t.Tenant}
	if peer := t.Tenant.Region(); peer != "" {
		rows = append(rows, placement.EveryTenant(peer))
	}
	each := int64(t.Resources.PerDevice())
	for _, tenant := range rows {
		s.holdRow(holdingKey(tenant, ""), rest)
		s.holdRow(holdingKey(tenant, ""), devices(each*int64(len(t.Devices))))
		for i := range t.Devices {
			if model := t.model(i); model != "" {
				s.holdRow(holdingKey(tenant, model), devices(each))
			}
		}
	}
}

func (s *State) holdRow(key string, more holding) {
	h, _ := s.holdings.get(key)
	h.gpus, h.cpu, h.memory, h.weight = h.gpus+more.gpus, h.cpu+more.cpu, h.memory+more.memory, h.weight+more.weight
	h.leavingGPUs, h.leavingCPU = h.leavingGPUs+more.leavingGPUs, h.leavingCPU+more.leavingCPU
	if h == (holding{}) {
		s.holdings.delete(key)
	} else {
		s.holdings.put(key, h)
	}
}

// model is that of the task's device number i as it was when it was placed.
func (t *taskRecord) model(i int) string {
	if len(t.Models) == 1 {
		return t.Models[0]
	}
	if i < len(t.Models) {
		return t.Models[i]
	}
	return ""
}

// modelsOf are the models of a node's devices by UUID: one if all are alike.
func modelsOf(n *placement.Node, devices []string) []string {
	var out []string
	for _, id := range devices {
		model := ""
		for i := range n.Inventory.Devices {
			if n.Inventory.Devices[i].UUID == id {
				model = n.Inventory.Devices[i].Model
			}
		}
		out = append(out, model)
	}
	if len(slices.Compact(slices.Clone(out))) == 1 {
		return out[:1:1]
	}
	return out
}

// Share is what a tenant holds in the region, and its bounds.
func (v *View) Share(id placement.TenantID) placement.TenantShare {
	h, _ := v.holdings.get(holdingKey(id, ""))
	out := placement.TenantShare{Weight: 1, GPUs: h.weight, CPU: h.cpu, Memory: h.memory}
	if own := v.Tenant(id); own != nil {
		out.Weight = max(1, own.Quota.Weight)
	}
	for _, t := range v.TenantsOver(id) {
		for _, class := range t.Quota.classes() {
			b := placement.Bound{Tenant: t.ID, Class: class, Guarantee: t.Quota.Guarantee[class], Limit: t.Quota.Limit[class]}
			b.Held, b.Leaving = v.heldOf(t.ID, class)
			out.Bounds = append(out.Bounds, b)
		}
	}
	return out
}

// heldOf is what a row of the usage holds of a class, and what of that is leaving,
// in thousandths.
func (v *View) heldOf(row placement.TenantID, class string) (held, leaving int64) {
	all, _ := v.holdings.get(holdingKey(row, ""))
	switch class {
	case placement.ClassGPUs:
		return all.gpus, all.leavingGPUs
	case placement.ClassCPUs:
		return int64(all.cpu), int64(all.leavingCPU)
	}
	from := holdingKey(row, "")
	v.holdings.prefix(from, func(key string, h holding) bool {
		if model := strings.TrimPrefix(key, from); model != "" && placement.OfClass(class, model) {
			held, leaving = held+h.gpus, leaving+h.leavingGPUs
		}
		return true
	})
	return held, leaving
}

// classes are those that a quota guarantees or limits, sorted.
func (q *Quota) classes() []string {
	out := slices.Sorted(maps.Keys(q.Guarantee))
	for _, class := range slices.Sorted(maps.Keys(q.Limit)) {
		if !slices.Contains(out, class) {
			out = append(out, class)
		}
	}
	slices.Sort(out)
	return out
}

// guaranteed reports whether any tenant is guaranteed anything.
func (v *View) guaranteed() bool {
	return slices.ContainsFunc(v.Tenants(), func(t *Tenant) bool { return len(t.Quota.Guarantee) > 0 })
}

// check refuses a quota that cannot be meant.
func (q *Quota) check() *Refused {
	if q.GPUs < 0 || q.Jobs < 0 || q.Pending < 0 || q.Weight < 0 || q.Weight > maxWeight {
		return refuse("tenant.quota", "use 0 for no bound, and a weight from 1 to 1000", "a quota cannot be negative, nor a weight above 1000")
	}
	if q.Preempts < 0 || q.Preempts > maxAmount {
		return refuse("tenant.quota", "use 1 to 1000000, and 0 for the usual", "%d tasks an hour cannot be bounded so", q.Preempts)
	}
	classes := q.classes()
	if len(classes) > maxClasses {
		return refuse("tenant.quota", "bound at most 16 classes of hardware", "%d classes are too many", len(classes))
	}
	for _, class := range classes {
		g, limit := q.Guarantee[class], q.Limit[class]
		switch {
		case !validClass(class):
			return refuse("tenant.quota", "write gpus, cpu, or a word of a device's model: H100", "%q is no class of hardware", clip(class))
		case g < 0 || limit < 0 || g > maxAmount || limit > maxAmount:
			return refuse("tenant.quota", "use whole devices or cores from 0 to 1000000", "the bounds of %s are not possible", class)
		case limit > 0 && g > limit:
			return refuse("tenant.quota", "raise the limit, or guarantee less", "of %s %d are guaranteed and %d are the limit", class, g, limit)
		}
	}
	return nil
}

func validClass(c string) bool {
	return c != "" && len(c) <= 64 && !strings.ContainsFunc(c, func(r rune) bool { return r <= ' ' || r > '~' || r == '=' || r == ',' || r == '|' })
}

// withinLimit judges what a tenant would hold with one more task on these
// devices; replaced is the task whose place it takes.
func (s *State) withinLimit(r *jobRecord, t, replaced *taskRecord) *Refused {
	for _, over := range s.TenantsOver(r.Tenant) {
		for _, class := range over.Quota.classes() {
			b := placement.Bound{Class: class, Limit: over.Quota.Limit[class]}
			if b.Limit == 0 {
				continue
			}
			more := t.takes(class)
			if replaced != nil {
				more -= replaced.takes(class)
			}
			if b.Held, _ = s.heldOf(over.ID, class); b.Exceeds(more) {
				return refuse("quota.limit", "wait for a task to end, or ask for a higher limit", "tenant %s holds %d thousandths of %s, this task would take %d, and the limit is %d", over.ID, b.Held, class, more, b.Limit)
			}
		}
	}
	return nil
}

// takes is what a task takes of a class, in thousandths.
func (t *taskRecord) takes(class string) (n int64) {
	if class == placement.ClassCPUs {
		return int64(t.Resources.CPU)
	}
	for i := range t.Devices {
		if placement.OfClass(class, t.model(i)) {
			n += int64(t.Resources.PerDevice())
		}
	}
	return n
}
