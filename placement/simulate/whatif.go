package simulate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// Addition is a number of nodes that are not there yet.
type Addition struct {
	Nodes int    `json:"nodes"`
	GPUs  int    `json:"gpus,omitempty"`  // of each
	Model string `json:"model,omitempty"` // of the GPUs
	Like  string `json:"like,omitempty"`  // or: a copy of this node, empty
}

// maxAdded bounds the nodes of one addition.
const maxAdded = 10_000

// ParseAddition reads 4x8xH100 (four nodes of eight H100), 4x0 (four without
// GPUs) or 3xNODE (three like that one).
func ParseAddition(text string) (Addition, error) {
	bad := func() (Addition, error) {
		return Addition{}, fmt.Errorf("%.60q is no addition: write NODESxGPUSxMODEL, as in 4x8xH100, or NODESxNAME for copies of a node", text)
	}
	number, rest, ok := strings.Cut(text, "x")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 1 || n > maxAdded || rest == "" {
		return bad()
	}
	gpus, model, cut := strings.Cut(rest, "x")
	count, err := strconv.Atoi(gpus)
	switch {
	case err == nil && count >= 0 && count <= placement.MaxGPUs && (cut && model != "" && count > 0 || !cut && count == 0):
		return Addition{Nodes: n, GPUs: count, Model: model}, nil
	case err != nil && placement.ValidName(rest):
		return Addition{Nodes: n, Like: rest}, nil
	}
	return bad()
}

// Fit is how a region would take its waiting jobs.
type Fit struct {
	Nodes  int `json:"nodes"`
	GPUs   int `json:"gpus"`
	Waits  int `json:"waiting"` // jobs that want a place, those of removed nodes among them
	Placed int `json:"placed"`  // of them
	// Room is what is left once they are placed.
	Room    scheduler.Room `json:"room"`
	Refused []Refused      `json:"refused"`
}

// Refused are jobs that found no place for the same reason.
type Refused struct {
	Outcome string          `json:"outcome"`
	Code    string          `json:"code"`
	Jobs    int             `json:"jobs"`
	Example placement.JobID `json:"example"`
	Reason  string          `json:"reason"`
}

// WhatIf is the region as it is and as it would be with other nodes.
type WhatIf struct {
	Region  placement.RegionID `json:"region"`
	Added   []Addition         `json:"added,omitempty"`
	Removed []placement.NodeID `json:"removed,omitempty"`
	// Displaced are jobs that lose their place with a removed node, and of them
	// those that find no other.
	Displaced int               `json:"displaced"`
	Homeless  []placement.JobID `json:"homeless,omitempty"`
	Now       Fit               `json:"now"`
	Then      *Fit              `json:"then,omitempty"` // missing if nothing would change
}

// Change plays the waiting jobs through the scheduler twice: on the nodes that
// are there, and with nodes added and removed. More are jobs that wait as well.
func (w *World) Change(now time.Time, more []*placement.Job, add []Addition, remove []placement.NodeID) (*WhatIf, error) {
	out := &WhatIf{Region: w.Region, Added: add, Removed: remove}
	s := w.Snapshot(now, w.pack)
	for _, j := range more {
		if s.Jobs[j.ID] == nil {
			s.Jobs[j.ID] = j
			s.Wanted = append(s.Wanted, j)
		}
	}
	out.Now, _ = fit(s)
	if len(add)+len(remove) == 0 {
		return out, nil
	}
	displaced, err := without(&s, remove)
	if err != nil {
		return nil, err
	}
	for i, a := range add {
		nodes, err := w.build(a, i)
		if err != nil {
			return nil, err
		}
		s.Nodes = append(s.Nodes, nodes...)
	}
	slices.SortFunc(s.Nodes, func(a, b *placement.Node) int { return cmp.Compare(a.ID, b.ID) })
	then, placed := fit(s)
	out.Then, out.Displaced = &then, len(displaced)
	for _, id := range displaced {
		if !placed[id] {
			out.Homeless = append(out.Homeless, id)
		}
	}
	return out, nil
}

// without takes nodes away; the jobs of their tasks want a place again, before
// those that wait, as they did when they were accepted.
func without(s *placement.Snapshot, remove []placement.NodeID) ([]placement.JobID, error) {
	for _, id := range remove {
		if !slices.ContainsFunc(s.Nodes, func(n *placement.Node) bool { return n.ID == id }) {
			return nil, fmt.Errorf("there is no node %.63q to remove", id)
		}
	}
	gone := func(id placement.NodeID) bool { return slices.Contains(remove, id) }
	s.Nodes = slices.DeleteFunc(slices.Clone(s.Nodes), func(n *placement.Node) bool { return gone(n.ID) })
	lost := make(map[placement.JobID]bool)
	for _, t := range s.Tasks {
		if gone(t.Node) && t.Status.Live() && s.Jobs[t.Job] != nil {
			lost[t.Job] = true
		}
	}
	s.Tasks = slices.Clone(s.Tasks)
	vacate(s, func(t *placement.Task) bool {
		return gone(t.Node) || lost[t.Job] && s.Jobs[t.Job].Spec.Gang() // a gang starts again as a whole
	})
	ids := slices.Sorted(maps.Keys(lost))
	again := make([]*placement.Job, 0, len(ids))
	s.Jobs = maps.Clone(s.Jobs)
	for _, id := range ids {
		j := pendingCopy(s.Jobs[id])
		s.Jobs[id] = j
		again = append(again, j)
	}
	s.Wanted = append(again, s.Wanted...)
	return ids, nil
}

func pendingCopy(j *placement.Job) *placement.Job {
	c := *j
	c.Status, c.Node, c.NotBefore, c.Forward = placement.JobPending, "", time.Time{}, nil
	return &c
}

// build makes the nodes of an addition: copies of the node it names, or of one
// that has such GPUs, else of the largest, with the GPUs exchanged.
func (w *World) build(a Addition, number int) ([]*placement.Node, error) {
	model := w.sample(a)
	if model == nil {
		return nil, fmt.Errorf("the region has no node %.63q to copy", a.Like)
	}
	out := make([]*placement.Node, a.Nodes)
	for i := range out {
		n := *model
		n.ID = placement.NodeID(fmt.Sprintf("added-%d-%05d", number+1, i+1))
		n.State, n.Contact, n.Drain, n.Used = placement.NodeReady, placement.ContactAlive, nil, placement.Usage{}
		devices := slices.Clone(n.Inventory.Devices)
		if a.Like == "" {
			devices = devicesOf(devices, a)
		}
		for k := range devices {
			d := &devices[k]
			d.UUID, d.Parent = rename(n.ID, d.UUID), rename(n.ID, d.Parent)
			d.Health, d.Causes, d.Simulated = placement.DeviceOK, nil, true
		}
		n.Inventory.Devices = devices
		out[i] = &n
	}
	return out, nil
}

func rename(node placement.NodeID, uuid string) string {
	if uuid == "" {
		return ""
	}
	return string(node) + "/" + uuid
}

// sample is the node that an addition is built after.
func (w *World) sample(a Addition) *placement.Node {
	var best *placement.Node
	for _, n := range w.Nodes {
		switch {
		case a.Like != "":
			if string(n.ID) == a.Like {
				return n
			}
		case a.GPUs > 0 && len(ofModel(n.Inventory.Devices, a.Model)) > 0:
			return n
		case best == nil || n.Inventory.CPU > best.Inventory.CPU:
			best = n
		}
	}
	if best == nil && a.Like == "" {
		best = &placement.Node{Region: w.Region, Inventory: placement.Inventory{
			CPU: 64_000, Memory: 256 * placement.GiB, Drivers: []string{"container", "inference", "microvm", "process", "vm"},
		}}
	}
	return best
}

func ofModel(devices []placement.Device, model string) []placement.Device {
	return slices.DeleteFunc(slices.Clone(devices), func(d placement.Device) bool {
		return d.Profile != "" || d.Partitioned || !d.Matches(placement.Resources{GPUModel: model, GPUMemory: d.Memory, Confidential: d.Confidential})
	})
}

// devicesOf are the GPUs of an added node, after one that is known.
func devicesOf(known []placement.Device, a Addition) []placement.Device {
	d := placement.Device{Model: a.Model, Memory: 80 * placement.GiB}
	if like := ofModel(known, a.Model); len(like) > 0 {
		d = like[0]
	}
	out := make([]placement.Device, a.GPUs)
	for i := range out {
		out[i] = d
		out[i].UUID, out[i].Index = fmt.Sprintf("gpu-%d", i), i
	}
	return out
}

// fit plays the waiting jobs through the scheduler once.
func fit(s placement.Snapshot) (Fit, map[placement.JobID]bool) {
	s.Nodes = slices.Clone(s.Nodes)
	d := scheduler.Plan(s)
	placed := make(map[placement.JobID]bool)
	after := make(map[placement.NodeID]*placement.Node, len(s.Nodes))
	for _, n := range s.Nodes {
		after[n.ID] = n
	}
	for _, a := range d.Assign {
		if a.Replaces == "" {
			placed[a.Job] = true
		}
		if n, j := after[a.Node], s.Jobs[a.Job]; n != nil && j != nil {
			c := *n
			c.Used = c.Used.With(j.Spec.Resources, a.Devices, 1)
			after[a.Node] = &c
		}
	}
	f := Fit{Nodes: len(s.Nodes), Waits: len(s.Wanted), Placed: len(placed), Refused: []Refused{}}
	for i, n := range s.Nodes {
		f.GPUs += len(n.Inventory.Devices)
		s.Nodes[i] = after[n.ID]
	}
	f.Room = scheduler.RoomOf(s)
	groups := make(map[[2]string]*Refused)
	for _, r := range d.Refused {
		key := [2]string{string(r.Explanation.Outcome), string(r.Explanation.Code)}
		g := groups[key]
		if g == nil {
			g = &Refused{Outcome: key[0], Code: key[1], Example: r.Job, Reason: r.Explanation.Reason}
			groups[key] = g
		}
		g.Jobs++
	}
	for _, g := range groups {
		f.Refused = append(f.Refused, *g)
	}
	slices.SortFunc(f.Refused, func(a, b Refused) int {
		return cmp.Or(cmp.Compare(b.Jobs, a.Jobs), cmp.Compare(a.Outcome, b.Outcome), cmp.Compare(a.Code, b.Code))
	})
	return f, placed
}
