//go:build linux

package main

import (
	"errors"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestCommandsMakeNoSocketsToTheHost tries with the filter what works without it.
func TestCommandsMakeNoSocketsToTheHost(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("guests are amd64, and so are the numbers of the filter")
	}
	try := func(family int) error {
		fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
	ring := func() error {
		params := make([]byte, 120)
		fd, _, e := unix.Syscall(ioUringSetup, 1, uintptr(unsafe.Pointer(&params[0])), 0)
		if e != 0 {
			return e
		}
		return unix.Close(int(fd))
	}
	if err := try(unix.AF_VSOCK); err != nil {
		t.Skipf("this kernel has no vsock: %v", err)
	}
	type found struct{ vsock, unix, inet, ring, pid error }
	done := make(chan found)
	go func() {
		runtime.LockOSThread() // never unlocked: the filter ends with the thread
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err = errors.Join(err, denyVsock()); err != nil {
			t.Error(err)
		}
		_, err = unix.Getpgid(0)
		done <- found{try(unix.AF_VSOCK), try(unix.AF_UNIX), try(unix.AF_INET), ring(), err}
	}()
	f := <-done
	if f.vsock != unix.EAFNOSUPPORT || f.ring != unix.ENOSYS {
		t.Errorf("a socket to the host gives %v, a ring %v", f.vsock, f.ring)
	}
	if f.unix != nil || f.inet != nil || f.pid != nil {
		t.Errorf("what has nothing to do with it gives %v, %v, %v", f.unix, f.inet, f.pid)
	}
}
