//go:build linux

// Command init is the first and only program of a micro-VM's initramfs: it
// brings the guest up, runs what the host asks for and powers the machine off.
//
// It loads the modules it was packed with, mounts the image, finds the control
// channel by its name, or has the host connect to it, and speaks package wire over it until the host has what
// it wants or goes away. The rule: it decides nothing, keeps nothing, and does
// in the order of wire what the supervisor says; the guest's kernel and the
// machine around it are the boundary, not this program.
//
// In a container that may reach something the same program is the gate before
// its command.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
)

// Where things are in the initramfs.
const (
	modulesDir  = "/modules"
	modulesList = "/modules/order"
	overlayList = "/modules/overlay" // for a writable root only: loading it takes time
	newRoot     = "/newroot"
	portTimeout = 20 * time.Second
)

func main() {
	if filepath.Base(os.Args[0]) == gateName {
		os.Exit(gate(os.Args[0], os.Args[1:]))
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this is the init of a micro-VM; sovmesh packs it and starts it")
		os.Exit(2)
	}
	if err := boot(); err != nil {
		fmt.Fprintln(os.Stderr, "sovmesh init:", err)
	}
	powerOff()
}

func powerOff() {
	unix.Sync()
	// QEMU ends with the first reset: it is started with -no-reboot.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func boot() error {
	began := uptime()
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	loading := uptime()
	if err := loadModules(modulesList); err != nil {
		return err
	}
	began += uptime() - loading // that is the kernel's work, not ours
	port, vsock, err := openControl()
	if err != nil {
		return err
	}
	defer port.Close()
	m := newMachine(newRoot)
	m.noVsock = vsock
	s := newSession(port, m)
	ready := uptime()
	err = s.w.SendJSON(wire.Hello, 0, wire.Greeting{
		Version: wire.Version, Kernel: kernel(), BootID: line("/proc/sys/kernel/random/boot_id"),
		Uptime: int64(ready), Init: int64(ready - began),
	})
	if err != nil {
		return err
	}
	defer m.unmountDisks()
	return s.serve()
}

// uptime is the kernel's clock since it began.
func uptime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

func kernel() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:])
}

// line is the first of a file; empty if it cannot be read.
func line(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	text, _, _ := strings.Cut(string(data), "\n")
	return text
}

// loadModules loads what a list names, in its order.
func loadModules(path string) error {
	list, err := os.Open(path)
	if err != nil {
		return err
	}
	defer list.Close()
	for names := bufio.NewScanner(list); names.Scan(); {
		f, err := os.Open(filepath.Join(modulesDir, names.Text()))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("load module %s: %w", names.Text(), err)
		}
	}
	return nil
}

// openControl opens the control channel: a port, or by vsock what the host connects
// to. It has been packed with a token only for the latter.
func openControl() (c io.ReadWriteCloser, vsock bool, err error) {
	token, err := os.ReadFile("/" + wire.TokenFile)
	if errors.Is(err, fs.ErrNotExist) {
		c, err = openPort(wire.Port)
		return c, false, err
	}
	if err != nil {
		return nil, false, err
	}
	l, err := wire.ListenVsock(wire.VsockPort)
	if err != nil {
		return nil, false, fmt.Errorf("listen for the host: %w", err)
	}
	c, err = l.Host(token, portTimeout)
	return c, true, err
}

// openPort finds a virtio-serial port by its name.
func openPort(name string) (io.ReadWriteCloser, error) {
	deadline := time.Now().Add(portTimeout)
	for wait := time.Millisecond; ; wait = min(2*wait, 4*time.Millisecond) {
		ports, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, p := range ports {
			if line(p) == name {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(p)), os.O_RDWR, 0)
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("there is no virtio-serial port %q", name)
		}
		time.Sleep(wait)
	}
}
