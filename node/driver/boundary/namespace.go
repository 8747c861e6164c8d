//go:build linux

package boundary

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inside runs f on a thread of its own within a network namespace. The thread
// is thrown away: nothing else ever runs there.
func inside(ns *os.File, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace %s: %w", ns.Name(), err)
		}
		return f()
	})
}

func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		done <- f()
	}()
	return <-done
}

// fresh makes a namespace that reaches nothing, with its rules in place.
func (b *Boundary) fresh() (*os.File, error) {
	var ns *os.File
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		var err error
		if ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		if err := loopback(); err != nil {
			return err
		}
		return b.ruleInside(Net{})
	})
	if err != nil && ns != nil {
		_ = ns.Close()
	}
	return ns, err
}

// loopback brings lo up, and sends there whatever has no way: such a packet then
// meets the rules, is counted and answered, and could not leave without them.
func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring the loopback up: %w", err)
	}
	for _, any := range []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}} {
		r := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: any, Priority: 1 << 20, Scope: netlink.SCOPE_LINK}
		if any.IP.To4() != nil && len(any.IP) == net.IPv4len {
			r.Src = net.IPv4(127, 0, 0, 1) // without one the answer finds no way back
		}
		if err := netlink.RouteAdd(r); err != nil && !errors.Is(err, unix.EEXIST) && !noIPv6(err, any) {
			return fmt.Errorf("route what has no way: %w", err)
		}
	}
	return nil
}

// noIPv6: this machine has none, so there is nothing to hold there.
func noIPv6(err error, p *net.IPNet) bool {
	return len(p.IP) == net.IPv6len && p.IP.To4() == nil &&
		(errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM))
}

// pin gives the namespace a name that keeps it.
func pin(ns *os.File, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	_ = f.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), path, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("keep the network namespace at %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// unpin lets go of it; nothing there is no error.
func unpin(path string) error {
	for mounted(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("let the network namespace %s go: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// spares are namespaces that reach nothing and wait for a task: making one
// takes longer than to give it to a task. They go with the agent.
type spares struct {
	ready   chan *os.File
	mu      sync.Mutex
	closed  bool // guarded by mu
	filling sync.WaitGroup
}

// take gives a namespace that reaches nothing, a spare one if there is one.
func (b *Boundary) take() (*os.File, error) {
	defer b.fill()
	select {
	case ns := <-b.spares.ready:
		return ns, nil
	default:
		return b.fresh()
	}
}

// fill makes spares until there are enough, and returns at once.
func (b *Boundary) fill() {
	b.spares.mu.Lock()
	defer b.spares.mu.Unlock()
	if b.spares.closed || len(b.spares.ready) == cap(b.spares.ready) {
		return
	}
	b.spares.filling.Go(func() {
		ns, err := b.fresh()
		if err != nil {
			return // the next start says why
		}
		select {
		case b.spares.ready <- ns:
		default:
			_ = ns.Close()
		}
	})
}

func (b *Boundary) closeSpares() {
	b.spares.mu.Lock()
	b.spares.closed = true
	b.spares.mu.Unlock()
	b.spares.filling.Wait()
	for {
		select {
		case ns := <-b.spares.ready:
			_ = ns.Close()
		default:
			return
		}
	}
}

// setting writes one of the kernel's network settings, of the namespace that the
// calling thread is in.
func setting(path, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys/net", path), []byte(value), 0)
}

func readSetting(path string) string {
	data, err := os.ReadFile(filepath.Join("/proc/sys/net", path))
	if err != nil {
		return ""
	}
	return string(data)
}
