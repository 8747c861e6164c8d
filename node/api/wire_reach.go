package api

import (
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// The ways to reach into a task that runs; they are subjects of
// [placement.NoteAccess] too.
const (
	ReachExec    = "exec"    // a further command in it
	ReachConsole = "console" // its serial console
	ReachConnect = "connect" // a TCP port of it
)

// ReachHead is the first frame of a request that reaches into a task.
type ReachHead struct {
	// Task is the one that is meant; empty is the job's newest.
	Task    placement.TaskID  `json:"task,omitempty"`
	Command []string          `json:"command,omitempty"` // of exec
	Env     map[string]string `json:"env,omitempty"`
	TTY     bool              `json:"tty,omitempty"`
	Size    TermSize          `json:"size,omitzero"`
	Port    int               `json:"port,omitempty"` // of connect
}

// TermSize is a terminal's in characters.
type TermSize struct {
	Columns int `json:"columns"`
	Rows    int `json:"rows"`
}

// ReachEnd is the last frame of an answer: how the command ended, or why the
// session did.
type ReachEnd struct {
	Exit    *ReachExit `json:"exit,omitempty"`
	Problem *Problem   `json:"problem,omitempty"`
}

// ReachExit is how a command ended.
type ReachExit struct {
	Code   int    `json:"code"`
	Reason string `json:"reason,omitempty"` // what the code does not say
}

// validate looks at what is asked, before anything is opened or written down.
func (h *ReachHead) validate(what string) error {
	bad := func(help, format string, args ...any) error {
		return &InputError{Code: CodeUsage, Message: fmt.Sprintf(format, args...), Help: help}
	}
	switch {
	case what == ReachExec && (len(h.Command) == 0 || h.Command[0] == ""):
		return bad("write sovmesh job exec ID -- /bin/program", "there is no command to run")
	case what == ReachConnect && (h.Port < 1 || h.Port > 65535):
		return bad("write a port from 1 to 65535", "port %d is none", h.Port)
	case h.Size.Columns < 0 || h.Size.Rows < 0 || h.Size.Columns > 1<<15 || h.Size.Rows > 1<<15:
		return bad("send the terminal's size in characters", "a terminal of %d by %d is none", h.Size.Columns, h.Size.Rows)
	}
	return nil
}

// HoldAnswer is what became of a pause or a resume.
type HoldAnswer struct {
	Job  placement.JobID  `json:"job"`
	Task placement.TaskID `json:"task"`
	// Paused: it stands still now.
	Paused bool `json:"paused"`
}

// Isolation is what holds a running task in, in words, and what it was refused.
type Isolation struct {
	Job        placement.JobID  `json:"job"`
	Task       placement.TaskID `json:"task"`
	Kind       placement.Kind   `json:"kind"`
	Node       placement.NodeID `json:"node,omitempty"`
	Boundaries []Boundary       `json:"boundaries"`
	// Denied is summed by destination; empty where the driver counts nothing.
	Denied []Denial `json:"denied"`
	// Access are the times that somebody reached in, as the ledger has them.
	Access []placement.TaskNote `json:"access"`
}

// Boundary is one thing that holds a task in.
type Boundary struct {
	What  string `json:"what"`
	Holds bool   `json:"holds"`
	How   string `json:"how"`
}

// Denial is what a task was refused at one destination.
type Denial struct {
	Destination string    `json:"destination"` // address:port/protocol
	Packets     uint64    `json:"packets"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
}

// DriftReport is how a running task differs from what was declared.
type DriftReport struct {
	Job  placement.JobID  `json:"job"`
	Task placement.TaskID `json:"task"`
	Mode placement.Drift  `json:"mode"`
	// Findings are of now: it was looked at for this answer.
	Findings []DriftFinding `json:"findings"`
	// Noted is what the ledger has of it, oldest first.
	Noted []placement.TaskNote `json:"noted"`
}

// DriftFinding is one difference.
type DriftFinding struct {
	Subject string `json:"subject"`
	Count   int    `json:"count"`
	Text    string `json:"text"`
}

// SnapshotManifest names what a forensic snapshot holds. It is the first file of
// the archive, and the hash of its bytes stands in the ledger.
type SnapshotManifest struct {
	Job     placement.JobID  `json:"job"`
	Task    placement.TaskID `json:"task"`
	At      time.Time        `json:"at"`
	Paused  string           `json:"paused,omitempty"` // how long the task stood still
	Parts   []SnapshotPart   `json:"parts"`
	Missing []string         `json:"missing"` // what could not be had, and why
}

// SnapshotPart is one file of a snapshot.
type SnapshotPart struct {
	Name   string `json:"name"`
	What   string `json:"what"` // disk, memory, console, records
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// DisksVerb is what is done with the snapshots of a task's disks.
type DisksVerb string

// The verbs.
const (
	DisksList    DisksVerb = "list"
	DisksTake    DisksVerb = "take"
	DisksRemove  DisksVerb = "remove"
	DisksRestore DisksVerb = "restore" // the disks are set back, and the machine begins anew
)

// DiskSnapshots are the named copies of a task's disks, which lie beside them.
type DiskSnapshots struct {
	Job  placement.JobID  `json:"job"`
	Task placement.TaskID `json:"task"`
	// Snapshot is the one that was taken, or that the disks were set back to.
	Snapshot  *DiskSnapshot  `json:"snapshot,omitempty"`
	Snapshots []DiskSnapshot `json:"snapshots"` // those that there are now, oldest first
}

// DiskSnapshot is one of them.
type DiskSnapshot struct {
	Name  string    `json:"name"`
	At    time.Time `json:"at"` // the instant that the disks are of
	Disks []string  `json:"disks"`
	Bytes int64     `json:"bytes"` // what it takes of the node's disk
	// Frozen: the guest's file systems were held still for that instant. Otherwise the
	// disks are as after a power cut, and Why says what was in the way.
	Frozen bool   `json:"frozen"`
	Why    string `json:"why,omitempty"`
}

// DisksRequest names the snapshot that a node is asked to do something with.
type DisksRequest struct {
	Name string `json:"name,omitempty"`
}
