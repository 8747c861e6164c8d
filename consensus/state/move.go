package state

import (
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// KindMoveTask is the kind of [MoveTask].
const KindMoveTask Kind = "task.move"

// MoveStep is what a node proposes of a move.
type MoveStep string

// The steps. A move begins with its assignment and ends with one of these, or
// with the end of either task.
const (
	MoveCommit MoveStep = "commit" // it runs at its new place from here on, and nowhere else
	MoveAbort  MoveStep = "abort"  // it goes on where it was
)

// MoveTask ends the move of a running task to another node. This command alone
// says on which side the task runs: both hold it still until they have read it
// in the ledger, so that however late or however often it is proposed, one side
// at most goes on.
type MoveTask struct {
	Node   placement.NodeID `json:"node"` // who proposes
	Task   placement.TaskID `json:"task"` // what is moved
	To     placement.TaskID `json:"to"`   // what takes over
	Step   MoveStep         `json:"step"`
	Reason string           `json:"reason,omitempty"` // of an abort
	// Blameless: the move could have ended well; it does not count as one that
	// came to nothing, of which few are tried.
	Blameless bool `json:"blameless,omitempty"`
}

// Kind names the command.
func (MoveTask) Kind() Kind { return KindMoveTask }

// CodeMoveTaken refuses what is proposed of a move that was committed before: the
// new task took over, whether it runs still or not. A node that was away asks so.
const CodeMoveTaken = "move.taken"

// maxMoveReason bounds the words of an abort, in bytes.
const maxMoveReason = 1024

// moveOf is the task that is to take over from another, nil if none is.
func (v *View) moveOf(t *taskRecord) *taskRecord {
	for _, other := range v.liveTasks(t.Job) {
		if other.Replaces == t.ID && other.Moving() {
			return other
		}
	}
	return nil
}

// MoveOf is the task that is to take over what a running one does, nil if none
// is, and [View.MovesFrom] the running one of such a task.
func (v *View) MoveOf(id placement.TaskID) *placement.Task {
	if t, ok := v.tasks.get(string(id)); ok && t.Status.Live() {
		if to := v.moveOf(t); to != nil {
			return &to.Task
		}
	}
	return nil
}

// MovesFrom is the task that runs what the given one is to take over; nil if
// that is over, or decided.
func (v *View) MovesFrom(id placement.TaskID) *placement.Task {
	t, ok := v.tasks.get(string(id))
	if !ok || !t.Moving() {
		return nil
	}
	if from, ok := v.tasks.get(string(t.Replaces)); ok && from.Status.Live() {
		return &from.Task
	}
	return nil
}

// mayMove judges an assignment that takes over a running task.
func (s *State) mayMove(r *jobRecord, a *placement.Assignment, live []*taskRecord) (*taskRecord, *Refused) {
	i := slices.IndexFunc(live, func(t *taskRecord) bool { return t.ID == a.Replaces })
	switch {
	case !a.Move.Valid():
		return nil, refuse("move.mode", "use live or near-live", "%q is no way to move a task", clip(string(a.Move)))
	case r.Spec.Gang():
		return nil, refuse("move.gang", "plan again", "job %s is a gang: its members end and begin together", r.ID)
	case i < 0:
		return nil, refuse("move.unknown", "plan again", "%q is no live task of job %s", clip(string(a.Replaces)), r.ID)
	case len(live) > 1:
		return nil, refuse("task.replaced", "wait for the replacement", "task %s is being replaced already", a.Replaces)
	}
	old := live[i]
	key := ""
	if n := s.Node(old.Node); n != nil {
		key = n.Inventory.Moves[string(r.Kind)]
	}
	switch {
	case old.Node == a.Node:
		return nil, refuse("move.same", "plan again", "task %s runs on node %s already", old.ID, a.Node)
	case old.Status != placement.TaskRunning || old.Stop:
		return nil, refuse("move.state", "plan again", "task %s does not run, or is to end: it cannot be moved", old.ID)
	case len(old.Devices)+len(a.Devices) > 0:
		return nil, refuse("move.devices", "plan again", "task %s has devices: it cannot be moved while it runs", old.ID)
	case key == "" || s.Node(a.Node).Inventory.Moves[string(r.Kind)] != key:
		return nil, refuse("move.key", "plan again", "node %s does not take running tasks from node %s", a.Node, old.Node)
	}
	return old, nil
}

// moveTask ends a move.
func (s *State) moveTask(c *call, k MoveTask) *Refused {
	c.subject = ledger.Opaque(c.head.Salt, string(k.Node))
	from, to, refused := s.openMove(k)
	if refused != nil {
		return refused
	}
	c.subject, c.id = opaqueJob(to.Job), string(to.ID)
	c.show(ledger.ShownMove, opaqueJob(to.Job)+" "+string(k.Step)+" "+string(to.Move)+" "+
		ledger.Opaque(c.head.Salt, string(from.Node))+" "+ledger.Opaque(c.head.Salt, string(to.Node)))
	if k.Step == MoveAbort {
		fails := from.MoveFails
		s.endTask(c, to.ID, placement.TaskFailed, orText(k.Reason, "the move was given up"), nil)
		if t, ok := s.tasks.get(string(from.ID)); ok && k.Blameless && t.MoveFails != fails {
			old := *t
			old.MoveFails = fails
			s.putTask(&old)
		}
		return nil
	}
	return s.commitMove(c, k, from, to)
}

// openMove finds the move that a command means, if it may mean it.
func (s *State) openMove(k MoveTask) (from, to *taskRecord, _ *Refused) {
	to, known := s.tasks.get(string(k.To))
	from, ran := s.tasks.get(string(k.Task))
	switch {
	case k.Step != MoveCommit && k.Step != MoveAbort:
		return nil, nil, refuse("move.step", "use commit or abort", "%q is no step of a move", clip(string(k.Step)))
	case len(k.Reason) > maxMoveReason:
		return nil, nil, refuse("move.reason", "shorten it", "the reason has more than %d bytes", maxMoveReason)
	case !known || !ran || to.Replaces != from.ID || to.Move == placement.MoveRestart:
		return nil, nil, refuse("move.unknown", "see the job's tasks: sovmesh job show", "task %q is not moved to %q", clip(string(k.Task)), clip(string(k.To)))
	case k.Node != from.Node && (k.Node != to.Node || k.Step == MoveCommit):
		return nil, nil, refuse("task.foreign", "a node speaks for its own tasks only", "node %s may not propose this of task %s", clip(string(k.Node)), from.ID)
	case !to.StartedAt.IsZero():
		return nil, nil, refuse(CodeMoveTaken, "see the job's tasks: sovmesh job show", "task %s took over from task %s", to.ID, from.ID)
	case !to.Moving():
		return nil, nil, refuse("move.over", "see the job's tasks: sovmesh job show", "the move of task %s to %s is decided", from.ID, to.ID)
	}
	return from, to, nil
}

// commitMove makes the new task the one that runs, in one step with the end of
// the old one. The law is asked once more: it may have changed since the
// assignment.
func (s *State) commitMove(c *call, k MoveTask, from, to *taskRecord) *Refused {
	r, ok := s.jobs.get(string(to.Job))
	n := s.Node(to.Node)
	switch {
	case !ok || r.Status.Terminal() || r.StopRequested || n == nil:
		return refuse("move.state", "abort the move", "job %s is over, or is to stop", to.Job)
	case from.Status != placement.TaskRunning || from.Stop || to.Stop:
		return refuse("move.state", "abort the move", "task %s does not run, or one of the two is to end", from.ID)
	case to.Status == placement.TaskUnknown:
		return refuse("move.silent", "abort the move", "node %s is silent: whether it has task %s is not known", to.Node, to.ID)
	}
	if refused := s.lawful(c, r, n); refused != nil {
		return refused
	}
	old, next := *from, *to
	old.Status, old.Before, old.EndedAt, old.Again = placement.TaskStopped, "", c.now, false
	old.Reason = "moved " + string(to.Move) + " to " + string(to.ID) + " on node " + string(to.Node)
	next.Status, next.Reason, next.StartedAt, next.RunsSince = placement.TaskRunning, "", c.now, from.Began()
	if r.Spec.Singleton {
		next.LeaseUntil = s.Clock.Add(firstLease)
	}
	s.putTask(&old)
	s.putTask(&next)
	s.settleJob(c, to.Job)
	return nil
}

// moveEnds is called when a task that was to take over ends before it did: the
// one that it was to replace goes on, and remembers what stood in the way. Only what
// may be the move's own fault counts: after some the task is started anew instead.
func (s *State) moveEnds(to *taskRecord, reason string, counts bool) {
	old, ok := s.tasks.get(string(to.Replaces))
	if !ok || !old.Status.Live() || old.Stop {
		return
	}
	from := *old
	if counts && from.Status != placement.TaskUnknown {
		from.MoveFails++
	}
	from.MoveTrouble = clip(reason)
	from.Reason = "the " + string(to.Move) + " move to node " + string(to.Node) + " did not end: " + reason
	s.putTask(&from)
}

// dropMove ends the task that was to take over from one that ends, or is told to:
// nothing of it ran.
func (s *State) dropMove(from *taskRecord) {
	to := s.moveOf(from)
	if to == nil {
		return
	}
	next := *to
	next.Status, next.Before, next.EndedAt = placement.TaskStopped, "", s.Clock
	next.Reason = "what it was to take over ends"
	s.putTask(&next)
}

// stopMove ends a task that was to take over and is told to end before it did.
func (s *State) stopMove(to *taskRecord, reason string) {
	next := *to
	next.Status, next.Before, next.Reason, next.EndedAt = placement.TaskStopped, "", reason, s.Clock
	s.putTask(&next)
	s.moveEnds(to, reason, false) // its node is drained, or silent
}

// lastRun is the newest of a job's tasks that was more than a move which came to
// nothing: what becomes of the job hangs on how that one ended.
func lastRun(tasks []*taskRecord) *taskRecord {
	for _, t := range slices.Backward(tasks) {
		if t.Move == placement.MoveRestart || !t.StartedAt.IsZero() {
			return t
		}
	}
	return tasks[len(tasks)-1]
}

// withMoves adds to the tasks of a node those at the other end of a move, as far
// as the node has to know of them.
func (v *View) withMoves(own []*placement.Task) []*placement.Task {
	out := slices.Clone(own)
	for _, t := range own {
		other := v.MoveOf(t.ID)
		if other == nil {
			other = v.MovesFrom(t.ID)
		}
		if other != nil && !slices.ContainsFunc(own, func(t *placement.Task) bool { return t.ID == other.ID }) {
			told := *other
			told.LeaseUntil, told.Notes, told.Reason, told.MoveTrouble = time.Time{}, nil, "", ""
			out = append(out, &told)
		}
	}
	return out
}
