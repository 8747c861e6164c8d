//go:build linux

package vm

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// agentPatience bounds all that a guest's agent is asked at once.
const agentPatience = 20 * time.Second

// Inspect asks QEMU what the machine really is and, if an agent answers in the
// guest, which packages and services it has. What an agent says is the guest's
// word: good for finding drift, not for proving that there is none.
func (d *Driver) Inspect(ctx context.Context, h runner.Handle) (runner.Actual, error) {
	m, t, err := d.told(h.Task)
	if err != nil {
		return runner.Actual{}, err
	}
	a := runner.Actual{ImageDigest: t.Image.Digest, Devices: slices.Sorted(slices.Values(t.Devices)), Boundary: d.boundary(h.Task, &m, t)}
	err = d.ask(ctx, h, func(ctx context.Context, c *qmp.Client) error {
		var memory struct {
			Base    int64 `json:"base-memory"`
			Plugged int64 `json:"plugged-memory"`
		}
		if err := c.Run(ctx, "query-memory-size-summary", nil, &memory); err != nil {
			return err
		}
		a.Memory = placement.Bytes(memory.Base + memory.Plugged)
		return c.Run(ctx, "query-block", nil, &diskList{&a.Disks})
	})
	if err != nil {
		return a, err
	}
	a.Unsettled = true
	d.askAgent(ctx, h, &a)
	return a, nil
}

// diskList reads the serial numbers of the disks that are plugged in.
type diskList struct{ names *[]string }

// UnmarshalJSON takes the names of what can be written.
func (l *diskList) UnmarshalJSON(data []byte) error {
	var all []struct {
		Qdev     string `json:"qdev"`
		Inserted *struct {
			Node string `json:"node-name"`
			RO   bool   `json:"ro"`
		} `json:"inserted"`
	}
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	for _, b := range all {
		if b.Inserted != nil && !b.Inserted.RO {
			*l.names = append(*l.names, b.Inserted.Node)
		}
	}
	slices.Sort(*l.names)
	return nil
}

// askAgent fills in what only the guest knows, as far as its agent tells.
func (d *Driver) askAgent(ctx context.Context, h runner.Handle, a *runner.Actual) {
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	g, err := d.agent(ctx, h)
	if err != nil {
		return
	}
	defer g.Close()
	first, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	if g.Run(first, "guest-ping", nil, nil) != nil {
		return // there is none
	}
	// What systemd starts at the boot, cloud-init's work included, is over when this
	// is no longer said. A guest without systemd is taken at its word.
	state, _ := guestRun(ctx, g, "systemctl", "is-system-running")
	a.Unsettled = slices.Contains([]string{"initializing", "starting"}, strings.TrimSpace(state))
	if text, err := guestRun(ctx, g, "dpkg-query", "-W", "-f", "${Package}\t${Version}\n"); err == nil {
		a.Packages = pairs(text, "\t")
	} else if text, err := guestRun(ctx, g, "rpm", "-qa", "--qf", "%{NAME}\t%{VERSION}-%{RELEASE}\n"); err == nil {
		a.Packages = pairs(text, "\t")
	}
	if text, err := guestRun(ctx, g, "systemctl", "list-units", "--type=service", "--all", "--plain", "--no-legend", "--no-pager"); err == nil {
		a.Services = services(text)
	}
}

// guestRun runs a program in the guest and returns what it printed. The agent
// keeps at most 16 MiB of it.
func guestRun(ctx context.Context, g *qmp.Guest, path string, args ...string) (string, error) {
	var started struct {
		PID int `json:"pid"`
	}
	err := g.Run(ctx, "guest-exec", map[string]any{"path": path, "arg": args, "env": []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "capture-output": true}, &started)
	if err != nil {
		return "", err
	}
	for {
		var s struct {
			Exited bool   `json:"exited"`
			Code   int    `json:"exitcode"`
			Out    string `json:"out-data"`
		}
		if err := g.Run(ctx, "guest-exec-status", map[string]int{"pid": started.PID}, &s); err != nil {
			return "", err
		}
		if s.Exited {
			text, err := base64.StdEncoding.DecodeString(s.Out)
			if err == nil && s.Code != 0 {
				err = fmt.Errorf("%s in the guest ends with %d", path, s.Code)
			}
			return string(text), err
		}
		if pause(ctx, 50*time.Millisecond); ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
}

// mostNames bounds what is taken of a guest's lists.
const mostNames = 20_000

// pairs reads lines of a name and a value. A name that comes twice, as of two
// architectures, has both values.
func pairs(text, sep string) map[string]string {
	all := make(map[string]string)
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), sep)
		if !ok || name == "" || len(all) >= mostNames || len(line) > 1024 {
			continue
		}
		if before, twice := all[name]; twice && before != value {
			value = before + " " + value
		}
		all[name] = value
	}
	return all
}

// services reads systemctl's table: unit, load, active, sub, description.
func services(text string) map[string]string {
	all := make(map[string]string)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 || len(all) >= mostNames || f[1] == "not-found" {
			continue
		}
		all[strings.TrimSuffix(f[0], ".service")] = f[2] + " " + f[3]
	}
	return all
}

// boundary says in words what holds a machine in.
func (d *Driver) boundary(id placement.TaskID, m *qemu.Machine, t told) []runner.Boundary {
	by := "QEMU " + m.Accel.Version + " under " + m.Accel.Name
	if m.Accel.Name == qemu.TCG {
		by += ", which interprets every instruction"
	}
	user := runner.Boundary{What: "user", Holds: m.UID != 0, How: fmt.Sprintf("QEMU runs as user %d, which no other task has", m.UID)}
	if m.UID == 0 {
		user.How = fmt.Sprintf("QEMU runs as the agent's own user, %d", os.Geteuid())
	}
	dev := runner.Boundary{What: "devices", Holds: true, How: "none of the node's"}
	if len(t.PCI) > 0 {
		dev.How = "of the node's only " + strings.Join(t.PCI, ", ") + ", by VFIO behind the IOMMU"
	}
	return []runner.Boundary{
		{What: "machine", Holds: true, How: "a virtual machine of its own: " + by},
		{What: "kernel", Holds: true, How: "a kernel of its own; it shares none with the node"},
		user,
		{What: "system calls", Holds: true, How: "QEMU's sandbox: it starts no programs, gains no privileges, sets no priorities"},
		{What: "files", Holds: true, How: "it opens its own disks, handed to it as descriptors; its image is read-only"},
		d.networkBoundary(id, m, t.Open),
		{What: "memory", Holds: true, How: fmt.Sprintf("%d MiB of its own, and a cgroup around QEMU where the node has them", m.Memory>>20)},
		{What: "cpu", Holds: true, How: fmt.Sprintf("%d processors of its own, and a cgroup around QEMU where the node has them", m.CPUs)},
		dev,
		{What: "disk", Holds: true, How: fmt.Sprintf("%d disks of fixed size", len(t.Disks))},
	}
}
