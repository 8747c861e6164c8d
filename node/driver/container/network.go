//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/boundary"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// An engine makes a container's network namespace when it starts it, with nothing
// but a loopback in it, and joins none that others made. So what the job's list
// allows comes after: its supervisor finds the namespace by the container's first
// process and has the boundary adopt it. Podman readies a container before it
// starts it, and there the network comes in between. Docker does both at once:
// there the command is held back by a gate until its network is there.

// heldNet is what a container's network is held to.
type heldNet struct {
	Boundary boundary.Config `json:"boundary"`
	Policy   boundary.Policy `json:"policy"`
	Gate     bool            `json:"gate,omitempty"`
}

// Where what is ours lies in a container that has a gate or resolvers.
const (
	gatePath    = "/.sovmesh/gate"
	openPath    = "/.sovmesh/open"
	resolvPath  = "/etc/resolv.conf"
	openFile    = "open" // in the task's directory
	hostsPath   = "/etc/hosts"
	resolvFile  = "resolv.conf" // in the task's directory
	hostsFile   = "hosts"       // in the task's directory
	gateProgram = "sovmesh-init"
)

// ours reports whether something is mounted there by this driver, for itself.
func ours(destination string) bool {
	return destination == resolvPath || destination == hostsPath || path.Dir(destination) == path.Dir(gatePath)
}

// connect decides about the container's network.
func (d *Driver) connect(t *told, s *runner.Spec, setup *placement.Setup) error {
	if t.Limits.NetworkMode == "host" {
		return nil
	}
	policy, err := d.cfg.Hold.Policy(*s)
	if err != nil {
		return err
	}
	if d.cfg.Hold.Network == nil {
		if policy.Empty() {
			return nil
		}
		return refuse(s, "this node cannot hold a container to a list of addresses, so it gives it none", "leave network.allow and network.dns out, or let it run on a node whose agent is root")
	}
	t.Net = &heldNet{Boundary: d.cfg.Hold.Network.Config(), Policy: policy, Gate: !policy.Empty() && !t.Quirks.Readied}
	t.Net.Boundary.Spares = 0
	dir := d.TaskDir(s.Task)
	bind := func(from, to string) {
		t.Limits.Mounts = append(t.Limits.Mounts, mount.Mount{Type: mount.TypeBind, Source: from, Target: to, ReadOnly: true})
	}
	if len(policy.DNS) > 0 {
		bind(filepath.Join(dir, resolvFile), resolvPath)
	}
	if len(policy.Services) > 0 {
		bind(filepath.Join(dir, hostsFile), hostsPath)
	}
	if !t.Net.Gate {
		return nil
	}
	gate, err := d.gate()
	if err != nil {
		return refuse(s, "this node cannot hold the command back until its network is there: "+err.Error(), "install "+gateProgram+" beside the program on the node; make build makes it")
	}
	bind(gate, gatePath)
	bind(filepath.Join(dir, openFile), openPath)
	return nil
}

// gate is the program's path.
func (d *Driver) gate() (string, error) {
	at := d.cfg.Gate
	if at == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		at = filepath.Join(filepath.Dir(self), gateProgram)
	}
	_, err := os.Stat(at)
	return at, err
}

// gateCommand puts the gate before what the container runs.
func (d *Driver) gateCommand(ctx context.Context, t *told) error {
	if t.Net == nil || !t.Net.Gate {
		return nil
	}
	command := t.Config.Entrypoint
	if len(command) == 0 {
		seen, err := d.engine.ImageInspect(ctx, t.Image.ID)
		if err != nil {
			return err
		}
		if c := seen.Config; c != nil {
			command = append(append(command, c.Entrypoint...), c.Cmd...)
		}
	}
	if len(command) == 0 {
		return errors.New("no command specified: the job names none and the image has none")
	}
	t.Config.Entrypoint, t.Config.Cmd = append([]string{gatePath}, command...), nil
	return nil
}

// fill makes what is mounted from the task's directory.
func (n *heldNet) fill(dir string) error {
	if n == nil {
		return nil
	}
	if n.Gate {
		if err := unix.Mkfifo(filepath.Join(dir, openFile), 0o444); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(dir, openFile), 0o444); err != nil {
			return err
		}
	}
	if len(n.Policy.Services) > 0 {
		if err := lay(filepath.Join(dir, hostsFile), hosts(n.Policy.Services)); err != nil {
			return err
		}
	}
	if len(n.Policy.DNS) == 0 {
		return nil
	}
	return lay(filepath.Join(dir, resolvFile), resolvers(n.Policy.DNS))
}

func lay(at string, text []byte) error {
	if err := os.WriteFile(at, text, 0o444); err != nil {
		return err
	}
	return os.Chmod(at, 0o444)
}

// hosts are the names that the container knows without asking anybody.
func hosts(all []placement.ServiceAt) []byte {
	text := "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
	for _, s := range all {
		text += s.Addr.String() + " " + s.Host() + "\n"
	}
	return []byte(text)
}

func resolvers(all []netip.Addr) []byte {
	var text strings.Builder
	for _, a := range all {
		fmt.Fprintf(&text, "nameserver %s\n", a)
	}
	return []byte(text.String())
}

// attachment is what a supervisor does about its container's network; nil does nothing.
type attachment struct {
	b       *boundary.Boundary
	told    *heldNet
	task    placement.TaskID
	readied bool
	gate    *os.File // nil without one
	done    chan struct{}
}

func newAttachment(w *work, dir string) (*attachment, error) {
	n := w.told.Net
	if n == nil {
		return nil, nil
	}
	b, err := boundary.New(n.Boundary)
	if err != nil {
		return nil, err
	}
	a := &attachment{b: b, told: n, task: w.spec.Task, readied: w.told.Quirks.Readied}
	if n.Gate {
		// Both ends are held, so that neither side waits for the other to open.
		if a.gate, err = os.OpenFile(filepath.Join(dir, openFile), os.O_RDWR, 0); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	return a, nil
}

// first reports whether the network has to be there before the container is started.
func (a *attachment) first() bool { return a != nil && a.readied && !a.told.Policy.Empty() }

// connect has the boundary adopt the namespace of the container's first process.
func (a *attachment) connect(ctx context.Context, id string, pid int) error {
	ns, err := namespaceOf(id, pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	_, err = a.b.Adopt(ctx, a.task, ns, a.told.Policy)
	return process.NetworkProblem(runner.Spec{Task: a.task}, err)
}

// namespaceOf opens the network namespace of a container by its first process. A
// number may be another process' by now: what was opened counts if the kernel
// still says that it is one of the container's.
func namespaceOf(id string, pid int) (*os.File, error) {
	if pid <= 0 {
		return nil, errors.New("the engine names no process of the container, whose network could be held")
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("find the container's network: %w", err)
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err == nil && !strings.Contains(string(groups), id) {
		err = errors.New("its first process is in none of its groups")
	}
	if err != nil {
		_ = ns.Close()
		return nil, fmt.Errorf("find the container's network: %w", err)
	}
	return ns, nil
}

// release lets a command go that is held back by its gate, once its network is there.
func (a *attachment) release(ctx context.Context, id string, pid int) error {
	if a == nil || a.gate == nil {
		return nil
	}
	if err := a.connect(ctx, id, pid); err != nil {
		return err
	}
	_, err := a.gate.Write([]byte("o"))
	return err
}

// count has what a container with no list tries counted. It reaches nothing with
// or without that, so nobody waits for it.
func (a *attachment) count(id string, pid int) {
	if a == nil || !a.told.Policy.Empty() {
		return
	}
	a.done = make(chan struct{})
	go func() {
		defer close(a.done)
		_ = a.connect(context.Background(), id, pid) // it may have ended already
	}()
}

// close is called once the container has ended.
func (a *attachment) close() {
	if a == nil || a.b == nil {
		return
	}
	if a.done != nil {
		<-a.done
	}
	if a.gate != nil {
		_ = a.gate.Close()
	}
	_ = a.b.Close()
	a.b = nil
}

// holdsNetwork adds what holds the task's network, in the place of the engine's word.
func (d *Driver) holdsNetwork(task placement.TaskID, a *runner.Actual) error {
	if d.cfg.Hold.Network == nil {
		return nil
	}
	if _, err := d.cfg.Hold.Network.Denied(task); errors.Is(err, fs.ErrNotExist) {
		return nil // it has the node's, or none that is counted
	}
	words, err := d.cfg.Hold.Network.Words(task)
	if err != nil {
		return err
	}
	for i, w := range a.Boundary {
		if w.What == "network" {
			a.Boundary = append(append(a.Boundary[:i:i], words...), a.Boundary[i+1:]...)
			break
		}
	}
	return nil
}
