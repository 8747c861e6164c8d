package placement

import (
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
func MayPreempt(job, victim *Job, has Takes, mine, held *TenantShare) string {
	if victim.ID == job.ID {
		return ""
	}
	covered, borrowed := mine.Covers(job.Tenant, job), held.borrows(victim.Tenant, has)
	if victim.Spec.Preemptible && victim.Spec.Priority < job.Spec.Priority && (victim.Tenant == job.Tenant || covered || borrowed) {
		return PreemptPriority
	}
	if victim.Tenant != job.Tenant && covered && borrowed {
		return PreemptReclaim
	}
	return ""
}

// Covers reports whether the tenant is guaranteed what the job asks for beside
// what it holds, of every class that its guarantees name, and whatever it is given.
func (t *TenantShare) Covers(own TenantID, job *Job) bool {
	some := false
	for i := range t.Bounds {
		b := &t.Bounds[i]
		needs := b.Needs(job.Spec.Resources, job.Spec.Size())
		if b.Guarantee == 0 || b.Tenant != own || needs == 0 || b.Class == ClassCPUs && job.Spec.Resources.GPUs > 0 {
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

// borrows reports whether the tenant holds all that the victim has beyond its
// guarantees: without it, and without what is leaving already, none of them would
// be cut.
func (t *TenantShare) borrows(own TenantID, has Takes) bool {
	for i := range t.Bounds {
		b := &t.Bounds[i]
		takes := has(b.Class)
		if b.Tenant == own && b.Guarantee > 0 && takes > 0 && b.Held-b.Leaving-takes < int64(b.Guarantee)*1000 {
			return false
		}
	}
	return true
}

// GiveBack takes from what the tenant holds what a job's tasks hold.
func (t *TenantShare) GiveBack(has Takes) {
	for i := range t.Bounds {
		t.Bounds[i].Held -= has(t.Bounds[i].Class)
	}
}

// Protected is until when the task is not ended for another job.
func (t *Task) Protected() time.Time {
	since := t.AssignedAt
	if t.StartedAt.After(since) {
		since = t.StartedAt
	}
	return since.Add(MinimumRun)
}
