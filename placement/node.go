package placement

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// NodeRole says how a node takes part in its region's raft group.
type NodeRole string

// The roles: the first three (or five) nodes vote, the next four stand by with
// a full copy, all others only run tasks.
const (
	RoleVoter   NodeRole = "voter"
	RoleStandby NodeRole = "standby"
	RoleWorker  NodeRole = "worker"
)

// NodeState is what an operator decided about a node.
type NodeState string

// The operator's states. A cordoned node takes no new tasks; a draining one
// also gives away those it has; a drained one has none left.
const (
	NodeReady    NodeState = "ready"
	NodeCordoned NodeState = "cordoned"
	NodeDraining NodeState = "draining"
	NodeDrained  NodeState = "drained"
)

// Contact is what the leader last knew of reaching the node. Losing contact
// never ends a task by itself.
type Contact string

// The states of contact.
const (
	ContactAlive   Contact = "alive"
	ContactUnknown Contact = "unknown"
)

// Drain is an operator's wish to empty a node.
type Drain struct {
	StartedAt time.Time `json:"started_at"`
	Deadline  time.Time `json:"deadline"`
	// OnDeadline rules for tasks that are still there at the deadline and whose
	// job says nothing: wait, checkpoint or stop.
	OnDeadline OnDrain `json:"on_deadline"`
	Reason     string  `json:"reason,omitempty"`
}

// Inventory is what a node itself reports, signed; it changes rarely.
type Inventory struct {
	Version uint64   `json:"version"`
	CPU     MilliCPU `json:"cpu"`
	Memory  Bytes    `json:"memory"`
	Devices []Device `json:"devices,omitempty"`
	Drivers []string `json:"drivers,omitempty"` // sorted names
	// Resolvers are the addresses of those in the region that tasks here may be let
	// ask; sorted.
	Resolvers []string `json:"resolvers,omitempty"`
	// Moves has, by driver, what another node must have alike for running tasks to
	// be moved between the two.
	Moves   map[string]string `json:"moves,omitempty"`
	Program string            `json:"program,omitempty"` // version of sovmesh
	States  uint32            `json:"states,omitempty"`  // highest state version it can apply
	// DriverVersion is the GPU driver's, CUDA the newest CUDA that it serves;
	// empty where no driver answered.
	DriverVersion string    `json:"driver_version,omitempty"`
	CUDA          string    `json:"cuda_driver_version,omitempty"`
	Reported      time.Time `json:"reported,omitzero"`
	// Labels are what the node's operator says of it. The scheduler reads cost
	// and carbon, whole numbers of any unit that the region agrees on.
	Labels map[string]string `json:"labels,omitempty"`
}

// The labels that weights of a job rank by.
const (
	LabelCost   = "cost"
	LabelCarbon = "carbon"
)

// Node is one machine of a region as the region's ledger records it. Its
// region comes from the certificate it joined with, never from a command.
type Node struct {
	ID        NodeID    `json:"name"`
	Region    RegionID  `json:"region"`
	Site      string    `json:"site,omitempty"`
	Role      NodeRole  `json:"role"`
	State     NodeState `json:"state"`
	Contact   Contact   `json:"contact"`
	ContactAt time.Time `json:"contact_at,omitzero"` // when Contact last changed
	Drain     *Drain    `json:"drain,omitempty"`
	QUIC      string    `json:"quic"` // host:port, UDP
	API       string    `json:"api"`  // https://host:port
	Inventory Inventory `json:"inventory"`
	// Serial is the serial number of its current certificate, decimal.
	Serial   string    `json:"serial,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	JoinedAt time.Time `json:"joined_at,omitzero"`
	// Cleared are the operator's words on its devices, the newest of each.
	Cleared []DeviceClear `json:"cleared,omitempty"`
	// Used is what its live tasks hold; kept by the state machine.
	Used Usage `json:"used"`
}

// Usage is what the live tasks of a node hold.
type Usage struct {
	CPU     MilliCPU `json:"cpu"`
	Memory  Bytes    `json:"memory"`
	Devices []string `json:"devices,omitempty"` // UUIDs of those held whole, sorted
	// Shares are the devices held in part, sorted by UUID.
	Shares []DeviceShare `json:"shares,omitempty"`
	Tasks  int           `json:"tasks"`
}

// DeviceShare is what tasks hold of one device together.
type DeviceShare struct {
	UUID string   `json:"uuid"`
	Held MilliGPU `json:"held"` // thousandths, 1 to 1000
}

// With is the usage with a task's resources and devices added (sign 1) or taken
// away (sign -1). The receiver is left as it is.
func (u Usage) With(r Resources, devices []string, sign int) Usage {
	u.CPU += MilliCPU(sign) * r.CPU
	u.Memory += Bytes(sign) * r.Memory
	if r.GPUShare > 0 {
		u.Shares = slices.Clone(u.Shares)
		for _, id := range devices {
			u.Shares = addShare(u.Shares, id, MilliGPU(sign)*r.GPUShare)
		}
		return u
	}
	if len(devices) == 0 {
		return u
	}
	held := slices.Clone(u.Devices)
	if sign > 0 {
		held = append(held, devices...)
		slices.Sort(held)
	} else {
		held = slices.DeleteFunc(held, func(d string) bool { return slices.Contains(devices, d) })
	}
	if u.Devices = held; len(held) == 0 {
		u.Devices = nil
	}
	return u
}

// addShare changes a sorted list in place; what is no longer held falls out.
func addShare(list []DeviceShare, id string, by MilliGPU) []DeviceShare {
	at, found := slices.BinarySearchFunc(list, id, func(s DeviceShare, id string) int { return strings.Compare(s.UUID, id) })
	if !found {
		list = slices.Insert(list, at, DeviceShare{UUID: id})
	}
	if list[at].Held += by; list[at].Held <= 0 {
		list = slices.Delete(list, at, at+1)
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

// Idle is how much of a device no live task holds, in thousandths.
func (u *Usage) Idle(uuid string) MilliGPU {
	if _, whole := slices.BinarySearch(u.Devices, uuid); whole {
		return 0
	}
	at, found := slices.BinarySearchFunc(u.Shares, uuid, func(s DeviceShare, id string) int { return strings.Compare(s.UUID, id) })
	if !found {
		return WholeGPU
	}
	return WholeGPU - u.Shares[at].Held
}

// Offers reports whether new tasks may be placed on the node.
func (n *Node) Offers() bool { return n.State == NodeReady && n.Contact == ContactAlive }

// Host is the host of the node's app listener, as [CanonicalHost] writes it.
func (n *Node) Host() string { return HostOf(n.API) }

// HostOf is the host in https://host:port, as [CanonicalHost] writes it; empty if
// there is none. Replicas of different builds call it in Apply: it relies on no
// parser that grows.
func HostOf(address string) string {
	_, rest, ok := strings.Cut(address, "://")
	if !ok {
		return ""
	}
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	rest = rest[strings.LastIndexByte(rest, '@')+1:]
	if inside, bracketed := strings.CutPrefix(rest, "["); bracketed {
		host, _, _ := strings.Cut(inside, "]")
		return CanonicalHost(host)
	}
	host, _, _ := strings.Cut(rest, ":")
	return CanonicalHost(host)
}

// CanonicalHost writes a DNS name or an IP address in the one form that all its
// spellings share, so that two of them can be compared.
func CanonicalHost(h string) string {
	if ip, err := netip.ParseAddr(h); err == nil {
		return ip.Unmap().WithZone("").String()
	}
	return strings.ToLower(strings.TrimSuffix(h, "."))
}

// SimulatedDevices is how many of the node's devices are pretended.
func (n *Node) SimulatedDevices() int {
	count := 0
	for _, d := range n.Inventory.Devices {
		if d.Simulated {
			count++
		}
	}
	return count
}

// DeviceCount is how many devices the node has to give: a GPU that is cut into
// instances counts as those.
func (n *Node) DeviceCount() int {
	count := 0
	for _, d := range n.Inventory.Devices {
		if !d.Partitioned {
			count++
		}
	}
	return count
}

// FreeDevices are the healthy devices of which no live task holds anything.
func (n *Node) FreeDevices() []Device {
	var free []Device
	for _, d := range n.Inventory.Devices {
		if d.Offered() && n.Used.Idle(d.UUID) == WholeGPU {
			free = append(free, d)
		}
	}
	return free
}
