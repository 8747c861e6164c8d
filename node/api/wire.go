package api

import (
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// Prefix is where the control plane lives on the app listener, MeshPrefix what
// only nodes may ask, over HTTP/3 with mutual TLS.
const (
	Prefix     = "/api/v1"
	MeshPrefix = "/mesh/v1"
)

// Headers of the protocol.
const (
	// HeaderResidency carries a submit's whole policy: the canonical short form,
	// or "json:" and base64url of the canonical long form. It is judged before
	// the body is read.
	HeaderResidency   = "X-Data-Residency"
	HeaderIdempotency = "Idempotency-Key"
	// HeaderIndex is the raft index an answer was read at; a client that sends
	// it back as ?index= with ?wait= is answered when something changed.
	HeaderIndex       = "X-Sovmesh-Index"
	HeaderShouldRetry = "X-Should-Retry"
	HeaderReservation = "X-Sovmesh-Reservation"
	HeaderRequestID   = "X-Request-Id"
	// HeaderRelayed marks a request that a worker passed on to a voter of its
	// own region, so that it is passed on once only.
	HeaderRelayed = "X-Sovmesh-Relayed"
)

// GrantScheme is the Authorization scheme of a foreign grant.
const GrantScheme = "Sovmesh-Grant"

// Bounds of what a request may carry, in bytes or items.
const (
	MaxJobBytes    = 1 << 20
	MaxBodyBytes   = 1 << 20 // every other JSON body, but law packs
	MaxLawBytes    = 16 << 20
	MaxHeaderTag   = 4 << 10
	MaxPage        = 1000
	DefaultPage    = 100
	MaxWait        = 5 * time.Minute
	MaxRetryAfter  = 60 * time.Second
	GrantLife      = 60 * time.Second
	JoinTokenLife  = 15 * time.Minute
	InviteLife     = 24 * time.Hour
	MaxIdempotency = 128
)

// Page is one page of a list. Next, when not empty, is the cursor of the
// following page; Index is what a waiting read sends back.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
	Index uint64 `json:"index"`
}

// ListOptions narrow and page a list. Zero values mean all, from the start.
type ListOptions struct {
	Limit  int
	Cursor string
	// Wait asks to be answered only when the list's index grew beyond Index, or
	// after the wait.
	Wait  time.Duration
	Index uint64
	// Stale accepts what this node knows, without asking the region's quorum.
	Stale bool
	// Status and Tenant narrow a list of jobs, Node too.
	Status placement.JobStatus
	Tenant placement.TenantID
	Node   placement.NodeID
}

// Answers that a dry run may have.
const (
	CheckPlaceable  = "placeable"    // exit 0
	CheckNoCapacity = "no-capacity"  // lawful, not now: exit 10
	CheckNoHardware = "no-hardware"  // lawful, but nothing here could ever hold it: exit 11
	CheckUnlawful   = "not-lawful"   // exit 20; Code is residency.never or residency.refused
	CheckUnknown    = "unknown"      // a region needed for the answer is out of contact: exit 30
	VerdictYes      = "permitted"    // of one region
	VerdictNo       = "refused"      // of one region
	VerdictUnknown  = "unknown"      // of one region
	LinkUp          = "up"           // the region was heard of lately
	LinkUnknown     = "unknown"      // no contact; never "gone"
	LinkSelf        = "self"         // the answering region
	RegionPlaceable = "would place"  // of one region in a dry run
	RegionAsk       = "ask"          // its summary withholds the answer
	RegionFull      = "no room"      // by its last summary
	RegionUnlawful  = "not lawful"   // by the tag
	RegionNoContact = "out of reach" // no summary to go by
)

// CheckReport is the answer to "would it be placed, where, why not".
type CheckReport struct {
	Answer    string `json:"answer"`
	Code      string `json:"code,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Hint      string `json:"hint,omitempty"`
	Residency string `json:"residency"`
	// Region and Node are where it would be placed now; Node is named for this
	// region only.
	Region   placement.RegionID `json:"region,omitempty"`
	Node     placement.NodeID   `json:"node,omitempty"`
	Regions  []RegionCheck      `json:"regions"`
	Local    *Explanation       `json:"local,omitempty"`
	Warnings []string           `json:"warnings,omitempty"`
	LawPack  string             `json:"law_pack"`
	AsOf     string             `json:"as_of"` // YYYY-MM-DD
}

// RegionCheck is one region's part of a dry run.
type RegionCheck struct {
	Region  placement.RegionID `json:"region"`
	Verdict string             `json:"verdict"` // permitted, refused, unknown
	Rule    string             `json:"rule,omitempty"`
	Reason  string             `json:"reason,omitempty"`
	Room    string             `json:"room,omitempty"`
	Link    string             `json:"link"`
}

// Explanation is the filter chain of the region's scheduler for one job.
type Explanation struct {
	Job    placement.JobID     `json:"job,omitempty"`
	Status placement.JobStatus `json:"status,omitempty"`
	// Outcome is the scheduler's: fits, full, impossible, refused, unknown.
	Outcome string `json:"outcome"`
	// Code is the one dominant constraint in the way; empty if none is.
	Code    string `json:"code,omitempty"`
	Reason  string `json:"reason"`
	Hint    string `json:"hint,omitempty"`
	Rule    string `json:"rule,omitempty"`
	LawPack string `json:"law_pack,omitempty"`
	On      string `json:"as_of,omitempty"`
	Nodes   int    `json:"nodes"` // looked at
	Fit     int    `json:"fit"`   // passed every filter
	// Failed counts nodes by the first filter that they failed.
	Failed []FilterCount `json:"failed"`
	// Relax are single changes, each of which would let it in now.
	Relax []string `json:"relax,omitempty"`
	// Tasks are the job's tasks so far, with the reason of each placement.
	Tasks []placement.Task `json:"tasks,omitempty"`
	// Regions is how each known region stands to the job's policy.
	Regions []RegionCheck `json:"regions,omitempty"`
}

// Receipt is what a region's ledger holds of a job.
type Receipt struct {
	Job        placement.JobID    `json:"job"`
	Receipt    string             `json:"receipt"`
	State      string             `json:"state"` // committed
	Region     placement.RegionID `json:"region"`
	LedgerSize uint64             `json:"ledger_size"`
	LedgerRoot string             `json:"ledger_root"` // hex
}

// FilterCount is how many nodes failed one filter first.
type FilterCount struct {
	Filter string `json:"filter"`
	Nodes  int    `json:"nodes"`
	Detail string `json:"detail,omitempty"`
}

// ResolveRequest asks where something may go: tag and size only, no payload.
type ResolveRequest struct {
	Residency string              `json:"residency"` // wire form
	Resources placement.Resources `json:"resources,omitzero"`
	SizeBytes int64               `json:"size_bytes,omitempty"`
}

// Resolution lists the regions that a tag permits, home first, then by name.
type Resolution struct {
	Residency string `json:"residency"`
	Doors     []Door `json:"doors"`
	// Unknown are lawful regions that are out of contact.
	Unknown []placement.RegionID `json:"unknown,omitempty"`
	Regions []RegionCheck        `json:"regions"`
}

// Door is a place to send a body to.
type Door struct {
	Region placement.RegionID `json:"region"`
	URL    string             `json:"url"`
}

// NodeDetail is a node with the tasks it holds.
type NodeDetail struct {
	placement.Node
	Leader bool             `json:"leader"`
	Tasks  []placement.Task `json:"tasks"`
}

// DrainRequest asks for a node to be emptied. Zero values mean one hour, wait.
type DrainRequest struct {
	Deadline   placement.Duration `json:"deadline,omitempty"`
	OnDeadline placement.OnDrain  `json:"on_deadline,omitempty"`
	Reason     string             `json:"reason,omitempty"`
}

// DrainReport shows every task's fate: as planned, or as it stands.
type DrainReport struct {
	Node  placement.NodeID    `json:"node"`
	State placement.NodeState `json:"state"`
	Drain *placement.Drain    `json:"drain,omitempty"`
	Tasks []DrainTask         `json:"tasks"`
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
	At        time.Time        `json:"at,omitzero"`    // zero: at once, or for wait never
	Code      string           `json:"code,omitempty"` // of a blocked task
	Reason    string           `json:"reason,omitempty"`
	Hint      string           `json:"hint,omitempty"`
}

// RegionStatus is one region as this one knows it.
type RegionStatus struct {
	placement.Region
	Link    string                   `json:"link"`
	Since   time.Time                `json:"since,omitzero"`
	RTTMS   float64                  `json:"rtt_ms,omitempty"`
	Summary *placement.RegionSummary `json:"summary,omitempty"`
	Nodes   int                      `json:"nodes,omitempty"` // own region only
}

// RegionPolicyRequest sets the export and import rules; an empty string
// removes a rule, a missing one leaves it.
type RegionPolicyRequest struct {
	Export *string `json:"export,omitempty"`
	Import *string `json:"import,omitempty"`
}

// Invitation is what an operator hands to the operator of another region.
type Invitation struct {
	Region      placement.RegionID `json:"region"`
	Code        string             `json:"code"`
	Fingerprint string             `json:"fingerprint"` // of this region: the other operator compares it
	ExpiresAt   time.Time          `json:"expires_at"`
}

// JoinRegionRequest answers an invitation.
type JoinRegionRequest struct {
	Code        string `json:"code"`
	Fingerprint string `json:"fingerprint"` // of the inviting region, as compared
}

// JoinRegionResult says which region was joined and what its operator has to
// compare before approving.
type JoinRegionResult struct {
	Region      placement.RegionID  `json:"region"`
	State       placement.PeerState `json:"state"`
	Fingerprint string              `json:"fingerprint"` // of this region, for the other side's approve
}

// ApproveRequest pins a region that answered an invitation.
type ApproveRequest struct {
	Fingerprint string `json:"fingerprint"`
}

// RegionCard is what a region says about itself at federation: nothing else
// about it crosses the border.
type RegionCard struct {
	Region     placement.RegionID    `json:"region"`
	Mesh       string                `json:"mesh"`
	Facts      placement.RegionFacts `json:"facts"`
	Bundle     []byte                `json:"bundle"`
	ServingCA  string                `json:"serving_ca"`
	FrontDoors []placement.FrontDoor `json:"front_doors"`
	LawPack    string                `json:"law_pack"`
}

// FederationJoin is what the invited region sends to the inviting one.
type FederationJoin struct {
	Code   string     `json:"code"` // the invitation, whole: its hash is known there
	Region RegionCard `json:"region"`
}

// LawPackInfo is a law pack that the region holds.
type LawPackInfo struct {
	Hash   string `json:"hash"`
	Active bool   `json:"active"`
}

// LawTables are the tables of one pack, by file name.
type LawTables struct {
	Hash   string            `json:"hash,omitempty"`
	Tables map[string][]byte `json:"tables"`
}

// TokenRequest asks for a bearer token.
type TokenRequest struct {
	Roles     []state.Role       `json:"roles"`
	Tenant    placement.TenantID `json:"tenant,omitempty"`
	Residency string             `json:"residency,omitempty"` // wire form
	AllowAny  bool               `json:"allow_any,omitempty"`
	TTL       placement.Duration `json:"ttl,omitempty"` // none: 24h
}

// NewToken is a token with its secret, which is shown this once.
type NewToken struct {
	state.Token
	Secret string `json:"token"`
}

// Whoami is who the caller is to this region.
type Whoami struct {
	Region    placement.RegionID `json:"region"`
	Mesh      string             `json:"mesh"`
	Node      placement.NodeID   `json:"node"`
	Kind      string             `json:"kind"`
	ID        string             `json:"id,omitempty"`
	Roles     []state.Role       `json:"roles"`
	Tenant    placement.TenantID `json:"tenant,omitempty"`
	Residency string             `json:"residency,omitempty"`
	// TenantResidency is the tenant's own layer: both narrow every job.
	TenantResidency string    `json:"tenant_residency,omitempty"`
	AllowAny        bool      `json:"allow_any"`
	ExpiresAt       time.Time `json:"expires_at,omitzero"`
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
	Task placement.TaskID `json:"task,omitempty"`
}

// Status is a region at a glance.
type Status struct {
	Region  placement.RegionID          `json:"region"`
	Mesh    string                      `json:"mesh"`
	Node    placement.NodeID            `json:"node"`
	Leader  placement.NodeID            `json:"leader"`
	Version string                      `json:"version"`
	Index   uint64                      `json:"index"`
	LawPack string                      `json:"law_pack"`
	Nodes   map[string]int              `json:"nodes"` // by state, and "unknown" for those out of contact
	Voters  int                         `json:"voters"`
	Jobs    map[placement.JobStatus]int `json:"jobs"`
	GPUs    int                         `json:"gpus"`
	GPUFree int                         `json:"gpus_free"`
	Regions []RegionLink                `json:"regions"`
}

// RegionLink is the contact with one region.
type RegionLink struct {
	Region placement.RegionID  `json:"region"`
	State  placement.PeerState `json:"state"`
	Link   string              `json:"link"`
	Since  time.Time           `json:"since,omitzero"`
}

// Directory is what a client needs to judge and to land a job by itself: the
// pinned facts, front doors and serving CAs of the regions its home knows.
// It is served as a signed statement, see [SignedDirectory].
type Directory struct {
	Home    placement.RegionID `json:"home"`
	Mesh    string             `json:"mesh"`
	LawPack string             `json:"law_pack"`
	Issued  time.Time          `json:"issued"`
	Regions []DirectoryRegion  `json:"regions"`
}

// DirectoryRegion is one region in a [Directory].
type DirectoryRegion struct {
	Region    placement.RegionID    `json:"region"`
	Facts     placement.RegionFacts `json:"facts"`
	Doors     []string              `json:"doors"` // https://host:port
	ServingCA string                `json:"serving_ca"`
	Link      string                `json:"link"`
	Import    string                `json:"import,omitempty"`
	Export    string                `json:"export,omitempty"`
	LawPack   string                `json:"law_pack,omitempty"`
}

// SignedDirectory is the directory and the statement that proves it to whoever
// receives it from somebody else than home.
type SignedDirectory struct {
	Directory Directory `json:"directory"`
	Statement []byte    `json:"statement"`
}

// GrantRequest asks home to let one job be submitted to, or a job be read or
// stopped at, another region. It carries no tag and no payload.
type GrantRequest struct {
	Audience   placement.RegionID `json:"audience"`
	PolicyHash string             `json:"policy_hash,omitempty"` // hex SHA-256 of the wire form; for submit
	// IdempotencyKey is the one that the submit will carry.
	IdempotencyKey string          `json:"idempotency_key,omitempty"`
	Job            placement.JobID `json:"job,omitempty"` // for read, logs and stop
}

// Grant is the answer of home.
type Grant struct {
	Region    placement.RegionID `json:"region"`
	URL       string             `json:"url"`
	CAPEM     string             `json:"ca_pem"`
	Grant     string             `json:"grant"`
	ExpiresAt time.Time          `json:"expires_at"`
}

// GrantClaims are what home signs in a grant.
type GrantClaims struct {
	ID             string             `json:"id"`
	Home           placement.RegionID `json:"home"`
	Tenant         placement.TenantID `json:"tenant"`
	Audience       placement.RegionID `json:"audience"`
	PolicyHash     string             `json:"policy_hash,omitempty"`
	IdempotencyKey string             `json:"idempotency_key,omitempty"`
	Job            placement.JobID    `json:"job,omitempty"`
	Verbs          []string           `json:"verbs"` // submit, read, logs, stop
	// Layers are home's own narrowings of the tenant and its token.
	Layers   []placement.Layer `json:"layers,omitempty"`
	AllowAny bool              `json:"allow_any,omitempty"`
	Expires  time.Time         `json:"expires"`
}

// Event is one message of /api/v1/events.
type Event struct {
	Index uint64 `json:"index"`
	Type  string `json:"type"` // job, node, region
	// Job is the document after the change, Node and Region likewise.
	Job    *placement.JobDocument `json:"job,omitempty"`
	Node   *placement.Node        `json:"node,omitempty"`
	Region *placement.Region      `json:"region,omitempty"`
}

// Assignments are a node's own tasks with their jobs, at an index.
type Assignments struct {
	Index uint64           `json:"index"`
	Tasks []AssignedTask   `json:"tasks"`
	Node  placement.NodeID `json:"node"`
}

// AssignedTask is one committed assignment and what to run.
type AssignedTask struct {
	Task placement.Task `json:"task"`
	Job  placement.Job  `json:"job"`
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

// Keyring is the gossip keys of the region, primary first.
type Keyring struct {
	Keys [][]byte `json:"keys"`
}

// AuthoritySecrets is the CA of the region, for voters only.
type AuthoritySecrets struct {
	CA []byte `json:"ca"`
}

// Hello is a node's own clock and health.
type Hello struct {
	Region placement.RegionID `json:"region"`
	Time   time.Time          `json:"time"`
	Index  uint64             `json:"index"`
	Leader bool               `json:"leader"`
}

// SummaryStatement is what a region tells an active peer, signed by the
// answering node under the context "sovmesh/summary/1".
type SummaryStatement struct {
	Summary    placement.RegionSummary `json:"summary"`
	FrontDoors []placement.FrontDoor   `json:"front_doors"`
	LawPack    string                  `json:"law_pack"`
	Bundle     []byte                  `json:"bundle"`
}

// ReserveRequest asks the destination's leader to hold room. Home is taken
// from the certificate, never from the body.
type ReserveRequest struct {
	Job       placement.JobID     `json:"job"`
	Attempt   int                 `json:"attempt"`
	Kind      placement.Kind      `json:"kind"`
	Resources placement.Resources `json:"resources"`
	Site      string              `json:"site,omitempty"`
	Policy    []placement.Layer   `json:"policy"`
	LawPack   string              `json:"law_pack"`
	Expires   time.Time           `json:"expires,omitzero"`
	// DryRun asks whether there would be room; nothing is held or recorded.
	DryRun bool `json:"dry_run,omitempty"`
}

// ReserveAnswer is room held, or the committed refusal with a fresh summary.
type ReserveAnswer struct {
	Key     string                   `json:"key"`
	Held    bool                     `json:"held"`
	Outcome string                   `json:"outcome,omitempty"` // of the scheduler there: fits, full, impossible, refused, unknown
	Expires time.Time                `json:"expires,omitzero"`
	Code    string                   `json:"code,omitempty"`
	Reason  string                   `json:"reason,omitempty"`
	Hint    string                   `json:"hint,omitempty"`
	Summary *placement.RegionSummary `json:"summary,omitempty"`
}

// ForwardedJob is a job's body on its way to the region that reserved room.
// The answer is a [ForeignStatus].
type ForwardedJob struct {
	Job         placement.JobID   `json:"job"`
	Tenant      string            `json:"tenant"` // at home; becomes "<home>/<tenant>"
	Residency   string            `json:"residency"`
	Policy      []placement.Layer `json:"policy"`
	Spec        placement.JobSpec `json:"spec"`
	AllowAny    bool              `json:"allow_any,omitempty"`
	Reservation string            `json:"reservation"`
	SubmittedAt time.Time         `json:"submitted_at"`
	Hops        int               `json:"hops"`
}

// ForeignStatus is all that a region tells another about the job that it runs
// for it: the region, no node, no host.
type ForeignStatus struct {
	Job       placement.JobID     `json:"job"`
	Region    placement.RegionID  `json:"region"`
	Status    placement.JobStatus `json:"status"`
	Reason    string              `json:"reason,omitempty"`
	ExitCode  *int                `json:"exit_code,omitempty"`
	StartedAt time.Time           `json:"started_at,omitzero"`
	EndedAt   time.Time           `json:"ended_at,omitzero"`
	Index     uint64              `json:"index"`
}
