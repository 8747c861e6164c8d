//go:build linux

package qemu

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// VsockDevice is by what a host with vhost-vsock gives machines sockets to itself.
const VsockDevice = "/dev/vhost-vsock"

// vsockFile is the name of its descriptor among a machine's files.
const vsockFile = "vsock"

// Vsock is the supervisor's part of a machine's: by its CID the host connects to the
// guest. vsock(7)
type Vsock struct {
	CID  uint32
	file *os.File
}

// ProbeVsock says what a machine with sockets to this host lacks; nil for nothing.
func ProbeVsock(device string) error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("this kernel has no sockets to machines (AF_VSOCK): %w", err)
	}
	_ = unix.Close(fd)
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("vhost-vsock is not there: %w", err)
	}
	return f.Close()
}

// openVsock opens the device for one machine and has a CID for it that no other
// machine of the host has: the kernel gives none twice. QEMU sets the same one again,
// on the same descriptor.
func openVsock(device string) (*Vsock, error) {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	cid, err := drawCID(func(cid uint64) error {
		const setGuestCID = 0x4008af60 // VHOST_VSOCK_SET_GUEST_CID of linux/vhost.h
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), setGuestCID, uintptr(unsafe.Pointer(&cid))); e != 0 {
			return e
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Vsock{CID: cid, file: f}, nil
}

// CIDs are drawn above those that people give by hand, from so many that a second
// draw is rare and a tenth none of chance.
const firstCID, mostCIDs, mostDraws = 1 << 16, 1 << 31, 10

func drawCID(set func(uint64) error) (uint32, error) {
	var err error
	for range mostDraws {
		cid := firstCID + rand.Uint32N(mostCIDs)
		if err = set(uint64(cid)); !errors.Is(err, unix.EADDRINUSE) {
			return cid, err
		}
	}
	return 0, err
}

// handOn is the descriptor that QEMU has.
func (v *Vsock) handOn() (*os.File, error) {
	fd, err := unix.FcntlInt(v.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	return os.NewFile(uintptr(fd), "vsock"), err
}

// Release leaves the CID to the machine: it is free when the machine ends, and only
// then does a connection to the machine end with it. Until then no other machine can
// have it, so that nothing meant for this one reaches another.
func (v *Vsock) Release() {
	if v != nil && v.file != nil {
		_ = v.file.Close()
	}
}
