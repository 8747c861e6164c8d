package placement

import (
	"sort"
	"strings"
)

// The classes of a tenant's bounds that name no model of device.
const (
	ClassGPUs = "gpus" // devices of any model
	ClassCPUs = "cpu"  // whole cores
)

// Bound is what a tenant is guaranteed of a class of hardware in a region, the
// most that it may hold, and what it holds: thousandths of devices or cores.
type Bound struct {
	Tenant    TenantID `json:"tenant"` // whose bound it is: its own, or that of all tenants of its region
	Class     string   `json:"class"`  // gpus, cpu, or a word of a device's model
	Guarantee int      `json:"guarantee,omitempty"`
	Limit     int      `json:"limit,omitempty"` // 0: none
	Held      int64    `json:"held"`
	// Leaving is what of it tasks hold that were told to end.
	Leaving int64 `json:"-"`
}

// Binds reports whether what a tenant holds counts for the bound: its own, or that
// of all tenants of its region.
func (b *Bound) Binds(t TenantID) bool {
	return b.Tenant == t || t.Region() != "" && b.Tenant == EveryTenant(t.Region())
}

// Of reports whether devices of a model count for the bound's class.
func (b *Bound) Of(model string) bool { return OfClass(b.Class, model) }

// OfClass reports whether devices of a model count for a class.
func OfClass(class, model string) bool {
	if class == ClassGPUs {
		return true
	}
	return class != ClassCPUs && (&Device{Model: model}).Matches(Resources{GPUModel: class})
}

// Needs is what so many tasks with these resources take of the class at most, in
// thousandths. A request that names models counts for a class only if one of
// them may be of it; one that names none may be given any.
func (b *Bound) Needs(r Resources, tasks int) int64 {
	switch {
	case b.Class == ClassCPUs:
		return int64(r.CPU) * int64(tasks)
	case r.GPUs == 0 || b.Class != ClassGPUs && r.GPUModel != "" && !namesModel(r.GPUModel, b.Class):
		return 0
	}
	return int64(r.GPUs) * int64(r.PerDevice()) * int64(tasks)
}

// namesModel reports whether a request for models, joined by |, may be given a
// device of the class.
func namesModel(asked, class string) bool {
	for _, model := range strings.Split(asked, "|") {
		if OfClass(class, model) || OfClass(model, class) {
			return true
		}
	}
	return false
}

// Exceeds reports whether holding that much more would be beyond the limit.
func (b *Bound) Exceeds(more int64) bool {
	return b.Limit > 0 && more > 0 && b.Held+more > int64(b.Limit)*1000
}

// TenantShare is what a tenant's live tasks hold in a region, and its bounds.
type TenantShare struct {
	Weight int // at least 1
	// GPUs are thousandths of devices, of any model; a MIG instance counts by its
	// part of the device, see [Resources.Weight].
	GPUs   int64
	CPU    MilliCPU
	Memory Bytes
	Bounds []Bound
}

// Guaranteed is how many devices, and cores, the bounds of the tenant itself
// guarantee: those of single models together, if gpus says nothing.
func (t *TenantShare) Guaranteed(own TenantID) (gpus, cores int64) {
	models := int64(0)
	for _, b := range t.Bounds {
		switch {
		case b.Tenant != own:
		case b.Class == ClassGPUs:
			gpus = int64(b.Guarantee)
		case b.Class == ClassCPUs:
			cores = int64(b.Guarantee)
		default:
			models += int64(b.Guarantee)
		}
	}
	return max(gpus, models), cores
}

// SortBounds puts bounds into their order: by tenant, then by class.
func SortBounds(all []Bound) {
	sort.Slice(all, func(i, j int) bool {
		if all[i].Tenant != all[j].Tenant {
			return all[i].Tenant < all[j].Tenant
		}
		return all[i].Class < all[j].Class
	})
}
