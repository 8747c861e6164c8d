//go:build linux

// Package vm runs jobs as full virtual machines: a guest with its own kernel
// and its own operating system, from a cloud image, on QEMU.
//
// The rules: an image is used only after its bytes were compared with what the
// job or its vendor's signature says of them, and in the format that it is
// declared to have; nothing in it makes QEMU open another file. A machine sees
// no file of the node but its own disks, and reaches nothing that its job did
// not name. What a service wrote to its disks is there when it is started again
// on the same node. A machine outlives the agent: node/driver/qemu supervises it.
//
// The exit code of a machine is 0 when its guest powers off by itself. A guest
// that panics, or resets over and over, has failed. A guest that reboots goes on.
//
// The program's main must begin with
//
//	if len(os.Args) > 1 && os.Args[1] == vm.SupervisorCommand {
//		os.Exit(vm.SupervisorMain(os.Args[2:]))
//	}
package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/inputs"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// SupervisorCommand is the first argument of a machine's supervisor.
const SupervisorCommand = "vm-supervisor"

// Config is what the driver needs; Dir must be set.
type Config struct {
	// Dir holds the tasks, the images that were fetched, and the disks that
	// outlive tasks. It must be on a local disk.
	Dir string
	// Supervisor is the command line that ends in [SupervisorMain].
	Supervisor []string
	Cgroup     string
	// A console's output is kept as a process' is: LogFiles files of LogFileSize bytes.
	LogFileSize int64
	LogFiles    int
	// StartTimeout bounds the wait until QEMU runs.
	StartTimeout time.Duration
	Binary       string // QEMU
	// Probe tries what QEMU's machines run on here; nil is [qemu.Probe].
	Probe func(ctx context.Context, binary string) (qemu.Accel, error)
	// ImageDirs are the operator's directories of images: a job's paths resolve
	// below them only. The vendors' keys lie in their "keys".
	ImageDirs []string
	Catalogue []Vendor
	HTTP      *http.Client
	Firmware  []Firmware // UEFI; the first that is installed is taken
	// UIDBase is the first of the user numbers that machines run as where the
	// agent is root: each has its own.
	UIDBase  int
	MaxImage placement.Bytes // of an image's file
	MaxDisk  placement.Bytes // of a disk, as a guest sees it
	// MaxInputs bounds what the inputs of one task have together; making their disk
	// leaves Reserve free of the node's.
	MaxInputs, Reserve placement.Bytes
	// LiveFor bounds how long a machine that is moved runs on while its disks, and
	// then its memory, are copied; for what is left then it stands still.
	LiveFor time.Duration
	// HostNetwork lets jobs ask for the node's own network.
	HostNetwork bool
	// Hold says how machines' networks are held to their jobs' lists; of the rest of
	// it nothing counts here. Without its Network a machine reaches nothing.
	Hold process.Hold
	// Sysfs is where the kernel tells of devices.
	Sysfs string
	// PCI finds the bus address of a device by its UUID; nil is no passthrough.
	PCI func(uuid string) (string, error)
}

// Firmware is a UEFI for machines: its code, and the variables a new machine has.
type Firmware struct{ Code, Vars string }

// DefaultConfig has everything but Dir and ImageDirs.
func DefaultConfig() Config {
	base := process.DefaultConfig()
	return Config{
		Supervisor: []string{"/proc/self/exe", SupervisorCommand}, Cgroup: base.Cgroup,
		LogFileSize: base.LogFileSize, LogFiles: base.LogFiles, StartTimeout: time.Minute,
		Binary: "qemu-system-x86_64", Catalogue: Catalogue(), HTTP: &http.Client{Timeout: 2 * time.Hour},
		Firmware: []Firmware{
			{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
			{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
		},
		UIDBase: 1_700_000_000, MaxImage: 64 * placement.GiB, MaxDisk: 16 * 1024 * placement.GiB, MaxInputs: 128 * placement.GiB, Reserve: placement.GiB, Sysfs: "/sys",
		LiveFor: 10 * time.Minute,
	}
}

// Driver is the runner.Driver of virtual machines.
type Driver struct {
	*process.Driver // its tasks, once they are started
	cfg             Config
	images          *store
	inputs          *inputs.Store

	probing sync.Mutex  // held while QEMU is tried out
	accel   *qemu.Accel // guarded by probing; nil until it was probed

	mu       sync.Mutex
	starting map[string]placement.TaskID // guarded by mu; claims of starts under way: users, disks
	uses     map[placement.TaskID]*use   // guarded by mu; what a move cannot go beside, and moves
	sessions *sessions
	forward  sync.Mutex        // held while a task's forwards are read and changed
	marks    func(step string) // told how far moves get, by measurements alone; nil for nobody
}

// ShowsOutputs: a machine has no directory of the node's in its sight.
func (d *Driver) ShowsOutputs() bool { return false }

func (d *Driver) mark(step string) {
	if d.marks != nil {
		d.marks(step)
	}
}

var (
	_ runner.Driver         = (*Driver)(nil)
	_ runner.Preparer       = (*Driver)(nil)
	_ runner.InputsPreparer = (*Driver)(nil)
	_ runner.Leaser         = (*Driver)(nil)
	_ runner.Measurer       = (*Driver)(nil)
	_ runner.Consoler       = (*Driver)(nil)
	_ runner.Dialer         = (*Driver)(nil)
	_ runner.Counter        = (*Driver)(nil)
	_ runner.Execer         = (*Driver)(nil)
	_ runner.Keeper         = (*Driver)(nil)
	_ runner.Pauser         = (*Driver)(nil)
	_ runner.Inspector      = (*Driver)(nil)
	_ runner.Snapshotter    = (*Driver)(nil)
	_ runner.Rememberer     = (*Driver)(nil)

	_ runner.DiskSnapshotter = (*Driver)(nil)
)

// New makes the directories and starts nothing.
func New(cfg Config) (*Driver, error) {
	var problems []error
	if !filepath.IsAbs(cfg.Dir) {
		problems = append(problems, fmt.Errorf("vm driver: Dir %q is not an absolute path", cfg.Dir))
	}
	for _, dir := range cfg.ImageDirs {
		if !filepath.IsAbs(dir) {
			problems = append(problems, fmt.Errorf("vm driver: image directory %q is not an absolute path", dir))
		}
	}
	if cfg.Binary == "" || cfg.HTTP == nil || cfg.MaxImage <= 0 || cfg.MaxDisk <= 0 || cfg.LiveFor <= 0 || cfg.Sysfs == "" {
		problems = append(problems, errors.New("vm driver: a setting is out of range; begin with DefaultConfig"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if cfg.Probe == nil {
		cfg.Probe = qemu.Probe
	}
	for _, sub := range []string{"images", "disks"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("vm driver: %w", err)
		}
	}
	sweepSigns(filepath.Join(cfg.Dir, "disks"))
	given, err := inputs.New(inputs.Config{Dir: filepath.Join(cfg.Dir, "inputs"), Most: int64(cfg.MaxInputs), Reserve: int64(cfg.Reserve), Keep: imageRest})
	if err != nil {
		return nil, fmt.Errorf("vm driver: %w", err)
	}
	base, err := process.New(process.Config{
		Name: string(placement.KindVM), Dir: filepath.Join(cfg.Dir, "tasks"), Supervisor: cfg.Supervisor, Cgroup: cfg.Cgroup,
		LogFileSize: cfg.LogFileSize, LogFiles: cfg.LogFiles, StartTimeout: cfg.StartTimeout, Hold: cfg.Hold,
	})
	if err != nil {
		return nil, fmt.Errorf("vm driver: %w", err)
	}
	return &Driver{
		Driver: base, cfg: cfg, inputs: given, images: &store{dir: filepath.Join(cfg.Dir, "images"), most: int64(cfg.MaxImage)},
		starting: make(map[string]placement.TaskID), uses: make(map[placement.TaskID]*use), sessions: newSessions(),
	}, nil
}

// Fingerprint tries what machines will need.
func (d *Driver) Fingerprint(ctx context.Context) (runner.Fingerprint, error) {
	fp, err := d.Driver.Fingerprint(ctx)
	if err != nil {
		return fp, err
	}
	facts := fp.Facts
	facts["isolation"] = "machine: each task has a kernel of its own, on QEMU in its sandbox"
	facts["network"] = "one of QEMU's own, which leads nowhere"
	if d.cfg.Hold.Network != nil {
		facts["network"] = "one of each task's own, deny by default, counted, held on the node's side too; guests have IPv4"
	}
	if n := d.cfg.Hold.Network; n != nil {
		facts["network_beyond"] = n.Beyond()
	}
	facts["network_host"] = "refused"
	if d.cfg.HostNetwork {
		facts["network_host"] = "allowed to jobs that ask"
	}
	facts["vm.uefi"] = "absent: install ovmf"
	accel, err := d.probe(ctx)
	if err != nil {
		fp.Healthy, fp.Reason = false, err.Error()
		return fp, nil
	}
	fp.Version = accel.Version
	maps.Copy(facts, accel.Facts())
	facts["vm.move"] = d.moveFact(ctx)
	if f, ok := d.firmware(); ok {
		facts["vm.uefi"] = f.Code
	}
	facts["vm.iommu"] = iommu(d.cfg.Sysfs)
	if os.Geteuid() != 0 {
		facts["vm.user"] = "the agent's own: run the agent as root to give each machine its own"
	} else {
		facts["vm.user"] = fmt.Sprintf("each machine has its own, from %d on", d.cfg.UIDBase)
	}
	facts["vm.images"] = strings.Join(names(d.cfg.Catalogue), " ")
	return fp, nil
}

// probe finds the accelerator out, once.
func (d *Driver) probe(ctx context.Context) (qemu.Accel, error) {
	d.probing.Lock()
	defer d.probing.Unlock()
	if d.accel == nil {
		a, err := d.cfg.Probe(ctx, d.cfg.Binary)
		if err != nil {
			return a, err
		}
		d.accel = &a
	}
	return *d.accel, nil
}

func (d *Driver) firmware() (Firmware, bool) {
	for _, f := range d.cfg.Firmware {
		_, err1 := os.Stat(f.Code)
		_, err2 := os.Stat(f.Vars)
		if err1 == nil && err2 == nil {
			return f, true
		}
	}
	return Firmware{}, false
}

// refuse is a job that this driver cannot start as it is written.
func refuse(s runner.Spec, advice, format string, args ...any) error {
	return &runner.StartError{Task: s.Task, Reason: fmt.Sprintf(format, args...), Advice: advice}
}

// place names what a job's copy keeps on this node between its attempts.
func place(id placement.TaskID) string {
	ordinal, _, _ := id.Member()
	return fmt.Sprintf("%s.%d", id.Job(), ordinal)
}
