package state

import (
	"cmp"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// KindPreempt is the kind of [Preempt].
const KindPreempt Kind = "task.preempt"

// Preempt ends tasks so that a job which waits has room, each with its own
// grace; their jobs wait again, as old as before. Apply judges every one of them,
// whatever the proposer said.
type Preempt struct {
	For   placement.JobID    `json:"for"`
	Tasks []placement.TaskID `json:"tasks"`
}

// Kind names the command.
func (Preempt) Kind() Kind { return KindPreempt }

// stopPreempted is the reason that a victim's owner sees; it tells nothing of
// whom it made room for.
var stopPreempted = map[string]string{
	placement.PreemptPriority: "preempted: a job of higher priority needs the room",
	placement.PreemptReclaim:  "preempted: its tenant borrowed the room, and whose it is needs it",
}

// preempt ends all of them or none.
func (s *State) preempt(c *call, k Preempt) *Refused {
	if len(k.Tasks) == 0 || len(k.Tasks) > placement.MaxPreempted {
		return refuse("preempt.count", "name 1 to 256 tasks", "%d tasks cannot be preempted at once", len(k.Tasks))
	}
	c.subject = opaqueJob(k.Tasks[0].Job())
	job, ok := s.jobs.get(string(k.For))
	if !ok || !wantsTask(&job.Job) {
		return refuse("preempt.job", "plan again", "job %s waits for no room", clip(string(k.For)))
	}
	mine := s.Share(job.Tenant)
	back := placement.GivenBack{}
	grounds := map[placement.JobID]string{}
	var victims []*taskRecord
	for _, id := range k.Tasks {
		t, ok := s.tasks.get(string(id))
		if !ok || !t.Status.Live() || t.Stop || t.Status == placement.TaskUnknown {
			return refuse("preempt.task", "plan again", "task %s does not run", clip(string(id)))
		}
		victim, _ := s.jobs.get(string(t.Job))
		if grounds[victim.ID] != "" {
			continue // another member of a gang that is judged already
		}
		held, has := back.From(s.Share(victim.Tenant)), s.takenBy(victim.ID)
		why := placement.MayPreempt(&job.Job, &victim.Job, has, &mine, held)
		if why == "" {
			return refuse("preempt.ground", "plan again", "task %s may not be ended for job %s: it is not preemptible by it, and its tenant borrowed nothing of that tenant's", t.ID, job.ID)
		}
		for _, member := range s.wholeGang(t) {
			if s.Clock.Before(member.Protected()) {
				return refuse("preempt.early", "wait a little", "task %s has not run for %s yet", member.ID, placement.MinimumRun)
			}
			victims = append(victims, member)
		}
		back.Add(held, has)
		grounds[victim.ID] = why
	}
	if left, again := s.mayEnd(job.Tenant, s.Clock); len(victims) > left {
		return refuse("preempt.budget", "wait until "+again.Format(time.RFC3339), "%d tasks of others may still be ended for tenant %s within this hour, not %d", left, job.Tenant, len(victims))
	}
	s.countPreempted(job.Tenant, len(victims))
	for _, t := range victims {
		s.stopTask(t, stopPreempted[grounds[t.Job]], true)
		if r, ok := s.jobs.get(string(t.Job)); ok {
			next := *r
			s.putJob(c, &next) // its leaves tell of this one
		}
	}
	c.show(ledger.ShownState, "preempted "+grounds[victims[0].Job])
	c.id = string(k.For)
	return nil
}

// takenBy is what a job's live tasks hold of a class, by the devices that they were given.
func (s *State) takenBy(job placement.JobID) placement.Takes {
	live := s.liveTasks(job)
	return func(class string) (n int64) {
		for _, t := range live {
			n += t.takes(class)
		}
		return n
	}
}

// preempted is how many tasks were ended for a tenant's jobs, or in the region, in
// the hour that began with the first of them.
type preempted struct {
	Tenant placement.TenantID `json:"tenant,omitempty"` // empty: the whole region
	Since  time.Time          `json:"since"`
	Tasks  int                `json:"tasks"`
}

func (r *preempted) over(now time.Time) bool { return now.Sub(r.Since) >= placement.PreemptWindow }

// mayEnd is how many tasks may still be ended for a tenant's jobs at that time, and
// when that is more; zero if none was.
func (v *View) mayEnd(t placement.TenantID, now time.Time) (left int, again time.Time) {
	left = placement.PreemptsOfTenant
	for _, over := range slices.Backward(v.TenantsOver(t)) { // its own settings come last
		if over.Quota.Preempts > 0 {
			left = over.Quota.Preempts
		}
	}
	region := placement.PreemptsOfRegion
	for i := range v.Preempted {
		switch r := &v.Preempted[i]; {
		case r.over(now):
		case r.Tenant == "":
			if region -= r.Tasks; region < left {
				again = r.Since.Add(placement.PreemptWindow)
			}
		case r.Tenant == t:
			if left -= r.Tasks; left < region {
				again = r.Since.Add(placement.PreemptWindow)
			}
		}
	}
	return max(0, min(left, region)), again
}

// countPreempted adds to the rows of the region and of the tenant, and drops those
// of an hour that is over. Views share the old rows.
func (s *State) countPreempted(t placement.TenantID, tasks int) {
	var rows []preempted
	for _, r := range s.Preempted {
		if !r.over(s.Clock) {
			rows = append(rows, r)
		}
	}
	for _, tenant := range []placement.TenantID{"", t} {
		i, found := slices.BinarySearchFunc(rows, tenant, func(r preempted, t placement.TenantID) int { return cmp.Compare(r.Tenant, t) })
		if !found {
			rows = slices.Insert(rows, i, preempted{Tenant: tenant, Since: s.Clock})
		}
		rows[i].Tasks += tasks
	}
	s.Preempted = rows
}
