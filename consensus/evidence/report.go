package evidence

import (
	"fmt"
	"time"
)

// The verdicts, each given by itself: one says nothing about another.
const (
	// Origin: every log is one that the auditor's policy names, signed by its key,
	// and the regions' certificates are those of the policy.
	Origin = "origin"
	// Integrity: every byte is what was committed.
	Integrity = "integrity"
	// Consistency: all signed states are of one log that only grew, and what two
	// regions say of one job agrees.
	Consistency = "consistency"
	// Completeness: no leaf of the time is left out, and no chain has a gap.
	Completeness = "completeness"
	// Freshness: the last checkpoint covers the pack's own end.
	Freshness = "freshness"
	// Time: what leaves say of time fits what witnesses saw.
	Time = "time"
	// Law: every placement is lawful under the law pack and the day it pins.
	Law = "law"
)

// Verdicts are all verdicts, in the order in which they are printed.
func Verdicts() []string {
	return []string{Origin, Integrity, Consistency, Completeness, Freshness, Time, Law}
}

// maxFindings bounds what is kept of one verdict; the rest is counted.
const maxFindings = 20

// Verdict is one answer.
type Verdict struct {
	Name string `json:"name"`
	// State is "holds", "fails", or "not shown": nothing in the evidence speaks
	// of it. Only what holds counts.
	State string `json:"state"`
	// Says is the answer in words, Findings are what led to it.
	Says     string   `json:"says"`
	Findings []string `json:"findings,omitempty"`
	More     int      `json:"more,omitempty"` // findings not kept
	// Aside: evidence of this kind cannot show it, so it does not count.
	Aside bool `json:"aside,omitempty"`
}

// The states of a verdict.
const (
	Holds    = "holds"
	Fails    = "fails"
	NotShown = "not shown"
)

// The kinds of evidence.
const (
	KindPack    = "pack"
	KindReceipt = "receipt"
	// KindInference is the receipt of one inference request.
	KindInference = "inference receipt"
)

// Report is what a verifier found.
type Report struct {
	File   string `json:"file,omitempty"`
	Kind   string `json:"kind"`
	SHA256 string `json:"sha256"` // of the pack's manifest, or of the receipt; empty if it ended before that
	Mesh   string `json:"mesh"`
	// When, by whom and for what a pack was exported is its own word.
	ExportedAt time.Time      `json:"exported_at,omitzero"`
	ExportedBy string         `json:"exported_by,omitempty"`
	Filter     Filter         `json:"filter,omitzero"`
	Verdicts   []Verdict      `json:"verdicts"`
	Regions    []RegionReport `json:"regions"`
	// Receipt is the one of an inference request, if that was read.
	Receipt *InferenceReceipt `json:"receipt,omitempty"`
	// NotShownHere lists what this evidence cannot show, whatever the verdicts.
	NotShownHere []string `json:"not_shown"`
}

// RegionReport is what was read of one region.
type RegionReport struct {
	Name        string    `json:"name"`
	Origin      string    `json:"origin"`
	First       uint64    `json:"first"`
	End         uint64    `json:"end"`
	Leaves      uint64    `json:"leaves"` // that were read
	Checkpoints int       `json:"checkpoints"`
	Size        uint64    `json:"size"`                // of the last checkpoint
	Witnesses   []string  `json:"witnesses,omitempty"` // of the last checkpoint
	Witnessed   time.Time `json:"witnessed,omitzero"`  // when the policy's quorum had cosigned it
	Apart       int64     `json:"apart_seconds"`       // the longest between cosignatures around a leaf: within it a time is the leader's word
	FirstAt     time.Time `json:"first_at,omitzero"`   // time of the first leaf
	LastAt      time.Time `json:"last_at,omitzero"`    // time of the last leaf
	Placements  int       `json:"placements"`          // accepted ones
	Judgements  int       `json:"judgements"`          // repeated
	Refusals    int       `json:"refusals"`            // leaves of commands that were refused
	Openings    int       `json:"openings"`            // checked against their leaves
	Erased      int       `json:"erased"`              // openings that were erased
	Segments    int       `json:"segments"`            // of inference receipts
	Requests    uint64    `json:"requests"`            // in these segments
	Missing     uint64    `json:"missing"`             // promised receipts that are lost
	Dropped     uint64    `json:"dropped"`             // requests without a receipt
	Receipts    int       `json:"receipts"`            // of requests, that are here and were checked
	Absent      uint64    `json:"absent"`              // segments whose receipts belong here and are not
	// Begun and Ended show a recovery, at either end of the log; nil where none is.
	Begun *Recovery `json:"begun,omitempty"`
	Ended *Recovery `json:"ended,omitempty"`
}

// Recovery is the break between two logs of a region that lost its quorum: what
// the lost voters alone had is in neither.
type Recovery struct {
	// Origin is the other log: the one before, or the one after.
	Origin string `json:"origin"`
	// Quoted is how many leaves the older log has by the checkpoint that the newer
	// quotes; 0 if it quotes none.
	Quoted uint64    `json:"quoted"`
	At     time.Time `json:"at"` // of the newer log's first leaf
}

// OK reports whether every verdict holds that evidence of this kind can give.
func (r *Report) OK() bool {
	for i := range r.Verdicts {
		if v := &r.Verdicts[i]; v.State != Holds && !(v.State == NotShown && v.Aside) {
			return false
		}
	}
	return len(r.Verdicts) > 0
}

// Verdict gives one by name.
func (r *Report) Verdict(name string) *Verdict {
	for i := range r.Verdicts {
		if r.Verdicts[i].Name == name {
			return &r.Verdicts[i]
		}
	}
	return nil
}

// findings gathers what fails and what is not shown.
type findings struct {
	fails, lacks map[string][]string
	more         map[string]int
}

func newFindings() *findings {
	return &findings{fails: map[string][]string{}, lacks: map[string][]string{}, more: map[string]int{}}
}

func (f *findings) fail(verdict, format string, args ...any) {
	if len(f.fails[verdict]) >= maxFindings {
		f.more[verdict]++
		return
	}
	f.fails[verdict] = append(f.fails[verdict], fmt.Sprintf(format, args...))
}

func (f *findings) lack(verdict, format string, args ...any) {
	if len(f.lacks[verdict]) < maxFindings {
		f.lacks[verdict] = append(f.lacks[verdict], fmt.Sprintf(format, args...))
	}
}

// verdict closes one: says is what to say when it holds.
func (f *findings) verdict(name, says string) Verdict {
	v := Verdict{Name: name, State: Holds, Says: says}
	switch {
	case len(f.fails[name]) > 0:
		v.State, v.Findings, v.More = Fails, f.fails[name], f.more[name]
		v.Says = v.Findings[0]
	case len(f.lacks[name]) > 0:
		v.State, v.Findings = NotShown, f.lacks[name]
		v.Says = v.Findings[0]
	}
	return v
}

// cannotShow is what no evidence of this kind shows.
func cannotShow() []string {
	return []string{
		"that the facts of a region are true: country, operator and claims are what its operators declared, at the assurance that each leaf names",
		"that nothing ran outside the ledger: a node could run what nobody committed; receipts held by clients and visits show that",
		"that every forged certificate is here that the region was shown: each node keeps those shown to it, no leaf records them, and a pack has those of the node that exported it",
		"what went on inside a job: its network traffic, and what its operator could see",
		"that regions and all the witnesses of the policy did not act together",
		"a time more exact than the witnesses' cosignatures around it",
	}
}
