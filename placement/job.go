package placement

import (
	"time"

	"github.com/sovmesh/sovmesh/placement/residency"
)

// Kind is what sort of workload a job is; it names the driver.
type Kind string

// The kinds of jobs. KindFake exists in meshes under test only.
const (
	KindProcess   Kind = "process"
	KindContainer Kind = "container"
	KindMicroVM   Kind = "microvm"
	KindVM        Kind = "vm"
	KindInference Kind = "inference"
	KindFake      Kind = "fake"
)

// JobType says when a job is over.
type JobType string

// A batch job runs to its end; a service is kept running.
const (
	TypeBatch   JobType = "batch"
	TypeService JobType = "service"
)

// OnDrain is what happens to a task when its node is drained.
type OnDrain string

// The drain rules.
const (
	DrainWait       OnDrain = "wait"       // it may finish
	DrainMove       OnDrain = "move"       // a replacement first (service) or a restart elsewhere (batch)
	DrainCheckpoint OnDrain = "checkpoint" // asked to save its work, stopped, started elsewhere
	DrainStop       OnDrain = "stop"       // stopped for good
)

// Restart says whether a task that ended is started again.
type Restart struct {
	Policy   string `json:"policy"` // never, on-failure, always
	Attempts int    `json:"attempts,omitempty"`
}

// Evidence says what happens when a record cannot be kept.
type Evidence string

// Required evidence holds work back; best effort counts what was dropped.
const (
	EvidenceRequired   Evidence = "required"
	EvidenceBestEffort Evidence = "best-effort"
)

// JobSpec is what its author wrote, defaults filled in. Its residency is kept
// apart, as the job's layer of the policy.
type JobSpec struct {
	Name      string            `json:"name,omitempty"`
	Kind      Kind              `json:"kind"`
	Type      JobType           `json:"type"`
	Command   []string          `json:"command,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Resources Resources         `json:"resources"`
	Priority  int               `json:"priority,omitempty"` // 0 to 100
	Restart   Restart           `json:"restart"`
	Singleton bool              `json:"singleton,omitempty"`
	Evidence  Evidence          `json:"evidence"`
	OnDrain   OnDrain           `json:"on_drain,omitempty"` // empty: a service moves, a batch task waits
	StopGrace Duration          `json:"stop_grace"`
	Models    []string          `json:"models,omitempty"`
	Upstream  string            `json:"upstream,omitempty"` // http URL of a model server on the node's loopback
	Image     string            `json:"image,omitempty"`
	Site      string            `json:"site,omitempty"`
	NodeName  NodeID            `json:"node,omitempty"` // pinned by its owner to one node

	// Preemptible: its tasks may be ended for a job of higher priority, and it
	// waits again then. Priority alone makes nobody a victim.
	Preemptible bool `json:"preemptible,omitempty"`
	// Members is how many tasks the job has that run together or not at all, see
	// [JobSpec.Size]; 0 is one.
	Members int `json:"gang,omitempty"`
	// Spread is what the members, or else the tenant's tasks, rather do not share.
	Spread Spread `json:"spread,omitempty"`
	// Avoid are names of jobs of the same tenant with which it shares no node.
	Avoid []string `json:"avoid,omitempty"`
	// Near are sites, or labels of nodes as KEY=VALUE, that it rather runs at.
	Near []string `json:"near,omitempty"`
	// Rank weighs what lawful nodes cost.
	Rank Rank `json:"rank,omitzero"`
	// MaxRuntime ends a task of a batch job that has run so long; 0 is no bound.
	// What is bound is let in before what waits for its node, if it ends in time.
	MaxRuntime Duration `json:"max_runtime,omitempty"`

	// Setup is the rest that concerns the workload alone; its fields stand beside
	// these in JSON. It may be nil: read it by its name, not through this struct.
	*Setup
}

// LongestRun bounds max_runtime.
const LongestRun = 365 * 24 * time.Hour

// startSlack is how long a task may take from its assignment until it runs before
// its end is reckoned unknown.
const startSlack = time.Minute

// Lasts is how long a task of the job takes at the most from its assignment on; 0
// if nobody knows.
func (s *JobSpec) Lasts() time.Duration {
	if s.MaxRuntime <= 0 {
		return 0
	}
	return startSlack + time.Duration(s.MaxRuntime) + time.Duration(s.StopGrace)
}

// EndsBy is when a live task of the job has ended at the latest; false if nobody
// knows.
func (s *JobSpec) EndsBy(t *Task, now time.Time) (time.Time, bool) {
	if s.MaxRuntime <= 0 || t.Status == TaskUnknown {
		return time.Time{}, false
	}
	end := t.AssignedAt.Add(s.Lasts())
	if began := t.Began(); !began.IsZero() {
		end = began.Add(s.Lasts() - startSlack)
	}
	return end, end.After(now)
}

// Size is how many tasks the job runs at once: its members, or one.
func (s *JobSpec) Size() int { return max(1, s.Members) }

// Gang reports whether the job has members that run together or not at all.
func (s *JobSpec) Gang() bool { return s.Members > 1 }

// MaxMembers bounds a gang: its placement is one entry of the log.
const MaxMembers = 64

// Spread names what tasks rather do not share.
type Spread string

// The spreads. Both are wishes: a member that finds no other place shares.
const (
	SpreadNode Spread = "node"
	SpreadSite Spread = "site"
)

// Rank are weights from 0 to 100 that order lawful nodes by their labels cost
// and carbon, the least first. They widen nothing.
type Rank struct {
	Cost   int `json:"cost,omitempty"`
	Carbon int `json:"carbon,omitempty"`
}

// Layer is one narrowing of a job's policy in wire form.
type Layer struct {
	Origin residency.Origin `json:"origin"`
	Tag    string           `json:"tag"`
}

// JobStatus is where a job stands.
type JobStatus string

// The statuses. Unknown means that whoever runs it cannot be reached; lost
// means that an operator declared its node gone.
const (
	JobPending  JobStatus = "pending"
	JobStarting JobStatus = "starting"
	JobRunning  JobStatus = "running"
	JobComplete JobStatus = "complete"
	JobFailed   JobStatus = "failed"
	JobStopped  JobStatus = "stopped"
	JobLost     JobStatus = "lost"
	JobUnknown  JobStatus = "unknown"
)

// Terminal reports whether nothing more will happen to the job.
func (s JobStatus) Terminal() bool {
	return s == JobComplete || s == JobFailed || s == JobStopped || s == JobLost
}

// Forward is a job's way to another region, kept by its home.
type Forward struct {
	Region  RegionID `json:"region"`
	Attempt int      `json:"attempt"` // counts reservations asked for, from 1
	// State is empty (waiting at home), asking, placed (the other region has committed it), or unknown
	// (no answer: nothing else is tried until it answers or ExpiresAt passed there).
	State     string    `json:"state"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// Refusals are the committed answers of regions that had no place.
	Refusals []RegionAnswer `json:"refusals,omitempty"`
}

// The states of a forward.
const (
	ForwardWaiting = "" // at home, after refusals, until ExpiresAt; a place at home is taken
	ForwardAsking  = "asking"
	ForwardPlaced  = "placed"
	ForwardUnknown = "unknown"
)

// RegionAnswer is one region's reason for not taking a job.
type RegionAnswer struct {
	Region RegionID  `json:"region"`
	Code   string    `json:"code"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Job is one submitted job. It is a value: the state machine replaces it, and
// whoever holds one may keep it but not change it.
type Job struct {
	ID        JobID     `json:"id"`
	Name      string    `json:"name"`
	Kind      Kind      `json:"kind"`
	Tenant    TenantID  `json:"tenant"`
	Residency string    `json:"residency"` // the job's own tag, wire form
	Policy    []Layer   `json:"policy"`    // the effective policy: all must permit
	Spec      JobSpec   `json:"spec"`
	Region    RegionID  `json:"region"` // where it is placed; empty while it is not
	Node      NodeID    `json:"node"`
	Status    JobStatus `json:"status"`
	Reason    string    `json:"reason"`
	Code      string    `json:"reason_code,omitempty"`

	SubmittedAt time.Time `json:"submitted_at"`
	// QueuedAt is when it last began to wait; its age in the queue stays that of
	// its submission.
	QueuedAt    time.Time `json:"queued_at,omitzero"`
	StartedAt   time.Time `json:"started_at,omitzero"`
	EndedAt     time.Time `json:"ended_at,omitzero"`
	ExitCode    *int      `json:"exit_code"`
	EntryRegion RegionID  `json:"entry_region"`
	Hops        int       `json:"hops"` // borders its body crossed between regions
	Receipt     string    `json:"receipt"`

	// Attempts counts tasks made for it, Restarts those after a failure;
	// NotBefore holds a restart back.
	Attempts  int       `json:"attempts"`
	Restarts  int       `json:"restarts"`
	NotBefore time.Time `json:"not_before,omitzero"`
	// StopRequested: its owner or an operator wants it ended.
	StopRequested bool     `json:"stop_requested,omitempty"`
	StopReason    string   `json:"stop_reason,omitempty"`
	Forward       *Forward `json:"forward,omitempty"`
	// Origin is set on a job that another region forwarded or granted; Grant is
	// the id of the grant that admitted it, which opens this job and no other.
	Origin RegionID `json:"origin,omitempty"`
	Grant  string   `json:"grant,omitempty"`
	// Index is the raft index of its last change.
	Index uint64 `json:"index"`
}

// BackoffMax is the longest that a restart is held back, with room for two
// clocks that differ.
const BackoffMax = 2 * time.Minute

// AgedAfter is how long a job waits until only those that wait longer come
// before it, whatever their priority.
const AgedAfter = time.Hour

// Aged reports whether the job has waited so long at the given time.
func (j *Job) Aged(now time.Time) bool {
	since := j.QueuedAt
	if since.IsZero() {
		since = j.SubmittedAt
	}
	return !since.IsZero() && now.Sub(since) >= AgedAfter
}

// HeldBack reports whether a restart still has to wait. A NotBefore beyond
// BackoffMax was stamped by a clock that was wrong, and holds nothing back.
func (j *Job) HeldBack(now time.Time) bool {
	return j.NotBefore.After(now) && j.NotBefore.Sub(now) <= BackoffMax
}
