//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/inputs"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// agentSocket is QEMU's end of the line to the guest's agent, in the machine's
// own directory.
const agentSocket = "qga.sock"

// layout is all that a machine is made of.
type layout struct {
	image  Image
	disks  []disk // the root first
	boot   placement.Boot
	kernel kernel
	code   string   // a UEFI
	vars   string   // its variables, this machine's own
	blank  string   // what they are at first
	seed   string   // path
	secret string   // path of the disk with the job's secrets; empty for none
	inputs string   // path of the disk with its inputs; empty for none
	pci    []string // addresses of devices that are passed through
	open   bool     // the node's own network
	held   bool     // a network of its own, held to a list
	ports  []placement.Port
}

// kernel is what a machine is started with directly.
type kernel struct {
	Image   string `json:"image,omitempty"` // paths in the store
	Initrd  string `json:"initrd,omitempty"`
	Cmdline string `json:"cmdline,omitempty"`
}

// defaultCmdline boots most images whose first disk holds the root file system
// without partitions.
const defaultCmdline = "root=/dev/vda rw console=ttyS0"

// machine writes the layout as QEMU is told it. Every file is opened by the
// supervisor and named by its descriptor; every format is said.
func (l layout) machine(s runner.Spec, m *qemu.Machine) {
	m.Type = machineType(m.Accel.Version)
	m.CPUs = max(1, int(s.Resources.CPU+999)/1000)
	m.Memory = s.Resources.Memory
	add := func(args ...string) { m.Args = append(m.Args, args...) }
	file := func(name, path string, write bool) {
		m.Files = append(m.Files, qemu.File{Name: name, Path: path, Write: write})
	}
	add("-serial", "chardev:console", "-rtc", "base=utc", "-boot", "strict=on",
		"-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0",
		"-device", "virtio-serial-pci,id=serial0",
		"-chardev", "socket,id=qga,path="+agentSocket+",server=on,wait=off",
		"-device", "virtserialport,bus=serial0.0,chardev=qga,name=org.qemu.guest_agent.0",
		"-device", "pvpanic-pci",
		"-chardev", moveChardev, "-mon", "chardev=move,mode=control")
	file("base", l.image.Path, false)
	add("-blockdev", "driver=file,node-name=base-file,filename=@base@,read-only=on,auto-read-only=off",
		"-blockdev", fmt.Sprintf("driver=%s,node-name=base,file=base-file,read-only=on", l.image.Format))
	for i, one := range l.disks {
		name := fmt.Sprintf("disk%d", i)
		file(name, one.Path, true)
		add("-blockdev", fmt.Sprintf("driver=file,node-name=%s-file,filename=@%s@,discard=unmap", name, name))
		node := fmt.Sprintf("driver=%s,node-name=%s,file=%s-file,discard=unmap", one.Format, name, name)
		if i == 0 {
			node += ",backing=base"
		}
		add("-blockdev", node)
		add("-device", fmt.Sprintf("virtio-blk-pci,drive=%s,bootindex=%d,serial=%.20s", name, i+1, one.Name))
	}
	file("seed", l.seed, false)
	add("-blockdev", "driver=file,node-name=seed-file,filename=@seed@,read-only=on,auto-read-only=off",
		"-blockdev", "driver=raw,node-name=seed,file=seed-file,read-only=on", "-device", "virtio-blk-pci,drive=seed,serial=seed")
	if l.secret != "" {
		file("secrets", l.secret, false)
		add("-blockdev", "driver=file,node-name=secrets-file,filename=@secrets@,read-only=on,auto-read-only=off",
			"-blockdev", "driver=raw,node-name=secrets,file=secrets-file,read-only=on", "-device", "virtio-blk-pci,drive=secrets,serial="+secretsSerial)
	}
	if l.inputs != "" {
		file(inputs.Serial, l.inputs, false)
		add("-blockdev", "driver=file,node-name=inputs-file,filename=@"+inputs.Serial+"@,read-only=on,auto-read-only=off",
			"-blockdev", "driver=raw,node-name=inputs,file=inputs-file,read-only=on", "-device", "virtio-blk-pci,drive=inputs,serial="+inputs.Serial)
	}
	l.startUp(add, file)
	l.network(s, add)
	for _, address := range l.pci {
		add("-device", "vfio-pci,host="+address)
	}
}

// startUp says how the machine begins.
func (l layout) startUp(add func(...string), file func(string, string, bool)) {
	switch l.boot {
	case placement.BootDirect:
		file("kernel", l.kernel.Image, false)
		add("-kernel", "@kernel@", "-append", l.kernel.Cmdline)
		if l.kernel.Initrd != "" {
			file("initrd", l.kernel.Initrd, false)
			add("-initrd", "@initrd@")
		}
	case placement.BootUEFI:
		file("uefi", l.code, false)
		file("vars", l.vars, true)
		add("-blockdev", "driver=file,node-name=uefi-file,filename=@uefi@,read-only=on,auto-read-only=off",
			"-blockdev", "driver=raw,node-name=uefi,file=uefi-file,read-only=on",
			"-blockdev", "driver=file,node-name=vars-file,filename=@vars@", "-blockdev", "driver=raw,node-name=vars,file=vars-file",
			"-machine", "pflash0=uefi,pflash1=vars")
	}
}

// findKernel has the kernel that lies beside an image of the node's taken into
// the store: "vmlinuz", and "initrd" and "cmdline" if they are there.
func (d *Driver) findKernel(ctx context.Context, image string) (kernel, error) {
	k, dir := kernel{Cmdline: defaultCmdline}, filepath.Dir(image)
	release, err := d.images.turns.Take(ctx, dir)
	if err != nil {
		return k, err
	}
	defer release()
	digest, err := d.takeFile(ctx, filepath.Join(dir, "vmlinuz"))
	if err != nil {
		return k, err
	}
	k.Image = d.images.path(digest)
	switch digest, err = d.takeFile(ctx, filepath.Join(dir, "initrd")); {
	case err == nil:
		k.Initrd = d.images.path(digest)
	case !errors.Is(err, fs.ErrNotExist):
		return k, err
	}
	f, err := openBelow(d.cfg.ImageDirs, filepath.Join(dir, "cmdline"))
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	defer f.Close()
	text, err := readAtMost(f, 2048)
	if err != nil {
		return k, fmt.Errorf("read its cmdline: %w", err)
	}
	k.Cmdline = strings.TrimSpace(string(text))
	return k, nil
}
