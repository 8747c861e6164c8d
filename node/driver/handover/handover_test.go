//go:build linux

package handover_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/handover"
)

// space is a network namespace of the test's.
type space struct{ ns *os.File }

func newSpace(t *testing.T) space {
	t.Helper()
	var s space
	thread(t, func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		s.ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	t.Cleanup(func() { _ = s.ns.Close() })
	return s
}

func thread(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (s space) do(t *testing.T, f func() error) {
	t.Helper()
	thread(t, func() error {
		if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

const gateway, guest = "10.99.0.1", "10.99.0.2"

func dress(name, address string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	mac, _ := net.ParseMAC("52:54:00:00:00:0" + address[len(address)-1:])
	a, _ := netlink.ParseAddr(address + "/24")
	return errors.Join(netlink.LinkSetHardwareAddr(l, mac), netlink.AddrReplace(l, a), netlink.LinkSetUp(l))
}

// move takes the wire's gateway end from one node's namespace to another's, as a
// machine's move does.
func move(t *testing.T, from, to space) {
	t.Helper()
	from.do(t, func() error {
		l, err := netlink.LinkByName("wire")
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(l, int(to.ns.Fd()))
	})
	to.do(t, func() error { return dress("wire", gateway) })
}

// machines are an old node, a new one, and a guest with a listener that answers
// every line.
func machines(t *testing.T) (old, fresh, inside space) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: no network namespaces, no TCP_REPAIR")
	}
	old, fresh, inside = newSpace(t), newSpace(t), newSpace(t)
	old.do(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "wire"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(inside.ns.Fd()))}); err != nil {
			return err
		}
		return dress("wire", gateway)
	})
	var l net.Listener
	inside.do(t, func() (err error) {
		if err := dress("eth0", guest); err != nil {
			return err
		}
		l, err = net.Listen("tcp4", guest+":22")
		return err
	})
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
	return old, fresh, inside
}

func answer(c net.Conn) {
	defer c.Close()
	lines := bufio.NewReader(c)
	for n := 1; ; n++ {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		if rest, bulk := strings.CutPrefix(line, "send "); bulk {
			var size int
			_, _ = fmt.Sscan(rest, &size)
			_, _ = c.Write(make([]byte, size))
			continue
		}
		fmt.Fprintf(c, "%d %s", n, line)
	}
}

func dial(t *testing.T, from space) *net.TCPConn {
	t.Helper()
	var tcp *net.TCPConn
	from.do(t, func() error {
		c, err := (&net.Dialer{Timeout: 20 * time.Second}).DialContext(context.Background(), "tcp4", guest+":22")
		if err == nil {
			tcp = c.(*net.TCPConn)
		}
		return err
	})
	t.Cleanup(func() { _ = tcp.Close() })
	return tcp
}

func say(t *testing.T, c io.ReadWriter, lines *bufio.Reader, text, want string) {
	t.Helper()
	if _, err := io.WriteString(c, text+"\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := lines.ReadString('\n'); err != nil || got != want+"\n" {
		t.Fatalf("said %q and heard %q, %v; want %q", text, got, err, want)
	}
}

// goes lets a restored end go on, with what waited to be sent.
func goes(t *testing.T, r *handover.Restored) *net.TCPConn {
	t.Helper()
	tcp, unsent, err := r.Go()
	if err == nil {
		_, err = tcp.Write(unsent)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tcp
}

// A session goes on on the new node, with what was under way when the machine
// was moved, and the one who holds it reads and writes meanwhile.
func TestSessionOutlivesTheMove(t *testing.T) {
	old, fresh, _ := machines(t)
	conn := handover.NewConn(dial(t, old), nil)
	lines := bufio.NewReader(conn)
	say(t, conn, lines, "hello", "1 hello")

	// A reader that waits when the move begins.
	heard := make(chan string, 1)
	go func() {
		line, err := lines.ReadString('\n')
		heard <- fmt.Sprint(line, err)
	}()
	// What is written while nothing can be delivered is under way.
	old.do(t, func() error {
		l, err := netlink.LinkByName("wire")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(l)
	})
	if _, err := io.WriteString(conn, "under way\n"); err != nil {
		t.Fatal(err)
	}
	state, err := conn.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	if under := len(state.Sent) + len(state.Unsent); under != len("under way\n") {
		t.Fatalf("%d bytes are under way, want %d", under, len("under way\n"))
	}
	move(t, old, fresh)
	r, err := handover.Restore(fresh.ns, state)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	if err := conn.Follow(near); err != nil {
		t.Fatal(err)
	}
	tcp := goes(t, r)
	defer tcp.Close()
	go func() { _, _ = io.Copy(far, tcp); _ = far.Close() }()
	go func() { _, _ = io.Copy(tcp, far) }()
	if got := <-heard; got != "2 under way\n<nil>" {
		t.Fatalf("after the move the session heard %q", got)
	}
	say(t, conn, lines, "again", "3 again")
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}

// A move that is given up leaves the session as it was.
func TestSessionGoesOnWhereItWas(t *testing.T) {
	old, fresh, _ := machines(t)
	conn := handover.NewConn(dial(t, old), nil)
	defer conn.Close()
	lines := bufio.NewReader(conn)
	say(t, conn, lines, "hello", "1 hello")
	state, err := conn.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	fresh.do(t, func() error { // its address has to be there
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "wire"
		return errors.Join(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "other"}), dress("wire", gateway))
	})
	r, err := handover.Restore(fresh.ns, state)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.GiveUp(), conn.Thaw()); err != nil {
		t.Fatal(err)
	}
	say(t, conn, lines, "still here", "2 still here")
}

// One that its user closed while it was frozen is closed once it goes on where
// it was: the machine sees its end.
func TestSessionClosedMeanwhileEnds(t *testing.T) {
	old, _, _ := machines(t)
	tcp := dial(t, old)
	conn := handover.NewConn(tcp, nil)
	say(t, conn, bufio.NewReader(conn), "hello", "1 hello")
	if _, err := conn.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.Close(), conn.Thaw()); err != nil {
		t.Fatal(err)
	}
	if _, err := tcp.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("its end in the kernel is open: %v", err)
	}
}

// What waited to be sent holds nobody up, however little the other end reads: it
// is handed to whoever can close the connection.
func TestWhatWaitedIsTheCallersToSend(t *testing.T) {
	old, fresh, _ := machines(t)
	conn := handover.NewConn(dial(t, old), nil)
	defer conn.Close()
	say(t, conn, bufio.NewReader(conn), "hello", "1 hello")
	old.do(t, func() error {
		l, err := netlink.LinkByName("wire")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(l)
	})
	const size = 1 << 20
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Write(make([]byte, size))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	state, err := conn.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	if len(state.Unsent) == 0 {
		t.Fatalf("of %d bytes none waits", n)
	}
	move(t, old, fresh)
	r, err := handover.Restore(fresh.ns, state)
	if err != nil {
		t.Fatal(err)
	}
	tcp, unsent, err := r.Go()
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if len(unsent) != len(state.Unsent) {
		t.Errorf("%d bytes are handed out, want %d", len(unsent), len(state.Unsent))
	}
}

// Much that was received and not read goes along, and the window opens again.
func TestUnreadBytesGoAlong(t *testing.T) {
	old, fresh, _ := machines(t)
	tcp := dial(t, old)
	const size = 6 << 20
	fmt.Fprintf(tcp, "send %d\n", size)
	var first [1]byte
	if _, err := io.ReadFull(tcp, first[:]); err != nil {
		t.Fatal(err)
	}
	old.do(t, func() error { // the other end stands still
		l, err := netlink.LinkByName("wire")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(l)
	})
	f, err := handover.Freeze(tcp)
	if err != nil {
		t.Fatal(err)
	}
	move(t, old, fresh)
	r, err := handover.Restore(fresh.ns, f.State)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.GiveUp(); err != nil {
		t.Fatal(err)
	}
	moved := goes(t, r)
	defer moved.Close()
	if err := moved.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n, err := io.CopyN(io.Discard, moved, size-1); err != nil {
		t.Fatalf("%d bytes of %d came: %v", n, size-1, err)
	}
	lines := bufio.NewReader(moved)
	say(t, moved, lines, "end", "2 end")
}

// A state comes from another node: what no kernel tells is refused, and what a
// kernel may tell makes no connection from an address that the namespace has not.
func TestRestoreRefuses(t *testing.T) {
	good := handover.State{
		Local: netip.MustParseAddrPort(gateway + ":4000"), Remote: netip.MustParseAddrPort(guest + ":22"), MaxSegment: 1460,
	}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*handover.State){
		"no address":  func(s *handover.State) { s.Local = netip.AddrPort{} },
		"two kinds":   func(s *handover.State) { s.Remote = netip.MustParseAddrPort("[::1]:22") },
		"port 0":      func(s *handover.State) { s.Remote = netip.MustParseAddrPort(guest + ":0") },
		"no segment":  func(s *handover.State) { s.MaxSegment = 0 },
		"great scale": func(s *handover.State) { s.SendScale = 15 },
		"too much":    func(s *handover.State) { s.Sent = make([]byte, handover.MaxQueued+1) },
	} {
		bad := good
		if spoil(&bad); bad.Validate() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("not root: no network namespaces, no TCP_REPAIR")
	}
	if _, err := handover.Restore(newSpace(t).ns, good); err == nil {
		t.Error("a connection was made from an address that is not there")
	}
}

// Only a connection that is open in both directions is frozen; another goes on.
func TestHalfClosedIsNotFrozen(t *testing.T) {
	old, _, _ := machines(t)
	tcp := dial(t, old)
	if err := tcp.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := handover.Freeze(tcp); err == nil {
		t.Fatal("a half-closed connection was frozen")
	}
	if rest, err := io.ReadAll(tcp); err != nil || len(rest) > 0 {
		t.Fatalf("after that it read %q, %v", rest, err)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"local":"10.0.0.1:1","remote":"10.0.0.2:22","send_seq":1,"sent":"eA==","max_segment":1460,"scales":true,"send_scale":7}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s handover.State
		if json.Unmarshal(data, &s) == nil && s.Validate() == nil && (len(s.Sent) > handover.MaxQueued || !s.Local.IsValid()) {
			t.Fatalf("%s was taken", data)
		}
	})
}
