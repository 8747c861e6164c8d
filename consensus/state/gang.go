package state

import (
	"slices"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// A gang is a job with several members: tasks "<job>/<member>.<attempt>" that
// are placed together in one command or not at all, and that end together. No
// half of one ever holds room, so two gangs cannot wait for each other's half.

// wholeGangs judges the gangs of a command before any of it is done: the
// members of each stand together, every one once and in order.
func (s *State) wholeGangs(all []placement.Assignment) *Refused {
	seen := map[placement.JobID]bool{}
	for i := 0; i < len(all); {
		r, ok := s.jobs.get(string(all[i].Job))
		if !ok || !r.Spec.Gang() {
			i++
			continue
		}
		n := r.Spec.Size()
		if seen[r.ID] || len(all)-i < n {
			return partOfGang(r)
		}
		seen[r.ID] = true
		_, first, _ := all[i].Task.Member()
		for m, a := range all[i : i+n] {
			ordinal, attempt, ok := a.Task.Member()
			if !ok || a.Job != r.ID || a.Task.Job() != r.ID || ordinal != m || attempt != first || a.Replaces != "" {
				return partOfGang(r)
			}
		}
		i += n
	}
	return nil
}

func partOfGang(r *jobRecord) *Refused {
	return refuse("gang.part", "propose all of its members in one command, in order", "job %s is a gang of %d, and not all of it was proposed together", r.ID, r.Spec.Size())
}

// gangFits refuses a gang whose placement could not be recorded: every member is
// judged by itself, and all judgements stand in one leaf.
func gangFits(j *placement.Job, layers []placement.Layer) *Refused {
	if !j.Spec.Gang() {
		return nil
	}
	size := 320
	for _, l := range layers {
		size += 2 * len(l.Tag)
	}
	if most := ledger.MaxLeaf - 2048 - maxShown; size*j.Spec.Size() > most {
		return refuse("job.gang", "shorten the tag, or use a law pack's group in the place of a list", "the record of %d members under this policy could take %d bytes, and a leaf has %d", j.Spec.Size(), size*j.Spec.Size(), most)
	}
	return nil
}

// gangAttempt are the tasks of a gang's newest attempt, by member.
func gangAttempt(tasks []*taskRecord) []*taskRecord {
	newest := 0
	for _, t := range tasks {
		_, attempt, _ := t.ID.Member()
		newest = max(newest, attempt)
	}
	out := slices.DeleteFunc(slices.Clone(tasks), func(t *taskRecord) bool {
		_, attempt, _ := t.ID.Member()
		return attempt != newest
	})
	slices.SortFunc(out, func(a, b *taskRecord) int {
		m, _, _ := a.ID.Member()
		n, _, _ := b.ID.Member()
		return m - n
	})
	return out
}

// settleGang derives a gang's status from its members: it runs when all of them
// do, and when one ends other than well the others are told to end too.
func (s *State) settleGang(c *call, r *jobRecord, tasks []*taskRecord) {
	members := gangAttempt(tasks)
	var live, broken []*taskRecord
	for _, t := range members {
		switch {
		case t.Status.Live():
			live = append(live, t)
		case t.Status != placement.TaskComplete:
			broken = append(broken, t)
		}
	}
	if len(broken) > 0 {
		for _, t := range live {
			if !t.Stop {
				next := *t
				next.Stop, next.StopReason, next.Sibling = true, "another member of its gang ended", true
				s.putTask(&next)
			}
		}
	}
	if len(live) == 0 {
		s.afterTask(c, r, decisive(members, broken))
		return
	}
	s.followTask(r, slices.MinFunc(live, func(a, b *taskRecord) int { return gangRank(a) - gangRank(b) }))
	r.Node = members[0].Node
	if len(broken) > 0 {
		r.Reason = "a member ended, the others are told to end"
	}
}

// gangRank: the least of the members' statuses is the gang's.
func gangRank(t *taskRecord) int {
	return slices.Index([]placement.TaskStatus{placement.TaskUnknown, placement.TaskAssigned, placement.TaskStarting, placement.TaskRunning}, t.Status)
}

// decisive is the member whose end decides what becomes of the gang: one that
// was not merely told to end because another did.
func decisive(members, broken []*taskRecord) *taskRecord {
	if len(broken) == 0 {
		return members[len(members)-1]
	}
	worst := broken[0]
	for _, t := range broken[1:] {
		if worst.Sibling && !t.Sibling || worst.Sibling == t.Sibling && worst.Again && !t.Again {
			worst = t
		}
	}
	return worst
}

// wholeGang are the live members of a task's gang, or the task alone.
func (s *State) wholeGang(t *taskRecord) []*taskRecord {
	if r, ok := s.jobs.get(string(t.Job)); ok && r.Spec.Gang() {
		return s.liveTasks(t.Job)
	}
	return []*taskRecord{t}
}
