package scheduler

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sovmesh/sovmesh/placement"
)

// GangRoom is why a gang waits that has room for some of its members: there is
// no half of a gang.
const GangRoom Constraint = "gang.room"

// gangStays is said of every gang that finds no room: a single task would be sent on.
const gangStays = "a gang stays in the region that took it, no other is asked"

// berth is a node with room for some members of a gang.
type berth struct {
	at    *space
	room  int // members that fit
	score uint64
}

// berths are the nodes with room for at least one member, best first, and the
// room of all of them together. own are places that count as free: members of
// this very gang hold them and will leave.
func (p *planner) berths(c *class, own map[placement.NodeID]int) (out []berth, total int) {
	for _, i := range c.open {
		at := &p.spaces[i]
		n := c.members(at)
		for n > 0 && p.heldFrom(c, at, n) {
			n--
		}
		if n += own[at.node.ID]; n > 0 {
			out = append(out, berth{at, n, c.score(at)})
			total += n
		}
	}
	slices.SortFunc(out, func(a, b berth) int {
		return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.at.gpus, b.at.gpus), cmp.Compare(a.at.index, b.at.index))
	})
	return out, total
}

// members is how many tasks of the class have room on the node together.
func (c *class) members(at *space) int {
	if c.room(at) != 0 {
		return 0
	}
	return c.fitsIn(at.cpu, at.memory, c.seats(at, false))
}

func (c *class) fitsIn(cpu placement.MilliCPU, memory placement.Bytes, seats int) int {
	n := placement.MaxMembers
	if c.res.CPU > 0 {
		n = min(n, int(cpu/c.res.CPU))
	}
	if c.res.Memory > 0 {
		n = min(n, int(memory/c.res.Memory))
	}
	if c.res.GPUs > 0 {
		n = min(n, seats)
	}
	return n
}

// wantGang places all members of a gang, or none.
func (p *planner) wantGang(job *placement.Job, c *class, reason string) bool {
	size := job.Spec.Size()
	if c.full {
		return false
	}
	all, total := p.berths(c, nil)
	if total < size {
		c.full = true
		return false
	}
	p.made[job.ID]++
	for i, at := range p.moor(all, size, job.Spec.Spread) {
		a := placement.Assignment{
			Task: job.ID.Task(i, job.Attempts+1), Job: job.ID, Node: at.node.ID, Why: c.policy.why(at.node.Site),
		}
		a.Why.Score, a.Why.Reason = int64(c.score(at)), reason
		a.Devices = p.take(c, at)
		p.out.Assign = append(p.out.Assign, a)
		p.charge(job, at, a.Devices)
	}
	return true
}

// moor chooses the berths of a gang's members: apart if it is to spread, else as
// near to each other as there is room: on one node, within one NVLink fabric,
// at one site, or anywhere. What the tag prefers comes before that.
func (p *planner) moor(all []berth, size int, spread placement.Spread) []*space {
	switch spread {
	case placement.SpreadNode:
		return inTurns(all, size, func(b berth) string { return string(b.at.node.ID) })
	case placement.SpreadSite:
		return inTurns(all, size, func(b berth) string { return b.at.node.Site })
	}
	for _, domain := range []func(berth) string{
		func(b berth) string { return string(b.at.node.ID) },
		func(b berth) string { return fabric(b.at.node) },
		func(b berth) string { return "site " + b.at.node.Site },
		func(berth) string { return "region" },
	} {
		if within := tightest(all, size, domain); within != nil {
			return packed(within, size)
		}
	}
	return nil
}

// fabric is the NVLink fabric that spans nodes, of a node's first device.
func fabric(n *placement.Node) string {
	if len(n.Inventory.Devices) == 0 {
		return ""
	}
	return n.Inventory.Devices[0].Fabric
}

// tightest is the domain with the least room that is enough, of those whose
// worst node the tag prefers most; the domain of no name does not count.
func tightest(all []berth, size int, domain func(berth) string) []berth {
	type group struct {
		berths []berth
		room   int
		prefer uint64
	}
	var order []string
	groups := map[string]*group{}
	for _, b := range all {
		name := domain(b)
		if name == "" {
			continue
		}
		g := groups[name]
		if g == nil {
			g = &group{}
			groups[name] = g
			order = append(order, name)
		}
		if g.room < size { // the berths come best first
			g.prefer = b.score >> scorePrefer
		}
		g.berths, g.room = append(g.berths, b), g.room+b.room
	}
	var best *group
	for _, name := range order {
		g := groups[name]
		if g.room >= size && (best == nil || g.prefer < best.prefer || g.prefer == best.prefer && g.room < best.room) {
			best = g
		}
	}
	if best == nil {
		return nil
	}
	return best.berths
}

// packed fills few nodes: those with the most room first, the last member's node
// with as little as will do. Members of neighbouring ranks share a node.
func packed(all []berth, size int) []*space {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b berth) int {
		return cmp.Or(cmp.Compare(a.score>>scorePrefer, b.score>>scorePrefer), cmp.Compare(b.room, a.room))
	})
	var out []*space
	for len(out) < size {
		left := size - len(out)
		at := 0
		for i, b := range all { // the smallest that holds all that is left
			if b.room >= left && b.score>>scorePrefer == all[0].score>>scorePrefer && b.room < all[at].room {
				at = i
			}
		}
		for range min(left, all[at].room) {
			out = append(out, all[at].at)
		}
		all = slices.Delete(all, at, at+1)
	}
	return out
}

// inTurns deals the members out over the domains, one each as long as there is room.
func inTurns(all []berth, size int, domain func(berth) string) []*space {
	var order []string
	rooms := map[string][]berth{}
	for _, b := range all {
		name := domain(b)
		if rooms[name] == nil {
			order = append(order, name)
		}
		rooms[name] = append(rooms[name], b)
	}
	var out []*space
	for len(out) < size {
		for _, name := range order {
			if len(rooms[name]) == 0 || len(out) == size {
				continue
			}
			b := rooms[name][0]
			out = append(out, b.at)
			rooms[name] = rooms[name][1:]
			if b.room--; b.room > 0 { // behind the domain's other nodes
				rooms[name] = append(rooms[name], b)
			}
		}
	}
	return out
}

// tendGang decides about a gang with a member on a draining node: it stays or
// goes as a whole. A gang of which a member is silent is left alone: that member
// may still run.
func (p *planner) tendGang(job *placement.Job, t *placement.Task, n *placement.Node) {
	if n.State != placement.NodeDraining {
		return
	}
	d := n.Drain
	if d == nil {
		d = &placement.Drain{}
	}
	f := Fate{Node: n.ID, Job: job.ID, Name: job.Name, Task: t.ID, Kind: job.Kind, Type: job.Spec.Type, Tenant: job.Tenant, Tag: job.Residency}
	o := rule(job, d, p.s.Now)
	silent := slices.ContainsFunc(p.tasks[job.ID], func(m *placement.Task) bool {
		at := p.nodes[m.Node]
		return at == nil || at.node.Contact != placement.ContactAlive
	})
	switch {
	case t.Stop:
		if p.made[job.ID] == 0 && t.StopReason == stopMoved && !job.StopRequested {
			p.made[job.ID]++
			p.holdGang(job)
		}
		f.Action, f.Note = ActStop, "it is being stopped: "+t.StopReason
	case job.StopRequested:
		f.Action, f.Note = ActStop, "its job is being stopped"
	case o.action == ActWait:
		f.Action, f.At, f.Note = ActWait, o.at, waitNote(o)
	case silent:
		f.Action, f.Code, f.Note = ActBlocked, string(NodeContact), "a member of its gang is on a silent node and may still run: the gang is left alone"
		f.Hint = "if that node is gone for good: sovmesh node remove NODE"
	case o.action == ActStop:
		f.Action, f.Note = ActStop, "its gang is stopped for good, as its drain rule says"
		p.stopGang(job, t, "a node of its gang is drained and its drain rule says stop", false)
	default:
		p.moveGang(&f, job, t, o)
	}
	p.fates = append(p.fates, f)
	if f.Action == ActWait || f.Action == ActBlocked {
		p.wake(deadline(d))
	}
}

// stopGang names one member: the state ends the others with it.
func (p *planner) stopGang(job *placement.Job, t *placement.Task, reason string, again bool) {
	if p.made[job.ID] == 0 {
		p.made[job.ID]++
		p.stop(t, reason, again)
	}
}

// moveGang stops a gang for which there is a place elsewhere, its own places on
// nodes that stay among them.
func (p *planner) moveGang(f *Fate, job *placement.Job, t *placement.Task, o order) {
	if job.HeldBack(p.s.Now) {
		f.Action, f.At, f.Note = ActWait, job.NotBefore, "the last start of its gang failed; the next try is held back"
		p.wake(job.NotBefore)
		return
	}
	f.Action, f.Note = Action(o.action), "its gang is stopped and started elsewhere as a whole"
	if o.action == ActCheckpoint {
		f.Note = "its gang saves its work, is stopped and started elsewhere as a whole"
	}
	if p.made[job.ID] > 0 || p.holdGang(job) {
		p.stopGang(job, t, stopMoved, true)
		return
	}
	c := p.class(job)
	p.block(f, c, t, o)
}

// holdGang keeps the places that a gang is stopped for; false if there are too few.
func (p *planner) holdGang(job *placement.Job) bool {
	own := map[placement.NodeID]int{}
	for _, m := range p.tasks[job.ID] {
		if at := p.nodes[m.Node]; at != nil && p.steady(at.node) {
			own[m.Node]++
		}
	}
	c := p.class(job)
	all, total := p.berths(c, own)
	if total < job.Spec.Size() {
		return false
	}
	for _, at := range p.moor(all, job.Spec.Size(), job.Spec.Spread) {
		if own[at.node.ID] > 0 {
			own[at.node.ID]--
			continue
		}
		p.take(c, at)
	}
	return true
}

// tellGang corrects what was told of one member to what holds for all: nodes
// that fit one are not room for the gang.
func (p *planner) tellGang(e *Explanation, c *class) {
	if c.size < 2 || e.Outcome == Refused || e.Outcome == Unknown {
		return
	}
	now, ever := 0, 0
	for i := range p.spaces {
		at := &p.spaces[i]
		if c.fixed[i]&failLaw != 0 {
			continue
		}
		if seen := c.see(at); c.empty(at, &seen) == 0 {
			ever += c.fitsIn(at.node.Inventory.CPU, at.node.Inventory.Memory, c.seats(at, true))
		}
		if c.fixed[i] == 0 {
			now += c.members(at)
		}
	}
	switch {
	case now >= c.size:
		e.Reason = fmt.Sprintf("all %d members have room now, on %s", c.size, nodes(e.Fitting))
	case ever < c.size:
		e.Outcome, e.Code = Impossible, GangRoom
		e.Reason = fmt.Sprintf("no more than %d of its %d members could ever run together in region %s, even if it were empty", ever, c.size, e.Region)
		e.Hint = "ask for fewer or smaller members, or for what the region has: sovmesh gpu list, sovmesh node list"
	case now > 0:
		e.Outcome, e.Code = Full, GangRoom
		e.Reason = fmt.Sprintf("room for %d of its %d members now, and a gang starts as a whole", now, c.size)
		e.Hint = "it waits and starts when all of them have room"
	}
	if e.Outcome == Full || e.Outcome == Impossible {
		e.Hint += "; " + gangStays
	}
}
