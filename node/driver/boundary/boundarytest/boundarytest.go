//go:build linux

// Package boundarytest makes a node and a host beyond it for tests of what tasks
// reach, each a network namespace of its own: nothing of a test is ever on this
// machine's network.
//
// Tests of drivers rely on it.
package boundarytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/boundary"
)

// The addresses of the world. Far and Other are one host's beyond the node.
const (
	Node  = "192.0.2.1"
	Far   = "192.0.2.2"
	Other = "192.0.2.3"
)

// Door is the port of the node's own that no task reaches.
const Door = 7443

// World is a node and what is beyond it.
type World struct{ node, beyond *os.File }

// New makes one; it goes with the test. A user who makes no namespaces skips it.
func New(t testing.TB) *World {
	t.Helper()
	w := &World{}
	w.beyond = namespace(t, func() error { return up("lo") })
	w.node = namespace(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "up0"
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far0", PeerNamespace: netlink.NsFd(int(w.beyond.Fd()))})
		return errors.Join(err, up("lo"), up("up0", Node+"/24"))
	})
	if err := within(w.beyond, func() error { return up("far0", Far+"/24", Other+"/24") }); err != nil {
		t.Fatal(err)
	}
	return w
}

// Config is of a boundary whose node is the world's. Its paths hold for this
// process' children too.
func (w *World) Config(dir string) boundary.Config {
	cfg := boundary.DefaultConfig()
	cfg.Dir, cfg.Host = dir, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), w.node.Fd())
	cfg.Never = []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), Door)}
	return cfg
}

// Boundary is one of the world's node, closed by whoever it is given to.
func (w *World) Boundary(t testing.TB, dir string) *boundary.Boundary {
	t.Helper()
	b, err := boundary.New(w.Config(dir))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Serve answers every TCP connection to the address with a word: at the node's
// own address on the node, at any other beyond it.
func (w *World) Serve(t testing.TB, address, word string) {
	t.Helper()
	at := w.beyond
	if host, _, _ := net.SplitHostPort(address); host == Node {
		at = w.node
	}
	var l net.Listener
	err := within(at, func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, word)
			_ = c.Close()
		}
	}()
}

// Devices are the names of those of tasks that the node has.
func (w *World) Devices(t testing.TB) (names []string) {
	t.Helper()
	err := within(w.node, func() error {
		all, err := netlink.LinkList()
		for _, l := range all {
			if n := l.Attrs().Name; n != "lo" && n != "up0" {
				names = append(names, n)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func namespace(t testing.TB, build func() error) *os.File {
	t.Helper()
	var ns *os.File
	err := onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return build()
	})
	if errors.Is(err, unix.EPERM) {
		t.Skip("this user makes no network namespaces: run as root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func within(ns *os.File, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		done <- f()
	}()
	return <-done
}

func up(name string, addresses ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		parsed, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, parsed); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// Service is a way to services that says which one and which port was asked for,
// as "the service NAME PORT". None answers at port 81, by a rule.
func Service(_ context.Context, service string, port int) (net.Conn, error) {
	if port == 81 {
		return nil, refusal{}
	}
	near, far := net.Pipe()
	go func() {
		_, _ = fmt.Fprintf(far, "the service %s %d", service, port)
		_ = far.Close()
	}()
	return near, nil
}

type refusal struct{}

func (refusal) Error() string { return "a rule says no" }
func (refusal) Refused() bool { return true }
