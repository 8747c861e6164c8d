package api

import (
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// NodeDetail is a node with the tasks it holds.
type NodeDetail struct {
	placement.Node
	Leader bool             `json:"leader"`
	Tasks  []placement.Task `json:"tasks"`
	// Hidden is how many tasks more there are, of jobs that the caller may not see.
	Hidden int `json:"hidden_tasks,omitempty"`
}

// DrainRequest asks for a node to be emptied. Zero values mean one hour, wait.
type DrainRequest struct {
	Deadline   placement.Duration `json:"deadline,omitempty"`
	OnDeadline placement.OnDrain  `json:"on_deadline,omitempty"`
	Reason     string             `json:"reason,omitempty"`
}

// MaxDrainSet is how many nodes may be drained together.
const MaxDrainSet = 1024

// DrainSetRequest asks for several nodes to be emptied together, all or none:
// nothing moves from one of them onto another.
type DrainSetRequest struct {
	Nodes []placement.NodeID `json:"nodes"`
	DrainRequest
}

// DrainSetReport has the report of every node of a set, in the order asked.
type DrainSetReport struct {
	Nodes    []DrainReport `json:"nodes"`
	Blockers int           `json:"blockers"`
	Done     bool          `json:"done"`
	Planned  bool          `json:"planned,omitempty"` // nothing was changed
	Index    uint64        `json:"index"`
}

// DrainReport shows every task's fate: as planned, or as it stands.
type DrainReport struct {
	Node  placement.NodeID    `json:"node"`
	State placement.NodeState `json:"state"`
	Drain *placement.Drain    `json:"drain,omitempty"`
	Tasks []DrainTask         `json:"tasks"`
	// Hidden is how many tasks more there are, of jobs that the caller may not see.
	Hidden int `json:"hidden_tasks,omitempty"`
	// Blockers counts the tasks that have no lawful place and no rule that ends them.
	Blockers int    `json:"blockers"`
	Done     bool   `json:"done"`
	Planned  bool   `json:"planned,omitempty"` // nothing was changed
	Index    uint64 `json:"index"`
}

// DrainTask is one task's fate in a drain.
type DrainTask struct {
	Task   placement.TaskID   `json:"task"`
	Job    placement.JobID    `json:"job"`
	Name   string             `json:"name,omitempty"`
	Kind   placement.Kind     `json:"kind"`
	Type   placement.JobType  `json:"type"`
	Tenant placement.TenantID `json:"tenant"`
	// Residency is the job's own tag.
	Residency string           `json:"residency"`
	Fate      string           `json:"fate"` // move, wait, checkpoint, stop, stop-first, blocked
	To        placement.NodeID `json:"to,omitempty"`
	// Mode is how a task is moved that its driver could move while it runs: live,
	// near-live or restart; the reason says why.
	Mode   string    `json:"mode,omitempty"`
	At     time.Time `json:"at,omitzero"`    // zero: at once, or for wait never
	Code   string    `json:"code,omitempty"` // of a blocked task
	Reason string    `json:"reason,omitempty"`
	Hint   string    `json:"hint,omitempty"`
}

// NodeTokenRequest asks for a join token. Node is the name it must join with,
// empty for any.
type NodeTokenRequest struct {
	Node placement.NodeID `json:"node,omitempty"`
}

// NodeToken is a join token, shown once.
type NodeToken struct {
	Token     string           `json:"token"`
	Node      placement.NodeID `json:"node,omitempty"`
	ExpiresAt time.Time        `json:"expires_at"`
}

// JoinRequest is what a new node sends with its join token. The CSRs prove that
// it holds its keys; every name is set by the region.
type JoinRequest struct {
	Token      string              `json:"token"`
	Node       placement.NodeID    `json:"node"`
	CSR        []byte              `json:"csr"`
	ServingCSR []byte              `json:"serving_csr"`
	Hosts      []string            `json:"hosts"` // of its app listener: DNS names and IP addresses
	QUIC       string              `json:"quic"`
	API        string              `json:"api"`
	Site       string              `json:"site,omitempty"`
	Inventory  placement.Inventory `json:"inventory"`
}

// JoinAnswer admits a node.
type JoinAnswer struct {
	Region       placement.RegionID `json:"region"`
	Mesh         string             `json:"mesh"`
	Role         placement.NodeRole `json:"role"`
	Chain        [][]byte           `json:"chain"` // DER, leaf first
	ServingChain [][]byte           `json:"serving_chain"`
	Bundle       []byte             `json:"bundle"`
	ServingCA    string             `json:"serving_ca"`
	Keyring      [][]byte           `json:"keyring"`
	Voters       []NodeAddress      `json:"voters"`
	Index        uint64             `json:"index"`
}

// NodeAddress is where a node of the own region is found.
type NodeAddress struct {
	Node placement.NodeID   `json:"node"`
	Role placement.NodeRole `json:"role"`
	QUIC string             `json:"quic"`
	API  string             `json:"api"`
}

// GPU is one device and who holds it.
type GPU struct {
	Node placement.NodeID `json:"node"`
	placement.Device
	// Tasks are those that hold it or a share of it, as far as the caller may see
	// their jobs; Held says that others hold it too, or alone, and not who or what.
	Tasks []placement.TaskID `json:"tasks,omitempty"`
	Held  bool               `json:"held,omitempty"`
	// DriverVersion and CUDA are its node's.
	DriverVersion string `json:"driver_version,omitempty"`
	CUDA          string `json:"cuda_driver_version,omitempty"`
	// Cleared is the last word of an operator on it.
	Cleared *placement.DeviceClear `json:"cleared,omitempty"`
}

// CertificateRequest renews the caller's own certificates.
type CertificateRequest struct {
	CSR        []byte   `json:"csr"`
	ServingCSR []byte   `json:"serving_csr,omitempty"`
	Hosts      []string `json:"hosts,omitempty"`
}

// CertificateAnswer is the renewed certificates.
type CertificateAnswer struct {
	Chain        [][]byte  `json:"chain"`
	Serial       string    `json:"serial"`
	NotAfter     time.Time `json:"not_after"`
	ServingChain [][]byte  `json:"serving_chain,omitempty"`
	Bundle       []byte    `json:"bundle"`
}

// AuthoritySecrets is the CA of the region and the secret keys of its log, for
// voters only.
type AuthoritySecrets struct {
	CA      []byte `json:"ca"`
	LogKeys []byte `json:"log_keys,omitempty"`
}

// Hello is a node's own clock and health.
type Hello struct {
	Region placement.RegionID `json:"region"`
	Time   time.Time          `json:"time"`
	Index  uint64             `json:"index"`
	Leader bool               `json:"leader"`
}
