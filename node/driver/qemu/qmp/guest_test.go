package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// agent is one end of a line to a guest whose agent does what its script says.
func agent(t *testing.T, script func(*fake)) (*Guest, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	ours, theirs := pair(t)
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer theirs.Close()
		script(&fake{theirs, bufio.NewScanner(theirs)})
	}()
	g := NewGuest(ours)
	t.Cleanup(func() { _ = g.Close(); <-over })
	return g, ctx
}

// pair is a line with room on it, as a socket of QEMU has.
func pair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "line")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	return ends[0], ends[1]
}

// synced answers a synchronisation, and then the command that follows it.
func (f *fake) synced() (command, bool) {
	for f.in.Scan() {
		line := bytes.TrimLeft(f.in.Bytes(), "\xff")
		var c command
		if json.Unmarshal(line, &c) != nil {
			continue
		}
		if c.Execute != "guest-sync-delimited" {
			return c, true
		}
		var args struct{ ID int64 }
		_ = json.Unmarshal(c.Arguments, &args)
		f.say("\xff"+`{"return": %d}`, args.ID)
	}
	return command{}, false
}

func TestGuestSynchronisesAfterAReplyThatNeverCame(t *testing.T) {
	given := make(chan struct{})
	g, ctx := agent(t, func(f *fake) {
		f.say(`{"return": "left over from another connection"}`)
		_, _ = f.synced()
		<-given
		f.say(`{"return": "late"}`)
		for {
			c, ok := f.synced()
			if !ok {
				return
			}
			f.say(`{"return": %q}`, c.Execute)
		}
	})
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err := g.Run(short, "guest-hangs", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a command that hangs ends with %v", err)
	}
	close(given)
	for _, name := range []string{"guest-ping", "guest-info"} {
		var got string
		if err := g.Run(ctx, name, nil, &got); err != nil || got != name {
			t.Fatalf("%s is answered with %q, %v", name, got, err)
		}
	}
}

func TestGuestIsBounded(t *testing.T) {
	for name, words := range map[string]string{
		"no end":      strings.Repeat("x", MaxGuestFrame+10),
		"an event":    `{"event": "X"}`,
		"nothing":     `{}`,
		"not its own": `{"return": 5}`,
	} {
		t.Run(name, func(t *testing.T) {
			g, ctx := agent(t, func(f *fake) {
				if _, ok := f.hear(); ok || f.in.Err() == nil {
					for range 20 {
						f.say("\xff%s", words)
					}
				}
			})
			if err := g.Run(ctx, "guest-ping", nil, nil); err == nil {
				t.Error("it is taken for an answer")
			}
		})
	}
}

func TestGuestRefuses(t *testing.T) {
	g, ctx := agent(t, func(f *fake) {
		_, _ = f.synced()
		f.say(`{"error": {"class": "CommandNotFound", "desc": "no"}}`)
	})
	var refused *Error
	if err := g.Run(ctx, "guest-exec", nil, nil); !errors.As(err, &refused) || g.lost {
		t.Errorf("it says %v, lost=%v", err, g.lost)
	}
}

// FuzzGuest is what a guest may say.
func FuzzGuest(f *testing.F) {
	f.Add([]byte("\xff{\"return\": 1}\n"))
	f.Add([]byte("{\"return\": 1}\n\xff\xff{\"error\": {}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		g := &Guest{in: bufio.NewReaderSize(bytes.NewReader(data), 16)}
		for {
			if err := skipTo(g.in, sentinel, 1<<10); err != nil {
				return
			}
			if r, err := g.receive(); err == nil {
				_ = r.into("x", new(struct{ A []string }))
			}
		}
	})
}
