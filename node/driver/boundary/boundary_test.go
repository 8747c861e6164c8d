//go:build linux

package boundary

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// world is a node and a host beyond it, each a namespace of its own: nothing of
// a test is ever on this machine's network.
type world struct {
	*testing.T
	b             *Boundary
	host, outside *os.File
	cfg           Config
}

// The addresses of the world.
const (
	nodeOut, farther   = "192.0.2.1", "192.0.2.2"
	nodeOut6, farther6 = "2001:db8::1", "2001:db8::2"
	neighbour          = "192.0.2.3" // of the far host as well; never allowed
)

func namespace(t *testing.T, build func() error) *os.File {
	t.Helper()
	var ns *os.File
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
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
		parsed.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(l, parsed); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t}
	w.outside = namespace(t, func() error { return up("lo") })
	w.host = namespace(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "up0"
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far0", PeerNamespace: netlink.NsFd(int(w.outside.Fd()))})
		return errors.Join(err, up("lo"), up("up0", nodeOut+"/24", nodeOut6+"/64"))
	})
	w.do(w.outside, func() error { return up("far0", farther+"/24", neighbour+"/24", farther6+"/64") })
	w.cfg = DefaultConfig()
	w.cfg.Dir, w.cfg.Host, w.cfg.Shared = t.TempDir(), fmt.Sprintf("/proc/self/fd/%d", w.host.Fd()), t.TempDir()
	w.cfg.Never = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:7443")}
	w.b = w.boundary()
	return w
}

// boundary is one more agent on the same machine.
func (w *world) boundary() *Boundary {
	w.Helper()
	b, err := New(w.cfg)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		nets, err := b.List()
		if err != nil {
			w.Error(err)
		}
		for _, n := range nets {
			if err := b.Down(context.Background(), n.Task); err != nil {
				w.Error(err)
			}
		}
		if err := b.Close(); err != nil {
			w.Error(err)
		}
	})
	return b
}

func (w *world) do(ns *os.File, f func() error) {
	w.Helper()
	if err := inside(ns, f); err != nil {
		w.Fatal(err)
	}
}

// serve answers every TCP connection with its word, and every UDP packet.
func (w *world) serve(ns *os.File, address, word string) {
	w.Helper()
	w.do(ns, func() error {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", address)
		if err != nil {
			return err
		}
		w.Cleanup(func() { _, _ = l.Close(), u.Close() })
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
		go func() {
			buf := make([]byte, 1500)
			for {
				_, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte(word), from)
			}
		}()
		return nil
	})
}

func (w *world) up(task placement.TaskID, allow, dns []string) *Net {
	w.Helper()
	p, err := Parse(&placement.Network{Allow: allow, DNS: dns}, nil)
	if err != nil {
		w.Fatal(err)
	}
	n, err := w.b.Up(w.Context(), task, p)
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// ask connects from within the task's namespace and reads the word.
func (w *world) ask(n *Net, network, address string) (string, error) {
	w.Helper()
	ns, err := os.Open(n.Path)
	if err != nil {
		w.Fatal(err)
	}
	defer ns.Close()
	var word []byte
	err = inside(ns, func() error {
		c, err := (&net.Dialer{Timeout: 5 * time.Second}).Dial(network, address)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
			word = make([]byte, 64)
			k, err := c.Read(word)
			word = word[:max(k, 0)]
			return err
		}
		word, err = io.ReadAll(c)
		return err
	})
	return string(word), err
}

func (w *world) reaches(n *Net, network, address, word string) {
	w.Helper()
	if got, err := w.ask(n, network, address); err != nil || got != word {
		w.Errorf("%s %s: %q, %v; want %q", network, address, got, err, word)
	}
}

// refused tries, and finds the attempt among what was denied.
func (w *world) refused(n *Net, network, address string) {
	w.Helper()
	began := time.Now()
	if got, err := w.ask(n, network, address); err == nil {
		w.Errorf("%s %s answers %q", network, address, got)
	} else if took := time.Since(began); took > 4*time.Second {
		w.Errorf("%s %s is not refused but swallowed: %v after %v", network, address, err, took)
	}
	w.denied(n, address+"/"+network)
}

func (w *world) denied(n *Net, destination string) runner.Denial {
	w.Helper()
	all, err := w.b.Denied(n.Task)
	if err != nil {
		w.Fatal(err)
	}
	i := slices.IndexFunc(all, func(d runner.Denial) bool { return d.Destination == destination })
	if i < 0 {
		w.Errorf("%s is not among the denied: %+v", destination, all)
		return runner.Denial{}
	}
	if d := all[i]; d.Packets == 0 || d.First.IsZero() || d.Last.Before(d.First) || time.Since(d.Last) > time.Minute {
		w.Errorf("%+v", d)
	}
	return all[i]
}

func TestATaskWithNoListReachesNothing(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outside, farther+":80", "far")
	n := w.up("a.b/0.1", nil, nil)
	if n.Veth != "" {
		t.Errorf("a task that may reach nothing has the device %s", n.Veth)
	}
	w.refused(n, "tcp", farther+":80")
	w.refused(n, "udp", farther+":53")
	w.refused(n, "tcp", "["+farther6+"]:80")
	w.refused(n, "tcp", "169.254.169.254:80")
	w.flush(n)
	if got, err := w.ask(n, "tcp", farther+":80"); err == nil {
		t.Errorf("without its rules it reaches %q", got)
	}
}

// flush is what a task with CAP_NET_ADMIN can do in its namespace: take every rule away.
func (w *world) flush(n *Net) {
	w.Helper()
	ns, err := os.Open(n.Path)
	if err != nil {
		w.Fatal(err)
	}
	defer ns.Close()
	w.do(ns, func() error {
		out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			w.Skip("the program nft is missing (package nftables)")
		}
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func TestATaskReachesWhatItsListSaysAndNoMore(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{farther + ":80", farther + ":81", neighbour + ":80", "[" + farther6 + "]:80", "[" + farther6 + "]:81", farther + ":53", neighbour + ":53"} {
		w.serve(w.outside, a, "far "+a)
	}
	w.serve(w.host, nodeOut+":80", "node")
	w.serve(w.host, nodeOut+":7443", "api")
	w.serve(w.host, "["+nodeOut6+"]:7443", "api")
	allow := []string{farther + ":80", "[" + farther6 + "]:80", nodeOut + ":80", nodeOut + ":7443", nodeOut6}
	for _, flushed := range []bool{false, true} {
		t.Run(fmt.Sprintf("flushed=%v", flushed), func(t *testing.T) {
			w := &world{T: t, b: w.b, host: w.host, outside: w.outside}
			n := w.up(placement.TaskID(fmt.Sprintf("a.b/%v.1", flushed)), allow, []string{farther})
			if flushed {
				w.flush(n)
			}
			w.reaches(n, "tcp", farther+":80", "far "+farther+":80")
			w.reaches(n, "udp", farther+":80", "far "+farther+":80")
			w.reaches(n, "tcp", "["+farther6+"]:80", "far ["+farther6+"]:80")
			w.reaches(n, "tcp", nodeOut+":80", "node")
			w.reaches(n, "udp", farther+":53", "far "+farther+":53")
			w.refused(n, "tcp", farther+":81")
			w.refused(n, "tcp", neighbour+":80")
			w.refused(n, "udp", neighbour+":53") // another resolver
			w.refused(n, "tcp", "["+farther6+"]:81")
			w.refused(n, "tcp", nodeOut+":7443") // on its list, and the node's own door
			w.refused(n, "tcp", "["+nodeOut6+"]:7443")
			w.refused(n, "tcp", n.Host4.String()+":7443")
			w.refused(n, "tcp", "169.254.169.254:80")
			if err := w.b.Down(t.Context(), n.Task); err != nil {
				t.Fatal(err)
			}
			w.denied(n, farther+":81/tcp") // the sum outlives the network
		})
	}
}

// TestNoListOpensTheNodesDoors: what no task reaches is not reached by a list of
// everything.
func TestNoListOpensTheNodesDoors(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outside, farther+":80", "far")
	w.serve(w.host, nodeOut+":7443", "api")
	w.serve(w.host, nodeOut+":80", "node")
	w.do(w.host, func() error { return up("up0", "169.254.169.254/32") })
	w.serve(w.host, "169.254.169.254:80", "credentials")
	n := w.up("a.b/0.1", []string{"0.0.0.0/0", "::/0"}, nil)
	w.flush(n)
	w.reaches(n, "tcp", farther+":80", "far")
	w.reaches(n, "tcp", nodeOut+":80", "node")
	w.refused(n, "tcp", nodeOut+":7443")
	w.refused(n, "tcp", n.Host4.String()+":7443")
	w.refused(n, "tcp", "["+nodeOut6+"]:7443")
	w.refused(n, "tcp", "169.254.169.254:80")
}

// TestRawPacketsAreHeld sends by the device itself, past every rule inside, with
// its own address and with somebody else's.
func TestRawPacketsAreHeld(t *testing.T) {
	w := newWorld(t)
	n := w.up("a.b/0.1", []string{farther + ":80"}, nil)
	ns, err := os.Open(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	heard := make(chan []byte, 1)
	w.do(w.outside, func() error {
		c, err := net.ListenPacket("udp", farther+":9")
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			buf := make([]byte, 100)
			if k, _, err := c.ReadFrom(buf); err == nil {
				heard <- buf[:k]
			}
		}()
		return nil
	})
	w.do(ns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		neighs, err := netlink.NeighList(l.Attrs().Index, unix.AF_INET)
		if err != nil || len(neighs) == 0 {
			return fmt.Errorf("no neighbour: %w", err)
		}
		to := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: l.Attrs().Index, Halen: 6}
		copy(to.Addr[:], neighs[0].HardwareAddr)
		for _, source := range []netip.Addr{n.Guest4, netip.MustParseAddr(nodeOut)} {
			if err := unix.Sendto(fd, udp(source, netip.MustParseAddr(farther), 9, "raw"), 0, to); err != nil {
				return err
			}
		}
		return nil
	})
	w.within(func() bool {
		all, err := w.b.Denied(n.Task)
		return err == nil && len(all) == 1 && all[0].Destination == farther+":9/udp" && all[0].Packets == 2
	})
	select {
	case got := <-heard:
		t.Errorf("a raw packet went through: %q", got)
	default:
	}
}

// udp is an IPv4 packet with a UDP one in it, without UDP's checksum.
func udp(from, to netip.Addr, port uint16, text string) []byte {
	length := 28 + len(text)
	p := []byte{0x45, 0, byte(length >> 8), byte(length), 0, 1, 0, 0, 64, 17, 0, 0}
	p = append(append(p, from.AsSlice()...), to.AsSlice()...)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	p[10], p[11] = byte(^sum>>8), byte(^sum)
	p = append(p, 0x30, 0x39, byte(port>>8), byte(port), 0, byte(8+len(text)), 0, 0)
	return append(p, text...)
}

func (w *world) within(holds func() bool) {
	w.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			w.Fatal("not within 20 s")
		}
	}
}

// TestWhatAnotherAgentFinds: the agent that comes back lists, counts and removes
// what the one before it made, and nothing is left.
func TestWhatAnotherAgentFinds(t *testing.T) {
	w := newWorld(t)
	before := w.snapshot()
	n := w.up("a.b/0.1", []string{farther + ":80"}, nil)
	w.up("a.b/1.1", nil, nil)
	w.refused(n, "tcp", farther+":81")
	had := w.denied(n, farther+":81/tcp").Packets
	w.b = w.boundary()
	again := w.up("a.b/0.1", []string{farther + ":80"}, nil)
	if fmt.Sprint(*again) != fmt.Sprint(*n) {
		t.Errorf("found again as %+v; it was %+v", again, n)
	}
	if now := w.denied(n, farther+":81/tcp").Packets; now != had {
		t.Errorf("%d packets before the restart, %d after", had, now)
	}
	w.refused(n, "tcp", farther+":81")
	if now := w.denied(n, farther+":81/tcp").Packets; now <= had {
		t.Errorf("%d packets before, %d after one more attempt", had, now)
	}
	words, err := w.b.Words(n.Task)
	if err != nil || len(words) != 1 || !words[0].Holds || !strings.Contains(words[0].How, farther+":80") {
		t.Errorf("%+v, %v", words, err)
	}
	all, err := w.b.List()
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, one := range all {
		if err := errors.Join(w.b.Down(t.Context(), one.Task), w.b.Down(t.Context(), one.Task), w.b.Forget(one.Task)); err != nil {
			t.Fatal(err)
		}
	}
	if after := w.snapshot(); after != before {
		t.Errorf("the node is left as\n%s\nit was\n%s", after, before)
	}
	if left, _ := filepath.Glob(filepath.Join(w.cfg.Dir, "*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// snapshot is what the node's own network is like.
func (w *world) snapshot() string {
	w.Helper()
	var text strings.Builder
	w.do(w.host, func() error {
		rules, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			w.Skip("the program nft is missing (package nftables)")
		}
		links, err2 := netlink.LinkList()
		for _, l := range links {
			fmt.Fprintln(&text, l.Attrs().Name)
		}
		fmt.Fprintf(&text, "%s%s%s%s%s", rules, readSetting("ipv4/ip_forward"), readSetting("ipv4/conf/up0/forwarding"),
			readSetting("ipv6/conf/all/forwarding"), readSetting("ipv6/conf/up0/force_forwarding"))
		return errors.Join(err, err2)
	})
	return text.String()
}

// TestTheNodeForwardsForNobodyElse: a device that forwards for a task's sake
// passes nothing on from one stranger to another.
func TestTheNodeForwardsForNobodyElse(t *testing.T) {
	w := newWorld(t)
	third := namespace(t, func() error { return up("lo") })
	w.do(w.host, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "other0"
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "in0", PeerNamespace: netlink.NsFd(int(third.Fd()))})
		return errors.Join(err, up("other0", "198.51.100.1/24"), setting("ipv4/conf/other0/forwarding", "1"))
	})
	w.do(third, func() error {
		err := up("in0", "198.51.100.2/24")
		_, all, _ := net.ParseCIDR("0.0.0.0/0")
		return errors.Join(err, netlink.RouteAdd(&netlink.Route{Dst: all, Gw: net.ParseIP("198.51.100.1")}))
	})
	w.do(w.outside, func() error {
		_, all, _ := net.ParseCIDR("0.0.0.0/0")
		return netlink.RouteAdd(&netlink.Route{Dst: all, Gw: net.ParseIP(nodeOut)})
	})
	w.serve(third, "198.51.100.2:80", "third")
	w.serve(w.outside, farther+":80", "far")
	n := w.up("a.b/0.1", []string{farther + ":80"}, nil)
	w.reaches(n, "tcp", farther+":80", "far")
	err := inside(w.outside, func() error {
		c, err := (&net.Dialer{Timeout: 700 * time.Millisecond}).Dial("tcp", "198.51.100.2:80")
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	if err == nil {
		t.Error("the node passes a stranger's packets on")
	}
}

func TestDialReachesTheTasksLoopback(t *testing.T) {
	w := newWorld(t)
	n := w.up("a.b/0.1", nil, nil)
	ns, err := os.Open(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	w.serve(ns, "127.0.0.1:8080", "inner")
	c, err := w.b.Dial(t.Context(), n.Task, 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if word, err := io.ReadAll(c); err != nil || string(word) != "inner" {
		t.Errorf("%q, %v", word, err)
	}
}

// TestManyDestinationsAreBounded: what does not fit is counted together.
func TestManyDestinationsAreBounded(t *testing.T) {
	w := newWorld(t)
	w.cfg.Distinct, w.cfg.Dir = 4, t.TempDir()
	w.b = w.boundary()
	n := w.up("a.b/0.1", nil, nil)
	for i := range 10 {
		_, _ = w.ask(n, "udp", fmt.Sprintf("%s:%d", farther, 1000+i))
	}
	all, err := w.b.Denied(n.Task)
	var total uint64
	for _, d := range all {
		total += d.Packets
	}
	if err != nil || len(all) != 5 || total < 10 || !slices.ContainsFunc(all, func(d runner.Denial) bool { return d.Destination == rest }) {
		t.Errorf("%+v, %v", all, err)
	}
}

func BenchmarkUp(b *testing.B) {
	for _, spares := range []int{0, 2} {
		b.Run(fmt.Sprintf("spares=%d", spares), func(b *testing.B) {
			cfg := DefaultConfig()
			cfg.Dir, cfg.Spares = b.TempDir(), spares
			bd, err := New(cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer bd.Close()
			for i := 0; b.Loop(); i++ {
				id := placement.TaskID(fmt.Sprintf("a.b/%d.1", i))
				if _, err := bd.Up(b.Context(), id, Policy{}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				bd.spares.filling.Wait()
				if err := errors.Join(bd.Down(b.Context(), id), bd.Forget(id)); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
