//go:build linux

package microvm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/sovmesh/sovmesh/node/driver/boundary"
	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// networkModule is what a guest with a network needs beside the others.
const networkModule = "virtio_net"

// reaches reports whether the job lists something: only then has its machine a
// network device.
func reaches(s runner.Spec) bool {
	n := setupOf(s).Network
	return n != nil && !n.Host && len(n.Allow)+len(n.DNS) > 0
}

// connect gives the machine a network held to its job's list, and the guest its
// part of it. Without a list it has no device, and no packet of it is anywhere;
// QEMU itself is in a namespace that reaches nothing, for whoever takes it over.
func (d *Driver) connect(s runner.Spec, m *qemu.Machine, c *wire.Command) error {
	n, err := qemu.NewNetwork(d.cfg.Hold, s)
	if err != nil {
		return err
	}
	m.Network = n
	if !reaches(s) {
		if n != nil {
			n.Bare = true
		}
		return nil
	}
	sum := sha256.Sum256([]byte(s.Task))
	m.Args = append(m.Args, "-netdev", "tap,id=net0,fd=@#tap@",
		"-device", fmt.Sprintf("virtio-net-device,netdev=net0,mac=52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2]))
	c.Root.Net = &wire.Net{
		Address: netip.PrefixFrom(boundary.MachineAddress, boundary.MachineBits), Gateway: boundary.MachineGateway, Resolvers: n.Policy.DNS,
		Hosts: setupOf(s).Network.HostLines(),
	}
	return nil
}

// networkBoundary says in words what holds the machine's network.
func (d *Driver) networkBoundary(id placement.TaskID, m *qemu.Machine) runner.Boundary {
	none := runner.Boundary{What: "network", Holds: true, How: "it has none: the machine has no network device"}
	if m.Network == nil || d.cfg.Hold.Network == nil {
		none.How += "; QEMU itself runs in the node's own network"
		return none
	}
	words, err := d.cfg.Hold.Network.Words(id)
	if err != nil || len(words) == 0 {
		return runner.Boundary{What: "network", How: fmt.Sprintf("what holds it cannot be told: %v", err)}
	}
	if m.Network.Bare {
		none.Holds, none.How = words[0].Holds, none.How+"; QEMU itself has "+words[0].How
		return none
	}
	words[0].How += "; QEMU itself runs in it"
	return words[0]
}

// Denied says what the guest tried to reach and was refused.
func (d *Driver) Denied(_ context.Context, h runner.Handle) ([]runner.Denial, error) {
	if d.cfg.Hold.Network == nil {
		return nil, nil
	}
	all, err := d.cfg.Hold.Network.Denied(h.Task)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it has no network
	}
	return all, err
}

// Renew holds the machine to what the names in its job's list stand for now.
func (d *Driver) Renew(ctx context.Context, _ runner.Handle, s runner.Spec) error {
	return d.cfg.Hold.Renew(ctx, s)
}
