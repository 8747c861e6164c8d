package api

import (
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// Answers that a dry run may have.
const (
	CheckPlaceable  = "placeable"    // exit 0
	CheckNoCapacity = "no-capacity"  // lawful, not now: exit 10
	CheckNoHardware = "no-hardware"  // lawful, but nothing here could ever hold it: exit 11
	CheckOverLimit  = "over-limit"   // alone more than its tenant may hold: exit 11
	CheckUnlawful   = "not-lawful"   // exit 20; Code is residency.never or residency.refused
	CheckUnknown    = "unknown"      // a region needed for the answer is out of contact: exit 30
	LinkUp          = "up"           // the region was heard of lately
	LinkUnknown     = "unknown"      // no contact; never "gone"
	LinkSelf        = "self"         // the answering region
	RegionPlaceable = "would place"  // of one region in a dry run
	RegionFull      = "no room"      // by its last summary
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
	// Summary is all of it in one line: counts, quota, what blocks, the next try.
	Summary string `json:"summary,omitempty"`
	// LargestHole is the most GPUs that would serve it and are free on one node
	// that fails nothing else.
	LargestHole int `json:"largest_hole,omitempty"`
	// Relax are single changes, each of which would let it in now.
	Relax []string `json:"relax,omitempty"`
	// Quota is the arithmetic of its own tenant, never of another.
	Quota []QuotaLine `json:"quota,omitempty"`
	// Reserved is free room that is kept for the first of the queue.
	Reserved *scheduler.Reserved `json:"reserved,omitempty"`
	// Answers are the reasons of other regions that were asked and had no place.
	Answers []placement.RegionAnswer `json:"answers,omitempty"`
	// NextTry is when it is looked at again by time alone; missing if only a
	// change of the region can help.
	NextTry time.Time `json:"next_try,omitzero"`
	// Tasks are the job's tasks so far, with the reason of each placement.
	Tasks []placement.Task `json:"tasks,omitempty"`
	// Regions is how each known region stands to the job's policy.
	Regions []RegionCheck `json:"regions,omitempty"`
}

// QuotaLine is one quota of the asker's tenant and what its jobs count against
// it; a job that was submitted counts already.
type QuotaLine struct {
	// Name is gpus, jobs or pending (of jobs that are not over), or what its tasks
	// hold of a class of hardware: "held gpus", "held H100", "held cpu".
	Name      string `json:"name"`
	Used      int    `json:"used"`
	Asked     int    `json:"asked"`           // on top
	Limit     int    `json:"limit,omitempty"` // missing: none
	Guarantee int    `json:"guarantee,omitempty"`
	OK        bool   `json:"ok"`
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
