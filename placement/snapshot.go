package placement

import (
	"time"

	"github.com/sovmesh/sovmesh/placement/residency"
)

// Snapshot is everything a placement decision may look at. It is read only:
// its parts are shared with the state machine's view.
type Snapshot struct {
	Region RegionID
	Facts  RegionFacts
	Now    time.Time
	Pack   *residency.Pack
	Nodes  []*Node // sorted by ID
	// Wanted are the jobs that want one more task now, the most urgent ones of
	// every tenant; their order is the decision's to find.
	Wanted []*Job
	// Share is what a tenant holds and may hold, nil for nothing and no bounds. It
	// reads the same view as everything else here.
	Share func(TenantID) TenantShare
	// TasksOn are the live tasks of a node, TasksOf those of a job, JobOf the job:
	// who may be ended for another is looked for among them; nil for nobody.
	TasksOn func(NodeID) []*Task
	TasksOf func(JobID) []*Task
	JobOf   func(JobID) *Job
	// MayEnd is how many tasks may still be ended for a tenant's jobs, and when that
	// is more; nil for no bound.
	MayEnd func(TenantID) (left int, again time.Time)
	// Ends is when all live tasks of a node have ended at the latest, false if
	// nobody knows; nil for nobody knows of any.
	Ends func(NodeID) (time.Time, bool)
	// Apart are the nodes with a task of a job that the given one avoids, or that
	// avoids it; nil if nobody avoids anybody.
	Apart func(*Job) []NodeID
	// Tasks are the live tasks of jobs that a decision may concern (those on
	// draining, cordoned or silent nodes, and all tasks of their jobs).
	Tasks []*Task
	Jobs  map[JobID]*Job // the jobs of Wanted and Tasks
	// Held is the room that a consumed reservation keeps for a wanted job; its
	// node counts it as used.
	Held map[JobID]Hold
}

// Hold is room kept on one node.
type Hold struct {
	Node    NodeID
	Devices []string
}
