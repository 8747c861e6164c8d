//go:build linux

// Package microvm runs jobs as micro-VMs: an OCI image with a kernel of its own.
//
// The image is flattened to one read-only disk per digest, a small machine of
// QEMU's boots the distribution's cloud kernel with an initramfs made here, and
// the init in it runs the image's command and speaks to the task's supervisor
// over a virtio-serial channel, or vsock. The same image gives the same output and the same
// exit code as in a container; what holds it in is a machine. The rule: nothing
// that the guest says is believed beyond its own task, and a machine has no
// network and no device that its job did not ask for.
//
// The program's main must begin with
//
//	if len(os.Args) > 1 && os.Args[1] == microvm.SupervisorCommand {
//		os.Exit(microvm.SupervisorMain(os.Args[2:]))
//	}
//
// and its init, built from node/driver/microvm/init without any library, must lie
// beside it as sovmesh-init.
package microvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/image"
	"github.com/sovmesh/sovmesh/node/driver/keep"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/inputs"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// InitName is the init's, beside the program.
const InitName = "sovmesh-init"

// Config is what the driver needs; Dir must be set.
type Config struct {
	// Dir holds what is kept of tasks, and disks, on a local disk.
	Dir string
	// Images says where images may come from.
	Images image.Source
	// Supervisor is the command line that ends in [SupervisorMain].
	Supervisor []string
	// Cgroup is as of the process driver.
	Cgroup string
	// Binary is QEMU's name or path.
	Binary string
	// Vsock has guests spoken to by vsock where the host and the guests' kernel have
	// it, and is off unless said: a guest whose kernel is taken over then reaches every
	// program of the node that listens to machines. VsockDevice is the host's device;
	// empty is where hosts have it.
	Vsock       bool
	VsockDevice string
	// Probe tries what QEMU's machines run on here; nil is [qemu.Probe].
	Probe func(ctx context.Context, binary string) (qemu.Accel, error)
	// Kernel is what guests boot and Modules its modules; empty is the newest
	// cloud kernel of the distribution below one of KernelRoots.
	Kernel, Modules string
	KernelRoots     []string
	// Init is the guest's first program; empty is the one beside this program.
	Init string
	// UIDs is the first of 65536 user numbers that machines have, one each, where
	// the agent is root; 0 is for the agent's own.
	UIDs int
	// Hold says how machines' networks are held to their jobs' lists; of the rest of
	// it nothing counts here. Without its Network lists are refused.
	Hold process.Hold
	// A task's output is kept in LogFiles files of LogFileSize bytes.
	LogFileSize int64
	LogFiles    int
	// ImageSize bounds the content of an image in bytes.
	ImageSize int64
	// VolumeSize is how large a volume can grow; its file takes what is written.
	VolumeSize placement.Bytes
	// ShareServer is virtiofsd's path; empty is where distributions have it. Without
	// it no volume is shared. ShareUsers is the first of the users of the node's that
	// stand for those within shared volumes, 65536 for each of 3584 jobs; 0 is for none.
	// Of these and of UIDs each agent of a machine has a part: [process.Hold.Part].
	ShareServer string
	ShareUsers  int
	// InputSize bounds what the inputs of one task have together, in bytes; making
	// their disk leaves Reserve bytes free.
	InputSize, Reserve int64
	// Keep is how long a disk that no task uses is kept.
	Keep time.Duration
	// Boot bounds the time that a guest takes to come up.
	Boot time.Duration
}

// DefaultConfig has everything but Dir and where images come from.
func DefaultConfig() Config {
	return Config{
		Supervisor: []string{"/proc/self/exe", SupervisorCommand}, Cgroup: "sovmesh-microvm", Binary: "qemu-system-x86_64",
		KernelRoots: []string{"/", "/usr/local/share/sovmesh/kernel"}, UIDs: 1_800_000_000, ShareUsers: 1_910_000_000,
		LogFileSize: 8 << 20, LogFiles: 4, ImageSize: 16 << 30, VolumeSize: 32 * placement.GiB, InputSize: 128 << 30, Reserve: 1 << 30, Keep: 24 * time.Hour, Boot: 2 * time.Minute,
	}
}

// Driver is the runner.Driver of micro-VMs.
type Driver struct {
	cfg    Config
	base   *process.Driver
	disks  *store
	inputs *inputs.Store

	sharing sync.Mutex // guards what is made below volumes for jobs to share

	probing sync.Mutex  // held while QEMU is asked
	accel   *qemu.Accel // guarded by probing; as it was probed
	vsock   *string     // guarded by probing; why QEMU's machines have none, if they have none; nil until it is asked

	mu   sync.Mutex               // nothing is waited for with it
	uids map[int]placement.TaskID // guarded by mu; of starts under way
	pins map[placement.TaskID]pin // guarded by mu; of tasks that were prepared
}

var (
	_ runner.Driver         = (*Driver)(nil)
	_ runner.Leaser         = (*Driver)(nil)
	_ runner.Preparer       = (*Driver)(nil)
	_ runner.InputsPreparer = (*Driver)(nil)
	_ runner.Measurer       = (*Driver)(nil)
	_ runner.Execer         = (*Driver)(nil)
	_ runner.Pauser         = (*Driver)(nil)
	_ runner.Consoler       = (*Driver)(nil)
	_ runner.Dialer         = (*Driver)(nil)
	_ runner.Keeper         = (*Driver)(nil)
	_ runner.Inspector      = (*Driver)(nil)
	_ runner.Counter        = (*Driver)(nil)
)

// New makes the directories and starts nothing.
func New(cfg Config) (*Driver, error) {
	var problems []error
	if !filepath.IsAbs(cfg.Dir) {
		problems = append(problems, fmt.Errorf("microvm driver: Dir %q is not an absolute path", cfg.Dir))
	}
	if cfg.Binary == "" || cfg.ImageSize <= 0 || cfg.VolumeSize < placement.MiB || cfg.Keep < 0 || cfg.Boot <= 0 || cfg.UIDs < 0 {
		problems = append(problems, errors.New("microvm driver: a setting is out of range; begin with DefaultConfig"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if cfg.Probe == nil {
		cfg.Probe = qemu.Probe
	}
	p := process.DefaultConfig()
	p.Name, p.Dir, p.Supervisor, p.Cgroup = string(placement.KindMicroVM), filepath.Join(cfg.Dir, "tasks"), cfg.Supervisor, cfg.Cgroup
	p.Hold = cfg.Hold
	p.LogFileSize, p.LogFiles, p.Spares, p.StartTimeout = cfg.LogFileSize, cfg.LogFiles, 0, cfg.Boot+30*time.Second
	base, err := process.New(p)
	if err != nil {
		return nil, fmt.Errorf("microvm driver: %w", err)
	}
	disks, err := newStore(filepath.Join(cfg.Dir, "disks"), cfg.ImageSize)
	if err != nil {
		return nil, fmt.Errorf("microvm driver: %w", err)
	}
	given, err := inputs.New(inputs.Config{Dir: filepath.Join(cfg.Dir, "inputs"), Most: cfg.InputSize, Reserve: cfg.Reserve, Keep: cfg.Keep})
	if err != nil {
		return nil, fmt.Errorf("microvm driver: %w", err)
	}
	return &Driver{cfg: cfg, base: base, disks: disks, inputs: given, uids: make(map[int]placement.TaskID), pins: make(map[placement.TaskID]pin)}, nil
}

// Close ends what the driver keeps; tasks go on.
func (d *Driver) Close() error { return d.base.Close() }

// Name is "microvm".
func (d *Driver) Name() string { return d.base.Name() }

// initPath is where the init lies.
func (d *Driver) initPath() (string, error) {
	path := d.cfg.Init
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		path = filepath.Join(filepath.Dir(self), InitName)
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the guests' init is missing (%w): install %s beside the program; make build makes it", err, InitName)
	}
	return path, nil
}

// Fingerprint tries what tasks will need, KVM too.
func (d *Driver) Fingerprint(ctx context.Context) (runner.Fingerprint, error) {
	fp, err := d.base.Fingerprint(ctx)
	if err != nil {
		return fp, err
	}
	fp.Facts["isolation"] = "machine: each task has a kernel of its own under QEMU"
	fp.Facts["volumes"] = "a disk each, of at most " + d.cfg.VolumeSize.String()
	if _, err := exec.LookPath("mke2fs"); err != nil {
		fp.Facts["volumes"] = "none: install e2fsprogs"
	}
	fp.Facts["volumes_shared"] = "directories of the job, by virtiofs"
	if server, why, _ := d.shareServer(); server == "" {
		fp.Facts["volumes_shared"] = "none: " + why
	}
	fp.Facts["network"] = "none: this agent gives tasks no networks of their own"
	if d.cfg.Hold.Network != nil {
		fp.Facts["network_beyond"] = d.cfg.Hold.Network.Beyond()
		fp.Facts["network"] = "none without a list, and one held to the list with it: counted, held on the node's side too; guests have IPv4"
	}
	var problems []error
	accel, err := d.probe(ctx, true)
	if err != nil {
		problems = append(problems, err)
	} else {
		fp.Version = accel.Version
		for k, v := range accel.Facts() {
			fp.Facts[k] = v
		}
	}
	kernel, err := findKernel(d.cfg.Kernel, d.cfg.Modules, d.cfg.KernelRoots)
	if err != nil {
		problems = append(problems, err)
	} else {
		fp.Facts["kernel"] = kernel.version
	}
	kind, why := d.control(ctx, kernel)
	if fp.Facts["control"] = kind; why != "" {
		fp.Facts["control"] += ": vsock was asked for, but " + why
	}
	if _, err := d.initPath(); err != nil {
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		fp.Healthy, fp.Reason = false, err.Error()
	}
	return fp, nil
}

// probe is the accelerator; it is tried out once, or anew.
func (d *Driver) probe(ctx context.Context, anew bool) (qemu.Accel, error) {
	d.probing.Lock()
	defer d.probing.Unlock()
	if d.accel == nil || anew {
		a, err := d.cfg.Probe(ctx, d.cfg.Binary)
		if err != nil {
			return a, err
		}
		d.accel, d.vsock = &a, nil
	}
	return *d.accel, nil
}

// Recover, List, Wait, Stop, Lease and Logs are those of the process that the
// machine is.

// Recover says what became of a task.
func (d *Driver) Recover(ctx context.Context, h runner.Handle) (runner.Observed, error) {
	o, err := d.base.Recover(ctx, h)
	if err == nil {
		d.facts(&o)
	}
	return o, err
}

// List is everything that the driver has.
func (d *Driver) List(ctx context.Context) ([]runner.Observed, error) {
	all, err := d.base.List(ctx)
	for i := range all {
		d.facts(&all[i])
	}
	return all, err
}

// Wait blocks until the task has ended.
func (d *Driver) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	return d.base.Wait(ctx, h)
}

// Stop asks the workload to end with SIGTERM and ends the machine after grace.
func (d *Driver) Stop(ctx context.Context, h runner.Handle, grace time.Duration) error {
	return d.base.Stop(ctx, h, grace)
}

// Lease ends the machine at that instant.
func (d *Driver) Lease(ctx context.Context, h runner.Handle, until time.Time) error {
	return d.base.Lease(ctx, h, until)
}

// Logs reads the workload's output.
func (d *Driver) Logs(ctx context.Context, h runner.Handle, from int64, follow bool) (io.ReadCloser, error) {
	return d.base.Logs(ctx, h, from, follow)
}

// Destroy removes the task, and disks that nobody uses any more.
func (d *Driver) Destroy(ctx context.Context, h runner.Handle) error {
	if err := d.base.Destroy(ctx, h); err != nil {
		return err
	}
	keep.Touch(filepath.Dir(d.volumeFile(h.Task, "")))
	d.mu.Lock()
	delete(d.pins, h.Task)
	d.mu.Unlock()
	return errors.Join(d.collect(ctx), d.inputs.Collect())
}
