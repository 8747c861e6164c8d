//go:build linux

package microvm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/inputs"
	"github.com/sovmesh/sovmesh/node/runner"
)

// Inspect says what really runs, read from QEMU's process rather than from what
// was ordered, and what holds it in.
func (d *Driver) Inspect(_ context.Context, h runner.Handle) (runner.Actual, error) {
	var g order
	t, err := d.told(h.Task, &g)
	if err != nil {
		return runner.Actual{}, err
	}
	pid := d.base.PID(h.Task)
	if pid == 0 {
		return runner.Actual{}, fmt.Errorf("task %s: its machine does not run", h.Task)
	}
	m := t.Machine
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return runner.Actual{}, err
	}
	uid := value(string(status), "Uid:")
	// A machine has whole processors and no less memory than it boots with: what it
	// has may be more than the job asked for, and is no drift. The words say it.
	a := runner.Actual{ImageDigest: g.Image, Networks: []string{}, Devices: []string{}, Mounts: mountsOf(g), Pids: g.Command.Root.Pids}
	say := func(what string, holds bool, format string, args ...any) {
		a.Boundary = append(a.Boundary, runner.Boundary{What: what, Holds: holds, How: fmt.Sprintf(format, args...)})
	}
	how := "hardware virtualisation (KVM)"
	if m.Accel.Name == qemu.TCG {
		how = "QEMU's interpreter (TCG): no guest instruction is executed by the processor as it is"
	}
	say("machine", true, "a virtual machine of its own under QEMU %s, by %s", m.Accel.Version, how)
	say("kernel", true, "a kernel of its own, not the node's")
	say("root", !g.Command.Root.Writable, "%s", map[bool]string{
		false: "its root is the image's disk, read-only; it writes to /tmp and /run in memory",
		true:  "its root is a writable copy of the image's in memory; the image's disk is read-only",
	}[g.Command.Root.Writable])
	say("user", uid != "0", "its machine is a process of user %s of the node; in the guest the command runs as %q", uid, orRoot(g.Command.User))
	say("privileges", true, "in the guest: no new privileges, and of root's capabilities %s", kept(g.Command.Root.Capabilities))
	say("system calls", value(string(status), "Seccomp:") == "2", "QEMU's own sandbox: it starts no process and gains no privilege")
	say("processes", true, "its machine is one process of the node; in the guest at most %d", g.Command.Root.Pids)
	a.Boundary = append(a.Boundary, d.networkBoundary(h.Task, &m))
	say("memory", true, "the machine has %d MiB", m.Memory>>20)
	say("cpu", true, "the machine has %d processors", m.CPUs)
	volumes := "no volume"
	if n := len(a.Mounts) - len(m.Shares); n > 0 {
		volumes = fmt.Sprintf("%d disks more, of its own job", n)
	}
	if n := len(m.Shares); n > 0 {
		volumes += fmt.Sprintf(", %d directories that the copies of its job share; %s serves each with it as its root, and is user %d of the node and those that follow", n, filepath.Base(m.Shares[0].Server), m.Shares[0].Users)
	}
	if len(g.Command.Root.Disks) > len(a.Mounts) {
		volumes += ", a read-only one with the inputs of its job"
	}
	if m.Vsock == "" {
		say("control", true, "a serial line to its supervisor, which nothing else is at")
	} else {
		say("control", false, "vsock, to its supervisor; in the guest the command makes no such sockets, but whoever takes the guest's kernel over reaches what on the node listens to them (AF_VSOCK)")
	}
	say("devices", true, "one read-only disk, %s, one serial line, one control channel", volumes)
	return a, nil
}

// mountsOf are the paths at which it has disks that its job names.
func mountsOf(g order) []string {
	all := []string{}
	for _, d := range g.Command.Root.Disks {
		if d.Serial != inputs.Serial {
			all = append(all, d.Path)
		}
	}
	return all
}

func orRoot(user string) string {
	if user == "" {
		return "root"
	}
	return user
}

func kept(caps []uint) string {
	if len(caps) == 0 {
		return "none"
	}
	var names []string
	for _, c := range caps {
		names = append(names, capabilityNames[c])
	}
	return "only " + strings.Join(names, ", ")
}

// value is the first word after a key of a /proc status file.
func value(status, key string) string {
	for l := range strings.Lines(status) {
		if f := strings.Fields(l); len(f) > 1 && f[0] == key {
			return f[1]
		}
	}
	return ""
}
