package runner

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// The parts of a driver that not every driver has: each is asked for by type
// assertion, and a driver that cannot do a thing has no method for it.

// Delegate is a driver that has another driver run some of its tasks. The other
// driver's parts are those of the task.
type Delegate interface {
	// Behind is the driver that runs a task and the handle it knows the task by;
	// false if this driver runs it.
	Behind(h Handle) (Driver, Handle, bool)
}

// behind is whoever runs the task.
func behind(d Driver, h Handle) (Driver, Handle) {
	if via, ok := d.(Delegate); ok {
		if inner, as, yes := via.Behind(h); yes {
			return inner, as
		}
	}
	return d, h
}

// ShowsOutputs is a driver whose tasks may find a directory for their outputs.
type ShowsOutputs interface {
	// ShowsOutputs reports whether it keeps to [Spec.OutputsDir].
	ShowsOutputs() bool
}

// Execer is a driver that runs further commands in a running task.
type Execer interface {
	// Exec runs a command in the task's own boundary and returns its exit. It ends
	// when ctx does, and the command with it. A command that cannot be started is
	// a *StartError.
	Exec(ctx context.Context, h Handle, req ExecRequest) (Exit, error)
}

// ExecRequest is a command to run in a task.
type ExecRequest struct {
	Command []string
	Env     map[string]string
	// TTY gives the command a terminal; Stdout then carries both outputs.
	TTY    bool
	Size   TermSize        // of the terminal at first
	Resize <-chan TermSize // may be nil
	Stdin  io.Reader       // may be nil: the command reads an end at once
	Stdout io.Writer
	Stderr io.Writer
}

// TermSize is a terminal's in characters.
type TermSize struct {
	Columns int `json:"columns"`
	Rows    int `json:"rows"`
}

// Consoler is a driver whose tasks have a serial console. The connection ends
// when it is closed or the task ends; what is printed meanwhile is in the
// task's output as well. Several may be open at once.
type Consoler interface {
	Console(ctx context.Context, h Handle) (io.ReadWriteCloser, error)
}

// Dialer is a driver that reaches a TCP port of a task from its node.
type Dialer interface {
	Dial(ctx context.Context, h Handle, port int) (net.Conn, error)
}

// ServiceDialer is a [Dialer] whose connections go along when their task is moved.
// Those of services end then, and must not take the places of people's.
type ServiceDialer interface {
	DialService(ctx context.Context, h Handle, port int) (net.Conn, error)
}

// Pauser is a driver that holds a task still and lets it go on.
type Pauser interface {
	Pause(ctx context.Context, h Handle) error
	Resume(ctx context.Context, h Handle) error
}

// Inspector is a driver that says what really runs, for the audit of drift, and
// what really bounds it, for those who ask what isolates a task.
type Inspector interface {
	Inspect(ctx context.Context, h Handle) (Actual, error)
}

// Actual is what really runs, as the engine, the kernel or the guest tells it.
// A nil or zero field was not found out, and is compared with nothing.
type Actual struct {
	ImageDigest string             `json:"image_digest,omitempty"` // sha256:...
	Devices     []string           `json:"devices,omitempty"`      // UUIDs, sorted
	CPU         placement.MilliCPU `json:"cpu,omitempty"`          // the limit
	Memory      placement.Bytes    `json:"memory,omitempty"`       // the limit
	Pids        int                `json:"pids,omitempty"`         // the limit
	Networks    []string           `json:"networks,omitempty"`
	Mounts      []string           `json:"mounts,omitempty"` // path in the workload, sorted
	Disks       []string           `json:"disks,omitempty"`
	// Packages and Services are the guest's own, where something in it tells.
	Packages map[string]string `json:"packages,omitempty"` // name to version
	Services map[string]string `json:"services,omitempty"` // name to state
	// Unsettled: something in the guest still starts, or may tell of packages and
	// services and has not yet. What it tells meanwhile is taken for nothing.
	Unsettled bool       `json:"unsettled,omitempty"`
	Boundary  []Boundary `json:"boundary,omitempty"`
}

// Rememberer is a driver whose tasks may have a disk that outlives them. It keeps
// with the disk what was found inside when that had settled, so that the next
// task on it is held against the same.
type Rememberer interface {
	// Remembered is what was kept; false if nothing was, or the disk is the task's own.
	Remembered(h Handle) (Actual, bool)
	// Remember keeps the packages and services of a. Of a disk that goes with its
	// task nothing is kept.
	Remember(h Handle, a Actual) error
}

// Boundary is one thing that holds a task in, in words that an auditor reads.
type Boundary struct {
	// What is one of: machine, kernel, root, user, privileges, system calls, files,
	// processes, network, cpu, memory, devices, disk.
	What string `json:"what"`
	// Holds: it is enforced. A boundary that does not hold is told too.
	Holds bool `json:"holds"`
	// How says by what, or why not.
	How string `json:"how"`
}

// Counter is a driver that counts what a task tried to reach and was refused.
type Counter interface {
	Denied(ctx context.Context, h Handle) ([]Denial, error)
}

// Denial is what a task was refused, summed by destination.
type Denial struct {
	Destination string    `json:"destination"` // address:port/protocol; "*" for what did not fit the list
	Packets     uint64    `json:"packets"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
}

// Snapshotter is a driver that copies a task's state into a directory of the
// caller's, without ending it.
type Snapshotter interface {
	Snapshot(ctx context.Context, h Handle, dir string) (Snapshot, error)
}

// Snapshot says what was copied.
type Snapshot struct {
	At     time.Time      `json:"at"`
	Parts  []SnapshotPart `json:"parts"`
	Paused time.Duration  `json:"paused,omitempty"` // how long the task stood still
	// Missing says what could not be had, and why.
	Missing []string `json:"missing,omitempty"`
}

// SnapshotPart is one file of a snapshot.
type SnapshotPart struct {
	Name   string `json:"name"` // of the file, in the directory
	What   string `json:"what"` // disk, memory, console, records
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// DiskSnapshotter is a driver that keeps named copies of a running task's disks
// beside them, and sets the disks back to one. What it refuses is a
// [*DiskSnapshotError].
type DiskSnapshotter interface {
	// SnapshotDisks copies every disk that outlives the task, all as they are at one
	// instant, while the task goes on.
	SnapshotDisks(ctx context.Context, h Handle, name string) (DiskSnapshot, error)
	// DiskSnapshots are those that there are, oldest first.
	DiskSnapshots(ctx context.Context, h Handle) ([]DiskSnapshot, error)
	RemoveDiskSnapshot(ctx context.Context, h Handle, name string) error
	// RestoreDisks sets the disks back, as if the machine's power had been cut and it
	// began anew on what they were. The task stays the same; the snapshot stays too.
	// After a crash half-way all disks are either as they were or as the snapshot has them.
	RestoreDisks(ctx context.Context, h Handle, name string) (DiskSnapshot, error)
}

// DiskSnapshot is a named copy of a task's disks.
type DiskSnapshot struct {
	Name  string    `json:"name"`
	At    time.Time `json:"at"`    // the instant that the disks are of
	Disks []string  `json:"disks"` // by their names
	Bytes int64     `json:"bytes"` // what it takes of the node's disk
	// Frozen: the guest's file systems were held still by its agent for that instant.
	// Otherwise the disks are as after a power cut, and Why says what was in the way.
	Frozen bool   `json:"frozen"`
	Why    string `json:"why,omitempty"`
}

// DiskSnapshotError is a snapshot of disks that is refused.
type DiskSnapshotError struct {
	Task   placement.TaskID
	Reason string
	Advice string
}

func (e *DiskSnapshotError) Error() string { return "task " + string(e.Task) + ": " + e.Reason }

// Hint says what to do.
func (e *DiskSnapshotError) Hint() string { return e.Advice }
