//go:build linux

package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// netdev is the id of the machine's network.
const netdev = "net0"

// reaches decides what the machine reaches: what its job lists, or what the node
// may. Where the node can hold nothing to a list a machine has a network of QEMU's
// own, which leads nowhere, and a job with a list is refused.
func (d *Driver) reaches(s runner.Spec, l *layout) (*qemu.Network, error) {
	if n := s.Setup.Network; n != nil && n.Host {
		if !d.cfg.HostNetwork {
			return nil, refuse(s, "list what it has to reach: network: {allow: [...]}", "it asks for the node's own network, which the node does not give")
		}
		l.open = true
		return nil, nil
	}
	n, err := qemu.NewNetwork(d.cfg.Hold, s)
	if n != nil {
		n.DHCP, l.held = true, true
	}
	return n, err
}

// network gives the machine one card: on its tap, or on a network of QEMU's own.
// That leads nowhere: what the guest sends to others ends there, and ports that
// the job opens on the node lead in.
func (l layout) network(s runner.Spec, add func(...string)) {
	device := "virtio-net-pci,netdev=" + netdev + ",romfile=,mac=" + mac(s.Task)
	if l.held {
		add("-netdev", "tap,id="+netdev+",fd=@#tap@", "-device", device)
		return
	}
	user := "user,id=" + netdev
	if !l.open {
		user += ",restrict=on"
	}
	for _, p := range l.ports {
		if p.Host != 0 {
			user += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", p.Host, p.Port)
		}
	}
	add("-netdev", user, "-device", device)
}

// mac is the same for every attempt of a copy, and on every node: a guest that is
// started again, or moves, knows its card. The prefix is QEMU's, locally administered.
func mac(id placement.TaskID) string {
	sum := sha256.Sum256([]byte(place(id)))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}

// Dial reaches a TCP port of the guest: from within its network where it has one
// of its own, so that nobody else on the node can, and else through QEMU's. What is
// reached in the guest's own network goes along when the machine is moved.
func (d *Driver) Dial(ctx context.Context, h runner.Handle, port int) (net.Conn, error) {
	c, err := d.DialService(ctx, h, port)
	if tcp, ok := c.(*net.TCPConn); ok && err == nil && d.ownNetwork(h.Task) {
		return d.sessions.track(h.Task, tcp), nil
	}
	return c, err
}

// ownNetwork reports whether the machine has a network of its own.
func (d *Driver) ownNetwork(id placement.TaskID) bool {
	m, _, err := d.told(id)
	return err == nil && m.Network != nil && d.cfg.Hold.Network != nil
}

// DialService is as [Driver.Dial], but what it gives ends when the machine is moved.
func (d *Driver) DialService(ctx context.Context, h runner.Handle, port int) (net.Conn, error) {
	if port < 1 || port > 65535 {
		return nil, fmt.Errorf("task %s: there is no port %d", h.Task, port)
	}
	if d.ownNetwork(h.Task) {
		return d.cfg.Hold.Network.DialMachine(ctx, h.Task, port)
	}
	return d.dialForwarded(ctx, h, port)
}

// networkBoundary says in words what holds the machine's network.
func (d *Driver) networkBoundary(id placement.TaskID, m *qemu.Machine, open bool) runner.Boundary {
	b := runner.Boundary{What: "network", Holds: true, How: "a network of QEMU's own that leads nowhere; the guest's ports are reached from the node's loopback"}
	switch {
	case open:
		b.Holds, b.How = false, "it reaches what the node reaches: its job asked for the node's network"
	case m.Network != nil && d.cfg.Hold.Network != nil:
		words, err := d.cfg.Hold.Network.Words(id)
		if err != nil || len(words) == 0 {
			return runner.Boundary{What: "network", How: fmt.Sprintf("what holds it cannot be told: %v", err)}
		}
		b = words[0]
		b.How += "; QEMU itself runs in it"
	}
	return b
}

// Denied says what the machine tried to reach and was refused.
func (d *Driver) Denied(_ context.Context, h runner.Handle) ([]runner.Denial, error) {
	if d.cfg.Hold.Network == nil {
		return nil, nil
	}
	all, err := d.cfg.Hold.Network.Denied(h.Task)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it has none of its own
	}
	return all, err
}

// Renew holds the machine to what the names in its job's list stand for now.
func (d *Driver) Renew(ctx context.Context, _ runner.Handle, s runner.Spec) error {
	return d.cfg.Hold.Renew(ctx, s)
}
