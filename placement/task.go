package placement

import "time"

// TaskStatus is where one copy of a job stands.
type TaskStatus string

// The statuses of a task.
const (
	TaskAssigned TaskStatus = "assigned" // committed, its node has not said anything
	TaskStarting TaskStatus = "starting"
	TaskRunning  TaskStatus = "running"
	TaskComplete TaskStatus = "complete"
	TaskFailed   TaskStatus = "failed"
	TaskStopped  TaskStatus = "stopped"
	TaskLost     TaskStatus = "lost"
	TaskUnknown  TaskStatus = "unknown" // its node cannot be reached
)

// Live reports whether the task may be running: it holds its resources.
func (s TaskStatus) Live() bool {
	return s == TaskAssigned || s == TaskStarting || s == TaskRunning || s == TaskUnknown
}

// Why is the record of a placement decision: enough to repeat it.
type Why struct {
	Rule    string `json:"rule"`
	LawPack string `json:"law_pack"`
	On      string `json:"on"` // the day the law was read for, YYYY-MM-DD
	Score   int64  `json:"score,omitempty"`
	Reason  string `json:"reason,omitempty"` // new, restart, drain, lost
}

// Assignment names exactly where a task runs, so that its node has nothing
// left to decide. It becomes true when the region's raft group commits it.
type Assignment struct {
	Task     TaskID   `json:"task"`
	Job      JobID    `json:"job"`
	Node     NodeID   `json:"node"`
	Devices  []string `json:"devices,omitempty"` // UUIDs
	Why      Why      `json:"why"`
	Replaces TaskID   `json:"replaces,omitempty"` // stopped once this one runs
	// Move: the task takes over what Replaces runs, instead of beginning anew.
	Move MoveMode `json:"move,omitempty"`
}

// MoveMode is how a task's work gets to another node.
type MoveMode string

// The modes. A restart, the empty one, takes nothing along.
const (
	MoveRestart  MoveMode = ""
	MoveLive     MoveMode = "live"      // it runs on while it is copied, and stands still for a moment
	MoveNearLive MoveMode = "near-live" // it stands still while it is copied
)

// Valid reports whether the mode is one of the list.
func (m MoveMode) Valid() bool { return m == MoveRestart || m == MoveLive || m == MoveNearLive }

// Task is one copy of a job on one node.
type Task struct {
	ID        TaskID    `json:"id"`
	Job       JobID     `json:"job"`
	Kind      Kind      `json:"kind"`
	Tenant    TenantID  `json:"tenant"`
	Node      NodeID    `json:"node"`
	Devices   []string  `json:"devices,omitempty"`
	Resources Resources `json:"resources"`
	Why       Why       `json:"why"`
	Replaces  TaskID    `json:"replaces,omitempty"`
	// Move: it takes over what Replaces runs. Which of the two runs is the
	// ledger's word alone: this one does from the commit on.
	Move MoveMode `json:"move,omitempty"`
	// MoveFails counts the moves of this task that came to nothing, MoveTrouble is
	// why the last one did.
	MoveFails   int        `json:"move_fails,omitempty"`
	MoveTrouble string     `json:"move_trouble,omitempty"`
	Status      TaskStatus `json:"status"`
	Reason      string     `json:"reason,omitempty"`
	// Stop is what its node shall do: nothing, or end the task.
	Stop       bool      `json:"stop,omitempty"`
	StopReason string    `json:"stop_reason,omitempty"`
	AssignedAt time.Time `json:"assigned_at"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	// RunsSince is when that began which the task took over in a move; zero for one
	// that began itself.
	RunsSince time.Time `json:"runs_since,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	ExitCode  *int      `json:"exit_code,omitempty"`
	// LeaseUntil is set for a singleton: its node ends the task by then unless
	// the lease was renewed, and nobody else starts a copy before.
	LeaseUntil time.Time `json:"lease_until,omitzero"`
	// Index is the raft index that committed the assignment.
	Index uint64 `json:"index"`
	// Notes are the newest of what was noted of it, oldest first.
	Notes []TaskNote `json:"notes,omitempty"`
}

// Moving reports whether the task is to take over what another one runs and does
// not run yet: the ledger has not said so.
func (t *Task) Moving() bool { return t.Move != MoveRestart && t.StartedAt.IsZero() && t.Status.Live() }

// Began is when what the task does began to run, here or where it was before; zero
// if it does not run yet.
func (t *Task) Began() time.Time {
	if t.RunsSince.IsZero() {
		return t.StartedAt
	}
	return t.RunsSince
}

// TaskReport is what a node says about one of its tasks.
type TaskReport struct {
	Task     TaskID     `json:"task"`
	Status   TaskStatus `json:"status"`
	Reason   string     `json:"reason,omitempty"`
	ExitCode *int       `json:"exit_code,omitempty"`
	// Refused: the node never started it, so another may.
	Refused bool      `json:"refused,omitempty"`
	At      time.Time `json:"at"`
}

// Duration is a time.Duration that is written as "30s" in JSON.
type Duration time.Duration

// MarshalText writes the duration as time.Duration prints it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err == nil {
		*d = Duration(v)
	}
	return err
}
