//go:build linux

package microvm

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
)

// said is what a supervisor would be told of a guest.
type said struct {
	mu     sync.Mutex
	out    bytes.Buffer
	ready  int
	failed string
	exit   *runner.Exit
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

// running is a machine whose guest is at the other end of conn.
func running(t testing.TB, conn net.Conn, s *said) *qemu.Running {
	return &qemu.Running{
		Channels: map[string]net.Conn{channel: conn},
		Tending: process.Tending{
			Dir: t.TempDir(), Output: s,
			Ready:  func() { s.ready++ },
			Failed: func(reason, _ string) { s.failed = reason },
			Ended:  func(e runner.Exit, _ time.Duration) { s.exit = &e },
		},
	}
}

// talk lets a supervisor meet a guest that says what play does.
func talk(t *testing.T, play func(w *wire.Writer, in *wire.Reader)) (*said, error) {
	t.Helper()
	host, guestEnd := net.Pipe()
	s, g := &said{}, &guest{}
	done := make(chan error, 1)
	go func() {
		done <- g.converse(running(t, host, s), order{Command: wire.Command{Argv: []string{"x"}}, Boot: time.Minute})
		_ = host.Close()
	}()
	_ = guestEnd.SetDeadline(time.Now().Add(time.Minute))
	play(wire.NewWriter(guestEnd), wire.NewReader(guestEnd))
	_ = guestEnd.Close()
	return s, <-done
}

func expect(t *testing.T, in *wire.Reader, types ...wire.Type) {
	t.Helper()
	for _, want := range types {
		if f, err := in.Next(); err != nil || f.Type != want {
			t.Fatalf("the host says %+v, %v; want %d", f, err, want)
		}
	}
}

func TestGuestRunsItsCommand(t *testing.T) {
	s, err := talk(t, func(w *wire.Writer, in *wire.Reader) {
		_ = w.SendJSON(wire.Hello, 0, wire.Greeting{Version: wire.Version, BootID: "b"})
		expect(t, in, wire.Clock, wire.Start, wire.Begin)
		_ = w.Send(wire.Started, 0, nil)
		_ = w.Send(wire.Stdout, 0, []byte("one\n"))
		_ = w.Send(wire.Stderr, 0, []byte("two\n"))
		_ = w.SendJSON(wire.Exited, 0, wire.Exit{Code: 137, Signal: 9, OOM: true})
		expect(t, in, wire.Off)
	})
	if err != io.EOF || s.ready != 1 || s.out.String() != "one\ntwo\n" || s.exit == nil || s.exit.Code != 137 || s.exit.Signal != "SIGKILL" || !s.exit.OOM {
		t.Errorf("%v, %+v, %+v", err, s, s.exit)
	}
}

func TestGuestThatLies(t *testing.T) {
	for name, play := range map[string]func(w *wire.Writer, in *wire.Reader){
		"speaks another version": func(w *wire.Writer, _ *wire.Reader) { _ = w.SendJSON(wire.Hello, 0, wire.Greeting{Version: 99}) },
		"greets with nonsense":   func(w *wire.Writer, _ *wire.Reader) { _ = w.Send(wire.Hello, 0, []byte("nonsense")) },
		"exits with nonsense":    func(w *wire.Writer, _ *wire.Reader) { _ = w.Send(wire.Exited, 0, []byte("[1]")) },
	} {
		if _, err := talk(t, play); err == nil || err == io.EOF {
			t.Errorf("a guest that %s: %v", name, err)
		}
	}
	for code, want := range map[int]int{-1: 255, 256: 255, 1 << 40: 255, 7: 7} {
		s, _ := talk(t, func(w *wire.Writer, in *wire.Reader) {
			_ = w.SendJSON(wire.Exited, 0, wire.Exit{Code: code, Signal: -5})
			expect(t, in, wire.Off)
		})
		if s.exit == nil || s.exit.Code != want || s.exit.Signal != "" {
			t.Errorf("code %d is taken for %+v", code, s.exit)
		}
	}
}

// TestGuestFloodsAnAgent: what was not asked for ends that agent's connection
// and holds up nobody.
func TestGuestFloodsAnAgent(t *testing.T) {
	g := &guest{}
	ours, theirs := net.Pipe()
	defer ours.Close()
	c := &client{conn: theirs, queue: make(chan []byte, 256)}
	g.clients = map[uint32]*client{1: c}
	for range 1000 {
		g.pass(wire.Frame{Type: wire.Stdout, Run: 1, Payload: make([]byte, wire.MaxPayload)})
	}
	g.pass(wire.Frame{Type: wire.Stdout, Run: 99, Payload: []byte("nobody's")})
	if _, err := theirs.Write([]byte{1}); err == nil {
		t.Error("the connection is still open")
	}
	if n := c.queued.Load(); len(c.queue) > 20 {
		t.Errorf("%d frames of %d bytes wait", len(c.queue), n)
	}
}

func TestWordsOfAGuestAreClipped(t *testing.T) {
	if got := clip(strings.Repeat("x", 1<<20)); len(got) > 128 {
		t.Errorf("%d bytes", len(got))
	}
	if got := lastLines("a\r\nb\n\nc\n", 2); got != "b | c" {
		t.Errorf("%q", got)
	}
}

// FuzzGuest lets a guest say anything.
func FuzzGuest(f *testing.F) {
	hello, _ := json.Marshal(wire.Greeting{Version: wire.Version})
	var seed bytes.Buffer
	w := wire.NewWriter(&seed)
	_ = w.Send(wire.Hello, 0, hello)
	_ = w.Send(wire.Started, 0, nil)
	_ = w.SendJSON(wire.Exited, 0, wire.Exit{Code: 1})
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		host, guestEnd := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, guestEnd) }()
		go func() {
			_, _ = guestEnd.Write(data)
			_ = guestEnd.Close()
		}()
		s := &said{}
		_ = (&guest{}).converse(running(t, host, s), order{Boot: time.Minute})
		_ = host.Close()
		if s.exit != nil && (s.exit.Code < 0 || s.exit.Code > 255) {
			t.Fatalf("exit code %d", s.exit.Code)
		}
	})
}
