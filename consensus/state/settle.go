package state

import (
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

func dateOf(c *call) residency.Date { return residency.DateOf(c.now) }

// reportTasks takes over what a node says about its own tasks.
func (s *State) reportTasks(c *call, k ReportTasks) *Refused {
	c.subject = ledger.Opaque(c.head.Salt, string(k.Node))
	if s.Node(k.Node) == nil {
		return refuse("node.unknown", "join again", "there is no node %q", clip(string(k.Node)))
	}
	if len(k.Reports) > 4096 {
		return refuse("task.count", "report at most 4096 at once", "%d reports in one command are not possible", len(k.Reports))
	}
	for i := range k.Reports {
		rep := &k.Reports[i]
		if t, ok := s.tasks.get(string(rep.Task)); ok && t.Node != k.Node {
			return refuse("task.foreign", "a node speaks for its own tasks only", "node %s reports on task %s, which is not its own", k.Node, t.ID)
		}
		switch rep.Status {
		case placement.TaskStarting, placement.TaskRunning, placement.TaskComplete, placement.TaskFailed, placement.TaskStopped, placement.TaskLost:
		default:
			return refuse("task.status", "report starting, running, complete, failed, stopped or lost", "%q is no status that a node reports", clip(string(rep.Status)))
		}
		if len(rep.Reason) > 2048 {
			return refuse("task.reason", "shorten it", "the reason reported for task %s is too long", clip(string(rep.Task)))
		}
	}
	for i := range k.Reports {
		s.reportOne(c, &k.Reports[i])
	}
	return nil
}

// reportOne moves a task forward; a report that comes late changes nothing.
func (s *State) reportOne(c *call, rep *placement.TaskReport) {
	old, ok := s.tasks.get(string(rep.Task))
	if !ok || !old.Status.Live() {
		return
	}
	if !rep.Status.Live() {
		s.endTask(c, old.ID, rep.Status, rep.Reason, rep)
		return
	}
	now := old.Status
	if now == placement.TaskUnknown {
		now = old.Before
	}
	if now == rep.Status && old.Status == placement.TaskRunning && rep.Reason != "" && rep.Reason != old.Reason && s.moveOf(old) != nil {
		t := *old
		t.Reason = rep.Reason // how far the move got
		s.putTask(&t)
		return
	}
	if now == rep.Status || now == placement.TaskRunning {
		return
	}
	if old.Moving() && rep.Status == placement.TaskRunning {
		return // whether it runs there is the ledger's word, see [MoveTask]
	}
	t := *old
	t.Reason = rep.Reason
	if old.Status == placement.TaskUnknown {
		t.Before = rep.Status // the node's voice came through another door; contact is for the leader to say
	} else {
		t.Status = rep.Status
	}
	if rep.Status == placement.TaskRunning {
		t.StartedAt = stamp(rep.At, c.now)
	}
	s.putTask(&t)
	if rep.Status == placement.TaskRunning {
		s.stopReplaced(&t)
	}
	s.settleJob(c, t.Job)
}

// stopReplaced tells the old task to stop in the same step in which the new
// one is known to run, so that there is neither a gap nor a third copy.
func (s *State) stopReplaced(t *taskRecord) {
	if t.Replaces == "" {
		return
	}
	if old, ok := s.tasks.get(string(t.Replaces)); ok && old.Status.Live() && !old.Stop {
		s.stopTask(old, "replaced by "+string(t.ID), false)
	}
}

// stamp takes a node's own time for an event, if it is near the command's.
func stamp(at, now time.Time) time.Time {
	if d := now.Sub(at); at.IsZero() || d < -time.Minute {
		return now
	}
	return at.UTC()
}

// endTask ends a live task and settles its job.
func (s *State) endTask(c *call, id placement.TaskID, status placement.TaskStatus, reason string, rep *placement.TaskReport) {
	old, ok := s.tasks.get(string(id))
	if !ok || !old.Status.Live() {
		return
	}
	s.dropMove(old)
	if old.Moving() && status == placement.TaskComplete {
		status, reason = placement.TaskFailed, orText(reason, "it ended before it took over") // nothing of it ran
	}
	t := *old
	t.Status, t.Before, t.Reason, t.EndedAt = status, "", reason, c.now
	if rep != nil {
		t.ExitCode, t.EndedAt = rep.ExitCode, stamp(rep.At, c.now)
		if t.StartedAt.IsZero() && status == placement.TaskComplete {
			t.StartedAt = t.EndedAt
		}
		if rep.Refused && status == placement.TaskFailed && t.StartedAt.IsZero() {
			t.Again = true // nothing of it ran: that is no failure of the job
		}
		if status == placement.TaskStopped && s.lostItsLease(old) {
			t.Again = true
		}
	}
	s.putTask(&t)
	if old.Moving() {
		s.moveEnds(old, orText(reason, string(status)), old.Status != placement.TaskUnknown)
	}
	s.settleJob(c, t.Job)
}

// lostItsLease reports that nobody told a singleton to end: its node was out of
// contact until its lease was over. Unless the job is one that runs once at
// most, it wants its next copy, as it would have if the node had stayed away.
func (s *State) lostItsLease(t *taskRecord) bool {
	job, ok := s.jobs.get(string(t.Job))
	if !ok || t.Stop || t.LeaseUntil.IsZero() {
		return false
	}
	if most := time.Duration(job.Spec.MaxRuntime); most > 0 && !t.Began().IsZero() && s.Clock.Sub(t.Began()) >= most {
		return false // it ended for want of time
	}
	once := job.Spec.Type == placement.TypeBatch && (job.Spec.Restart.Policy == "" || job.Spec.Restart.Policy == "never")
	return !once
}

// settleJob derives a job's status from its tasks.
func (s *State) settleJob(c *call, id placement.JobID) {
	old, ok := s.jobs.get(string(id))
	if !ok || old.Status.Terminal() || old.Forward != nil && old.Forward.State != placement.ForwardWaiting {
		return
	}
	tasks := s.tasksOf(id)
	if len(tasks) == 0 {
		return
	}
	r := *old
	if r.Spec.Gang() {
		s.settleGang(c, &r, tasks)
	} else if best := bestTask(tasks); best != nil {
		s.followTask(&r, best)
	} else {
		s.afterTask(c, &r, lastRun(tasks))
	}
	s.putJob(c, &r)
	s.dropOldTasks(&r, tasks)
}

// bestTask is the live task that says most about the job.
func bestTask(tasks []*taskRecord) (best *taskRecord) {
	rank := func(t *taskRecord) int {
		return slices.Index([]placement.TaskStatus{placement.TaskUnknown, placement.TaskAssigned, placement.TaskStarting, placement.TaskRunning}, t.Status)
	}
	for _, t := range tasks {
		if t.Status.Live() && (best == nil || rank(t) >= rank(best)) {
			best = t
		}
	}
	return best
}

func (s *State) followTask(r *jobRecord, t *taskRecord) {
	r.Region, r.Node, r.Reason, r.Code, r.NotBefore = s.self.ID, t.Node, "", "", time.Time{}
	switch t.Status {
	case placement.TaskRunning:
		r.Status = placement.JobRunning
		if r.StartedAt.IsZero() {
			r.StartedAt = t.StartedAt
		}
	case placement.TaskUnknown:
		r.Status, r.Reason, r.Code = placement.JobUnknown, "its node cannot be reached", "node.unknown"
	default:
		r.Status = placement.JobStarting
	}
}

// afterTask decides what becomes of a job whose last task has ended.
func (s *State) afterTask(c *call, r *jobRecord, t *taskRecord) {
	if t.ExitCode != nil {
		r.ExitCode = t.ExitCode
	}
	if r.StartedAt.IsZero() {
		r.StartedAt = t.StartedAt
	}
	switch {
	case r.StopRequested:
		s.end(c, r, placement.JobStopped, orText(r.StopReason, "stopped"), "")
	case t.Again && t.Status == placement.TaskFailed:
		s.waitAgain(r, t.Reason, c.now.Add(time.Duration(min(r.Attempts, 30))*time.Second))
	case t.Again:
		s.waitAgain(r, orText(t.StopReason, reasonWaiting), time.Time{})
	case restarts(r, t):
		r.Restarts++
		notBefore := c.now.Add(backoff(r.Restarts, t))
		if t.Status == placement.TaskLost {
			notBefore = time.Time{}
		}
		s.waitAgain(r, "restarts: "+orText(t.Reason, string(t.Status)), notBefore)
	default:
		s.end(c, r, lastStatus(t.Status), t.Reason, "")
		if t.Status == placement.TaskStopped {
			r.Reason = orText(t.StopReason, t.Reason)
		}
	}
}

func (s *State) waitAgain(r *jobRecord, reason string, notBefore time.Time) {
	r.Status, r.Reason, r.Code, r.NotBefore = placement.JobPending, reason, "", notBefore
	r.Region, r.Node, r.QueuedAt = "", "", s.Clock
}

func lastStatus(t placement.TaskStatus) placement.JobStatus {
	switch t {
	case placement.TaskComplete:
		return placement.JobComplete
	case placement.TaskStopped:
		return placement.JobStopped
	case placement.TaskLost:
		return placement.JobLost
	}
	return placement.JobFailed
}

// restarts applies the job's restart policy: batch never, service always,
// unless the job says otherwise.
func restarts(r *jobRecord, t *taskRecord) bool {
	policy := r.Spec.Restart.Policy
	if policy == "" {
		policy = "never"
		if r.Spec.Type == placement.TypeService {
			policy = "always"
		}
	}
	if most := r.Spec.Restart.Attempts; most > 0 && r.Restarts >= most {
		return false
	}
	switch t.Status {
	case placement.TaskComplete:
		return policy == "always"
	case placement.TaskFailed, placement.TaskLost:
		return policy == "always" || policy == "on-failure" ||
			t.Status == placement.TaskLost && r.Spec.Type == placement.TypeService && policy != "never"
	}
	return false
}

// backoff is 1, 2, 4 and so on up to 30 seconds; a task that ran for five
// minutes begins again at one.
func backoff(restarts int, t *taskRecord) time.Duration {
	if !t.StartedAt.IsZero() && t.EndedAt.Sub(t.StartedAt) >= 5*time.Minute {
		restarts = 1
	}
	if restarts > 5 {
		return 30 * time.Second
	}
	return time.Second << (restarts - 1)
}

// dropOldTasks keeps the newest ended tasks of a job, all of a gang's newest
// attempt, and those whose lease may still be good.
func (s *State) dropOldTasks(r *jobRecord, tasks []*taskRecord) {
	ended := slices.DeleteFunc(tasks, func(t *taskRecord) bool { return t.Status.Live() || s.Clock.Before(t.LeaseUntil) })
	for len(ended) > max(endedTasksKept, r.Spec.Size()) {
		s.tasks.delete(string(ended[0].ID))
		ended = ended[1:]
	}
}
