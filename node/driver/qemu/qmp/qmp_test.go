package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const greets = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}` + "\r\n"

const patience = 30 * time.Second

// command is one that the fake QEMU got.
type command struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        uint64          `json:"id"`
}

// fake is a QEMU that does what its script says, on one connection.
type fake struct {
	net.Conn
	in *bufio.Scanner
}

func (f *fake) say(format string, args ...any) { fmt.Fprintf(f, format+"\r\n", args...) }

func (f *fake) hear() (c command, ok bool) {
	return c, f.in.Scan() && json.Unmarshal(f.in.Bytes(), &c) == nil
}

// serve starts a fake QEMU that has greeted and negotiated before the script begins.
func serve(t *testing.T, script func(*fake)) (path string) {
	t.Helper()
	return listen(t, func(f *fake) {
		fmt.Fprint(f, greets)
		if c, ok := f.hear(); ok && c.Execute == "qmp_capabilities" {
			f.say(`{"return": {}, "id": %d}`, c.ID)
			script(f)
		}
	})
}

func listen(t *testing.T, script func(*fake)) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), strings.Repeat("long", 30), "qmp.sock") // longer than an address
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/qmp.sock", dir.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		script(&fake{conn, bufio.NewScanner(conn)})
	}()
	t.Cleanup(func() { _ = l.Close(); <-over })
	return path
}

func dial(t *testing.T, path string) (*Client, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	c, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, ctx
}

func TestRepliesAreMatchedById(t *testing.T) {
	c, ctx := dial(t, serve(t, func(f *fake) {
		first, _ := f.hear()
		second, _ := f.hear()
		f.say(`{"return": %q, "id": %d}`, second.Execute, second.ID)
		f.say(`{"event": "STOP", "timestamp": {"seconds": 7, "microseconds": 5}}`)
		f.say(`{"return": %q, "id": 999}`, "of nobody")
		f.say(`{"return": %q, "id": %d}`, first.Execute, first.ID)
		_, _ = f.hear()
	}))
	if v := c.Greeting().String(); v != "7.2.22" || c.Greeting().Capabilities[0] != "oob" {
		t.Errorf("greeting is %+v", c.Greeting())
	}
	got := make(chan error, 2)
	for _, name := range []string{"one", "two"} {
		go func() {
			var out string
			err := c.Run(ctx, name, map[string]int{"a": 1}, &out)
			if err == nil && out != name {
				err = fmt.Errorf("%s got the answer to %s", name, out)
			}
			got <- err
		}()
	}
	for range 2 {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	if e := <-c.Events(); e.Name != "STOP" || !e.At.Equal(time.Unix(7, 5000)) {
		t.Errorf("event %+v", e)
	}
}

func TestARefusalIsAnError(t *testing.T) {
	c, ctx := dial(t, serve(t, func(f *fake) {
		cmd, _ := f.hear()
		f.say(`{"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}, "id": %d}`, cmd.ID)
		_, _ = f.hear()
	}))
	err := c.Run(ctx, "eject", nil, nil)
	var refused *Error
	if !errors.As(err, &refused) || refused.Class != "DeviceNotFound" || !strings.Contains(err.Error(), "eject") {
		t.Fatalf("it says %v", err)
	}
}

func TestAReplyThatNeverComesHoldsUpNobodyElse(t *testing.T) {
	c, ctx := dial(t, serve(t, func(f *fake) {
		hung, _ := f.hear()
		other, _ := f.hear()
		f.say(`{"return": {}, "id": %d}`, other.ID)
		_, _ = f.hear()
		f.say(`{"return": "late", "id": %d}`, hung.ID)
		_, _ = f.hear()
	}))
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := c.Run(short, "hangs", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a command that hangs ends with %v", err)
	}
	if err := c.Run(ctx, "other", nil, nil); err != nil {
		t.Fatalf("and then: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) != 0 {
		t.Errorf("%d commands are still waited for", len(c.pending))
	}
}

func TestOneThatDoesNotReadIsGivenUp(t *testing.T) {
	release := make(chan struct{})
	short, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, ctx := dial(t, serve(t, func(f *fake) {
		_, _ = f.Read(make([]byte, 1))
		cancel() // in the middle of the command
		<-release
	}))
	defer close(release)
	if err := c.Run(short, "big", strings.Repeat("x", 8<<20), nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("a QEMU that does not read: %v", err)
	}
	<-c.Done() // half a command was written
	if err := c.Run(ctx, "next", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("after half a command: %v", err)
	}
}

func TestEventsNeverHoldUpReplies(t *testing.T) {
	const flood = 10 * eventRoom
	c, ctx := dial(t, serve(t, func(f *fake) {
		cmd, _ := f.hear()
		for i := range flood {
			f.say(`{"event": "RTC_CHANGE", "data": {"offset": %d}}`, i)
		}
		f.say(`{"return": {}, "id": %d}`, cmd.ID)
		_, _ = f.hear()
	}))
	if err := c.Run(ctx, "query-status", nil, nil); err != nil {
		t.Fatal(err)
	}
	if c.Dropped() != flood-eventRoom {
		t.Errorf("%d events were dropped, want %d", c.Dropped(), flood-eventRoom)
	}
}

func TestWhatIsNotTheProtocolEndsTheConnection(t *testing.T) {
	for name, line := range map[string]string{
		"too much":              strings.Repeat("x", MaxFrame+10),
		"no JSON":               "hello",
		"no kind":               `{"id": 1}`,
		"two kinds":             `{"return": {}, "error": {"class": "a", "desc": "b"}, "id": 2}`,
		"an id of another type": `{"return": {}, "id": "two"}`,
	} {
		t.Run(name, func(t *testing.T) {
			c, ctx := dial(t, serve(t, func(f *fake) {
				_, _ = f.hear()
				f.say("%s", line)
				_, _ = f.hear()
			}))
			if err := c.Run(ctx, "query-status", nil, nil); !errors.Is(err, ErrClosed) {
				t.Errorf("it says %v", err)
			}
			if _, open := <-c.Events(); open {
				t.Error("events go on")
			}
		})
	}
}

func TestNoGreeting(t *testing.T) {
	for name, script := range map[string]func(*fake){
		"silence":         func(f *fake) { _, _ = f.hear() },
		"no capabilities": func(f *fake) { fmt.Fprint(f, greets); _, _ = f.hear(); _, _ = f.hear() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := Dial(ctx, listen(t, script)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("it says %v", err)
			}
		})
	}
	if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
	if _, err := Dial(t.Context(), listen(t, func(f *fake) { f.say(`{"return": {}, "id": 1}`) })); err == nil {
		t.Error("a reply passes for a greeting")
	}
}

func TestFilesArePassed(t *testing.T) {
	c, ctx := dial(t, serve(t, func(f *fake) {
		buf, oob := make([]byte, 4096), make([]byte, 64)
		n, m, _, _, err := f.Conn.(*net.UnixConn).ReadMsgUnix(buf, oob)
		var cmd command
		if err != nil || json.Unmarshal(buf[:n], &cmd) != nil {
			return
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil || len(msgs) != 1 {
			return
		}
		fds, _ := unix.ParseUnixRights(&msgs[0])
		file := os.NewFile(uintptr(fds[0]), "passed")
		defer file.Close()
		data, _ := io.ReadAll(file)
		f.say(`{"return": %q, "id": %d}`, data, cmd.ID)
		_, _ = f.hear()
	}))
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("contents"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var got string
	if err := c.RunFD(ctx, "getfd", map[string]string{"fdname": "f"}, &got, file); err != nil || got != "contents" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestRealQEMU negotiates with the real thing, also with its hand in the till.
func TestRealQEMU(t *testing.T) {
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is missing; install the package qemu-system-x86")
	}
	path := filepath.Join(t.TempDir(), "qmp.sock")
	cmd := exec.Command(program, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S",
		"-qmp", "unix:"+path+",server=on,wait=on")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	listens(t, path)
	c, ctx := dial(t, path)
	var status struct{ Status string }
	if err := c.Run(ctx, "query-status", nil, &status); err != nil || status.Status == "" {
		t.Fatalf("status %+v, %v", status, err)
	}
	var refused *Error
	if err := c.Run(ctx, "no-such-command", nil, nil); !errors.As(err, &refused) || refused.Class != "CommandNotFound" {
		t.Errorf("an unknown command: %v", err)
	}
	var schema []json.RawMessage
	if err := c.Run(ctx, "query-qmp-schema", nil, &schema); err != nil || len(schema) < 100 {
		t.Errorf("schema of %d entries, %v", len(schema), err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := c.RunFD(ctx, "getfd", map[string]string{"fdname": "null"}, nil, null); err != nil {
		t.Errorf("pass a file: %v", err)
	}
	if err := c.Run(ctx, "quit", nil, nil); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if err := c.Run(ctx, "query-status", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after its end: %v", err)
	}
}

// listens waits until somebody listens at a socket: its file is there before.
func listens(t *testing.T, path string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		table, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			t.Fatal(err)
		}
		// Flags 00010000: it accepts connections. https://man7.org/linux/man-pages/man5/proc_net.5.html
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) == 8 && f[3] == "00010000" && f[7] == path {
				return
			}
		}
	}
	t.Fatalf("nobody listens at %s", path)
}

// FuzzParse is what a QEMU that was taken over may send.
func FuzzParse(f *testing.F) {
	f.Add([]byte(greets + `{"return": {}, "id": 1}` + "\n" + `{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": -1}}` + "\n"))
	f.Add([]byte("\n\r\n{}\n\xff{\"error\":null}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = readGreeting(bufio.NewReaderSize(bytes.NewReader(data), 16))
		c := &Client{events: make(chan Event, 1), pending: map[uint64]chan reply{1: make(chan reply, 1)}}
		in := bufio.NewReaderSize(bytes.NewReader(data), 16)
		for {
			line, err := readFrame(in, 1<<10)
			if err != nil {
				return
			}
			if len(line) > 1<<10 || bytes.IndexByte(line, '\n') >= 0 {
				t.Fatalf("a frame of %d bytes", len(line))
			}
			_ = c.take(line)
		}
	})
}
