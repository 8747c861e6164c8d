package api

import (
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// RegionStatus is one region as this one knows it.
type RegionStatus struct {
	placement.Region
	Link    string                   `json:"link"`
	Since   time.Time                `json:"since,omitzero"`
	RTTMS   float64                  `json:"rtt_ms,omitempty"`
	Summary *placement.RegionSummary `json:"summary,omitempty"`
	Nodes   int                      `json:"nodes,omitempty"` // own region only
	// Witnesses are the outside witnesses of the own region's ledger.
	Witnesses []state.Witness `json:"witnesses,omitempty"`
}

// RegionPolicyRequest sets the export and import rules; an empty string
// removes a rule, a missing one leaves it.
type RegionPolicyRequest struct {
	Export *string `json:"export,omitempty"`
	Import *string `json:"import,omitempty"`
	// Witness names an outside witness of the region's ledger, "VKEY URL";
	// DropWitness ends one, by its name.
	Witness     *string `json:"witness,omitempty"`
	DropWitness *string `json:"drop_witness,omitempty"`
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
	// LogKey and WitnessKey are the verifier keys of the region's log and of its
	// cosignatures, pinned with the rest. KeyProof is a statement of a node of the
	// region that they are: operators compare the fingerprint of the bundle, and
	// the bundle says whose statement counts.
	LogKey     string `json:"log_key,omitempty"`
	WitnessKey string `json:"witness_key,omitempty"`
	KeyProof   string `json:"key_proof,omitempty"`
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
