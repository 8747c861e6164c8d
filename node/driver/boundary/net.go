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
	"slices"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/placement"
)

// Up makes the task's network, or finds it if it is there already with the same
// policy. Of one that failed nothing is left.
func (b *Boundary) Up(ctx context.Context, task placement.TaskID, p Policy) (*Net, error) {
	return b.make(ctx, Net{Task: task, Policy: p}, b.take)
}

// Adopt is Up in a namespace that somebody else made, a container engine for one,
// and in which there is a loopback at most.
func (b *Boundary) Adopt(ctx context.Context, task placement.TaskID, ns *os.File, p Policy) (*Net, error) {
	return b.make(ctx, Net{Task: task, Policy: p}, func() (*os.File, error) {
		own, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", ns.Fd())) // make closes what it is given
		if err != nil {
			return nil, err
		}
		err = inside(own, func() error {
			if err := b.ruleInside(Net{}); err != nil {
				return err
			}
			return loopback()
		})
		if err != nil {
			return nil, errors.Join(err, own.Close())
		}
		return own, nil
	})
}

// Machine is Up for a machine: its namespace has a device in which the machine's
// own packets appear, see [OpenTap].
func (b *Boundary) Machine(ctx context.Context, task placement.TaskID, p Policy) (*Net, error) {
	return b.make(ctx, Net{Task: task, Policy: p, Tap: tapName}, b.take)
}

func (b *Boundary) make(ctx context.Context, want Net, take func() (*os.File, error)) (*Net, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch had, err := load(b.statePath(want.Task)); {
	case err == nil && had.stands() && samePolicy(had.Policy, want.Policy) && had.Tap == want.Tap:
		return &had.Net, nil
	case err == nil && !had.Over:
		if err := b.Down(ctx, want.Task); err != nil {
			return nil, err
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	want.Path = b.nsPath(want.Task)
	s := state{Net: want, Made: time.Now()}
	if err := b.put(s); err != nil { // before anything is there: what is listed can be removed
		return nil, err
	}
	ns, err := take()
	if err == nil {
		defer ns.Close()
		err = pin(ns, s.Path)
	}
	if err == nil {
		err = b.finish(ns, &s)
	}
	if err != nil {
		err = fmt.Errorf("make the network of task %s: %w", want.Task, err)
		if left := b.Down(context.WithoutCancel(ctx), want.Task); left != nil {
			return nil, errors.Join(err, left) // still listed, to be taken down later
		}
		return nil, errors.Join(err, b.Forget(want.Task))
	}
	return &s.Net, nil
}

// finish gives a namespace that reaches nothing what its task has beyond that.
func (b *Boundary) finish(ns *os.File, s *state) error {
	if s.bare() {
		return nil
	}
	if s.Tap != "" {
		if err := inside(ns, makeTap); err != nil {
			return err
		}
	}
	var err error
	if !s.Policy.leads() {
		err = inside(ns, func() error { return b.ruleInside(s.Net) })
	} else {
		err = b.connect(ns, s)
	}
	if err == nil && s.Tap != "" {
		err = inside(ns, func() error { return dressTap(s.Policy.leads()) })
	}
	if err != nil {
		return err
	}
	s.Ready = true
	return b.put(*s)
}

// bare: its namespace is as every one is at first.
func (s *state) bare() bool { return s.Policy.Empty() && s.Tap == "" }

// stands reports whether the whole of it is there.
func (s *state) stands() bool { return !s.Over && mounted(s.Path) && (s.Ready || s.bare()) }

func samePolicy(a, b Policy) bool {
	return fmt.Sprint(a.destinations()) == fmt.Sprint(b.destinations()) && slices.Equal(a.Services, b.Services)
}

func (b *Boundary) put(s state) error {
	unlock, err := b.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return b.save(s)
}

// connect gives the namespace a device to the node, and both sides their rules:
// they stand before the device is up.
func (b *Boundary) connect(ns *os.File, s *state) error {
	index, err := b.link(ns, s)
	if err != nil {
		return err
	}
	s.Guest4, s.Host4 = pair(b.cfg.Pool4, index)
	s.Guest6, s.Host6 = pair(b.cfg.Pool6, index)
	err = inside(b.host, func() error { return b.open(s) })
	if err != nil {
		return err
	}
	guest, host := guestMAC(index), nodeMAC(index)
	err = inside(ns, func() error {
		if err := b.ruleInside(s.Net); err != nil {
			return err
		}
		return dress("eth0", guest, s.Guest4, s.Guest6, s.Host4, s.Host6, host, true)
	})
	if err != nil {
		return err
	}
	return inside(b.host, func() error {
		return dress(s.Veth, host, s.Host4, s.Host6, s.Guest4, s.Guest6, guest, false)
	})
}

// open writes down what has to be switched on for the task, sets the node's rules,
// and switches on last: what a fault or a kill leaves is known, and harmless. No
// other task of ours ends meanwhile.
func (b *Boundary) open(s *state) error {
	unlock, err := b.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return b.openLocked(s)
}

func (b *Boundary) openLocked(s *state) error {
	apart, err := b.together()
	if err != nil {
		return err
	}
	defer apart()
	if err := blocked(s.Policy); err != nil {
		return err
	}
	needed, ours, err := b.forwardFor(s.Veth, s.Policy)
	if err != nil {
		return err
	}
	s.Forwarding = union(s.Forwarding, ours)
	if err := b.save(*s); err != nil {
		return err
	}
	if err := b.ruleHost(s.Net, s.Forwarding); err != nil {
		return err
	}
	for _, path := range needed {
		if err := setting(path, "1"); err != nil {
			return fmt.Errorf("let packets be forwarded: %w", err)
		}
	}
	return nil
}

// link makes the pair of devices. The name on the node's side is what claims the
// addresses: of two that want one, the kernel lets one have it.
func (b *Boundary) link(ns *os.File, s *state) (uint32, error) {
	size := uint32(1) << (32 - b.cfg.Pool4.Bits() - 1)
	first := uint32(0)
	for _, c := range name(s.Task) {
		first = first*31 + uint32(c)
	}
	for try := range min(size-1, 4096) {
		index := 1 + (first+try)%(size-1)
		veth := vethPrefix + strconv.FormatUint(uint64(index), 16)
		err := b.claim(ns, s, veth)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("make the device %s: %w", veth, err)
		}
		return index, nil
	}
	return 0, fmt.Errorf("no address is free in %s", b.cfg.Pool4)
}

// claim makes one pair and writes down whose it is; nobody takes a network down
// meanwhile, who would have to know.
func (b *Boundary) claim(ns *os.File, s *state, veth string) error {
	unlock, err := b.lock()
	if err != nil {
		return err
	}
	defer unlock()
	apart, err := b.together() // who has a device can be found by others
	if err != nil {
		return err
	}
	defer apart()
	err = inside(b.host, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = veth
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns.Fd()))})
	})
	if err != nil {
		return err
	}
	s.Veth = veth
	return b.save(*s)
}

// pair are the two addresses of a task: its own, and the node's towards it.
func pair(pool netip.Prefix, index uint32) (guest, host netip.Addr) {
	at := func(n uint32) netip.Addr {
		bytes := pool.Addr().AsSlice()
		for i := len(bytes) - 1; n > 0; i-- {
			n += uint32(bytes[i])
			bytes[i] = byte(n)
			n >>= 8
		}
		a, _ := netip.AddrFromSlice(bytes)
		return a
	}
	return at(2*index + 1), at(2 * index)
}

// Locally administered addresses (IEEE 802, second bit of the first byte).
func guestMAC(i uint32) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x73, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
}

func nodeMAC(i uint32) net.HardwareAddr {
	m := guestMAC(i)
	m[1] = 0x74
	return m
}

// dress gives a device its addresses and tells it the one neighbour it has, so
// that nobody ever asks for another; it brings the device up at the end.
func dress(device string, mac net.HardwareAddr, own4, own6, peer4, peer6 netip.Addr, peerMAC net.HardwareAddr, gateway bool) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	for _, s := range []struct{ path, value string }{
		{"ipv6/conf/" + device + "/addr_gen_mode", "1"}, // no address that nobody gave it
		{"ipv6/conf/" + device + "/accept_ra", "0"},
		{"ipv6/conf/" + device + "/router_solicitations", "0"},
		{"ipv4/conf/" + device + "/rp_filter", "0"}, // the rules ask for the address itself
	} {
		if err := setting(s.path, s.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
		return err
	}
	for _, a := range []netip.Addr{own4, own6} {
		bits := a.BitLen() - 1
		err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}, Flags: unix.IFA_F_NODAD})
		if err != nil && a.Is4() {
			return fmt.Errorf("give %s its address %s: %w", device, a, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", device, err)
	}
	for _, a := range []netip.Addr{peer4, peer6} {
		n := &netlink.Neigh{LinkIndex: link.Attrs().Index, IP: a.AsSlice(), HardwareAddr: peerMAC, State: netlink.NUD_PERMANENT}
		if err := netlink.NeighSet(n); err != nil && a.Is4() {
			return fmt.Errorf("tell %s of its neighbour %s: %w", device, a, err)
		}
		if gateway {
			err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: a.AsSlice(), Dst: &net.IPNet{IP: make(net.IP, len(a.AsSlice())), Mask: net.CIDRMask(0, a.BitLen())}})
			if err != nil && a.Is4() {
				return fmt.Errorf("route by %s: %w", a, err)
			}
		}
	}
	return nil
}

// Down removes the task's network after it has written down what it counted.
// What is not there is no error.
func (b *Boundary) Down(_ context.Context, task placement.TaskID) error {
	b.unserve(task)
	unlock, err := b.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s, err := load(b.statePath(task))
	if errors.Is(err, fs.ErrNotExist) || (err == nil && s.Over) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.Veth != "" || len(s.Forwarding) > 0 {
		apart, err := b.together()
		if err != nil {
			return err
		}
		defer apart()
	}
	if b.passedOn(s) {
		s.Veth = ""
	}
	if err := b.collect(&s); err != nil {
		return err
	}
	s.Earlier = b.refusals.take(task, s.Earlier)
	if s.Veth != "" || len(s.Forwarding) > 0 {
		if err := inside(b.host, func() error { return b.disconnect(s) }); err != nil {
			return fmt.Errorf("remove the network of task %s: %w", task, err)
		}
	}
	if err := unpin(s.Path); err != nil {
		return err
	}
	s.Over = true
	return b.save(s)
}

// passedOn reports whether the device by that name is another task's: one that
// went with a boot of the node left its name to whoever came next.
func (b *Boundary) passedOn(s state) bool {
	return s.Veth != "" && slices.ContainsFunc(b.states(b.neighbours()...), func(o state) bool {
		return o.Veth == s.Veth && b.another(o, s) && !o.Over && mounted(o.Path)
	})
}

// disconnect removes a device and its rules, and ends the forwarding that no
// task needs any more. The name stays taken until its rules are gone, and nothing
// passes meanwhile.
func (b *Boundary) disconnect(s state) error {
	if s.Veth != "" {
		link, err := netlink.LinkByName(s.Veth)
		if err == nil {
			err = netlink.LinkSetDown(link)
		}
		if err != nil && !isGone(err) {
			return err
		}
		there := err == nil
		if err := unruleHost(s.Veth); err != nil {
			return err
		}
		if there {
			if err := netlink.LinkDel(link); err != nil && !isGone(err) {
				return err
			}
		}
	}
	if err := b.unforward(s); err != nil {
		return err
	}
	b.part(s)
	return nil
}

// isGone: there is no such device, or not any more.
func isGone(err error) bool {
	var gone netlink.LinkNotFoundError
	return errors.As(err, &gone) || errors.Is(err, unix.ENODEV)
}

// Forget removes what is still known of a task whose network is down.
func (b *Boundary) Forget(task placement.TaskID) error {
	unlock, err := b.lock()
	if err != nil {
		return err
	}
	defer unlock()
	b.refusals.take(task, nil)
	err = os.Remove(b.statePath(task))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
