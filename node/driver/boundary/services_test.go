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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// forbidden is a rule's refusal.
type forbidden struct{}

func (forbidden) Error() string { return "the tag does not allow it" }
func (forbidden) Refused() bool { return true }

// echoes is a service that says its name and port, and then gives back what it hears.
func echoes(_ context.Context, service string, port int) (net.Conn, error) {
	switch {
	case service == "gone":
		return nil, errors.New("none runs")
	case port == 81:
		return nil, forbidden{}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	go func() {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = fmt.Fprintf(c, "%s %d:", service, port)
		_, _ = io.Copy(c, c)
	}()
	return l.Accept()
}

func (w *world) services(task placement.TaskID, allow ...string) (*Net, Policy) {
	w.Helper()
	p, err := Parse(&placement.Network{Allow: allow}, nil)
	if err != nil {
		w.Fatal(err)
	}
	n, err := w.b.Up(w.Context(), task, p)
	if err != nil {
		w.Fatal(err)
	}
	return n, p
}

// talk says a word to an address from within a task's namespace, ends what it
// says, and gives what it hears until the end.
func (w *world) talk(n *Net, address, word string) (string, error) {
	w.Helper()
	ns, err := os.Open(n.Path)
	if err != nil {
		w.Fatal(err)
	}
	defer ns.Close()
	return w.talkIn(ns, address, word)
}

func (w *world) talkIn(ns *os.File, address, word string) (string, error) {
	var heard []byte
	err := inside(ns, func() error {
		c, err := (&net.Dialer{Timeout: 30 * time.Second}).Dial("tcp4", address)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(c, word); err != nil {
			return err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		heard, err = io.ReadAll(c)
		return err
	})
	return string(heard), err
}

// A task whose list has services alone has no device, and reaches them.
func TestAServiceIsReachedFromWithinTheNamespace(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outside, farther+":80", "far")
	for name, allow := range map[string][]string{"alone": {"service:db", "service:gone"}, "besides": {"service:db", "service:gone", farther + ":80"}} {
		t.Run(name, func(t *testing.T) {
			w := &world{T: t, b: w.b, host: w.host, outside: w.outside}
			n, p := w.services(placement.TaskID("a."+name+"/0.1"), allow...)
			if (n.Veth == "") != (name == "alone") {
				t.Errorf("its device is %q", n.Veth)
			}
			// It asks before anybody answers: it waits.
			early := make(chan string)
			go func() {
				got, err := w.talk(n, "198.19.0.1:5432", "early")
				early <- fmt.Sprint(got, err)
			}()
			w.b.Serve(n.Task, p.Services, echoes)
			if got := <-early; got != "db 5432:early<nil>" {
				t.Errorf("%q", got)
			}
			big := strings.Repeat("x", 1<<20)
			if got, err := w.talk(n, "198.19.0.1:5433", big); err != nil || got != "db 5433:"+big {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			for _, no := range []struct{ at, counted string }{
				{"198.19.0.1:81", "service:db:81/tcp"}, {"198.19.0.2:80", ""}, {"198.19.0.3:80", "198.19.0.3:80/tcp"},
				{"198.19.0.0:80", "198.19.0.0:80/tcp"}, {"127.0.0.1:61198", "127.0.0.1:61198/tcp"},
			} {
				if got, err := w.talk(n, no.at, ""); err == nil {
					t.Errorf("%s answers %q", no.at, got)
				}
				if no.counted != "" {
					w.denied(n, no.counted)
				}
			}
			if name == "besides" {
				w.reaches(n, "tcp", farther+":80", "far")
			}
			w.refused(n, "tcp", farther+":81")
			w.refused(n, "udp", "198.19.0.1:5432")
			words, err := w.b.Words(n.Task)
			if err != nil || !words[0].Holds || !strings.Contains(words[0].How, "the service db (db.service.sovmesh, 198.19.0.1)") || strings.Contains(words[0].How, "nobody") {
				t.Errorf("%+v, %v", words, err)
			}
			if err := w.b.Down(t.Context(), n.Task); err != nil {
				t.Fatal(err)
			}
			w.denied(n, "service:db:81/tcp")
		})
	}
}

// The guest's own packets are led there too, and none of another address.
func TestAMachineReachesAService(t *testing.T) {
	w := newWorld(t)
	n, guest := w.machine("a.machine/0.1", "service:db")
	w.address(guest, guestAddress())
	w.b.Serve(n.Task, n.Policy.Services, echoes)
	if got, err := w.talkIn(guest, "198.19.0.1:5432", "hello"); err != nil || got != "db 5432:hello" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := w.talkIn(guest, "198.19.0.2:5432", ""); err == nil {
		t.Errorf("a service that is not on its list answers %q", got)
	}
	w.denied(n, "198.19.0.2:5432/tcp")
}

// An agent that is built anew answers again, and connections that were open end.
// The network's end, by whoever, ends the answering.
func TestServicesAfterARestartOfTheAgent(t *testing.T) {
	w := newWorld(t)
	n, p := w.services("a.b/0.1", "service:db")
	first := w.boundary()
	first.Serve(n.Task, p.Services, echoes)
	ns, err := os.Open(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var open net.Conn
	w.do(ns, func() error { open, err = net.Dial("tcp4", "198.19.0.1:80"); return err })
	defer open.Close()
	if _, err := io.ReadFull(open, make([]byte, len("db 80:"))); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	_ = open.SetDeadline(time.Now().Add(30 * time.Second))
	if k, err := open.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an open connection goes on: %d, %v", k, err)
	}
	again := make(chan string)
	go func() {
		got, err := w.talk(n, "198.19.0.1:81", "")
		if err == nil {
			got = "answered " + got
		}
		got2, err := w.talk(n, "198.19.0.1:80", "again")
		again <- fmt.Sprint(got, " ", got2, err)
	}()
	second := w.boundary()
	second.Serve(n.Task, p.Services, echoes)
	if got := <-again; got != " db 80:again<nil>" {
		t.Errorf("%q", got)
	}
	if err := w.b.Down(t.Context(), n.Task); err != nil { // not by the one that answers
		t.Fatal(err)
	}
	for late := time.Now().Add(30 * time.Second); second.answers(n.Task); {
		if time.Now().After(late) {
			t.Fatal("a network that is gone is still answered for")
		}
		wait(t.Context(), serveRetry)
	}
}

// breaks is a service whose node is lost in the middle of an answer.
type breaks struct {
	net.Conn
	said bool
}

func (b *breaks) Read(p []byte) (int, error) {
	if b.said {
		return 0, io.ErrUnexpectedEOF
	}
	b.said = true
	return copy(p, "half"), nil
}

func (b *breaks) Write(p []byte) (int, error) { return len(p), nil }
func (b *breaks) CloseWrite() error           { return nil }

// A task does not take half an answer for a whole one.
func TestAServiceThatBreaksOffIsReset(t *testing.T) {
	w := newWorld(t)
	n, p := w.services("a.b/0.1", "service:db")
	w.b.Serve(n.Task, p.Services, func(context.Context, string, int) (net.Conn, error) {
		near, far := net.Pipe()
		_ = far.Close()
		return &breaks{Conn: near}, nil
	})
	if got, err := w.talk(n, "198.19.0.1:80", "all"); err == nil {
		t.Errorf("an answer that broke off ends as a whole one: %q", got)
	}
}

// ends is a service whose connections a rule ends once it is told to.
type ends struct {
	breaks
	now chan struct{}
}

func (e *ends) Read(p []byte) (int, error) {
	if !e.said {
		return e.breaks.Read(p)
	}
	<-e.now
	return 0, forbidden{}
}

// A connection that a rule ends while it is open is reset, and counted as one that it
// refuses; one that breaks off is not.
func TestAServiceThatARuleEndsIsResetAndCounted(t *testing.T) {
	w := newWorld(t)
	n, p := w.services("a.b/0.1", "service:db", "service:lost")
	now := make(chan struct{})
	w.b.Serve(n.Task, p.Services, func(_ context.Context, service string, _ int) (net.Conn, error) {
		near, far := net.Pipe()
		_ = far.Close()
		if service == "lost" {
			return &breaks{Conn: near}, nil
		}
		return &ends{breaks{Conn: near}, now}, nil
	})
	ns, err := os.Open(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var open net.Conn
	w.do(ns, func() error { open, err = net.Dial("tcp4", "198.19.0.1:80"); return err })
	defer open.Close()
	_ = open.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.ReadFull(open, make([]byte, len("half"))); err != nil {
		t.Fatal(err)
	}
	if got, err := w.talk(n, "198.19.0.2:80", "all"); err == nil {
		t.Errorf("an answer that broke off ends as a whole one: %q", got)
	}
	close(now)
	if _, err := open.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("it ends with %v", err)
	}
	for late := time.Now().Add(30 * time.Second); ; wait(t.Context(), serveRetry) {
		all, err := w.b.Denied(n.Task)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 1 && all[0].Destination == "service:db:80/tcp" && all[0].Packets == 1 {
			break
		}
		if len(all) > 0 || time.Now().After(late) {
			t.Fatalf("counted: %+v", all)
		}
	}
}

// One task cannot have as many connections as it likes.
func TestConnectionsToServicesAreBounded(t *testing.T) {
	w := newWorld(t)
	n, p := w.services("a.b/0.1", "service:db")
	w.b.Serve(n.Task, p.Services, echoes)
	ns, err := os.Open(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var all []net.Conn
	defer func() {
		for _, c := range all {
			_ = c.Close()
		}
	}()
	w.do(ns, func() error {
		for range servedMost {
			c, err := net.Dial("tcp4", "198.19.0.1:80")
			if err != nil {
				return err
			}
			all = append(all, c)
			if _, err := io.ReadFull(c, make([]byte, len("db 80:"))); err != nil {
				return err
			}
		}
		return nil
	})
	if got, err := w.talk(n, "198.19.0.1:80", ""); err == nil {
		t.Errorf("one more is answered %q", got)
	}
	w.denied(n, "service:db:80/tcp")
	_ = all[0].Close()
	for late := time.Now().Add(30 * time.Second); ; {
		if _, err := w.talk(n, "198.19.0.1:80", ""); err == nil {
			break
		}
		if time.Now().After(late) {
			t.Fatal("a place that was given back is not taken")
		}
	}
}

func TestRefusalsAreSummedBeyondSoManyDestinations(t *testing.T) {
	var r refusals
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { r.add("a.b/0.1", netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(i+1)).String(), 5) })
	}
	wg.Wait()
	all, sum := r.take("a.b/0.1", nil), uint64(0)
	for _, d := range all {
		sum += d.Packets
	}
	if len(all) != 6 || sum != 20 {
		t.Errorf("%+v", all)
	}
	if again := r.take("a.b/0.1", all); len(again) != 6 {
		t.Errorf("%+v", again)
	}
}
