//go:build linux

package boundary

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/placement"
)

// machine makes a task's network for a machine, and a namespace that stands for
// the guest: what its one device sends is written to the task's tap as a
// hypervisor would.
func (w *world) machine(task placement.TaskID, allow ...string) (n *Net, guest *os.File) {
	w.Helper()
	p, err := Parse(&placement.Network{Allow: allow}, nil)
	if err != nil {
		w.Fatal(err)
	}
	if n, err = w.b.Machine(w.Context(), task, p); err != nil {
		w.Fatal(err)
	}
	var card *os.File
	guest = namespace(w.T, func() error {
		if card, err = attachTap(); err != nil {
			return err
		}
		return up("lo")
	})
	tap, err := OpenTap(n.Path)
	if err != nil {
		w.Fatal(err)
	}
	done := make(chan struct{}, 2)
	for _, pair := range [][2]*os.File{{card, tap}, {tap, card}} {
		go func() {
			defer func() { done <- struct{}{} }()
			frame := make([]byte, 1<<17)
			for {
				k, err := pair[0].Read(frame)
				if errors.Is(err, os.ErrClosed) || err != nil && !errors.Is(err, unix.EIO) {
					return
				}
				_, _ = pair[1].Write(frame[:k])
			}
		}()
	}
	w.Cleanup(func() {
		_, _ = card.Close(), tap.Close()
		<-done
		<-done
	})
	return n, guest
}

// address gives the guest its own, or another.
func (w *world) address(guest *os.File, a string) {
	w.Helper()
	w.do(guest, func() error {
		if err := up(tapName, a); err != nil {
			return err
		}
		l, err := netlink.LinkByName(tapName)
		if err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: MachineGateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
			Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}})
	})
}

// from connects from a guest and reads the word.
func (w *world) from(guest *os.File, address string) (word string, err error) {
	w.Helper()
	err = inside(guest, func() error {
		c, err := (&net.Dialer{Timeout: 3 * time.Second}).Dial("tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		data, err := io.ReadAll(c)
		word = string(data)
		return err
	})
	return word, err
}

// guestAddress is a machine's own with its prefix.
func guestAddress() string { return netip.PrefixFrom(MachineAddress, MachineBits).String() }

func TestAMachineReachesWhatItsListSaysAndNoMore(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{farther + ":80", farther + ":81", neighbour + ":80"} {
		w.serve(w.outside, a, "far "+a)
	}
	w.serve(w.host, nodeOut+":7443", "api")
	n, guest := w.machine("a.b/0.1", farther+":80", nodeOut)
	w.address(guest, guestAddress())
	if got, err := w.from(guest, farther+":80"); err != nil || got != "far "+farther+":80" {
		t.Fatalf("%q, %v", got, err)
	}
	refused := []string{farther + ":81", neighbour + ":80", nodeOut + ":7443", MachineGateway.String() + ":22", n.Guest4.String() + ":22", "169.254.169.254:80"}
	for _, a := range refused {
		began := time.Now()
		if got, err := w.from(guest, a); err == nil || time.Since(began) > 2*time.Second {
			t.Errorf("%s: %q, %v after %v; it is to be refused at once", a, got, err, time.Since(began))
		}
		w.denied(n, a+"/tcp")
	}
	// Not a word gets out under another address, though it is the network's own.
	w.do(guest, func() error { return up(tapName, "198.18.0.77/32") })
	w.do(guest, func() error {
		d := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP("198.18.0.77")}}
		if c, err := d.Dial("tcp", farther+":80"); err == nil {
			_ = c.Close()
			return errors.New("a packet with another's address came through")
		}
		return nil
	})
	w.denied(n, farther+":80/tcp")
	w.serve(guest, "0.0.0.0:8080", "guest")
	c, err := w.b.DialMachine(t.Context(), n.Task, 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != "guest" {
		t.Errorf("a port of the guest: %q, %v", got, err)
	}
	// Whoever gets into the namespace and takes its rules away gains nothing.
	w.flush(n)
	w.do(guest, func() error { return nil })
	if got, err := w.from(guest, farther+":81"); err == nil {
		t.Errorf("without the rules inside it reaches %q", got)
	}
}

func TestAMachineWithNoListReachesNothing(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outside, farther+":80", "far")
	n, guest := w.machine("a.b/0.1")
	if n.Veth != "" {
		t.Errorf("it has the device %s", n.Veth)
	}
	w.address(guest, guestAddress())
	if got, err := w.from(guest, farther+":80"); err == nil {
		t.Errorf("it reaches %q", got)
	}
	w.denied(n, farther+":80/tcp")
	w.serve(guest, "0.0.0.0:8080", "guest")
	again, err := w.b.Machine(t.Context(), n.Task, Policy{}) // as after a restart of the agent
	if err != nil || again.Path != n.Path {
		t.Fatal(again, err)
	}
	c, err := w.boundary().DialMachine(t.Context(), n.Task, 8080)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// ask4 is a question for an address.
func ask4(kind byte, options ...byte) []byte {
	m := make([]byte, dhcpFixed)
	m[0], m[1], m[2] = 1, 1, 6
	binary.BigEndian.PutUint32(m[4:], 0xdecafbad)
	m[10] = 0x80
	copy(m[28:], []byte{0x52, 0x54, 0, 1, 2, 3})
	copy(m[236:], dhcpMagic[:])
	m = append(append(m, 53, 1, kind), options...)
	return append(m, 255)
}

func TestAGuestIsToldItsAddress(t *testing.T) {
	w := newWorld(t)
	n, guest := w.machine("a.b/0.1")
	w.do(guest, func() error { return up(tapName, "0.0.0.0/0") })
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- ServeDHCP(ctx, n.Path, []netip.Addr{netip.MustParseAddr("192.0.2.53")}) }()
	var answer []byte
	w.do(guest, func() error {
		listen := net.ListenConfig{}
		c, err := listen.ListenPacket(ctx, "udp4", "0.0.0.0:68")
		if err != nil {
			return err
		}
		defer c.Close()
		l, err := netlink.LinkByName(tapName)
		if err == nil {
			err = netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}})
		}
		if err != nil {
			return err
		}
		buf := make([]byte, 1500)
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
			if _, err := c.WriteTo(ask4(dhcpDiscover), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
				return err
			}
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if k, _, err := c.ReadFrom(buf); err == nil {
				answer = buf[:k]
				return nil
			}
		}
		return errors.New("nobody answers")
	})
	if len(answer) < dhcpFixed || [4]byte(answer[16:20]) != MachineAddress.As4() {
		t.Fatalf("%x", answer)
	}
	options := dhcpOptions(answer[dhcpFixed:])
	if fmt.Sprint(options[53], options[3], options[6]) != "[2] [198 18 0 1] [192 0 2 53]" {
		t.Errorf("%v", options)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestAGuestThatAsksForAnotherAddressIsRefused(t *testing.T) {
	kindOf := func(ask []byte) byte {
		r := dhcpReply(ask, nil)
		if r == nil {
			return 0
		}
		return dhcpOptions(r[dhcpFixed:])[53][0]
	}
	for _, test := range []struct {
		name string
		ask  []byte
		want byte
	}{
		{"its own", ask4(dhcpRequest, 50, 4, 198, 18, 0, 2), dhcpAck},
		{"another", ask4(dhcpRequest, 50, 4, 10, 0, 0, 1), dhcpNak},
		{"none", ask4(dhcpRequest), dhcpNak},
		{"what it is told otherwise", ask4(dhcpInform), dhcpAck},
		{"a release", ask4(7), 0},
		{"an answer", append([]byte{2}, ask4(dhcpDiscover)[1:]...), 0},
		{"cut short", ask4(dhcpDiscover)[:200], 0},
		{"options that end in the midst", append(ask4(dhcpDiscover)[:dhcpFixed], 53), 0},
	} {
		if got := kindOf(test.ask); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

func FuzzDHCP(f *testing.F) {
	f.Add(ask4(dhcpDiscover))
	f.Add(ask4(dhcpRequest, 50, 4, 198, 18, 0, 2))
	f.Fuzz(func(t *testing.T, ask []byte) {
		r := dhcpReply(ask, []netip.Addr{MachineGateway})
		if r == nil {
			return
		}
		if len(r) < 300 || len(r) > 1000 || r[0] != 2 {
			t.Fatalf("%x", r)
		}
		if a := [4]byte(r[16:20]); a != ([4]byte{}) && a != MachineAddress.As4() {
			t.Fatalf("it is given %v", a)
		}
	})
}
