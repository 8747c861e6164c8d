//go:build linux

package boundary

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What a task with a list needs of the node is that packets between its device
// and one other are forwarded. That is switched on for those two devices, never
// for the machine; a device that did not forward before does so for tasks only
// (the task's rules drop the rest), and stops with the last of them.

// switchOf names the kernel's setting that lets what comes by a device be
// forwarded. IPv6 has one for a device since Linux 6.17; on older kernels the
// operator has to switch forwarding on, since it changes what the whole machine
// believes of its routers.
func switchOf(device string, v6 bool) string {
	if v6 {
		return "ipv6/conf/" + device + "/force_forwarding"
	}
	return "ipv4/conf/" + device + "/forwarding"
}

// forwardFor lists the settings that the policy needs to be on, and of these the
// ones that go off again with the last task that needs them: those that are off
// now, and those that tasks of ours switched on earlier. Nothing is changed yet.
// The calling thread is in the node's namespace.
func (b *Boundary) forwardFor(veth string, p Policy) (needed, ours []string, err error) {
	for _, d := range p.destinations() {
		v6 := d.Prefix.Addr().Is6()
		devices, err := waysTo(d.Prefix)
		if err != nil {
			return nil, nil, err
		}
		if len(devices) > 0 {
			devices = append(devices, veth)
		}
		for _, device := range devices {
			path := switchOf(device, v6)
			off, err := isOff(path, v6)
			if err != nil {
				return nil, nil, fmt.Errorf("let packets to %s be forwarded: %w", d, err)
			}
			if off {
				needed = append(needed, path)
			}
			if device != veth && (off || b.switchedBefore(path)) {
				ours = append(ours, path)
			}
		}
	}
	slices.Sort(needed)
	slices.Sort(ours)
	return slices.Compact(needed), slices.Compact(ours), nil
}

// waysTo are the devices by which the node reaches addresses of the prefix that
// are not its own.
func waysTo(p netip.Prefix) ([]string, error) {
	family := unix.AF_INET
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	routes, err := netlink.RouteList(nil, family)
	if err != nil {
		return nil, fmt.Errorf("read the node's routes: %w", err)
	}
	if chosen, err := netlink.RouteGet(p.Addr().AsSlice()); err == nil && p.IsSingleIP() {
		routes = chosen // by whatever rules this machine chooses its ways
	}
	var all []string
	for _, r := range routes {
		if r.Type == unix.RTN_LOCAL || !overlaps(r.Dst, p) {
			continue
		}
		indices := []int{r.LinkIndex}
		for _, hop := range r.MultiPath {
			indices = append(indices, hop.LinkIndex)
		}
		for _, i := range indices {
			up, err := netlink.LinkByIndex(i)
			if err != nil || up.Attrs().Flags&net.FlagLoopback != 0 || strings.HasPrefix(up.Attrs().Name, vethPrefix) {
				continue
			}
			all = append(all, up.Attrs().Name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// overlaps reports whether a route (nil: to everywhere) leads to some of the prefix.
func overlaps(dst *net.IPNet, p netip.Prefix) bool {
	if dst == nil {
		return true
	}
	a, ok := netip.AddrFromSlice(dst.IP)
	ones, _ := dst.Mask.Size()
	return ok && netip.PrefixFrom(a.Unmap(), ones).Overlaps(p) && !a.IsLinkLocalUnicast() && !a.IsMulticast()
}

// isOff reports whether a setting has to be switched on.
func isOff(path string, v6 bool) (bool, error) {
	switch value := strings.TrimSpace(readSetting(path)); {
	case value == "1":
		return false, nil
	case value != "" || !v6:
		return true, nil
	case strings.TrimSpace(readSetting("ipv6/conf/all/forwarding")) == "1":
		return false, nil
	}
	return false, errors.New("this kernel forwards IPv6 for the whole machine or not at all, and it is off: set net.ipv6.conf.all.forwarding=1 on the node")
}

// switchedBefore reports whether a task of an agent here switched the setting on.
// The caller holds [Boundary.together], as for unforward.
func (b *Boundary) switchedBefore(path string) bool {
	return slices.ContainsFunc(b.states(b.neighbours()...), func(s state) bool { return !s.Over && slices.Contains(s.Forwarding, path) })
}

// states are all that can be read in those directories.
func (b *Boundary) states(dirs ...string) []state {
	var all []state
	for _, dir := range dirs {
		names, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil {
			continue
		}
		for _, n := range names {
			if s, err := load(n); err == nil {
				s.in = dir
				all = append(all, s)
			}
		}
	}
	return all
}

// unforward switches off what was switched on for this task, unless another
// one needs it. The calling thread is in the node's namespace.
func (b *Boundary) unforward(s state) error {
	if len(s.Forwarding) == 0 {
		return nil
	}
	others := b.states(b.neighbours()...)
	for _, path := range s.Forwarding {
		if slices.ContainsFunc(others, func(o state) bool { return b.another(o, s) && !o.Over && slices.Contains(o.Forwarding, path) }) {
			continue
		}
		if err := setting(path, "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// another reports whether o is not what this agent has of s' task.
func (b *Boundary) another(o, s state) bool { return o.Task != s.Task || o.in != b.cfg.Dir }

// devicesOf are the devices of such settings.
func devicesOf(paths []string) []string {
	var all []string
	for _, p := range paths {
		if f := strings.Split(p, "/"); len(f) == 4 && !slices.Contains(all, f[2]) {
			all = append(all, f[2])
		}
	}
	return all
}
