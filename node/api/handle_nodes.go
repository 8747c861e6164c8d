package api

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

func listNodes(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	v, err := c.read(o)
	if err != nil {
		return err
	}
	return answerPage(c, o, v, v.Nodes(), func(n *placement.Node) string { return string(n.ID) })
}

// answerPage cuts a page out of a list that is sorted by key.
func answerPage[T any](c *call, o ListOptions, v *state.View, all []T, key func(T) string) error {
	page := Page[T]{Items: []T{}, Index: v.Index()}
	start, found := slices.BinarySearchFunc(all, o.Cursor, func(item T, cursor string) int { return cmp.Compare(key(item), cursor) })
	if found {
		start++
	}
	for _, item := range all[start:] {
		if len(page.Items) == o.Limit {
			page.Next = key(page.Items[o.Limit-1])
			break
		}
		page.Items = append(page.Items, item)
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, page)
}

func (c *call) findNode(v *state.View) (*placement.Node, error) {
	name := c.r.PathValue("name")
	if n := v.Node(placement.NodeID(name)); n != nil {
		return n, nil
	}
	return nil, nodeUnknown(v, name)
}

// nodeUnknown answers a name that no node has, with the nearest that one has.
func nodeUnknown(v *state.View, name string) *Problem {
	names := make([]string, 0, 64)
	for _, n := range v.Nodes() {
		if len(names) < 1000 {
			names = append(names, string(n.ID))
		}
	}
	hint := "list them: sovmesh node list"
	if near := nearest(name, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	return newProblem(http.StatusNotFound, CodeNotFound, "there is no node "+quoteWord(name), hint)
}

func getNode(s *Server, c *call) error {
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	n, err := c.findNode(v)
	if err != nil {
		return err
	}
	leader, _ := s.cfg.Ledger.Leader()
	out := NodeDetail{Node: *n, Leader: leader == n.ID, Tasks: []placement.Task{}}
	for _, t := range v.TasksOn(n.ID) {
		if c.seesTask(v, t.ID) {
			out.Tasks = append(out.Tasks, *t)
		} else {
			out.Hidden++
		}
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, out)
}

// nodeChange is an operator's verb on one node.
func nodeChange(make func(placement.NodeID) state.Command) func(*Server, *call) error {
	return func(s *Server, c *call) error {
		v, err := s.fresh(c.r.Context())
		if err != nil {
			return err
		}
		n, err := c.findNode(v)
		if err != nil {
			return err
		}
		_, v, err = c.propose(make(n.ID), c.caller.Actor)
		if err != nil {
			return err
		}
		c.index(v.Index())
		if now := v.Node(n.ID); now != nil {
			return c.writeJSON(http.StatusOK, now)
		}
		c.w.WriteHeader(http.StatusNoContent)
		return nil
	}
}

// drainNode shows every task's fate, and begins the drain unless only the plan
// was asked for.
func drainNode(s *Server, c *call) error {
	var in DrainRequest
	if err := c.readOptional(&in); err != nil {
		return err
	}
	plan, err := boolQuery(c, "plan")
	if err != nil {
		return err
	}
	if err := in.validate(); err != nil {
		return err
	}
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	n, err := c.findNode(v)
	if err != nil {
		return err
	}
	now := s.now()
	d := in.drain(now)
	if plan {
		out := s.drainReport(v, n, d, now)
		out.Planned, out.Drain = true, &d
		return c.writeJSON(http.StatusOK, out)
	}
	if _, v, err = c.propose(state.DrainNode{Node: n.ID, Drain: d}, c.caller.Actor); err != nil {
		return err
	}
	if n = v.Node(n.ID); n == nil {
		return newProblem(http.StatusNotFound, CodeNotFound, "the node was removed meanwhile", "list them: sovmesh node list")
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusAccepted, s.drainStatus(v, n))
}

func (in DrainRequest) validate() error {
	if in.Deadline < 0 || time.Duration(in.Deadline) > 30*24*time.Hour {
		return &InputError{Code: CodeBody, Message: "the deadline cannot be " + time.Duration(in.Deadline).String(), Help: "write a time from 0s to 720h"}
	}
	if !slices.Contains([]placement.OnDrain{"", placement.DrainWait, placement.DrainCheckpoint, placement.DrainStop}, in.OnDeadline) {
		return &InputError{Code: CodeBody, Message: "on_deadline cannot be " + quoteWord(string(in.OnDeadline)), Help: "write wait, checkpoint or stop"}
	}
	if len(in.Reason) > 1024 {
		return &InputError{Code: CodeBody, Message: "the reason is too long", Help: "write at most 1024 bytes"}
	}
	return nil
}

// drain fills the defaults in: one hour, wait.
func (in DrainRequest) drain(now time.Time) placement.Drain {
	limit := time.Duration(in.Deadline)
	if limit == 0 {
		limit = scheduler.DrainTime
	}
	return placement.Drain{StartedAt: now, Deadline: now.Add(limit), OnDeadline: pick(in.OnDeadline == "", placement.DrainWait, in.OnDeadline), Reason: in.Reason}
}

// drainNodes is drainNode for several nodes that are emptied together.
func drainNodes(s *Server, c *call) error {
	var in DrainSetRequest
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	plan, err := boolQuery(c, "plan")
	if err != nil {
		return err
	}
	if err := in.validate(); err != nil {
		return err
	}
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	for _, id := range in.Nodes {
		if v.Node(id) == nil {
			return nodeUnknown(v, string(id))
		}
	}
	now := s.now()
	d := in.drain(now)
	if !plan {
		if _, v, err = c.propose(state.DrainNodes{Nodes: in.Nodes, Drain: d}, c.caller.Actor); err != nil {
			return err
		}
	}
	out := &DrainSetReport{Nodes: []DrainReport{}, Planned: plan, Done: true, Index: v.Index()}
	fates := s.fates(v, in.Nodes, d, now)
	for _, id := range in.Nodes {
		n := v.Node(id)
		if n == nil {
			return newProblem(http.StatusNotFound, CodeNotFound, "node "+string(id)+" was removed meanwhile", "list them: sovmesh node list")
		}
		one := drainReportOf(n, fates, v.Index())
		one.Planned, one.Drain = plan, n.Drain
		if plan {
			one.Drain = &d
		}
		out.Blockers += one.Blockers
		out.Done = out.Done && n.State == placement.NodeDrained
		out.Nodes = append(out.Nodes, *one)
	}
	c.index(v.Index())
	return c.writeJSON(pick(plan, http.StatusOK, http.StatusAccepted), out)
}

func (in DrainSetRequest) validate() error {
	if len(in.Nodes) == 0 || len(in.Nodes) > MaxDrainSet {
		return &InputError{Code: CodeBody, Message: fmt.Sprintf("a drain set of %d nodes is not possible", len(in.Nodes)), Help: fmt.Sprintf("name 1 to %d nodes", MaxDrainSet)}
	}
	sorted := slices.Sorted(slices.Values(in.Nodes))
	for i := 1; i < len(sorted); i++ {
		if sorted[i] == sorted[i-1] {
			return &InputError{Code: CodeBody, Message: "the node " + quoteWord(string(sorted[i])) + " stands twice", Help: "name every node once"}
		}
	}
	return in.DrainRequest.validate()
}

// drainReport plans the drain of one node as the controller would.
func (s *Server) drainReport(v *state.View, n *placement.Node, d placement.Drain, now time.Time) *DrainReport {
	return drainReportOf(n, s.fates(v, []placement.NodeID{n.ID}, d, now), v.Index())
}

// fates are what the drain of a set would do to each task of its nodes.
func (s *Server) fates(v *state.View, set []placement.NodeID, d placement.Drain, now time.Time) []scheduler.Fate {
	snap := v.Snapshot(now)
	snap.Wanted = nil
	have := make(map[placement.TaskID]bool, len(snap.Tasks))
	for _, t := range snap.Tasks {
		have[t.ID] = true
	}
	for _, node := range set {
		for _, on := range v.TasksOn(node) {
			if j := v.Job(on.Job); j != nil {
				snap.Jobs[on.Job] = j
			}
			for _, t := range v.TasksOf(on.Job) {
				if t.Status.Live() && !have[t.ID] {
					have[t.ID] = true
					snap.Tasks = append(snap.Tasks, t)
				}
			}
		}
	}
	return scheduler.PlanDrainSet(snap, set, d)
}

// drainReportOf is the part of a set's fates that belongs to one node.
func drainReportOf(n *placement.Node, fates []scheduler.Fate, index uint64) *DrainReport {
	out := &DrainReport{Node: n.ID, State: n.State, Tasks: []DrainTask{}, Done: n.State == placement.NodeDrained, Index: index}
	for _, f := range fates {
		if f.Node != n.ID {
			continue
		}
		out.Tasks = append(out.Tasks, DrainTask{
			Task: f.Task, Job: f.Job, Name: f.Name, Kind: f.Kind, Type: f.Type, Tenant: f.Tenant, Residency: f.Tag,
			Fate: string(f.Action), To: f.To, Mode: f.Mode, At: f.At, Code: f.Code, Reason: f.Note, Hint: f.Hint,
		})
		if f.Action == scheduler.ActBlocked {
			out.Blockers++
		}
	}
	return out
}

// drainStatus is how far the drain of a node has come.
func (s *Server) drainStatus(v *state.View, n *placement.Node) *DrainReport {
	if n.Drain == nil || n.State == placement.NodeDrained {
		out := &DrainReport{Node: n.ID, State: n.State, Drain: n.Drain, Tasks: []DrainTask{}, Index: v.Index()}
		out.Done = n.State == placement.NodeDrained
		return out
	}
	out := s.drainReport(v, n, *n.Drain, s.now())
	out.Drain = n.Drain
	return out
}

func getDrain(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	v, err := c.read(o)
	if err != nil {
		return err
	}
	n, err := c.findNode(v)
	if err != nil {
		return err
	}
	out := s.drainStatus(v, n)
	all := len(out.Tasks)
	out.Tasks = slices.DeleteFunc(out.Tasks, func(t DrainTask) bool { return !c.seesTask(v, t.Task) })
	out.Hidden = all - len(out.Tasks)
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, out)
}

func listGPUs(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	v, err := c.read(o)
	if err != nil {
		return err
	}
	all := []GPU{}
	for _, n := range v.Nodes() {
		if o.Node != "" && n.ID != o.Node || len(n.Inventory.Devices) == 0 {
			continue
		}
		all = append(all, c.gpusOf(v, n)...)
	}
	slices.SortFunc(all, func(a, b GPU) int { return cmp.Compare(gpuKey(a), gpuKey(b)) })
	return answerPage(c, o, v, all, gpuKey)
}

func gpuKey(g GPU) string { return string(g.Node) + "/" + g.UUID }

func getStatus(s *Server, c *call) error {
	v, err := s.view() // what this node knows: status answers also without a quorum
	if err != nil {
		return err
	}
	leader, _ := s.cfg.Ledger.Leader()
	out := Status{
		Region: s.cfg.Region, Mesh: s.cfg.Mesh, Node: s.cfg.Self, Leader: leader, Version: s.cfg.Version, Index: v.Index(),
		LawPack: v.Pack().Hash(), Nodes: map[string]int{}, Jobs: map[placement.JobStatus]int{}, Regions: []RegionLink{},
	}
	for _, n := range v.Nodes() {
		name := string(n.State)
		if n.Contact != placement.ContactAlive {
			name = LinkUnknown
		}
		out.Nodes[name]++
		if n.Role == placement.RoleVoter {
			out.Voters++
		}
		out.GPUs += n.DeviceCount()
		out.GPUFree += len(n.FreeDevices())
		out.GPUSimulated += n.SimulatedDevices()
	}
	v.Jobs("", v.JobCount(), func(j *placement.Job) bool {
		if c.caller.sees(j) {
			out.Jobs[j.Status]++
		}
		return false
	})
	for _, r := range v.Regions() {
		state, l := s.link(r.ID)
		out.Regions = append(out.Regions, RegionLink{Region: r.ID, State: r.State, Link: state, Since: l.Since})
	}
	if s.cfg.LedgerState != nil {
		if l := s.cfg.LedgerState(); !l.Complete() {
			out.Ledger = &l
		}
	}
	if s.cfg.Devices != nil {
		out.Refused = s.cfg.Devices.Refused()
	}
	if s.cfg.Signing != nil {
		l := s.cfg.Signing()
		out.Signing = &l
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, out)
}

// health says that the process answers; ready that it takes requests.
func health(_ *Server, c *call) error {
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = fmt.Fprintln(c.w, "ok")
	return nil
}

func ready(s *Server, c *call) error {
	if s.cfg.Ready != nil {
		if err := s.cfg.Ready(); err != nil {
			return newProblem(http.StatusServiceUnavailable, CodeUnavailable, "not ready: "+err.Error(), "wait; see the node's log").retry(time.Second)
		}
	} else if s.cfg.Ledger != nil {
		if _, err := s.view(); err != nil {
			return err
		}
	}
	return health(s, c)
}
