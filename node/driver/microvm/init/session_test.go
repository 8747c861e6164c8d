//go:build linux

package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
)

// host is the other side of a session, whose machine is the one of the test.
type host struct {
	*testing.T
	w  *wire.Writer
	in *wire.Reader
}

func newHost(t *testing.T) *host {
	t.Helper()
	ours, theirs := net.Pipe()
	s := newSession(theirs, &machine{root: "/"})
	done := make(chan error, 1)
	go func() {
		done <- s.serve()
		_ = theirs.Close()
	}()
	_ = ours.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() {
		_ = ours.Close()
		<-done
	})
	return &host{T: t, w: wire.NewWriter(ours), in: wire.NewReader(ours)}
}

func (h *host) run(id uint32, c wire.Command) {
	h.Helper()
	if err := h.w.SendCommand(id, c); err != nil {
		h.Fatal(err)
	}
}

// until reads to the first frame of a type, and what was printed before.
func (h *host) until(want wire.Type) (wire.Frame, string) {
	h.Helper()
	var out bytes.Buffer
	for {
		f, err := h.in.Next()
		if err != nil {
			h.Fatalf("after %q: %v", out.String(), err)
		}
		if f.Type == want {
			return f, out.String()
		}
		if f.Type == wire.Stdout || f.Type == wire.Stderr {
			out.Write(f.Payload)
		}
	}
}

func (h *host) exit() (wire.Exit, string) {
	h.Helper()
	f, out := h.until(wire.Exited)
	var e wire.Exit
	if err := f.Decode(&e); err != nil {
		h.Fatal(err)
	}
	return e, out
}

func shell(script string) wire.Command { return wire.Command{Argv: []string{"sh", "-c", script}} }

func TestRunsACommand(t *testing.T) {
	h := newHost(t)
	c := shell(`echo "$GREETING $(pwd)"; echo problem >&2; exit 7`)
	c.Env, c.Dir = []string{"GREETING=bonjour"}, "/usr"
	h.run(0, c)
	e, out := h.exit()
	if e.Code != 7 || !strings.Contains(out, "bonjour /usr\n") || !strings.Contains(out, "problem\n") {
		t.Errorf("%+v, %q", e, out)
	}
}

func TestRunsCommandsBesideEachOther(t *testing.T) {
	h := newHost(t)
	h.run(1, wire.Command{Argv: []string{"cat"}})
	h.until(wire.Started)
	h.run(2, shell("exit 3"))
	f, _ := h.until(wire.Exited)
	if f.Run != 2 {
		t.Errorf("run %d ends", f.Run)
	}
	if err := h.w.Send(wire.Stdin, 1, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	_, early := h.until(wire.Credit) // it may answer before that comes
	if err := h.w.Send(wire.Stdin, 1, nil); err != nil {
		t.Fatal(err)
	}
	if e, out := h.exit(); e.Code != 0 || early+out != "hello" {
		t.Errorf("%+v, %q and %q", e, early, out)
	}
}

func TestSignalReachesTheGroup(t *testing.T) {
	h := newHost(t)
	h.run(0, shell("sleep 100 & wait"))
	h.until(wire.Started)
	if err := h.w.Send(wire.Signal, 0, []byte{byte(unix.SIGTERM)}); err != nil {
		t.Fatal(err)
	}
	if e, _ := h.exit(); e.Code != 143 || e.Signal != 15 {
		t.Errorf("%+v", e)
	}
}

func TestTerminal(t *testing.T) {
	h := newHost(t)
	c := shell("tty >/dev/null && stty size; read line; echo got $line")
	c.TTY, c.Cols, c.Rows = true, 99, 33
	h.run(1, c)
	h.until(wire.Started)
	if err := h.w.Send(wire.Stdin, 1, []byte("typed\r")); err != nil {
		t.Fatal(err)
	}
	if e, out := h.exit(); e.Code != 0 || !strings.Contains(out, "33 99") || !strings.Contains(out, "got typed") {
		t.Errorf("%+v, %q", e, out)
	}
}

func TestOutputWaitsForCredit(t *testing.T) {
	h := newHost(t)
	h.run(1, shell("head -c 1000000 /dev/zero; echo end"))
	h.until(wire.Started)
	h.run(2, shell("echo beside")) // is not held up
	got, beside := 0, false
	for !beside || got < wire.Window {
		f, err := h.in.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Run == 1 {
			got += len(f.Payload)
		}
		beside = beside || f.Run == 2 && f.Type == wire.Exited
	}
	if got > wire.Window {
		t.Fatalf("%d bytes came without credit", got)
	}
	for {
		if err := h.w.SendCredit(1, wire.Window); err != nil {
			t.Fatal(err)
		}
		f, err := h.in.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Type == wire.Exited {
			break
		}
		got += len(f.Payload)
	}
	if got != 1000004 {
		t.Errorf("%d bytes came in all", got)
	}
}

func TestWhatCannotRunSaysWhy(t *testing.T) {
	for name, c := range map[string]wire.Command{
		"no command":      {},
		"no such program": {Argv: []string{"no-such-program"}},
		"no such path":    {Argv: []string{"/no/such/program"}},
		"no program":      {Argv: []string{"/etc/passwd"}},
		"no such user":    {Argv: []string{"true"}, User: "nobody-of-that-name"},
		"no such group":   {Argv: []string{"true"}, User: "root:no-such-group"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.run(0, c)
			var why wire.Failure
			f, _ := h.until(wire.Failed)
			if err := f.Decode(&why); err != nil || why.Reason == "" || why.Advice == "" {
				t.Errorf("%+v, %v", why, err)
			}
		})
	}
}

func TestMoreInputThanCreditEndsTheSession(t *testing.T) {
	h := newHost(t)
	h.run(1, wire.Command{Argv: []string{"sleep", "100"}})
	h.until(wire.Started)
	go func() {
		for range 3 * wire.Window / wire.MaxPayload {
			if h.w.Send(wire.Stdin, 1, make([]byte, wire.MaxPayload)) != nil {
				return
			}
		}
	}()
	for {
		if _, err := h.in.Next(); err != nil {
			return
		}
	}
}

func TestFindUser(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbroken\nbad:x:y:z::/:\n", "group": "staff:x:50:app\n",
	} {
		if err := os.WriteFile(root+"/etc/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, test := range []struct {
		user     string
		uid, gid uint32
		home     string
		bad      bool
	}{
		{"", 0, 0, "/root", false}, {"app", 1000, 1001, "/home/app", false}, {"1000", 1000, 1001, "/home/app", false},
		{"app:staff", 1000, 50, "/home/app", false}, {"7:8", 7, 8, "/", false}, {"nobody", 0, 0, "", true}, {"app:none", 0, 0, "", true},
		{"bad", 0, 0, "", true}, {"99999999999", 0, 0, "", true},
	} {
		a, err := findUser(dir, test.user)
		if (err != nil) != test.bad || (!test.bad && (a.uid != test.uid || a.gid != test.gid || a.home != test.home)) {
			t.Errorf("%q gives %+v, %v", test.user, a, err)
		}
	}
}

// FuzzHost lets a host say anything, but start nothing.
func FuzzHost(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x01\x00\x00\x00\x02{}\x03\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Add([]byte("\x0d\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newSession(&oneWay{in: bytes.NewReader(data)}, &machine{root: "/nowhere"})
		_ = s.serve()
	})
}

// oneWay is read from; what is written is dropped.
type oneWay struct{ in io.Reader }

func (o *oneWay) Read(p []byte) (int, error)  { return o.in.Read(p) }
func (o *oneWay) Write(p []byte) (int, error) { return len(p), nil }
func (o *oneWay) Close() error                { return nil }
