package state

import (
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// maxAssignments bounds one Assign, so that its judgements fit one leaf.
const maxAssignments = 64

// assign places tasks, all or none.
func (s *State) assign(c *call, k Assign) *Refused {
	if len(k.Assignments) == 0 || len(k.Assignments) > maxAssignments {
		return refuse("assign.count", "propose 1 to 64 at once", "%d assignments in one command are not possible", len(k.Assignments))
	}
	c.subject = opaqueJob(k.Assignments[0].Job)
	if refused := s.wholeGangs(k.Assignments); refused != nil {
		return refused
	}
	before := s.Freeze()
	for i := range k.Assignments {
		if refused := s.assignOne(c, &k.Assignments[i]); refused != nil {
			s.View = *before
			c.judged = c.judged[max(len(c.judged)-1, 0):] // the one that decided, if any did
			return refused
		}
	}
	if size := judgedSize(c.judged); size > ledger.MaxLeaf-2048-maxShown {
		s.View, c.judged = *before, nil
		return refuse("assign.count", "propose fewer at once", "the record of %d assignments would be %d bytes", len(k.Assignments), size)
	}
	c.id = string(k.Assignments[0].Task)
	return nil
}

// judgedSize is at least what judgements take in a leaf.
func judgedSize(all []ledger.Judgement) (n int) {
	for i := range all {
		j := &all[i]
		n += 128 + len(j.Subject) + len(j.Tag) + len(j.LawPack)
		if j.Facts != nil {
			n += 160
			for _, cl := range j.Facts.Claims {
				n += 4 + len(cl.Name) + len(cl.Value)
			}
		}
	}
	return n
}

func (s *State) assignOne(c *call, a *placement.Assignment) *Refused {
	r, ok := s.jobs.get(string(a.Job))
	if !ok {
		return refuse("job.unknown", "plan again", "there is no job %q", clip(string(a.Job)))
	}
	n := s.Node(a.Node)
	if n == nil {
		return refuse("node.unknown", "plan again", "there is no node %q", clip(string(a.Node)))
	}
	if refused := s.lawful(c, r, n); refused != nil {
		return refused
	}
	if !n.Offers() {
		return refuse("node.closed", "plan again", "node %s takes no new tasks: it is %s, contact %s", n.ID, n.State, n.Contact)
	}
	replaced, refused := s.wantsAssignment(r, a)
	if refused != nil {
		return refused
	}
	if refused := s.mayStand(r, a.Node); refused != nil {
		return refused
	}
	s.releaseFor(r)
	if refused := s.fits(s.Node(a.Node), r.Spec.Resources, a.Devices); refused != nil {
		return refused
	}
	t := s.taskOf(c, r, a)
	if refused := s.withinLimit(r, t, replaced); refused != nil {
		return refused
	}
	s.place(c, r, t, replaced)
	return nil
}

// taskOf is the task that an assignment makes.
func (s *State) taskOf(c *call, r *jobRecord, a *placement.Assignment) *taskRecord {
	t := &taskRecord{Task: placement.Task{
		ID: a.Task, Job: r.ID, Kind: r.Kind, Tenant: r.Tenant, Node: a.Node, Devices: slices.Clone(a.Devices),
		Resources: r.Spec.Resources, Why: a.Why, Move: a.Move, Status: placement.TaskAssigned, AssignedAt: s.Clock, Index: c.index,
	}, Models: modelsOf(s.Node(a.Node), a.Devices)}
	t.Why.LawPack, t.Why.On, t.Why.Rule = s.Active, dateOf(c).String(), c.judged[len(c.judged)-1].Rule
	return t
}

// lawful judges the node's place by the job's whole policy: the region's facts
// and the node's site are those of the replicated registry, never the command's.
func (s *State) lawful(c *call, r *jobRecord, n *placement.Node) *Refused {
	x := placement.Crossing{Layers: r.Policy, To: s.self, Site: n.Site}
	if r.Origin != "" && r.Origin != s.self.ID {
		x.From, x.Arrived = &placement.Region{ID: r.Origin}, true
	}
	before := len(c.judged)
	refused := s.judge(c, x)
	for i := before; i < len(c.judged); i++ {
		c.judged[i].Subject, c.judged[i].Place = opaqueJob(r.ID), ledger.Opaque(c.head.Salt, string(n.ID))
	}
	return refused
}

// wantsAssignment judges whether the job wants this task. It returns the live
// task that the new one replaces, if any.
func (s *State) wantsAssignment(r *jobRecord, a *placement.Assignment) (*taskRecord, *Refused) {
	switch {
	case r.Status.Terminal() || r.StopRequested:
		return nil, refuse("job.over", "plan again", "job %s is over, or is to stop", r.ID)
	case r.Forward != nil && r.Forward.State != placement.ForwardWaiting:
		return nil, refuse("job.away", "wait for the other region's answer", "job %s is on its way to region %s", r.ID, r.Forward.Region)
	case r.Spec.NodeName != "" && r.Spec.NodeName != a.Node:
		return nil, refuse("node.pinned", "plan again", "job %s is pinned to another node than %s", r.ID, a.Node)
	case r.Spec.Site != "" && r.Spec.Site != s.Node(a.Node).Site:
		return nil, refuse("site.pinned", "plan again", "job %s is pinned to site %s", r.ID, clip(r.Spec.Site))
	case !s.nextTask(r, a.Task):
		return nil, refuse("task.id", "plan again", "%q is not the id of the next task of job %s", clip(string(a.Task)), r.ID)
	}
	live := s.liveTasks(r.ID)
	if a.Move != placement.MoveRestart {
		return s.mayMove(r, a, live) // a singleton's lease stays where it runs
	}
	if refused := s.leaseHeld(r); refused != nil {
		return nil, refused
	}
	if len(live) == 0 || follows(r, a.Task) {
		return nil, nil
	}
	i := slices.IndexFunc(live, func(t *taskRecord) bool { return t.ID == a.Replaces })
	switch {
	case i < 0:
		return nil, refuse("task.exists", "plan again", "job %s has a live task already", r.ID)
	case len(live) > 1:
		return nil, refuse("task.replaced", "wait for the replacement", "task %s is being replaced already", a.Replaces)
	case live[i].Status == placement.TaskUnknown && r.Spec.Type == placement.TypeBatch && !r.Spec.Singleton:
		return nil, refuse("task.unknown", "remove its node if it is gone for good", "task %s may still run on a node that cannot be reached: a batch task is never started twice", a.Replaces)
	}
	return live[i], nil
}

// nextTask takes "<job>/0.<attempt>" for the job's next attempt, counted from
// 0 or from 1: every id is used once, and ids only grow. The further members of
// a gang follow their first, see [State.wholeGangs].
func (s *State) nextTask(r *jobRecord, id placement.TaskID) bool {
	ordinal, attempt, ok := id.Member()
	if !ok || id.Job() != r.ID || ordinal != 0 && !follows(r, id) || s.tasks.has(string(id)) {
		return false
	}
	return ordinal != 0 || attempt == r.Attempts || attempt == r.Attempts+1
}

// follows reports whether the task is a further member of the gang whose first
// was placed just now, in the same command.
func follows(r *jobRecord, id placement.TaskID) bool {
	ordinal, attempt, _ := id.Member()
	return r.Spec.Gang() && ordinal > 0 && ordinal < r.Spec.Size() && (attempt == r.Attempts || attempt == r.Attempts-1)
}

// leaseHeld refuses a second copy of a singleton while the lease of the first
// may still be good.
func (s *State) leaseHeld(r *jobRecord) *Refused {
	if !r.Spec.Singleton {
		return nil
	}
	for _, t := range s.tasksOf(r.ID) {
		sure := t.Status == placement.TaskComplete || t.Status == placement.TaskFailed || t.Status == placement.TaskStopped
		if !sure && s.Clock.Before(t.LeaseUntil) {
			return refuse("singleton.lease", "wait for the lease to end", "task %s of singleton %s holds its lease until %s", t.ID, r.ID, t.LeaseUntil.Format(time.RFC3339))
		}
		if t.Status.Live() && t.Status != placement.TaskUnknown {
			return refuse("singleton.live", "stop it first", "task %s of singleton %s is alive", t.ID, r.ID)
		}
	}
	return nil
}

// fits judges capacity: what the node offers less what live tasks and
// reservations hold.
func (s *State) fits(n *placement.Node, want placement.Resources, devices []string) *Refused {
	switch {
	case n.Used.CPU+want.CPU > n.Inventory.CPU:
		return refuse("capacity.cpu", "plan again", "node %s has %s of processor left, not %s", n.ID, n.Inventory.CPU-n.Used.CPU, want.CPU)
	case n.Used.Memory+want.Memory > n.Inventory.Memory:
		return refuse("capacity.memory", "plan again", "node %s has %s of memory left, not %s", n.ID, n.Inventory.Memory-n.Used.Memory, want.Memory)
	case len(devices) != want.GPUs:
		return refuse("capacity.devices", "plan again", "%d devices were named for a task that asks for %d", len(devices), want.GPUs)
	}
	named := slices.Sorted(slices.Values(devices))
	if len(slices.Compact(named)) != len(devices) {
		return refuse("capacity.devices", "plan again", "a device was named twice")
	}
	for _, id := range devices {
		i := slices.IndexFunc(n.Inventory.Devices, func(d placement.Device) bool { return d.UUID == id })
		if i < 0 || !n.Inventory.Devices[i].Offered() || !n.Inventory.Devices[i].Matches(want) || n.Used.Idle(id) < want.PerDevice() {
			return refuse("capacity.devices", "plan again", "device %s of node %s is not free, not healthy or not what the task asks for", clip(id), n.ID)
		}
	}
	return nil
}

// place makes the assignment true.
func (s *State) place(c *call, r *jobRecord, t, replaced *taskRecord) {
	if replaced != nil && replaced.Status == placement.TaskUnknown && r.Spec.Singleton {
		// Its lease has ended, so its node has ended it, or will before it speaks again.
		lost := *replaced
		lost.Status, lost.Before, lost.Reason, lost.EndedAt = placement.TaskLost, "", "its lease ended out of contact", c.now
		s.putTask(&lost)
		replaced = nil
	}
	fresh := *r
	if ordinal, _, _ := t.ID.Member(); ordinal == 0 {
		fresh.Attempts++
	}
	if replaced != nil {
		t.Replaces = replaced.ID
	}
	if r.Spec.Singleton && t.Move == placement.MoveRestart {
		t.LeaseUntil = s.Clock.Add(firstLease)
	}
	s.jobs.put(string(r.ID), &fresh) // counts as r does: settleJob moves it on
	s.putTask(t)
	s.settleJob(c, r.ID)
}

// firstLease is the lease that a singleton's assignment carries; its node
// renews it from then on.
const firstLease = 30 * time.Second

// putTask replaces a task and keeps its node's usage.
func (s *State) putTask(t *taskRecord) {
	old, ok := s.tasks.get(string(t.ID))
	was, is := ok && old.Status.Live(), t.Status.Live()
	s.tasks.put(string(t.ID), t)
	key := string(t.Node) + "\x00" + string(t.ID)
	if is {
		s.onNode.put(key, t)
	} else if was {
		s.onNode.delete(key)
	}
	if leaving, left := is && t.Stop, was && old.Stop; leaving && !left {
		s.leave(t, 1)
	} else if left && !leaving {
		s.leave(old, -1)
	}
	if was == is {
		return
	}
	sign := 1
	if was {
		sign = -1
	}
	s.use(t.Node, t.Resources, t.Devices, sign, sign)
	s.hold(t, int64(sign))
	s.standBeside(t, sign)
}

// use adds or takes away what is held on a node; a removed node holds nothing.
func (s *State) use(id placement.NodeID, want placement.Resources, devices []string, sign, tasks int) {
	old := s.Node(id)
	if old == nil {
		return
	}
	n := *old
	n.Used = old.Used.With(want, devices, sign)
	n.Used.Tasks += tasks
	s.putNode(&n)
}

func (s *State) stopTasks(c *call, k StopTasks) *Refused {
	if len(k.Tasks) == 0 || len(k.Tasks) > 1024 || len(k.Reason) > 1024 {
		return refuse("task.count", "stop 1 to 1024 at once", "%d tasks in one command are not possible", len(k.Tasks))
	}
	c.subject = opaqueJob(k.Tasks[0].Job())
	for _, id := range k.Tasks {
		if t, ok := s.tasks.get(string(id)); ok && t.Status.Live() {
			for _, member := range s.wholeGang(t) {
				s.stopTask(member, k.Reason, k.Again)
			}
		}
	}
	return nil
}

func (s *State) stopTask(old *taskRecord, reason string, again bool) {
	if now, ok := s.tasks.get(string(old.ID)); ok && !now.Status.Live() {
		return // it ended with the one that it was to take over from
	}
	if old.Moving() {
		s.stopMove(old, reason)
		return
	}
	s.dropMove(old)
	t := *old
	t.Again = again
	if !t.Stop {
		t.Stop, t.StopReason = true, reason
	}
	s.putTask(&t)
}

func (s *State) renewLeases(c *call, k RenewLeases) *Refused {
	c.subject = ledger.Opaque(c.head.Salt, string(k.Node))
	until := k.Until.UTC()
	if until.Sub(s.Clock) > 10*time.Minute {
		return refuse("lease.long", "ask for at most ten minutes", "a lease until %s is too long", until.Format(time.RFC3339))
	}
	for _, id := range k.Tasks {
		old, ok := s.tasks.get(string(id))
		if !ok || old.Node != k.Node || !old.Status.Live() {
			return refuse("lease.lost", "end the task", "node %s does not hold the lease of task %s", clip(string(k.Node)), clip(string(id)))
		}
		if old.LeaseUntil.IsZero() {
			return refuse("lease.none", "only singletons have leases", "task %s has no lease", id)
		}
	}
	for _, id := range k.Tasks {
		old, _ := s.tasks.get(string(id))
		if until.After(old.LeaseUntil) {
			t := *old
			t.LeaseUntil = until
			s.putTask(&t)
		}
	}
	return nil
}
