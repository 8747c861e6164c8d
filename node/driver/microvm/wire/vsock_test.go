//go:build linux

package wire

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain makes these tests the first program of a guest where they are started as
// one: its kernel has sockets of its own that the machine of the tests may lack.
func TestMain(m *testing.M) {
	if os.Getpid() != 1 {
		os.Exit(m.Run())
	}
	err := errors.Join(loadAll("/modules"), os.Setenv("TMPDIR", "/"))
	if token, err2 := os.ReadFile("/" + TokenFile); len(token) != TokenSize {
		err = errors.Join(err, err2, fmt.Errorf("its token is %q", token))
	}
	_, _ = flag.Set("test.v", "true"), flag.Set("test.run", "Vsock")
	fmt.Printf("the guest's tests end with %d, %v\n", m.Run(), err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func loadAll(dir string) error {
	list, err := os.Open(filepath.Join(dir, "order"))
	if err != nil {
		return err
	}
	defer list.Close()
	for names := bufio.NewScanner(list); names.Scan(); {
		f, err := os.Open(filepath.Join(dir, names.Text()))
		if err == nil {
			err = errors.Join(unix.FinitModule(int(f.Fd()), "", 0), f.Close())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var testToken = bytes.Repeat([]byte("t"), TokenSize)

// minute is a context for what waits for ever where it is not as it should be.
func minute(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func anybody(unix.Sockaddr) bool { return true }

// double is a listener that is like init's but for the kind of socket.
func double(t *testing.T, from func(unix.Sockaddr) bool) (*VsockListener, unix.Sockaddr) {
	t.Helper()
	at := &unix.SockaddrUnix{Name: filepath.Join(t.TempDir(), "s")}
	l, err := listen(unix.AF_UNIX, at, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, at
}

// met is what a listener made of its callers.
type met struct {
	conn Vsock
	err  error
}

func waits(l *VsockListener, most time.Duration) <-chan met {
	out := make(chan met, 1)
	go func() {
		c, err := l.Host(testToken, most)
		out <- met{c, err}
	}()
	return out
}

// speaks sends a little both ways, and sees the end.
func speaks(t *testing.T, host, guest Vsock) {
	t.Helper()
	for _, way := range [][2]Vsock{{host, guest}, {guest, host}} {
		text := bytes.Repeat([]byte("0123456789"), 50_000)
		go func() { _, _ = way[0].Write(text) }()
		got := make([]byte, len(text))
		_ = way[1].SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadFull(way[1], got); err != nil || !bytes.Equal(got, text) {
			t.Fatalf("what is sent is not what comes: %v", err)
		}
	}
	_ = host.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := host.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past its deadline a read gives %v", err)
	}
	_ = host.SetReadDeadline(time.Now().Add(time.Minute))
	_ = guest.Close()
	if n, err := host.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the guest's end the host reads %d, %v", n, err)
	}
	_ = host.Close()
}

func TestVsockHostIsWhoHasTheToken(t *testing.T) {
	l, at := double(t, anybody)
	found := waits(l, time.Minute)
	wrong := bytes.Clone(testToken)
	wrong[TokenSize-1]++
	for name, token := range map[string][]byte{"silent": nil, "short": testToken[1:], "wrong": wrong} {
		c, err := dial(minute(t), unix.AF_UNIX, at, token)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer c.Close() // it is there while the host comes
		if name == "wrong" {
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			if n, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%s: it reads %d, %v", name, n, err)
			}
		}
	}
	host, err := dial(minute(t), unix.AF_UNIX, at, testToken)
	if err != nil {
		t.Fatal(err)
	}
	got := <-found
	if got.err != nil {
		t.Fatal(got.err)
	}
	speaks(t, host, got.conn)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dial(ctx, unix.AF_UNIX, at, testToken); !errors.Is(err, context.Canceled) {
		t.Errorf("a second host: %v", err)
	}
}

func TestVsockCallersAreTheHost(t *testing.T) {
	for _, from := range []unix.Sockaddr{&unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL}, &unix.SockaddrVM{CID: 3}, &unix.SockaddrVM{}, &unix.SockaddrUnix{}, nil} {
		if isHost(from) {
			t.Errorf("%+v is taken for the host", from)
		}
	}
	if !isHost(&unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: 5}) {
		t.Error("the host is not known")
	}
	l, at := double(t, isHost)
	found := waits(l, 200*time.Millisecond)
	c, err := dial(minute(t), unix.AF_UNIX, at, testToken)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := <-found; got.err == nil {
		t.Error("somebody who is not the host is let in with the token")
	}
}

// TestVsockLoopback is with sockets between machines, as far as one kernel has both
// ends. It connects to none but itself.
func TestVsockLoopback(t *testing.T) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: unix.VMADDR_PORT_ANY})
		_ = unix.Close(fd)
	}
	if err != nil {
		t.Skipf("this kernel has no loopback for vsock (module vsock_loopback): %v", err)
	}
	const port = VsockPort + 7
	l, err := ListenVsock(port)
	if err != nil {
		t.Fatal(err)
	}
	found := waits(l, time.Second)
	c, err := DialVsock(minute(t), unix.VMADDR_CID_LOCAL, port, testToken)
	if err != nil {
		t.Fatal(err)
	}
	if got := <-found; got.err == nil {
		t.Error("the machine itself is taken for its host")
	}
	_ = c.Close()

	// Nobody listens: it is tried until somebody does.
	dialled := make(chan met, 1)
	go func() {
		c, err := DialVsock(minute(t), unix.VMADDR_CID_LOCAL, port, testToken)
		dialled <- met{c, err}
	}()
	if l, err = ListenVsock(port); err != nil {
		t.Fatal(err)
	}
	l.from = func(a unix.Sockaddr) bool { return a.(*unix.SockaddrVM).CID == unix.VMADDR_CID_LOCAL }
	got, host := <-waits(l, time.Minute), <-dialled
	if got.err != nil || host.err != nil {
		t.Fatal(got.err, host.err)
	}
	speaks(t, host.conn, got.conn)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := DialVsock(ctx, unix.VMADDR_CID_LOCAL, port, testToken); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("where nobody listens: %v", err)
	}
}
