package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const h100 = "NVIDIA H100 80GB HBM3"

// node is a ready node with 8 cores and 32 GiB that runs every kind.
func node(id string, change ...func(*placement.Node)) *placement.Node {
	n := &placement.Node{
		ID: placement.NodeID(id), Region: "fra-1", State: placement.NodeReady, Contact: placement.ContactAlive,
		Inventory: placement.Inventory{CPU: 8000, Memory: 32 * placement.GiB, Drivers: []string{"fake", "inference", "process"}},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func gpus(count int, model string, memory placement.Bytes) func(*placement.Node) {
	return func(n *placement.Node) {
		for range count {
			n.Inventory.Devices = append(n.Inventory.Devices, placement.Device{
				UUID:  fmt.Sprintf("%s-gpu-%d", n.ID, len(n.Inventory.Devices)),
				Model: model, Memory: memory, Health: placement.DeviceOK,
			})
		}
	}
}

// sick marks devices by their place in the list.
func sick(h placement.DeviceHealth, at ...int) func(*placement.Node) {
	return func(n *placement.Node) {
		for _, i := range at {
			n.Inventory.Devices[i].Health = h
		}
	}
}

func sealed(n *placement.Node) {
	for i := range n.Inventory.Devices {
		n.Inventory.Devices[i].Confidential = true
	}
}

// cut adds one GPU that is cut into so many instances of a profile.
func cut(profile string, instances int) func(*placement.Node) {
	return func(n *placement.Node) {
		whole := string(n.ID) + "-cut"
		n.Inventory.Devices = append(n.Inventory.Devices, placement.Device{UUID: whole, Model: h100, Memory: 80 * placement.GiB, Health: placement.DeviceOK, Partitioned: true})
		for i := range instances {
			n.Inventory.Devices = append(n.Inventory.Devices, placement.Device{
				UUID: fmt.Sprintf("%s-mig-%d", n.ID, i), Model: h100, Memory: 10 * placement.GiB, Health: placement.DeviceOK, Parent: whole, Profile: profile,
			})
		}
	}
}

// shares lets other tasks hold a part of a device.
func shares(uuid string, held placement.MilliGPU) func(*placement.Node) {
	return func(n *placement.Node) {
		n.Used = placement.Usage{Shares: []placement.DeviceShare{{UUID: uuid, Held: held}}, Tasks: 1}
	}
}

func draining(deadline time.Time, then placement.OnDrain) func(*placement.Node) {
	return func(n *placement.Node) {
		n.State = placement.NodeDraining
		n.Drain = &placement.Drain{StartedAt: noon.Add(-time.Hour), Deadline: deadline, OnDeadline: then}
	}
}

func silentSince(d time.Duration) func(*placement.Node) {
	return func(n *placement.Node) { n.Contact, n.ContactAt = placement.ContactUnknown, noon.Add(-d) }
}

// used takes room as other tasks would.
func used(cpu placement.MilliCPU, memory placement.Bytes, devices ...string) func(*placement.Node) {
	return func(n *placement.Node) {
		n.Used = placement.Usage{CPU: cpu, Memory: memory, Devices: devices, Tasks: 1}
	}
}

// job is a batch job of one core that may run in the EU.
func job(id string, change ...func(*placement.Job)) *placement.Job {
	j := &placement.Job{
		ID: placement.JobID("fra-1." + id), Name: id, Kind: placement.KindProcess, Tenant: "acme", Residency: "EU",
		Policy: []placement.Layer{{Origin: residency.OriginJob, Tag: "EU"}},
		Spec: placement.JobSpec{
			Kind: placement.KindProcess, Type: placement.TypeBatch, Resources: placement.Resources{CPU: 1000, Memory: placement.GiB},
		},
		Status: placement.JobPending,
	}
	for _, c := range change {
		c(j)
	}
	return j
}

func service(j *placement.Job)   { j.Spec.Type = placement.TypeService }
func singleton(j *placement.Job) { j.Spec.Singleton = true }
func onDrain(r placement.OnDrain) func(*placement.Job) {
	return func(j *placement.Job) { j.Spec.OnDrain = r }
}
func tagged(tags ...string) func(*placement.Job) {
	return func(j *placement.Job) {
		j.Residency, j.Policy = tags[0], nil
		for i, t := range tags {
			origin := residency.OriginJob
			if i > 0 {
				origin = residency.OriginTenant
			}
			j.Policy = append(j.Policy, placement.Layer{Origin: origin, Tag: t})
		}
	}
}
func asks(r placement.Resources) func(*placement.Job) {
	return func(j *placement.Job) { j.Spec.Resources = r }
}

// world is a snapshot of a French region on the 21st of November 2026.
func world(nodes []*placement.Node, wanted ...*placement.Job) placement.Snapshot {
	s := placement.Snapshot{
		Region: "fra-1", Now: noon, Pack: residency.Embedded(), Nodes: slices.Clone(nodes), Wanted: wanted,
		Facts: placement.RegionFacts{Country: "FR", Operator: placement.Operator{Home: "FR", Parent: "none"}},
		Jobs:  make(map[placement.JobID]*placement.Job),
	}
	slices.SortFunc(s.Nodes, func(a, b *placement.Node) int { return cmp.Compare(a.ID, b.ID) })
	for _, j := range wanted {
		s.Jobs[j.ID] = j
	}
	return s
}

// runs adds a running task of the job to the snapshot and its node.
func runs(s *placement.Snapshot, j *placement.Job, on string, change ...func(*placement.Task)) *placement.Task {
	changed := *j
	j = &changed
	j.Attempts++
	j.Status, j.Node = placement.JobRunning, placement.NodeID(on)
	t := &placement.Task{
		ID: j.ID.Task(0, j.Attempts), Job: j.ID, Kind: j.Kind, Tenant: j.Tenant, Node: j.Node,
		Resources: j.Spec.Resources, Status: placement.TaskRunning,
	}
	for _, c := range change {
		c(t)
	}
	s.Jobs[j.ID] = j
	s.Tasks = append(s.Tasks, t)
	for i, n := range s.Nodes {
		if n.ID == t.Node {
			s.Nodes[i] = charged(n, t.Resources, t.Devices)
		}
	}
	return t
}

func charged(n *placement.Node, r placement.Resources, devices []string) *placement.Node {
	n = new(*n)
	n.Used.CPU += r.CPU
	n.Used.Memory += r.Memory
	n.Used.Tasks++
	n.Used.Devices = append(slices.Clone(n.Used.Devices), devices...)
	slices.Sort(n.Used.Devices)
	return n
}

// apply does to a snapshot what the replicated state would do on the decisions.
func apply(s placement.Snapshot, d Decisions) placement.Snapshot {
	out := s
	out.Nodes, out.Tasks, out.Wanted = slices.Clone(s.Nodes), slices.Clone(s.Tasks), nil
	out.Jobs = make(map[placement.JobID]*placement.Job)
	for id, j := range s.Jobs {
		out.Jobs[id] = j
	}
	placed := make(map[placement.JobID]bool)
	for _, a := range d.Assign {
		placed[a.Job] = true
		j := new(*out.Jobs[a.Job])
		if member, _, _ := a.Task.Member(); member == 0 {
			j.Attempts++
		}
		j.Node, j.Status = a.Node, placement.JobStarting
		out.Jobs[j.ID] = j
		out.Tasks = append(out.Tasks, &placement.Task{
			ID: a.Task, Job: a.Job, Kind: j.Kind, Tenant: j.Tenant, Node: a.Node, Devices: a.Devices,
			Resources: j.Spec.Resources, Replaces: a.Replaces, Move: a.Move, Status: placement.TaskAssigned, AssignedAt: s.Now,
		})
		i := slices.IndexFunc(out.Nodes, func(n *placement.Node) bool { return n.ID == a.Node })
		out.Nodes[i] = charged(out.Nodes[i], j.Spec.Resources, a.Devices)
	}
	for _, stop := range d.Stop {
		for i, t := range out.Tasks {
			if t.ID == stop.Task || t.Job == stop.Job && s.Jobs[t.Job].Spec.Gang() && t.Status.Live() {
				t = new(*t)
				t.Stop, t.StopReason = true, stop.Reason
				out.Tasks[i] = t
			}
		}
	}
	for _, id := range d.Drained {
		i := slices.IndexFunc(out.Nodes, func(n *placement.Node) bool { return n.ID == id })
		n := new(*out.Nodes[i])
		n.State = placement.NodeDrained
		out.Nodes[i] = n
	}
	for _, j := range s.Wanted {
		if !placed[j.ID] {
			out.Wanted = append(out.Wanted, j)
		}
	}
	return out
}

// only is the one assignment of a plan.
func only(t *testing.T, d Decisions) placement.Assignment {
	t.Helper()
	if len(d.Assign) != 1 {
		t.Fatalf("%d assignments, want one: %+v, refused %+v", len(d.Assign), d.Assign, d.Refused)
	}
	return d.Assign[0]
}
