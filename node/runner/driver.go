package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Driver runs one kind of task. Tasks belong to the machine, not to the
// driver's process: a driver that is built anew after a crash finds them again
// by their handles. Every driver passes node/driver/drivertest.
//
// Methods that take a handle are idempotent and may be called by several
// goroutines at once.
type Driver interface {
	// Name is the kind of job the driver runs.
	Name() string
	// Fingerprint says whether the driver can work here, and how.
	Fingerprint(ctx context.Context) (Fingerprint, error)
	// Start brings the task up. It calls spec.Keep with the task's handle before
	// anything runs, so that a crash at any instant leaves no stray, and returns
	// once the workload runs. A task that is already there, running or ended, is
	// not started again: *ExistsError. A workload that cannot be started is a
	// *StartError.
	Start(ctx context.Context, spec Spec) (Handle, error)
	// Recover says what became of a task. Any error means "cannot tell now".
	Recover(ctx context.Context, h Handle) (Observed, error)
	// List is everything the driver has on this machine, known to the caller or
	// not.
	List(ctx context.Context) ([]Observed, error)
	// Wait blocks until the task has ended. Only a nil error is an end.
	Wait(ctx context.Context, h Handle) (Exit, error)
	// Stop asks the task to end, kills it and all it started after grace, and
	// returns when it has ended. Of a task that is gone it kills what is left.
	Stop(ctx context.Context, h Handle, grace time.Duration) error
	// Destroy removes all traces of the task, its output too, ending it if need be.
	Destroy(ctx context.Context, h Handle) error
	// Logs reads the task's output from the given byte, counted from its start.
	// With follow it goes on until the task has ended. Output that was dropped
	// by rotation is skipped.
	Logs(ctx context.Context, h Handle, from int64, follow bool) (io.ReadCloser, error)
}

// Preparer is a driver that fetches something before it can start a task;
// the task counts as starting meanwhile. Prepare is idempotent.
type Preparer interface {
	Prepare(ctx context.Context, spec Spec) error
}

// InputsPreparer is a driver that makes something of a task's inputs before it can
// start the task or take it in: a disk. PrepareInputs is called with InputsDir set,
// may take long, gives up when its context ends, and is idempotent.
type InputsPreparer interface {
	PrepareInputs(ctx context.Context, spec Spec) error
}

// Leaser is a driver that ends a task at a given instant even when no agent
// is there to ask it. A later instant replaces an earlier one.
type Leaser interface {
	Lease(ctx context.Context, h Handle, until time.Time) error
}

// Measurer is a driver that knows what a running task uses.
type Measurer interface {
	Stats(ctx context.Context, h Handle) (Stats, error)
}

// Spec is all that a driver needs to know to start a task.
type Spec struct {
	Task      placement.TaskID    `json:"task"`
	Job       placement.JobID     `json:"job"`
	Name      string              `json:"name,omitempty"`
	Command   []string            `json:"command,omitempty"`
	Env       map[string]string   `json:"env,omitempty"`
	Resources placement.Resources `json:"resources"`
	Devices   []string            `json:"devices,omitempty"` // UUIDs
	// Service: its job is kept running, so that what it keeps on this node is
	// there again for its next attempt.
	Service  bool     `json:"service,omitempty"`
	Image    string   `json:"image,omitempty"`
	Models   []string `json:"models,omitempty"`
	Upstream string   `json:"upstream,omitempty"`
	// Setup is what the job says of its workload beyond that; never nil when a
	// runner asks.
	Setup *placement.Setup `json:"setup,omitempty"`
	// SecretsDir holds the job's secrets, a file each, for the time that the task
	// runs; empty for none. A driver hands the directory to the workload, read-only,
	// under [SecretsPath] or by [SecretsEnv], and copies nothing of it.
	SecretsDir string `json:"secrets_dir,omitempty"`
	// InputsDir holds the job's inputs, a read-only file each, empty for none. A driver
	// shows it to the workload under [InputsPath], or names it by [InputsEnv].
	InputsDir string `json:"inputs_dir,omitempty"`
	// OutputsDir is an empty directory of the task's own, for what it leaves to be
	// fetched; empty for none. A driver that is a [ShowsOutputs] gives it to the workload's
	// user and shows it, writable, under [OutputsPath], or names it by [OutputsEnv].
	OutputsDir string `json:"outputs_dir,omitempty"`
	// Resolve tells what names in the job's list stand for, now; it may be nil.
	Resolve Resolver `json:"-"`
	// Connect reaches the services in the job's list; it may be nil.
	Connect Connector `json:"-"`
	// Tenant, Region and Tag are for labels: whose it is, where it runs, and its
	// effective policy in canonical form.
	Tenant placement.TenantID `json:"tenant,omitempty"`
	Region placement.RegionID `json:"region,omitempty"`
	Tag    string             `json:"tag,omitempty"`
	// Grace is how long the task may take to end after it was asked to.
	Grace time.Duration `json:"grace"`
	// LeaseUntil, if set, is when a [Leaser] ends the task by itself.
	LeaseUntil time.Time `json:"lease_until,omitzero"`
	// Unwanted reports that the task was told to end while it was started: a start
	// that waits for long asks now and then, and gives up. It may be nil.
	Unwanted func() bool `json:"-"`
	// Begun tells that the workload runs though Start has not returned: it loads a
	// model for one. It may be nil, and may be called again.
	Begun func() `json:"-"`
	// Keep stores the handle durably; an error of it ends the start.
	Keep func(Handle) error `json:"-"`
}

// Where a workload finds its secrets: the directory where it has a root of its
// own, and the variable that always names it.
const (
	SecretsPath = "/run/secrets"
	SecretsEnv  = "SOVMESH_SECRETS"
)

// Where it finds its inputs, in the same way.
const (
	InputsPath = "/run/inputs"
	InputsEnv  = "SOVMESH_INPUTS"
)

// Where it leaves its outputs, in the same way.
const (
	OutputsPath = "/run/outputs"
	OutputsEnv  = "SOVMESH_OUTPUTS"
)

// DeviceEnv is what a task's environment says of its devices, whatever its job
// says: a task sees those it was given and no others. A part of one device is
// held to by CUDA's MPS where the machine runs its daemon, and by the task's own
// good will elsewhere.
// https://docs.nvidia.com/deploy/mps/
func (s *Spec) DeviceEnv() map[string]string {
	list := strings.Join(s.Devices, ",")
	env := map[string]string{"CUDA_VISIBLE_DEVICES": list, "NVIDIA_VISIBLE_DEVICES": list, "SOVMESH_DEVICES": list}
	if list == "" {
		env["NVIDIA_VISIBLE_DEVICES"] = "void"
	}
	if share := s.Resources.GPUShare; share > 0 {
		env["SOVMESH_GPU_SHARE"] = strconv.FormatFloat(float64(share)/float64(placement.WholeGPU), 'f', -1, 64)
		env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = strconv.Itoa(max(1, int(share)*100/int(placement.WholeGPU)))
	}
	return env
}

// Handle finds a task again. It is small, versioned and stored as JSON.
type Handle struct {
	Version int              `json:"version"`
	Driver  string           `json:"driver"`
	Task    placement.TaskID `json:"task"`
	Data    json.RawMessage  `json:"data,omitempty"` // the driver's own
}

// State is what a driver sees of a task.
type State string

// The states. Gone means that it did run and that how it ended is not known;
// absent means that nothing of it ever ran and that no earlier Start will
// still bring it up.
const (
	StateRunning State = "running"
	StateExited  State = "exited"
	StateGone    State = "gone"
	StateAbsent  State = "absent"
)

// Observed is what really is there.
type Observed struct {
	Handle    Handle            `json:"handle"`
	State     State             `json:"state"`
	Exit      *Exit             `json:"exit,omitempty"` // set when exited
	StartedAt time.Time         `json:"started_at,omitzero"`
	Facts     map[string]string `json:"facts,omitempty"` // pid, cgroup, image digest
	// Held: it runs on no side until a move is decided, see [Migrator].
	Held Hold `json:"held,omitempty"`
}

// Exit is how a task ended.
type Exit struct {
	// Code is the exit code, or 128 and the signal's number.
	Code   int    `json:"code"`
	Signal string `json:"signal,omitempty"`
	OOM    bool   `json:"oom,omitempty"` // ended for want of memory
	// Stopped: it ended because it was told to; Killed: it did not within its grace.
	Stopped bool `json:"stopped,omitempty"`
	Killed  bool `json:"killed,omitempty"`
	// Reason explains what the code does not.
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// String says in words how the task ended.
func (e Exit) String() string {
	switch {
	case e.Reason != "":
		return e.Reason
	case e.OOM:
		return "out of memory: it used more than its job asked for"
	case e.Signal != "":
		return "ended by signal " + e.Signal
	default:
		return fmt.Sprintf("exit code %d", e.Code)
	}
}

// Fingerprint is what a driver says about itself and this machine.
type Fingerprint struct {
	Healthy bool   `json:"healthy"`
	Reason  string `json:"reason,omitempty"` // why not
	Version string `json:"version,omitempty"`
	// Facts are what operators should know: isolation, limits that are not
	// enforced here, engine, quirks.
	Facts map[string]string `json:"facts,omitempty"`
}

// Stats are a running task's use of the machine.
type Stats struct {
	CPU       time.Duration   `json:"cpu"` // processor time since its start
	Memory    placement.Bytes `json:"memory"`
	Processes int             `json:"processes"`
	At        time.Time       `json:"at"`
}

// StartError is a workload that could not be started; trying again on this
// node would give the same.
type StartError struct {
	Task   placement.TaskID
	Reason string
	Advice string
}

func (e *StartError) Error() string { return fmt.Sprintf("start task %s: %s", e.Task, e.Reason) }

// Hint says what the job's author can do.
func (e *StartError) Hint() string { return e.Advice }

// ExistsError is the answer to starting a task that is already there.
type ExistsError struct{ Handle Handle }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("start task %s: it is already there", e.Handle.Task)
}
