package state

import (
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Command is one change of a region's state. A command is a fact or a wish
// that somebody proposes; whether it is accepted is decided by Apply alone,
// the same on every replica.
//
// Adding a field to a command is safe only behind a raised state version, as
// replicas decode strictly.
type Command interface{ Kind() Kind }

// Kind names a command on the wire.
type Kind string

// Head is what every command carries from the first commit on.
type Head struct {
	// Version is the state version the command was written for.
	Version uint8
	// Time is the proposer's clock, stamped once; Apply reads no other.
	Time time.Time
	// Salt is fresh randomness: it hides the leaf's commitment and makes a
	// command that is proposed twice recognisable.
	Salt [16]byte
	// Actor is an opaque id of who asked: a token's or a node's id, with where
	// from behind it, see [From].
	Actor string
}

// InitRegion is the first command of a region's ledger.
type InitRegion struct {
	Region placement.Region `json:"region"` // its own facts, bundle and serving CA
	// LawPack is the tables of the pack that seeds the region, by file name.
	LawPack map[string][]byte `json:"law_pack"`
	Node    placement.Node    `json:"node"` // the first voter
	// Certificate is the hex SHA-256 of the first voter's certificate.
	Certificate string `json:"certificate,omitempty"`
	// Voters is how many nodes shall vote: 3 unless it says 5.
	Voters int `json:"voters,omitempty"`
	// Limits bound the state; zero fields mean the defaults.
	Limits Limits `json:"limits,omitzero"`
}

// Limits bound what one region keeps.
type Limits struct {
	Pending  int `json:"pending,omitempty"`  // jobs that wait; beyond it submits are refused with queue.full
	Terminal int `json:"terminal,omitempty"` // ended jobs, the newest of which are kept
	// Bytes bounds what the specs of jobs that are not over take together, and
	// once more those of ended jobs.
	Bytes int64 `json:"bytes,omitempty"`
}

// ImportLawPack brings a pack into the state without activating it.
type ImportLawPack struct {
	Tables map[string][]byte `json:"tables"`
}

// ActivateLawPack makes a held pack the one that decides.
type ActivateLawPack struct {
	Hash string `json:"hash"`
}

// SetRegionPolicy sets the export and import rules, tags in wire form.
type SetRegionPolicy struct {
	Export *string `json:"export,omitempty"`
	Import *string `json:"import,omitempty"`
}

// SetTenant creates or changes a tenant: one of the region, one of another
// region (<region>/<tenant>), or all of another region together (<region>/*).
type SetTenant struct {
	Tenant Tenant `json:"tenant"`
}

// CreateToken admits a bearer token, known by its hash alone.
type CreateToken struct {
	Token Token `json:"token"`
}

// RevokeToken ends a token at once.
type RevokeToken struct {
	ID string `json:"id"`
}

// CreateJoinToken admits one node once. Node is the name it must join with,
// empty for any.
type CreateJoinToken struct {
	Hash    string           `json:"hash"` // hex SHA-256
	Node    placement.NodeID `json:"node,omitempty"`
	Expires time.Time        `json:"expires"`
}

// JoinNode consumes a join token and admits a node. Apply sets its region and
// chooses its role: voters first, then standbys, then workers.
type JoinNode struct {
	TokenHash string         `json:"token_hash"`
	Node      placement.Node `json:"node"`
}

// SetRole changes how a node takes part in raft.
type SetRole struct {
	Node placement.NodeID   `json:"node"`
	Role placement.NodeRole `json:"role"`
}

// RemoveNode ends a node's membership; its tasks become lost and its
// certificate is revoked.
type RemoveNode struct {
	Node placement.NodeID `json:"node"`
}

// IssueCertificate records a certificate that the region's CA gave a node.
type IssueCertificate struct {
	Node     placement.NodeID `json:"node"`
	Serial   string           `json:"serial"`
	NotAfter time.Time        `json:"not_after"`
	SHA256   string           `json:"sha256,omitempty"` // of its DER, hex
}

// ReportInventory takes over a node's own signed report, and its addresses.
type ReportInventory struct {
	Node      placement.NodeID    `json:"node"`
	Inventory placement.Inventory `json:"inventory"`
	QUIC      string              `json:"quic,omitempty"`
	API       string              `json:"api,omitempty"`
	Site      string              `json:"site,omitempty"`
}

// SetContact records that the leader gained or lost contact with nodes.
type SetContact struct {
	Nodes   []placement.NodeID `json:"nodes"`
	Contact placement.Contact  `json:"contact"`
}

// CordonNode keeps new tasks off a node.
type CordonNode struct {
	Node placement.NodeID `json:"node"`
}

// ResumeNode ends a cordon or a drain.
type ResumeNode struct {
	Node placement.NodeID `json:"node"`
}

// DrainNode asks for a node to be emptied.
type DrainNode struct {
	Node  placement.NodeID `json:"node"`
	Drain placement.Drain  `json:"drain"`
}

// DrainNodes asks for several nodes to be emptied together: all or none, in one
// step, so that nothing moves from one of them onto the next.
type DrainNodes struct {
	Nodes []placement.NodeID `json:"nodes"`
	Drain placement.Drain    `json:"drain"`
}

// ClearDevice is an operator's word that what stands against a device of a node
// is dealt with. The node itself heeds it: it knows whether the device works.
type ClearDevice struct {
	Node   placement.NodeID `json:"node"`
	Device string           `json:"device"` // UUID
	Reason string           `json:"reason,omitempty"`
}

// FinishDrain records that a draining node holds no task any more.
type FinishDrain struct {
	Node placement.NodeID `json:"node"`
}

// SubmitJob accepts a job. The job's Policy holds the job's and the tenant's
// layers; Apply adds the region's own rules where they apply and refuses a
// policy that this region may not even hold.
type SubmitJob struct {
	Job placement.Job `json:"job"`
	// AllowAny: whoever submits has the permission residency.any.
	AllowAny bool `json:"allow_any,omitempty"`
	// IdempotencyKey makes a second submit of the same tenant return the first
	// job; BodyHash (hex SHA-256) tells a repetition from a different body.
	IdempotencyKey string `json:"idempotency_key,omitempty"`
	BodyHash       string `json:"body_hash,omitempty"`
	// Grant is the id of the foreign grant that the submit consumes,
	// GrantExpires when the grant ends; Reservation (home/job/attempt) what it consumes here.
	Grant        string    `json:"grant,omitempty"`
	GrantExpires time.Time `json:"grant_expires,omitzero"`
	Reservation  string    `json:"reservation,omitempty"`
	// HomeLeaf is home's half of the crossing that brought the job here.
	HomeLeaf LeafRef `json:"home_leaf,omitzero"`
	// LawPack is the hash of the pack that home decided by when it granted the
	// job; a reservation carries its own.
	LawPack string `json:"law_pack,omitempty"`
}

// StopJob asks for a job to end.
type StopJob struct {
	Job    placement.JobID `json:"job"`
	Reason string          `json:"reason,omitempty"`
}

// Assign places tasks, all or none. Apply judges residency again, from
// replicated facts, whatever the proposer said.
type Assign struct {
	Assignments []placement.Assignment `json:"assignments"`
}

// StopTasks tells nodes to end tasks (a replaced one, a drained one).
type StopTasks struct {
	Tasks  []placement.TaskID `json:"tasks"`
	Reason string             `json:"reason"`
	// Again: the job wants a new task elsewhere afterwards.
	Again bool `json:"again,omitempty"`
}

// ReportTasks is what a node says about its tasks.
type ReportTasks struct {
	Node    placement.NodeID       `json:"node"`
	Reports []placement.TaskReport `json:"reports"`
}

// RenewLeases extends the leases of a node's singleton tasks.
type RenewLeases struct {
	Node  placement.NodeID   `json:"node"`
	Tasks []placement.TaskID `json:"tasks"`
	Until time.Time          `json:"until"`
}

// InviteRegion remembers an invitation, by the hash of its secret.
type InviteRegion struct {
	Region  placement.RegionID `json:"region"`
	Hash    string             `json:"hash"`
	Expires time.Time          `json:"expires"`
}

// PutPeer records what a foreign region says it is; it becomes a peer only
// when an operator approves. InviteHash consumes the invitation.
type PutPeer struct {
	Region     placement.Region `json:"region"`
	InviteHash string           `json:"invite_hash,omitempty"`
}

// ApprovePeer pins a region: its facts, bundle and front doors as put, if the
// fingerprint that the operator compared is that of the bundle put.
type ApprovePeer struct {
	Region      placement.RegionID `json:"region"`
	Fingerprint string             `json:"fingerprint"`
}

// UpdatePeer takes over what may change without a new approval: front doors,
// and the law pack the peer says it decides by. Bundle, when given, replaces
// the pinned one; the sequence must grow, and it is taken from an authenticated
// connection only.
type UpdatePeer struct {
	Region     placement.RegionID    `json:"region"`
	FrontDoors []placement.FrontDoor `json:"front_doors,omitempty"`
	LawPack    string                `json:"law_pack,omitempty"`
	Bundle     []byte                `json:"bundle,omitempty"`
}

// LeavePeer ends a federation; Dead is an operator's word that the other side
// is gone and cannot confirm.
type LeavePeer struct {
	Region placement.RegionID `json:"region"`
	Dead   bool               `json:"dead,omitempty"`
}

// Reserve holds room for a job of another region. Home is taken from the
// certificate that asked. Key is "home/job/attempt".
type Reserve struct {
	Home      placement.RegionID  `json:"home"`
	Job       placement.JobID     `json:"job"`
	Attempt   int                 `json:"attempt"`
	JobKind   placement.Kind      `json:"kind"`
	Resources placement.Resources `json:"resources"`
	Site      string              `json:"site,omitempty"`
	Policy    []placement.Layer   `json:"policy"`
	LawPack   string              `json:"law_pack"`
	Expires   time.Time           `json:"expires"`
	// HomeLeaf is home's half: the leaf by which it decided to ask.
	HomeLeaf LeafRef `json:"home_leaf,omitzero"`
	// Node and Devices are what the destination's scheduler chose to hold.
	Node    placement.NodeID `json:"node"`
	Devices []string         `json:"devices,omitempty"`
}

// ReleaseReservation gives held room back before it expires.
type ReleaseReservation struct {
	Key string `json:"key"`
}

// SetForward records, at a job's home, where the job's way to another region stands.
type SetForward struct {
	Job     placement.JobID   `json:"job"`
	Forward placement.Forward `json:"forward"`
	// PeerLeaf is the other region's half: the leaf of its reservation, refusal
	// or acceptance.
	PeerLeaf LeafRef `json:"peer_leaf,omitzero"`
}

// MirrorJob takes over the status of a forwarded job from the region that runs it.
type MirrorJob struct {
	Job       placement.JobID     `json:"job"`
	Region    placement.RegionID  `json:"region"`
	Status    placement.JobStatus `json:"status"`
	Reason    string              `json:"reason,omitempty"`
	ExitCode  *int                `json:"exit_code,omitempty"`
	StartedAt time.Time           `json:"started_at,omitzero"`
	EndedAt   time.Time           `json:"ended_at,omitzero"`
	// PeerLeaf is the newest leaf about the job in the region that runs it.
	PeerLeaf LeafRef `json:"peer_leaf,omitzero"`
}

// IssueGrant records that home allowed one job to be submitted elsewhere.
type IssueGrant struct {
	ID         string             `json:"id"`
	Tenant     placement.TenantID `json:"tenant"`
	Audience   placement.RegionID `json:"audience"`
	PolicyHash string             `json:"policy_hash"`
	LawPack    string             `json:"law_pack"` // hash of the pack that home decides by
	Expires    time.Time          `json:"expires"`
}

// UseGrant quotes the other half of a grant's crossing: the leaf by which the
// region that it was issued for admitted a job with it, as that region tells.
type UseGrant struct {
	ID       string             `json:"id"`
	Region   placement.RegionID `json:"region"`
	Job      placement.JobID    `json:"job"`
	PeerLeaf LeafRef            `json:"peer_leaf"`
}

// RaiseVersion lets commands of a newer state version through, once every
// voter says that it can apply them.
type RaiseVersion struct {
	Version uint8 `json:"version"`
}

// Role is what a bearer token may do.
type Role string

// The roles, least first; each is a set of verbs, none contains another's
// blindly: an auditor reads everything and changes nothing.
const (
	RoleViewer    Role = "viewer"
	RoleSubmitter Role = "submitter"
	RoleOperator  Role = "operator"
	RoleAuditor   Role = "auditor"
	RoleAdmin     Role = "admin"
)

// Token is a bearer token as the ledger knows it.
type Token struct {
	ID        string             `json:"id"` // opaque; what leaves and logs show
	Hash      string             `json:"hash,omitempty"`
	Roles     []Role             `json:"roles"`
	Tenant    placement.TenantID `json:"tenant"`              // "default" unless said
	Residency string             `json:"residency,omitempty"` // wire form; narrows every job
	AllowAny  bool               `json:"allow_any,omitempty"` // permission residency.any
	Expires   time.Time          `json:"expires,omitzero"`
	CreatedAt time.Time          `json:"created_at,omitzero"`
	Revoked   bool               `json:"revoked,omitempty"`
}

// Tenant is who owns jobs in this region.
type Tenant struct {
	ID        placement.TenantID `json:"name"`
	Residency string             `json:"residency,omitempty"` // wire form; narrows every job
	Quota     Quota              `json:"quota"`
}

// Quota bounds a tenant; zero means no bound. GPUs, Jobs and Pending bound what
// is submitted: beyond them a submit is refused.
type Quota struct {
	GPUs    int `json:"gpus,omitempty"` // of jobs that are not over
	Jobs    int `json:"jobs,omitempty"`
	Pending int `json:"pending,omitempty"`
	// Guarantee and Limit bound what runs, by class of hardware: gpus, cpu (whole
	// cores), or a word of a device's model. Beyond the limit a job waits; what is
	// held beyond the guarantee is borrowed.
	Guarantee map[string]int `json:"guarantee,omitempty"`
	Limit     map[string]int `json:"limit,omitempty"`
	// Weight divides what the tenant holds beyond its guarantee when the queue is
	// ordered; 0 is 1.
	Weight int `json:"weight,omitempty"`
	// Preempts is how many tasks of others may be ended within an hour for the
	// tenant's jobs; 0 is [placement.PreemptsOfTenant].
	Preempts int `json:"preempts,omitempty"`
}

// Refused is why Apply did not accept a command. It is recorded as a leaf
// like an acceptance.
type Refused struct {
	Code    string `json:"code"` // stable, dotted: residency.refused, token.spent, queue.full …
	Message string `json:"message"`
	Advice  string `json:"hint,omitempty"`
	Rule    string `json:"rule,omitempty"` // of the residency decision, if one was made
}

func (r *Refused) Error() string { return r.Message }

// Hint says what to do.
func (r *Refused) Hint() string { return r.Advice }
