package api

import (
	"fmt"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// explain asks the scheduler about this region. What it says of the nodes is
// counts of them; whose work fills them it does not say.
func (s *Server) explain(v *state.View, j *placement.Job) *Explanation {
	e := scheduler.Explain(v.Snapshot(s.now()), j)
	out := &Explanation{
		Outcome: string(e.Outcome), Code: string(e.Code), Reason: e.Reason, Hint: e.Hint, Rule: e.Rule, LawPack: e.LawPack, On: e.On,
		Nodes: e.Nodes, Fit: e.Fitting, Failed: []FilterCount{}, Summary: e.Brief, LargestHole: e.LargestHole, Reserved: e.Reserved, NextTry: e.NextTry,
	}
	for _, n := range e.Counts {
		out.Failed = append(out.Failed, FilterCount{Filter: string(n.Constraint), Nodes: n.Nodes, Detail: n.Detail})
	}
	for _, change := range e.Changes {
		out.Relax = append(out.Relax, fmt.Sprintf("%s: %d more %s", change.What, change.Nodes, pick(change.Nodes == 1, "node", "nodes")))
	}
	return out
}

// history adds what the job's own record tells: which regions were asked, and
// when it is looked at again.
func (e *Explanation) history(j *placement.Job, now time.Time) {
	if j.HeldBack(now) {
		e.NextTry = earlierTime(e.NextTry, j.NotBefore)
	}
	f := j.Forward
	if f == nil {
		return
	}
	e.Answers = f.Refusals
	if f.State == placement.ForwardWaiting && f.ExpiresAt.After(now) && j.Status == placement.JobPending {
		e.NextTry = earlierTime(e.NextTry, f.ExpiresAt)
	}
}

func earlierTime(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// mayKnow hides for whom room is kept from who may not know of that job.
func (e *Explanation) mayKnow(who *Caller, v *state.View) {
	if e.Reserved == nil || e.Reserved.Job == "" {
		return
	}
	kept := *e.Reserved
	if j := v.Job(kept.Job); j == nil || !who.sees(j) {
		kept.Job = ""
	}
	e.Reserved = &kept
}

// summarise puts the rest behind the counts, in the line that people read.
func (e *Explanation) summarise() {
	var b strings.Builder
	b.WriteString(e.Summary)
	for _, q := range e.Quota {
		switch {
		case !q.OK && q.Used >= q.Limit:
			fmt.Fprintf(&b, "; %s used up (%d of %d)", q.what(), q.Used, q.Limit)
		case !q.OK:
			fmt.Fprintf(&b, "; %s exceeded by this job (%d of %d in use, %d more asked for)", q.what(), q.Used, q.Limit, q.Asked)
		case q.Name == "held gpus" && q.Limit > 0:
			fmt.Fprintf(&b, "; limit ok (%d of %d held)", q.Used, q.Limit)
		case q.Name == "gpus" && q.Limit > 0:
			fmt.Fprintf(&b, "; quota ok (%d of %d)", q.Used, q.Limit)
		}
	}
	if r := e.Reserved; r != nil {
		fmt.Fprintf(&b, "; %d %s kept for the first of the queue", r.Nodes, pick(r.Nodes == 1, "node", "nodes"))
		if !r.Until.IsZero() {
			b.WriteString(" until " + r.Until.UTC().Format("15:04"))
		}
	}
	if len(e.Answers) > 0 {
		fmt.Fprintf(&b, "; %d other %s had no place", len(e.Answers), pick(len(e.Answers) == 1, "region", "regions"))
	}
	if !e.NextTry.IsZero() {
		b.WriteString("; next try " + e.NextTry.UTC().Format("15:04"))
	}
	e.Summary = b.String()
}

// what names the bound: a quota counts jobs, a limit what their tasks hold.
func (q *QuotaLine) what() string {
	if class, held := strings.CutPrefix(q.Name, "held "); held {
		return "limit of " + class
	}
	return "quota of " + q.Name
}

// quotaLines are a tenant's quotas and bounds. A dry run asks for one job (jobs
// is 1) on top of what its tenant has; a job that is here counts already, and
// what its tasks will hold counts once they are placed: tasks are those to come.
func quotaLines(v *state.View, tenant placement.TenantID, jobs int, r placement.Resources, tasks int) []QuotaLine {
	t := v.Tenant(tenant)
	if t == nil {
		return nil
	}
	gpus := r.GPUs * max(1, tasks) * jobs
	use := v.TenantUse(tenant)
	out := boundLines(v, tenant, r, tasks)
	for _, l := range []QuotaLine{
		{Name: "gpus", Used: use.GPUs, Asked: gpus, Limit: t.Quota.GPUs},
		{Name: "jobs", Used: use.Jobs, Asked: jobs, Limit: t.Quota.Jobs},
		{Name: "pending", Used: use.Pending, Asked: jobs, Limit: t.Quota.Pending},
	} {
		if l.Limit > 0 {
			l.OK = l.Used+l.Asked <= l.Limit
			out = append(out, l)
		}
	}
	return out
}

// boundLines are what a tenant may hold at once, and what it holds: of what waits
// or is only asked about, in whole devices or cores, rounded up.
func boundLines(v *state.View, tenant placement.TenantID, r placement.Resources, tasks int) []QuotaLine {
	share := v.Share(tenant)
	var out []QuotaLine
	up := func(n int64) int { return int((n + 999) / 1000) }
	for i := range share.Bounds {
		b := &share.Bounds[i]
		if b.Tenant != tenant {
			continue
		}
		more := int64(0)
		if mustTake(v, b, r) {
			r := r
			r.GPUModel = "" // it is of the class, whatever the job calls it
			more = b.Needs(r, tasks)
		}
		out = append(out, QuotaLine{Name: "held " + b.Class, Used: up(b.Held), Asked: up(more), Limit: b.Limit, Guarantee: b.Guarantee, OK: !b.Exceeds(more)})
	}
	return out
}

// mustTake reports whether all devices of the region that may be given to such a
// request are of the bound's class. What the request calls them does not count.
func mustTake(v *state.View, b *placement.Bound, r placement.Resources) bool {
	if r.GPUs == 0 || b.Class == placement.ClassGPUs || b.Class == placement.ClassCPUs {
		return true
	}
	some := false
	for _, n := range v.Nodes() {
		for i := range n.Inventory.Devices {
			if d := &n.Inventory.Devices[i]; !d.Partitioned && d.Matches(r) {
				if !b.Of(d.Model) {
					return false
				}
				some = true
			}
		}
	}
	return some
}

// quotaWarnings are what a submit of the dry run's job would be refused for.
func quotaWarnings(lines []QuotaLine) []string {
	var out []string
	for _, q := range lines {
		if !q.OK && !strings.HasPrefix(q.Name, "held ") { // beyond a bound it waits
			out = append(out, fmt.Sprintf("a submit would be refused now: your tenant's quota of %s is %d, %d are in use and %d more are asked for", q.Name, q.Limit, q.Used, q.Asked))
		}
	}
	return out
}
