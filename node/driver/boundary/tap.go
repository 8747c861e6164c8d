//go:build linux

package boundary

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/placement"
)

// A machine's packets appear in its task's namespace, at a device that its
// hypervisor writes to. They are judged there as if a process had sent them, and
// leave with the task's own address. The machine's address is the same on every
// node, so that a machine that moves keeps it.

// tapName is the machine's device in its namespace.
const tapName = "tap0"

// The machine's own address and that of its way out. The prefix is for tests of
// network equipment, so that nothing that a job allows is in it (RFC 2544).
var (
	MachineAddress = netip.MustParseAddr("198.18.0.2")
	MachineGateway = netip.MustParseAddr("198.18.0.1")
)

// gatewayMAC is the same on every node too: a machine that was moved goes on
// sending to it. The prefix is locally administered.
var gatewayMAC = net.HardwareAddr{0x52, 0x54, 0x00, 0xff, 0xff, 0x01}

// MachineBits is the length of their prefix.
const MachineBits = 30

// makeTap makes the device, in the namespace that the calling thread is in. It
// is there whether or not a machine is.
func makeTap() error {
	f, err := attachTap()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("keep the machine's device: %w", err)
	}
	return nil
}

// attachTap opens the device of the calling thread's namespace, and makes it if
// there is none. Frames have the header by which checksums are left to others.
func attachTap() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	r, err := unix.NewIfreq(tapName)
	if err == nil {
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("attach to the machine's device: %w", err)
	}
	return os.NewFile(uintptr(fd), tapName), nil
}

// OpenTap opens the device of a [Boundary.Machine]'s namespace, for its
// hypervisor alone: whoever has it needs no privilege and no way into the
// namespace.
func OpenTap(path string) (*os.File, error) {
	ns, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var tap *os.File
	err = inside(ns, func() error {
		if _, err := netlink.LinkByName(tapName); err != nil {
			return fmt.Errorf("find the machine's device: %w", err)
		}
		var err error
		tap, err = attachTap()
		return err
	})
	return tap, err
}

// dressTap gives the device its address and brings it up; with a way out, the
// namespace forwards what its rules let through.
func dressTap(out bool) error {
	link, err := netlink.LinkByName(tapName)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(link, gatewayMAC); err != nil {
		return fmt.Errorf("give %s its hardware address: %w", tapName, err)
	}
	settings := map[string]string{
		"ipv6/conf/" + tapName + "/disable_ipv6": "1", // a machine has IPv4 alone
		"ipv4/conf/" + tapName + "/rp_filter":    "0", // the rules ask for the address itself
		"ipv4/conf/" + tapName + "/forwarding":   "1",
	}
	if out {
		settings["ipv4/conf/eth0/forwarding"] = "1"
	}
	for path, value := range settings {
		if err := setting(path, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	at := &netlink.Addr{IPNet: &net.IPNet{IP: MachineGateway.AsSlice(), Mask: net.CIDRMask(MachineBits, 32)}}
	if err := netlink.AddrAdd(link, at); err != nil {
		return fmt.Errorf("give %s its address: %w", tapName, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", tapName, err)
	}
	return nil
}

// dhcpPort is the server's (RFC 2131).
const dhcpPort = 67

// judgingMachine adds what holds a machine in: each packet of it is judged before
// a way is looked for, also one that goes to the namespace itself.
func (t *table) judgingMachine(n Net, in, across *nftables.Chain) {
	single := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	asks := rule(cameBy(n.Tap), protocol(expr.CmpOpEq, unix.IPPROTO_UDP), port(dhcpPort))
	first := t.chain("prerouting", nftables.ChainHookPrerouting, nftables.ChainPolicyAccept)
	for _, a := range []netip.Addr{netip.MustParseAddr("255.255.255.255"), MachineGateway} {
		t.add(first, to(single(a)), asks, accept())
	}
	t.add(first, cameBy(n.Tap), notFrom(MachineAddress), leave(denyChain)) // an address of somebody else
	// What a machine answers to whoever dialled it. Not asked of the kernel's memory
	// of connections: one that moved here with its machine is not in it.
	t.add(first, cameBy(n.Tap), to(single(MachineGateway)), opened(), accept())
	if len(n.Policy.Services) > 0 {
		t.servingMachine(n, first, in)
	}
	t.add(first, cameBy(n.Tap), leave(judgeChain))
	t.add(in, asks, accept())
	t.add(in, cameBy(n.Tap), to(single(MachineGateway)), opened(), accept())
	if n.Veth == "" {
		return
	}
	t.add(across, cameBy(n.Tap), leavesBy("eth0"), accept())
	t.add(across, leavesBy(n.Tap), answers(), accept())
	nat := t.c.AddChain(&nftables.Chain{Name: "postrouting", Table: t.t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	t.add(nat, from(MachineAddress), leavesBy("eth0"), words{&expr.Masq{}})
}

// DialMachine connects to a TCP port of a task's machine, from its namespace.
func (b *Boundary) DialMachine(ctx context.Context, task placement.TaskID, port int) (net.Conn, error) {
	return b.dial(ctx, task, port, MachineAddress.String())
}

// Dial connects to a TCP port of the task on its own loopback.
func (b *Boundary) Dial(ctx context.Context, task placement.TaskID, port int) (net.Conn, error) {
	return b.dial(ctx, task, port, "127.0.0.1", "::1")
}

// Namespace opens a task's network namespace.
func (b *Boundary) Namespace(task placement.TaskID) (*os.File, error) {
	ns, err := os.Open(b.nsPath(task))
	if err != nil {
		return nil, fmt.Errorf("reach task %s: %w", task, err)
	}
	return ns, nil
}

// dial connects from within the task's namespace to the first of the addresses
// that answers.
func (b *Boundary) dial(ctx context.Context, task placement.TaskID, port int, at ...string) (net.Conn, error) {
	ns, err := b.Namespace(task)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var conn net.Conn
	err = inside(ns, func() error {
		var d net.Dialer
		var err error
		for _, host := range at {
			if conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil || ctx.Err() != nil {
				break
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reach port %d of task %s: %w", port, task, err)
	}
	return conn, nil
}
