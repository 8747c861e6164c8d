package api

import (
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Receipt is what a region's ledger holds of a job, or says in one leaf. The same as a file that
// nobody needs to believe is asked for with format=proof.
type Receipt struct {
	Job placement.JobID `json:"job,omitempty"`
	// Receipt is the leaf, or the one that admitted the job, "<origin>#<leaf>".
	Receipt string `json:"receipt"`
	// State is that of its newest leaf: committed or witnessed. A write is
	// answered once it is committed, so no job is only promised.
	State string `json:"state"`
	// Witnesses have cosigned a checkpoint that covers all leaves; Asked is how
	// many are asked.
	Witnesses []string           `json:"witnesses"`
	Asked     int                `json:"witnesses_asked"`
	Region    placement.RegionID `json:"region"`
	Origin    string             `json:"origin"`
	// Checkpoint is the size of the log that was signed and covers all leaves; 0
	// if none does yet.
	Checkpoint   uint64    `json:"checkpoint"`
	CheckpointAt time.Time `json:"checkpoint_at,omitzero"`
	LedgerSize   uint64    `json:"ledger_size"`
	LedgerRoot   string    `json:"ledger_root"` // hex
	// Leaves are those asked for, oldest first; of a long list the middle is
	// left out.
	Leaves []ReceiptLeaf `json:"leaves"`
}

// ReceiptLeaf is one leaf in words. A caller of another region learns which
// leaves there are and not what stands in them.
type ReceiptLeaf struct {
	Index   uint64             `json:"index"`
	State   string             `json:"state"`
	Hash    string             `json:"hash"` // RFC 6962, hex
	Kind    string             `json:"kind,omitempty"`
	Time    time.Time          `json:"time,omitzero"`
	Code    string             `json:"code,omitempty"` // of a refusal
	Actor   string             `json:"actor,omitempty"`
	Subject string             `json:"subject,omitempty"`
	Shown   []ReceiptShown     `json:"shown,omitempty"`
	Judged  []ReceiptJudgement `json:"judgements,omitempty"`
}

// ReceiptShown is one thing that a leaf says in clear.
type ReceiptShown struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// ReceiptJudgement is a residency decision as the leaf has it.
type ReceiptJudgement struct {
	Subject string `json:"subject,omitempty"`
	Place   string `json:"place,omitempty"`
	Region  string `json:"region,omitempty"`
	Country string `json:"country,omitempty"`
	Verdict string `json:"verdict"`
	Rule    string `json:"rule"`
	Tag     string `json:"tag"`
	LawPack string `json:"law_pack"`
	On      string `json:"on"`
}
