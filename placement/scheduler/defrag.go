package scheduler

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

const (
	// DefragMoves is how many moves a plan has at most, unless said.
	DefragMoves = 10
	// DefragMovesMax bounds what may be asked for.
	DefragMovesMax = 100
	// defragSources is how many nodes one step of a plan tries to empty, the most
	// promising first; in a large region fewer, so that a step looks at about
	// defragLooks nodes: a plan takes seconds at 10,000.
	defragSources = 32
	defragLooks   = 20_000
	// defragClasses is how many different demands the stranded share is averaged
	// over, the most common first.
	defragClasses = 64
)

// Move is one task that goes elsewhere so that GPUs lie together.
type Move struct {
	Job    placement.JobID    `json:"job"`
	Name   string             `json:"name,omitempty"`
	Task   placement.TaskID   `json:"task"`
	Type   placement.JobType  `json:"type"`
	Tenant placement.TenantID `json:"tenant"`
	Tag    string             `json:"tag"` // the job's own residency tag
	GPUs   int                `json:"gpus"`
	Share  placement.MilliGPU `json:"share,omitempty"` // of the one GPU
	From   placement.NodeID   `json:"from"`
	To     placement.NodeID   `json:"to"`
	// Action is move, checkpoint or stop-first, as in a drain.
	Action Action `json:"action"`
	// Mode is live, near-live or restart, see [Fate].
	Mode string `json:"mode,omitempty"`
	Note string `json:"note"`
	// Frees is how many more GPUs are wholly free on From after it.
	Frees int `json:"frees"`
}

// Room is what a region has free in whole GPUs, on nodes that take work.
type Room struct {
	Free    int `json:"free"`         // GPUs of which nobody holds anything
	Empty   int `json:"empty_nodes"`  // nodes all of whose GPUs are free
	Largest int `json:"largest_hole"` // the most free on one node
	// Stranded is the fragmentation: how much of what is free the demands of the
	// region (those that run and those that wait, as often as they occur) cannot
	// use where it lies, in thousandths of a GPU.
	Stranded int64 `json:"stranded_milli"`
}

// Kept is how many tasks stay where they are for one reason.
type Kept struct {
	Reason string `json:"reason"`
	Tasks  int    `json:"tasks"`
}

// Defrag is a plan of few moves and what they are good for.
type Defrag struct {
	Moves  []Move `json:"moves"`
	Before Room   `json:"before"`
	After  Room   `json:"after"`
	Tasks  int    `json:"tasks"` // that hold GPUs
	Kept   []Kept `json:"kept"`  // tasks that may not be moved, by reason
}

// PlanDefrag looks for the few moves, limit at most, that free the most whole
// GPUs together. It moves only what its owner lets move: services, tasks whose
// on_drain says move or checkpoint, and preemptible ones; each to a place of its
// own tag, chosen as a drain chooses it. The snapshot's Tasks and Jobs must hold
// every live task. Nothing is changed.
func PlanDefrag(s placement.Snapshot, limit int) Defrag {
	d := &defrag{s: s, moved: map[placement.TaskID]bool{}, kept: map[string]int{}, closed: map[placement.NodeID]bool{}}
	d.s.Nodes, d.s.Wanted = slices.Clone(s.Nodes), nil
	d.find()
	mix := mix(s)
	out := Defrag{Moves: []Move{}, Kept: []Kept{}, Tasks: d.tasks, Before: room(d.s.Nodes, mix)}
	for len(out.Moves) < limit {
		best := d.step(limit - len(out.Moves))
		if best == nil {
			break
		}
		d.commit(best)
		out.Moves = append(out.Moves, best.moves...)
	}
	out.After = room(d.s.Nodes, mix)
	for reason, n := range d.kept {
		out.Kept = append(out.Kept, Kept{reason, n})
	}
	slices.SortFunc(out.Kept, func(a, b Kept) int { return cmp.Compare(a.Reason, b.Reason) })
	return out
}

// defrag is one plan in the making: a snapshot that its moves change.
type defrag struct {
	s      placement.Snapshot
	on     map[placement.NodeID][]*placement.Task // movable, by node
	moved  map[placement.TaskID]bool
	closed map[placement.NodeID]bool // were emptied: nothing goes there any more
	kept   map[string]int
	tasks  int
}

// trial is one way to empty a node, or a part of it.
type trial struct {
	moves []Move
	after map[placement.NodeID]*placement.Node // the nodes as they are then
	gain  int
}

// better prefers more gain for each move, then more gain, then the first node.
func (t *trial) better(o *trial) bool {
	if o == nil {
		return t.gain > 0
	}
	each := t.gain*len(o.moves) - o.gain*len(t.moves)
	return each > 0 || each == 0 && t.gain > o.gain
}

// find sorts the tasks that hold GPUs into those that may move and the others.
func (d *defrag) find() {
	d.on = make(map[placement.NodeID][]*placement.Task)
	state := make(map[placement.NodeID]*placement.Node, len(d.s.Nodes))
	for _, n := range d.s.Nodes {
		state[n.ID] = n
	}
	for _, t := range d.s.Tasks {
		job, n := d.s.Jobs[t.Job], state[t.Node]
		if !t.Status.Live() || len(t.Devices) == 0 || job == nil || n == nil {
			continue
		}
		d.tasks++
		if why := stays(job, t, n); why != "" {
			d.kept[why]++
			continue
		}
		d.on[t.Node] = append(d.on[t.Node], t)
	}
	for _, list := range d.on {
		slices.SortFunc(list, func(a, b *placement.Task) int {
			return cmp.Or(cmp.Compare(size(a), size(b)), cmp.Compare(a.ID, b.ID))
		})
	}
}

func size(t *placement.Task) int64 {
	return int64(t.Resources.GPUs) * int64(t.Resources.PerDevice())
}

// stays says why a task is not moved for order's sake; empty if it may be.
func stays(job *placement.Job, t *placement.Task, n *placement.Node) string {
	own := job.Spec.OnDrain
	service := job.Spec.Type == placement.TypeService && !job.Spec.Singleton
	switch {
	case !n.Offers():
		return "its node takes no work: a drain decides about it"
	case t.Status != placement.TaskRunning || t.Stop || job.StopRequested:
		return "it is starting or being stopped"
	case job.Spec.Gang():
		return "its gang would have to stop as a whole"
	case job.Spec.NodeName != "":
		return "it is bound to its node"
	case t.Resources.GPUProfile != "":
		return "it holds MIG instances, which free no whole GPU"
	case own == placement.DrainMove, own == placement.DrainCheckpoint, own == "" && (service || job.Spec.Preemptible):
		return ""
	}
	return "its owner does not let it move"
}

// step tries the most promising nodes and gives the best of what was found.
func (d *defrag) step(limit int) *trial {
	type source struct {
		node *placement.Node
		hope int // gain for each move if everything found a place, in thousandths
	}
	var sources []source
	for _, n := range d.s.Nodes {
		if hope := d.hope(n, limit); hope > 0 {
			sources = append(sources, source{n, hope})
		}
	}
	slices.SortStableFunc(sources, func(a, b source) int { return cmp.Compare(b.hope, a.hope) })
	var best *trial
	tries := max(4, min(defragSources, defragLooks/max(1, len(d.s.Nodes))))
	for i, from := range sources {
		if i == tries || best != nil && from.hope*len(best.moves) < best.gain*1000 {
			break // none of the rest can be better
		}
		if t := d.try(from.node, limit); t != nil && t.better(best) {
			best = t
		}
	}
	return best
}

// movable are the tasks of a node that were not moved yet, the smallest first.
func (d *defrag) movable(n *placement.Node) []*placement.Task {
	return slices.DeleteFunc(slices.Clone(d.on[n.ID]), func(t *placement.Task) bool { return d.moved[t.ID] })
}

// hope is the most that emptying a node could be worth for each move.
func (d *defrag) hope(n *placement.Node, limit int) (hope int) {
	if !n.Offers() {
		return 0
	}
	before, used := worth(wholeFree(n)), n.Used
	for i, t := range d.movable(n) {
		if i == limit {
			break
		}
		used = used.With(t.Resources, t.Devices, -1)
		after := *n
		after.Used = used
		hope = max(hope, (worth(wholeFree(&after))-before)*1000/(i+1))
	}
	return hope
}

// try moves the tasks of a node away one by one, and keeps the number of moves
// that is worth the most for each.
func (d *defrag) try(n *placement.Node, limit int) (best *trial) {
	p := newPlanner(d.others(n))
	now := &trial{after: map[placement.NodeID]*placement.Node{n.ID: n}}
	for _, t := range d.movable(n) {
		if len(now.moves) == limit {
			break
		}
		job := d.s.Jobs[t.Job]
		at, class := p.refuge(job, n)
		if at == nil {
			continue
		}
		old := now.after[at.node.ID]
		if old == nil {
			old = at.node
		}
		devices := p.take(class, at)
		from, to := *now.after[n.ID], *old
		from.Used = from.Used.With(t.Resources, t.Devices, -1)
		to.Used = to.Used.With(t.Resources, devices, 1)
		m := moveOf(job, t, n, at.node)
		m.Frees = wholeFree(&from) - wholeFree(now.after[n.ID])
		now.gain += worth(wholeFree(&from)) - worth(wholeFree(now.after[n.ID])) + worth(wholeFree(&to)) - worth(wholeFree(old))
		now.after[n.ID], now.after[to.ID] = &from, &to
		now.moves = append(now.moves, m)
		if now.better(best) {
			best = now.clone()
		}
	}
	return best
}

func (t *trial) clone() *trial {
	out := &trial{moves: slices.Clone(t.moves), gain: t.gain, after: make(map[placement.NodeID]*placement.Node, len(t.after))}
	for id, n := range t.after {
		out.after[id] = n
	}
	return out
}

// others is the snapshot as a task that leaves n may see it: the nodes that are
// used in part. Whole free ones are what the plan is after, and one that it
// emptied stays so.
func (d *defrag) others(n *placement.Node) placement.Snapshot {
	s := d.s
	s.Nodes = nil
	for _, o := range d.s.Nodes {
		if o.ID == n.ID || d.closed[o.ID] || len(o.Used.Devices)+len(o.Used.Shares) == 0 {
			continue
		}
		s.Nodes = append(s.Nodes, o)
	}
	return s
}

// commit makes a trial's moves part of the plan.
func (d *defrag) commit(t *trial) {
	for i, n := range d.s.Nodes {
		if after := t.after[n.ID]; after != nil {
			d.s.Nodes[i] = after
		}
	}
	for _, m := range t.moves {
		d.moved[m.Task] = true
		d.closed[m.From] = true
	}
}

func moveOf(job *placement.Job, t *placement.Task, from, to *placement.Node) Move {
	m := Move{
		Job: job.ID, Name: job.Name, Task: t.ID, Type: job.Spec.Type, Tenant: job.Tenant, Tag: job.Residency,
		GPUs: t.Resources.GPUs, Share: t.Resources.GPUShare, From: t.Node, To: to.ID,
	}
	w := howMoved(job, t, from, to, job.Spec.OnDrain == placement.DrainCheckpoint)
	m.Action, m.Mode, m.Note = w.action, w.mode, w.note
	return m
}

// wholeFree is how many GPUs of a node are wholly free; an instance is none.
func wholeFree(n *placement.Node) (free int) {
	for i := range n.Inventory.Devices {
		d := &n.Inventory.Devices[i]
		if d.Profile == "" && d.Offered() && n.Used.Idle(d.UUID) == placement.WholeGPU {
			free++
		}
	}
	return free
}

// worth rates so many free GPUs on one node by how many demands of 1, 2, 4, 8
// and 16 of them it has room for, each counted with its size: eight together are
// worth more than four and four.
func worth(free int) (sum int) {
	for k := 1; k <= 16; k *= 2 {
		sum += free / k * k
	}
	return sum
}

// demandOf is a demand for GPUs and how often it occurs.
type demandOf struct {
	res   placement.Resources
	times int64
}

// RoomOf adds up what a region has free. The snapshot's Tasks must hold every
// live task.
func RoomOf(s placement.Snapshot) Room { return room(s.Nodes, mix(s)) }

// mix are the demands for GPUs of the region, most common first.
func mix(s placement.Snapshot) []demandOf {
	times := make(map[placement.Resources]int64)
	count := func(r placement.Resources) {
		if r.GPUs > 0 {
			r.CPU, r.Memory = 0, 0
			times[r]++
		}
	}
	for _, t := range s.Tasks {
		if t.Status.Live() {
			count(t.Resources)
		}
	}
	for _, j := range s.Wanted {
		count(j.Spec.Resources)
	}
	out := make([]demandOf, 0, len(times))
	for r, n := range times {
		out = append(out, demandOf{r, n})
	}
	slices.SortFunc(out, func(a, b demandOf) int {
		return cmp.Or(cmp.Compare(b.times, a.times), cmp.Compare(a.res.GPUs, b.res.GPUs), cmp.Compare(a.res.GPUShare, b.res.GPUShare),
			strings.Compare(a.res.GPUModel, b.res.GPUModel), strings.Compare(a.res.GPUProfile, b.res.GPUProfile), cmp.Compare(a.res.GPUMemory, b.res.GPUMemory))
	})
	return out[:min(len(out), defragClasses)]
}

// room adds up what is free, and how much of it the mix cannot use where it is:
// of one node and demand, everything free if too few of its devices serve it,
// else what is left of devices of which less is free than it needs.
func room(nodes []*placement.Node, mix []demandOf) (r Room) {
	var total, weight int64
	for _, m := range mix {
		weight += m.times
	}
	for _, n := range nodes {
		if !n.Offers() {
			continue
		}
		free := wholeFree(n)
		r.Free += free
		r.Largest = max(r.Largest, free)
		if gpus := len(n.Inventory.Devices); gpus > 0 && free == gpus {
			r.Empty++
		}
		for _, m := range mix {
			total += m.times * stranded(n, m.res)
		}
	}
	if weight > 0 {
		r.Stranded = total / weight
	}
	return r
}

func stranded(n *placement.Node, res placement.Resources) int64 {
	var all, small int64
	serve := 0
	for i := range n.Inventory.Devices {
		d := &n.Inventory.Devices[i]
		if !d.Offered() || d.Profile != "" {
			continue
		}
		idle := n.Used.Idle(d.UUID)
		all += int64(idle)
		if idle >= res.PerDevice() && d.Matches(res) {
			serve++
		} else {
			small += int64(idle)
		}
	}
	if serve < res.GPUs {
		return all
	}
	return small
}
