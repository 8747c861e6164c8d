package fake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
)

var (
	_ runner.Execer      = (*Driver)(nil)
	_ runner.Consoler    = (*Driver)(nil)
	_ runner.Dialer      = (*Driver)(nil)
	_ runner.Pauser      = (*Driver)(nil)
	_ runner.Snapshotter = (*Driver)(nil)
)

// EchoPort is the port of a running task on which something listens: it sends
// back what it is sent.
const EchoPort = 7

// alive is the task if it runs. The caller holds mu.
func (d *Driver) alive(h runner.Handle) (*task, error) {
	t, err := d.find(h.Task)
	if err != nil {
		return nil, err
	}
	if t == nil || t.lost() || t.look(time.Now()) != nil {
		return nil, fmt.Errorf("task %s does not run", h.Task)
	}
	return t, nil
}

// Exec knows the commands echo TEXT..., cat, env, size, exit CODE and sleep;
// anything else is a program that is not found.
func (d *Driver) Exec(ctx context.Context, h runner.Handle, req runner.ExecRequest) (runner.Exit, error) {
	d.world.mu.Lock()
	t, err := d.alive(h)
	var over <-chan struct{}
	if err == nil {
		over = t.changed
	}
	d.world.mu.Unlock()
	if err != nil {
		return runner.Exit{}, err
	}
	if len(req.Command) == 0 {
		req.Command = []string{""}
	}
	args, code := req.Command[1:], 0
	switch req.Command[0] {
	case "echo":
		_, err = fmt.Fprintln(req.Stdout, strings.Join(args, " "))
	case "complain":
		_, err = fmt.Fprintln(req.Stderr, strings.Join(args, " "))
	case "cat":
		if req.Stdin != nil {
			_, err = io.Copy(req.Stdout, req.Stdin)
		}
	case "env":
		for _, name := range slices.Sorted(maps.Keys(req.Env)) {
			_, _ = fmt.Fprintln(req.Stdout, name+"="+req.Env[name])
		}
	case "size":
		_, err = fmt.Fprintln(req.Stdout, req.TTY, req.Size.Columns, req.Size.Rows)
	case "exit":
		if len(args) > 0 {
			code, err = strconv.Atoi(args[0])
		}
	case "sleep":
		select {
		case <-ctx.Done():
			return runner.Exit{}, ctx.Err()
		case <-over:
			code = 137
		}
	default:
		return runner.Exit{}, &runner.StartError{Task: h.Task, Reason: fmt.Sprintf("there is no program %q in it", req.Command[0]), Advice: "use echo, cat, env, size, exit or sleep"}
	}
	return runner.Exit{Code: code, At: time.Now()}, err
}

// Console sends back what is typed, and prints it to the task's output as well.
func (d *Driver) Console(ctx context.Context, h runner.Handle) (io.ReadWriteCloser, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	t, err := d.alive(h)
	if err != nil {
		return nil, err
	}
	e := newEcho(ctx)
	e.heard = func(p []byte) {
		d.world.mu.Lock()
		defer d.world.mu.Unlock()
		t.print(string(p))
		t.touch()
	}
	return e, nil
}

// Dial reaches [EchoPort].
func (d *Driver) Dial(ctx context.Context, h runner.Handle, port int) (net.Conn, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	if _, err := d.alive(h); err != nil {
		return nil, err
	}
	if port != EchoPort {
		return nil, fmt.Errorf("port %d of task %s: connection refused", port, h.Task)
	}
	return newEcho(ctx), nil
}

// Pause keeps a task that would end by itself from doing so.
func (d *Driver) Pause(_ context.Context, h runner.Handle) error {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	t, err := d.alive(h)
	if err == nil && !t.paused {
		t.paused = true
		if !t.ends.IsZero() {
			t.left, t.ends = time.Until(t.ends), time.Time{}
		}
		t.touch()
	}
	return err
}

// Resume lets it go on for the time that it had left.
func (d *Driver) Resume(_ context.Context, h runner.Handle) error {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	t, err := d.alive(h)
	if err == nil && t.paused {
		t.paused = false
		if t.left > 0 {
			t.ends, t.left = time.Now().Add(t.left), 0
		}
		t.touch()
	}
	return err
}

// Snapshot writes the task's output, as its console.
func (d *Driver) Snapshot(_ context.Context, h runner.Handle, dir string) (runner.Snapshot, error) {
	d.world.mu.Lock()
	t, err := d.alive(h)
	var text []byte
	if err == nil {
		text = bytes.Clone(t.output)
	}
	d.world.mu.Unlock()
	if err != nil {
		return runner.Snapshot{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, "console.log"), text, 0o600); err != nil {
		return runner.Snapshot{}, err
	}
	sum := sha256.Sum256(text)
	return runner.Snapshot{
		At:      time.Now().UTC(),
		Parts:   []runner.SnapshotPart{{Name: "console.log", What: "console", Size: int64(len(text)), SHA256: hex.EncodeToString(sum[:])}},
		Missing: []string{"disk: a task in memory has none"},
	}, nil
}

// echo is a connection to something that sends back what it is sent. It has no
// goroutine: a read waits for a write, for its end or for its context's.
type echo struct {
	heard func([]byte)
	stop  func() bool

	mu    sync.Mutex
	cond  *sync.Cond
	held  []byte // guarded by mu
	ended bool   // guarded by mu: nothing more is written
	gone  error  // guarded by mu: closed
}

func newEcho(ctx context.Context) *echo {
	e := &echo{}
	e.cond = sync.NewCond(&e.mu)
	e.stop = context.AfterFunc(ctx, func() { e.end(ctx.Err()) })
	return e
}

func (e *echo) end(why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone == nil {
		e.gone = why
	}
	e.cond.Broadcast()
}

func (e *echo) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.held) == 0 && !e.ended && e.gone == nil {
		e.cond.Wait()
	}
	switch {
	case e.gone != nil:
		return 0, e.gone
	case len(e.held) == 0:
		return 0, io.EOF
	}
	n := copy(p, e.held)
	e.held = e.held[n:]
	e.cond.Broadcast()
	return n, nil
}

func (e *echo) Write(p []byte) (int, error) {
	if e.heard != nil {
		e.heard(p)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.held) > MaxOutput && e.gone == nil {
		e.cond.Wait()
	}
	if e.gone != nil || e.ended {
		return 0, errors.Join(io.ErrClosedPipe, e.gone)
	}
	e.held = append(e.held, p...)
	e.cond.Broadcast()
	return len(p), nil
}

// CloseWrite ends what is sent: what was not read yet still comes back.
func (e *echo) CloseWrite() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	e.cond.Broadcast()
	return nil
}

func (e *echo) Close() error {
	e.stop()
	e.end(io.ErrClosedPipe)
	return nil
}

func (e *echo) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (e *echo) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: EchoPort} }
func (e *echo) SetDeadline(time.Time) error      { return nil }
func (e *echo) SetReadDeadline(time.Time) error  { return nil }
func (e *echo) SetWriteDeadline(time.Time) error { return nil }
