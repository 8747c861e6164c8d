package placement

import (
	"slices"
	"strings"
	"time"
)

// MinimumRun is how long a task runs before it may be ended for another job.
const MinimumRun = time.Minute

// MaxPreempted bounds the tasks that one command ends for another job.
const MaxPreempted = 256

// How many tasks may be ended for others within PreemptWindow: for the jobs of one
// tenant, unless its settings say otherwise, and in a region. Work that is ended
// again and again gets nowhere.
const (
	PreemptWindow    = time.Hour
	PreemptsOfTenant = 1000
	PreemptsOfRegion = 4000
)

// The grounds on which a task is ended for another job.
const (
	PreemptPriority = "priority" // it is preemptible, and the other's priority is higher
	PreemptReclaim  = "reclaim"  // its tenant borrowed what the other's is guaranteed
)

// Takes is what a job's live tasks hold of a class of hardware, in thousandths: by
// the devices that they were given, whatever the job called them.
type Takes func(class string) int64

// MayPreempt says on what ground a task of a victim's may be ended for a job that
// waits, empty for none. has is what the victim's tasks hold; held and mine are
// what its tenant and the job's own hold.
//
// Neither ground cuts another tenant's guarantee for a job that is guaranteed
// nothing: in the queue guaranteed work comes before priority, so the victim would
// take its room back at once, and would be ended again a minute later, without end.
// What is guaranteed to all tenants of a region together they share out among
// themselves: it protects none of them from one that is guaranteed the room alone.
func MayPreempt(job, victim *Job, has Takes, mine, held *TenantShare) string {
	if victim.ID == job.ID {
		return ""
	}
	whose := mine.guarantor(job.Tenant, job)
	shared := TenantID("")
	if whose == job.Tenant && victim.Tenant.Region() == job.Tenant.Region() && job.Tenant.Region() != "" {
		shared = EveryTenant(job.Tenant.Region())
	}
	covered, borrowed := whose != "", held.borrows(victim.Tenant, shared, has)
	if victim.Spec.Preemptible && victim.Spec.Priority < job.Spec.Priority && (victim.Tenant == job.Tenant || covered || borrowed) {
		return PreemptPriority
	}
	if victim.Tenant != job.Tenant && covered && borrowed {
		return PreemptReclaim
	}
	return ""
}

// Covers reports whether the tenant, or all tenants of its region together, are
// guaranteed what the job asks for beside what they hold, of every class that those
// guarantees name, and whatever it is given.
func (t *TenantShare) Covers(own TenantID, job *Job) bool { return t.guarantor(own, job) != "" }

// guarantor is whose guarantees cover the job: the tenant itself, all tenants of
// its region, or nobody.
func (t *TenantShare) guarantor(own TenantID, job *Job) TenantID {
	whose := []TenantID{own}
	if region := own.Region(); region != "" {
		whose = append(whose, EveryTenant(region))
	}
	for _, one := range whose {
		if t.guarantees(one, job) {
			return one
		}
	}
	return ""
}

// guarantees reports whether the bounds of one row alone cover the job.
func (t *TenantShare) guarantees(whose TenantID, job *Job) bool {
	some := false
	for i := range t.Bounds {
		b := &t.Bounds[i]
		needs := b.Needs(job.Spec.Resources, job.Spec.Size())
		if b.Guarantee == 0 || b.Tenant != whose || needs == 0 || b.Class == ClassCPUs && job.Spec.Resources.GPUs > 0 {
			continue
		}
		if b.Held+needs > int64(b.Guarantee)*1000 {
			return false
		}
		some = some || b.only(job.Spec.Resources)
	}
	return some
}

// only reports whether whatever the request is given counts for the class. A job
// that may be given other devices is guaranteed none: on those it would never use
// the guarantee up, and would take them back without end.
func (b *Bound) only(r Resources) bool {
	if b.Class == ClassCPUs || b.Class == ClassGPUs {
		return true
	}
	for _, model := range strings.Split(r.GPUModel, "|") {
		if !b.Of(model) {
			return false
		}
	}
	return true
}

// borrows reports whether the tenant, and all tenants of its region together, hold
// all that the victim has beyond their guarantees: without it, and without what is
// leaving already, none of them would be cut. The bounds of but are left out.
func (t *TenantShare) borrows(own, but TenantID, has Takes) bool {
	for i := range t.Bounds {
		b := &t.Bounds[i]
		takes := has(b.Class)
		if b.Binds(own) && b.Tenant != but && b.Guarantee > 0 && takes > 0 && b.Held-b.Leaving-takes < int64(b.Guarantee)*1000 {
			return false
		}
	}
	return true
}

// GivenBack is what victims chosen so far give back, by the bounds that it counts
// for: two tenants of one region share that of all of them.
type GivenBack map[boundKey]int64

type boundKey struct {
	tenant TenantID
	class  string
}

// Add counts what the tasks of a victim hold, whose tenant's share that is.
func (g GivenBack) Add(share *TenantShare, has Takes) {
	for i := range share.Bounds {
		b := &share.Bounds[i]
		g[boundKey{b.Tenant, b.Class}] += has(b.Class)
	}
}

// From is a share without what was given back. It leaves that one as it is.
func (g GivenBack) From(share TenantShare) *TenantShare {
	share.Bounds = slices.Clone(share.Bounds)
	for i := range share.Bounds {
		b := &share.Bounds[i]
		b.Held -= g[boundKey{b.Tenant, b.Class}]
	}
	return &share
}

// Protected is until when the task is not ended for another job.
func (t *Task) Protected() time.Time {
	since := t.AssignedAt
	if t.StartedAt.After(since) {
		since = t.StartedAt
	}
	return since.Add(MinimumRun)
}
