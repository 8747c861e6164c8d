//go:build linux

package handover

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Constants of linux/tcp.h that golang.org/x/sys has not.
const (
	noQueue, receiveQueue, sendQueue = 0, 1, 2
	established                      = 1
	// Where struct tcp_info has them; the scales are four bits each.
	infoState, infoOptions, infoScales     = 0, 5, 6
	hasTimestamps, hasSelective, hasScales = 1, 2, 4
)

// Window is struct tcp_repair_window: how much each end may send.
type Window struct {
	SendSeq     uint32 `json:"send_seq"` // of the packet that told the window
	Send        uint32 `json:"send"`
	SendMost    uint32 `json:"send_most"`
	Receive     uint32 `json:"receive"`
	ReceiveFrom uint32 `json:"receive_from"`
}

func getOption(fd, option int, to unsafe.Pointer, size int) error {
	n := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, uintptr(option), uintptr(to), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return errno
	}
	if int(n) != size {
		return fmt.Errorf("the kernel told %d bytes of TCP option %d, not %d", n, option, size)
	}
	return nil
}

func setOption(fd, option int, from unsafe.Pointer, size int) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, uintptr(option), uintptr(from), uintptr(size), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func addressOf(at unix.Sockaddr, err error) (netip.AddrPort, error) {
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(at.Addr).Unmap(), uint16(at.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("%T is no address of TCP", at)
}

func sockaddr(at netip.AddrPort) (unix.Sockaddr, int) {
	if at.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}, unix.AF_INET6
}
