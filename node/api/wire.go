package api

import (
	"time"

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
	// HeaderReceipt names the leaves that a write left in the region's ledger, in
	// their order, each as "<origin>#<leaf>"; a refusal leaves one too.
	HeaderReceipt = "X-Sovmesh-Receipt"
	// HeaderRelayed marks a request that a worker passed on to a voter of its
	// own region, so that it is passed on once only. It holds the address that
	// the request came from.
	HeaderRelayed = "X-Sovmesh-Relayed"
)

// GrantScheme is the Authorization scheme of a foreign grant.
const GrantScheme = "Sovmesh-Grant"

// Bounds of what a request may carry, in bytes or items.
const (
	MaxJobBytes    = 1 << 20
	MaxBodyBytes   = 1 << 20 // every other JSON body, but law packs
	MaxLawBytes    = 16 << 20
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
	// GPUSimulated of them are pretended ones.
	GPUSimulated int `json:"gpus_simulated"`
	// Refused is why the region goes by an older report of what the node that
	// answers has; empty if it took the newest.
	Refused string       `json:"inventory_refused,omitempty"`
	Regions []RegionLink `json:"regions"`
	// Ledger is there while something of the ledger is missing: on this node,
	// or on so many voters that no quorum has all of it.
	Ledger *LedgerState `json:"ledger,omitempty"`
	// Signing is how far the ledger is signed and witnessed.
	Signing *Signing `json:"signing,omitempty"`
}

// Signing is how far a region's ledger is signed and witnessed.
type Signing struct {
	Size     uint64    `json:"size"` // leaves of the newest signed checkpoint
	At       time.Time `json:"at,omitzero"`
	Unsigned uint64    `json:"unsigned"` // leaves that came later
	// Problem is why this node signs nothing; empty if it would.
	Problem   string           `json:"problem,omitempty"`
	Witnesses []SigningWitness `json:"witnesses,omitempty"`
}

// SigningWitness is how far one witness of the ledger is.
type SigningWitness struct {
	Name   string             `json:"name"`
	Region placement.RegionID `json:"region,omitempty"` // of a peer
	Size   uint64             `json:"size"`             // leaves that it has cosigned
	At     time.Time          `json:"at,omitzero"`      // when that checkpoint was signed
	// Problem is why it did not cosign the last time, as the leader knows.
	Problem string `json:"problem,omitempty"`
	// SetBack is how often it had forgotten what it cosigned, as the leader knows.
	SetBack int `json:"set_back,omitempty"`
}

// LedgerState is how complete a region's ledger is.
type LedgerState struct {
	Size    uint64 `json:"size"`    // leaves
	Missing uint64 `json:"missing"` // of them not on this node
	Whole   int    `json:"whole"`   // voters that were last heard to have all
	Voters  int    `json:"voters"`
}

// Complete reports whether this node and a quorum of the voters have all.
func (l LedgerState) Complete() bool { return l.Missing == 0 && l.Whole > l.Voters/2 }

// RegionLink is the contact with one region.
type RegionLink struct {
	Region placement.RegionID  `json:"region"`
	State  placement.PeerState `json:"state"`
	Link   string              `json:"link"`
	Since  time.Time           `json:"since,omitzero"`
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
