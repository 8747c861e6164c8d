//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
)

// card is the machine's one network device.
const card = "eth0"

// connect gives the guest its address and its way out.
func (m *machine) connect(n *wire.Net) error {
	if n == nil {
		return nil
	}
	if !n.Address.Addr().Is4() || !n.Gateway.Is4() {
		return fmt.Errorf("connect the guest: %s by %s is no IPv4", n.Address, n.Gateway)
	}
	if err := waitFor("/sys/class/net/"+card, 5*time.Second); err != nil {
		return fmt.Errorf("connect the guest: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	mask := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if p, err := mask.Prefix(n.Address.Bits()); err == nil {
		mask = p.Addr()
	}
	for _, a := range []struct {
		request uint
		value   netip.Addr
	}{{unix.SIOCSIFADDR, n.Address.Addr()}, {unix.SIOCSIFNETMASK, mask}} {
		r, err := unix.NewIfreq(card)
		if err == nil {
			err = r.SetInet4Addr(a.value.AsSlice())
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, a.request, r)
		}
		if err != nil {
			return fmt.Errorf("give the guest its address: %w", err)
		}
	}
	r, err := unix.NewIfreq(card)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("bring the guest's network up: %w", err)
	}
	if err := wayOut(fd, n.Gateway); err != nil {
		return fmt.Errorf("give the guest its way out: %w", err)
	}
	return errors.Join(m.resolve(n.Resolvers), m.knowHosts(n.Hosts))
}

// wayOut routes all that is elsewhere by a gateway.
func wayOut(fd int, gateway netip.Addr) error {
	var r struct { // rtentry of linux/route.h
		_                  uint64
		dst, gateway, mask unix.RawSockaddrInet4
		flags              uint16
		_                  int16
		_                  uint64
		_                  uintptr
		_                  int16
		_                  uintptr
		_, _               uint64
		_                  uint16
	}
	r.dst.Family, r.gateway.Family, r.mask.Family = unix.AF_INET, unix.AF_INET, unix.AF_INET
	r.gateway.Addr, r.flags = gateway.As4(), unix.RTF_UP|unix.RTF_GATEWAY
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r))); e != 0 {
		return e
	}
	return nil
}

// resolve puts the job's resolvers in the place of the image's. An image with a
// read-only root and without the file has none.
func (m *machine) resolve(all []netip.Addr) error {
	if len(all) == 0 {
		return nil
	}
	var text strings.Builder
	for _, a := range all {
		fmt.Fprintf(&text, "nameserver %s\n", a)
	}
	return m.overlay("resolv.conf", text.String())
}

// mostHosts bounds what is read of an image's own names, in bytes.
const mostHosts = 64 << 10

// knowHosts adds names to those that the image has.
func (m *machine) knowHosts(lines string) error {
	if lines == "" {
		return nil
	}
	known := []byte("127.0.0.1 localhost\n")
	at := filepath.Join(m.root, "etc/hosts")
	if st, err := os.Lstat(at); err == nil && st.Mode().IsRegular() && st.Size() > 0 && st.Size() <= mostHosts {
		if own, err := os.ReadFile(at); err == nil {
			known = append(own, '\n')
		}
	}
	return m.overlay("hosts", string(known)+lines)
}

// overlay puts a file in the place of the image's, in /etc.
func (m *machine) overlay(name, text string) error {
	at, ours := filepath.Join(m.root, "etc", name), filepath.Join(m.root, "run", name)
	if err := os.WriteFile(ours, []byte(text), 0o644); err != nil {
		return err
	}
	if st, err := os.Lstat(at); err != nil || !st.Mode().IsRegular() {
		// A link in an image leads where the image likes: it is not followed.
		_ = os.Remove(at)
		if err := os.WriteFile(at, nil, 0o644); err != nil {
			return nil
		}
	}
	if err := unix.Mount(ours, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("give the guest its %s: %w", name, err)
	}
	return nil
}
