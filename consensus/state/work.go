package state

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Task is one task; nil if unknown or dropped.
func (v *View) Task(id placement.TaskID) *placement.Task {
	if r, ok := v.tasks.get(string(id)); ok {
		return &r.Task
	}
	return nil
}

// TasksOf are a job's tasks, oldest first; of the ended ones the newest few.
func (v *View) TasksOf(job placement.JobID) []*placement.Task {
	records := v.tasksOf(job)
	out := make([]*placement.Task, len(records))
	for i, r := range records {
		out[i] = &r.Task
	}
	return out
}

func (v *View) tasksOf(job placement.JobID) []*taskRecord {
	var out []*taskRecord
	v.tasks.prefix(string(job)+"/", func(_ string, r *taskRecord) bool { out = append(out, r); return true })
	slices.SortFunc(out, func(a, b *taskRecord) int {
		if a.Index != b.Index {
			if a.Index < b.Index {
				return -1
			}
			return 1
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return out
}

// liveTasks are a job's tasks that may be running.
func (v *View) liveTasks(job placement.JobID) []*taskRecord {
	all := v.tasksOf(job)
	return slices.DeleteFunc(all, func(r *taskRecord) bool { return !r.Status.Live() })
}

// TasksOn are the live tasks of a node, sorted by ID.
func (v *View) TasksOn(node placement.NodeID) []*placement.Task {
	var out []*placement.Task
	v.onNode.prefix(string(node)+"\x00", func(_ string, r *taskRecord) bool { out = append(out, &r.Task); return true })
	return out
}

// LiveTasks is the number of live tasks in the region.
func (v *View) LiveTasks() int { return v.onNode.len() }

// Unsettled are the live tasks on nodes that are cordoned, draining or drained,
// or that cannot be reached.
func (v *View) Unsettled() []*placement.Task {
	var out []*placement.Task
	for _, id := range v.nodes.r.held {
		out = append(out, v.TasksOn(id)...)
	}
	return out
}

// Working is the number of nodes that take tasks, or that somebody has to see to:
// those that are not cordoned.
func (v *View) Working() int { return v.nodes.r.working }

// Snapshot is what a placement decision may look at, at the given time. Whether
// a wanted job's NotBefore has come is the decision's to see.
func (v *View) Snapshot(now time.Time) placement.Snapshot {
	s := placement.Snapshot{Now: now, Pack: v.Pack(), Nodes: v.Nodes(), Jobs: map[placement.JobID]*placement.Job{}, Held: map[placement.JobID]placement.Hold{}}
	if v.self != nil {
		s.Region, s.Facts = v.self.ID, v.self.Facts
	}
	s.Share = v.Share
	if v.yielding > 0 || v.guaranteed() {
		s.TasksOn, s.TasksOf, s.JobOf = v.TasksOn, v.TasksOf, v.Job
		s.MayEnd = func(t placement.TenantID) (int, time.Time) { return v.mayEnd(t, now) }
	}
	if v.timed > 0 {
		s.Ends = func(node placement.NodeID) (time.Time, bool) { return v.ends(node, now) }
	}
	s.Apart = v.apart
	for _, r := range v.waiting(now) {
		s.Wanted = append(s.Wanted, &r.Job)
		s.Jobs[r.ID] = &r.Job
		if held := v.Reservation(r.Reserved); r.Reserved != "" && held != nil && held.Consumed {
			s.Held[r.ID] = placement.Hold{Node: held.Node, Devices: held.Devices}
		}
	}
	if v.avoiding == 0 && !slices.ContainsFunc(s.Wanted, func(j *placement.Job) bool { return len(j.Spec.Avoid) > 0 }) {
		s.Apart = nil
	}
	for _, t := range v.Unsettled() {
		if s.Jobs[t.Job] == nil {
			s.Jobs[t.Job] = v.Job(t.Job)
			for _, r := range v.liveTasks(t.Job) {
				s.Tasks = append(s.Tasks, &r.Task)
			}
		}
	}
	return s
}

// ends is when all live tasks of a node have ended at the latest.
func (v *View) ends(node placement.NodeID, now time.Time) (last time.Time, known bool) {
	known = true
	v.onNode.prefix(string(node)+"\x00", func(_ string, t *taskRecord) bool {
		r, ok := v.jobs.get(string(t.Job))
		if !ok {
			known = false
			return false
		}
		end, sure := r.Spec.EndsBy(&t.Task, now)
		if known = sure; end.After(last) {
			last = end
		}
		return known
	})
	return last, known
}

func seqKey(seq uint64) string { return string(binary.BigEndian.AppendUint64(nil, seq)) }

// wantsTask reports whether a job with no live task is to be given one here.
func wantsTask(j *placement.Job) bool {
	if j.Status != placement.JobPending || j.StopRequested {
		return false
	}
	return !isAway(j)
}

// isAway reports whether another region was asked to take the job, or has it.
func isAway(j *placement.Job) bool {
	return j.Forward != nil && j.Forward.State != placement.ForwardWaiting
}

// Forwarding are the jobs that another region was asked to take, or runs, and
// that are not over, sorted by ID.
func (v *View) Forwarding() []*placement.Job {
	var out []*placement.Job
	v.away.ascend("", func(_ string, id placement.JobID) bool { out = append(out, v.Job(id)); return true })
	return out
}
