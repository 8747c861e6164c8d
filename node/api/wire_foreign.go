package api

import (
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

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
	// Gang is how many members a dry run asks room for, together; 0 is one. Room is
	// held for single tasks only.
	Gang int `json:"gang,omitempty"`
	// HomeLeaf is home's half: the leaf by which it decided to ask. The answering
	// region quotes it; whether it is true shows when both ledgers are compared.
	HomeLeaf state.LeafRef `json:"home_leaf,omitzero"`
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
	// Leaf is the answering region's half: its reservation or refusal.
	Leaf state.LeafRef `json:"leaf,omitzero"`
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
	// HomeLeaf is home's half, as in the reservation.
	HomeLeaf state.LeafRef `json:"home_leaf,omitzero"`
}

// LandedJob tells the region that issued a grant which job came in by it. Grant
// and job are opaque ids; Leaf is the leaf that admitted the job.
type LandedJob struct {
	Grant string          `json:"grant"`
	Job   placement.JobID `json:"job"`
	Leaf  state.LeafRef   `json:"leaf"`
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
	// Leaf is the newest leaf about the job in that region's ledger.
	Leaf state.LeafRef `json:"leaf,omitzero"`
}
