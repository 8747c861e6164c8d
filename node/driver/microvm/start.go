//go:build linux

package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/image"
	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/inputs"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// pin is what a task's image turned out to be: a tag is asked for once.
type pin struct {
	Ref    string
	Asked  string // the job's own digest, if it gave one
	Digest string
	Disk   string
	Config v1.Config
}

// handleData is the driver's own part of a handle.
type handleData struct {
	Image string `json:"image"`
	Disk  string `json:"disk"`
}

// Prepare finds the task's image and makes its disk.
func (d *Driver) Prepare(ctx context.Context, s runner.Spec) error {
	_, err := d.prepare(ctx, s)
	return err
}

// PrepareInputs has the disk of a task's inputs ready, which its start finds.
func (d *Driver) PrepareInputs(ctx context.Context, s runner.Spec) error {
	_, err := d.inputs.Disk(ctx, s)
	return err
}

func (d *Driver) prepare(ctx context.Context, s runner.Spec) (pin, error) {
	setup := setupOf(s)
	d.mu.Lock()
	p, ok := d.pins[s.Task]
	d.mu.Unlock()
	ok = ok && p.Ref == s.Image && p.Asked == setup.ImageDigest
	if ok {
		if _, err := os.Stat(d.disks.path(p.Disk)); err == nil {
			return p, nil
		}
	}
	digest := setup.ImageDigest
	if ok {
		digest = p.Digest
	}
	img, err := d.cfg.Images.Open(ctx, s.Image, digest)
	if err != nil {
		return pin{}, refused(s.Task, err)
	}
	defer img.Close()
	file, err := img.ConfigFile()
	if err != nil {
		return pin{}, refused(s.Task, err)
	}
	if file.OS != "" && file.OS != "linux" || file.Architecture != "" && file.Architecture != "amd64" {
		return pin{}, &runner.StartError{Task: s.Task, Reason: fmt.Sprintf("the image is for %s/%s", file.OS, file.Architecture), Advice: "name one for linux/amd64"}
	}
	p = pin{Ref: s.Image, Asked: setup.ImageDigest, Digest: img.Digest, Config: file.Config}
	if p.Disk, err = d.disks.disk(ctx, s.Tenant, img.Image); err != nil {
		return pin{}, refused(s.Task, err)
	}
	d.mu.Lock()
	d.pins[s.Task] = p
	d.mu.Unlock()
	return p, nil
}

// refused is a StartError where trying again gives the same.
func refused(task placement.TaskID, err error) error {
	var known *image.Error
	var broken *badImage
	switch {
	case errors.As(err, &known):
		return &runner.StartError{Task: task, Reason: known.Error(), Advice: known.Hint()}
	case errors.As(err, &broken):
		return &runner.StartError{Task: task, Reason: "the image is refused: " + broken.Error(), Advice: "build it without that file"}
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("make the disk of task %s: the node's disk is full: %w", task, err)
	}
	return fmt.Errorf("prepare task %s: %w", task, err)
}

func setupOf(s runner.Spec) placement.Setup {
	if s.Setup == nil {
		return placement.Setup{}
	}
	return *s.Setup
}

// unsupported says what a micro-VM cannot do for a job.
func unsupported(s runner.Spec) error {
	setup := setupOf(s)
	refuse := func(reason, advice string) error {
		return &runner.StartError{Task: s.Task, Reason: reason, Advice: advice}
	}
	switch {
	case setup.Network != nil && setup.Network.Host:
		return refuse("a micro-VM is not given the node's own network", "list what it has to reach: network: {allow: [...]}")
	case slices.ContainsFunc(setup.Ports, func(p placement.Port) bool { return p.Host != 0 }):
		return refuse("a micro-VM opens no port of the node's", "leave host out of its ports: they are reached through the mesh")
	case len(s.Devices) > 0:
		return refuse("a micro-VM is given no devices", "run it as a container or as a vm")
	}
	return nil
}

// Start boots a machine and waits until the command runs in it.
func (d *Driver) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	if o, err := d.base.Recover(ctx, runner.Handle{Task: s.Task}); err == nil && o.State != runner.StateAbsent {
		return runner.Handle{}, &runner.ExistsError{Handle: o.Handle}
	}
	if err := unsupported(s); err != nil {
		return runner.Handle{}, err
	}
	p, err := d.prepare(ctx, s)
	if err != nil {
		return runner.Handle{}, err
	}
	command, err := commandOf(s, p.Config)
	if err != nil {
		return runner.Handle{}, err
	}
	v, err := d.volumes(ctx, s)
	if err != nil {
		return runner.Handle{}, err
	}
	command.Root.Disks = append(command.Root.Disks, v.mounts...)
	given, err := d.inputs.Disk(ctx, s)
	if err != nil {
		return runner.Handle{}, err
	}
	m, token, err := d.machine(ctx, s, p, v.shares)
	if err != nil {
		return runner.Handle{}, err
	}
	defer d.settled(s.Task)
	for _, f := range v.files {
		m.Files, m.Args = append(m.Files, f), append(m.Args, diskArgs(f.Name, !f.Write)...)
	}
	if len(v.shares) > 0 || m.Vsock != "" { // they know no other form of the transport
		m.Args = append(m.Args, "-global", "virtio-mmio.force-legacy=false")
	}
	for _, one := range v.shares {
		m.Args = append(m.Args, "-device", fmt.Sprintf("vhost-user-fs-device,chardev=%s,tag=%s", one.Name, one.Name))
	}
	if given != "" {
		m.Files = append(m.Files, qemu.File{Name: inputs.Serial, Path: filepath.Join(d.base.TaskDir(s.Task), inputs.File)})
		m.Args = append(m.Args, diskArgs(inputs.Serial, true)...)
		command.Root.Disks = append(command.Root.Disks, wire.Disk{Serial: inputs.Serial, Path: runner.InputsPath, ReadOnly: true})
	}
	if err := d.connect(s, m, &command); err != nil {
		return runner.Handle{}, err
	}
	told, err := json.Marshal(order{Command: command, Image: p.Digest, Disk: p.Disk, Boot: d.cfg.Boot, Token: token})
	if err != nil {
		return runner.Handle{}, err
	}
	data, err := json.Marshal(handleData{Image: p.Digest, Disk: p.Disk})
	if err != nil {
		return runner.Handle{}, err
	}
	return d.base.StartWork(ctx, s, process.Order{
		Told: qemu.Told{Machine: *m, Guest: told}, Limits: m.Limits(s.Resources), Data: data,
		Fill: func(dir string) error {
			for _, f := range v.files { // it is this machine's user's now
				if err := m.Own(f.Path); err != nil {
					return err
				}
			}
			if given != "" {
				if err := d.inputs.Link(given, dir); err != nil {
					return err
				}
			}
			return m.Prepare(dir)
		},
	})
}

// settled frees a user number that the task's directory now names.
func (d *Driver) settled(task placement.TaskID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.uids, func(_ int, t placement.TaskID) bool { return t == task })
}

// minMemory is what the kernel needs to come up, with its initramfs.
const minMemory = 96 * placement.MiB

// machineType is QEMU's name for small machines.
const machineType = "microvm"

// initramfsFile is the name of the guest's first root among the machine's files.
const initramfsFile = "initramfs"

// machine says what to start, and takes a user number for it. The token is what its
// control channel is opened with, if that takes one.
func (d *Driver) machine(ctx context.Context, s runner.Spec, p pin, shares []qemu.Share) (m *qemu.Machine, token []byte, err error) {
	cannot := func(err error) error { return fmt.Errorf("start task %s: %w", s.Task, err) }
	accel, err := d.probe(ctx, false)
	if err != nil {
		return nil, nil, cannot(err)
	}
	binary, err := exec.LookPath(d.cfg.Binary)
	if err != nil {
		return nil, nil, cannot(err)
	}
	kernel, err := findKernel(d.cfg.Kernel, d.cfg.Modules, d.cfg.KernelRoots)
	if err != nil {
		return nil, nil, cannot(err)
	}
	init, err := d.initPath()
	if err != nil {
		return nil, nil, cannot(err)
	}
	image, err := d.disks.kernel(ctx, kernel)
	if err != nil {
		return nil, nil, cannot(err)
	}
	kind, _ := d.control(ctx, kernel)
	more := []string{map[string]string{controlSerial: serialModule, controlVsock: vsockModule}[kind]}
	if reaches(s) {
		more = append(more, networkModule)
	}
	if len(shares) > 0 {
		more = append(more, shareModule)
	}
	first, err := d.disks.initramfs(ctx, kernel, init, more...)
	if err != nil {
		return nil, nil, cannot(err)
	}
	m = &qemu.Machine{
		Binary: binary, Type: machineType, Accel: accel, CPUs: int(min(max((s.Resources.CPU+999)/1000, 1), 64)), Memory: max(s.Resources.Memory, minMemory),
		Shares: shares,
		Files:  []qemu.File{{Name: "kernel", Path: d.disks.path(image)}, {Name: initramfsFile, Path: d.disks.path(first)}, {Name: "image", Path: d.disks.path(p.Disk)}},
		Args: []string{
			"-no-reboot", "-serial", "chardev:console", "-kernel", "@kernel@", "-initrd", "@initramfs@", "-append", kernelLine(accel),
			"-drive", "id=image,file=@image@,format=raw,if=none,readonly=on", "-device", "virtio-blk-device,drive=image,serial=" + wire.ImageDisk,
		},
	}
	if token, err = d.speak(kind, m); err != nil {
		return nil, nil, cannot(err)
	}
	base, size := d.cfg.UIDs, 0
	if base > 0 {
		if base, size, err = d.cfg.Hold.Part("microvms", filepath.Join(d.cfg.Dir, "tasks"), base, 1<<16); err != nil {
			return nil, nil, cannot(err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.UID, err = qemu.FreeUID(ctx, d.base, base, size, slices.Collect(maps.Keys(d.uids))...); err != nil {
		return nil, nil, cannot(err)
	}
	d.uids[m.UID] = s.Task
	return m, token, nil
}

// kernelLine is the guest kernel's command line. Under TCG both clocks must be
// told, or the kernel stalls while it measures them; what it does against
// attacks between the guest's own processes costs a third of its boot there.
func kernelLine(a qemu.Accel) string {
	line := "console=ttyS0 quiet panic=-1 reboot=t pci=off random.trust_cpu=on cryptomgr.notests"
	if a.Name == qemu.TCG {
		line += " tsc_early_khz=2000000 lpj=4000000 mitigations=off"
	}
	return line
}

// commandOf is what the image and the job together want run.
func commandOf(s runner.Spec, c v1.Config) (wire.Command, error) {
	setup := setupOf(s)
	argv := append(slices.Clone(c.Entrypoint), c.Cmd...)
	if len(s.Command) > 0 {
		argv = s.Command
	}
	if len(argv) == 0 {
		return wire.Command{}, &runner.StartError{Task: s.Task, Reason: "the job names no command and the image has none", Advice: `write one: command: ["/path/in/the/image", "argument"]`}
	}
	env := slices.Clone(c.Env)
	env = append(env, pairs(s.Env)...)
	env = append(env, pairs(s.DeviceEnv())...)
	if s.SecretsDir != "" {
		env = append(env, runner.SecretsEnv+"="+runner.SecretsPath)
	}
	if s.InputsDir != "" {
		env = append(env, runner.InputsEnv+"="+runner.InputsPath)
	}
	env = append(env, "SOVMESH_TASK="+string(s.Task), "SOVMESH_JOB="+string(s.Job))
	caps, err := capabilities(setup.Capabilities)
	if err != nil {
		return wire.Command{}, &runner.StartError{Task: s.Task, Reason: err.Error(), Advice: "write it as in capability(7), without CAP_"}
	}
	pids := setup.Pids
	if pids == 0 {
		pids = placement.DefaultPids
	}
	command := wire.Command{
		Argv: argv, Env: last(env), User: c.User, Dir: c.WorkingDir,
		Root: &wire.Root{Writable: setup.WritableRoot, Capabilities: caps, Pids: pids, Hostname: "sovmesh"},
	}
	if setup.User != "" {
		command.User = setup.User
	}
	if setup.WorkDir != "" {
		command.Dir = setup.WorkDir
	}
	return command, nil
}

// last keeps the last of every variable, in the order of the first ones.
func last(env []string) []string {
	values := make(map[string]string)
	var order []string
	for _, e := range env {
		k, v, _ := strings.Cut(e, "=")
		if _, there := values[k]; !there {
			order = append(order, k)
		}
		values[k] = v
	}
	for i, k := range order {
		order[i] = k + "=" + values[k]
	}
	return order
}

// capabilityNames are in the order of their numbers. linux/capability.h
var capabilityNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
	NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
	SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
	WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

func capabilities(names []string) ([]uint, error) {
	var all []uint
	for _, n := range names {
		i := slices.Index(capabilityNames, strings.ToUpper(n))
		if i < 0 {
			return nil, fmt.Errorf("there is no capability %q", n)
		}
		all = append(all, uint(i))
	}
	return all, nil
}

// told reads what a task's guest was told.
func (d *Driver) told(id placement.TaskID, o *order) (qemu.Told, error) {
	var t qemu.Told
	if _, err := d.base.Told(id, &t); err != nil {
		return t, err
	}
	return t, json.Unmarshal(t.Guest, o)
}

// facts adds what is known of the guest.
func (d *Driver) facts(o *runner.Observed) {
	var g order
	t, err := d.told(o.Handle.Task, &g)
	if err != nil {
		return
	}
	o.Facts["image"], o.Facts["accel"], o.Facts["uid"] = g.Image, t.Machine.Accel.Name, fmt.Sprint(t.Machine.UID)
	o.Facts["control"] = controlOf(&t.Machine)
	if data, err := json.Marshal(handleData{Image: g.Image, Disk: g.Disk}); err == nil {
		o.Handle.Data = data
	}
	var hello wire.Greeting
	if data, err := os.ReadFile(filepath.Join(d.base.TaskDir(o.Handle.Task), guestFile)); err == nil && json.Unmarshal(data, &hello) == nil {
		o.Facts["boot_id"], o.Facts["kernel"] = clip(hello.BootID), clip(hello.Kernel)
		o.Facts["boot"], o.Facts["init"] = time.Duration(hello.Uptime).String(), time.Duration(hello.Init).String()
	}
}

// clip bounds what a guest says of itself.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 128)], "?") }

// collect removes disks that no task uses.
func (d *Driver) collect(ctx context.Context) error {
	all, err := d.base.List(ctx)
	if err != nil {
		return err
	}
	var used []string
	for _, o := range all {
		var g order
		if _, err := d.told(o.Handle.Task, &g); err == nil {
			used = append(used, g.Disk)
		}
	}
	d.mu.Lock()
	for _, p := range d.pins {
		used = append(used, p.Disk)
	}
	d.mu.Unlock()
	return d.disks.collect(used, time.Now().Add(-d.cfg.Keep))
}
