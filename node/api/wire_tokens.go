package api

import (
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

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
	// LawPack is the hash of the pack that home decides by: where another is in
	// force, both must permit.
	LawPack string    `json:"law_pack"`
	Expires time.Time `json:"expires"`
	// Leaf is home's half of the crossing: the leaf by which it issued the grant.
	Leaf state.LeafRef `json:"leaf,omitzero"`
}
