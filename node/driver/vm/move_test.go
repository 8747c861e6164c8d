//go:build linux

package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// line is a runner.Streams in memory. It is cut after so many bytes of the
// stream of that name, if one is named: those from the source, or with "<" those
// from the target.
type line struct {
	ctx   context.Context
	opens chan opened
	stop  context.CancelFunc
	over  chan struct{} // closed when the target has given up
	cut   string
	after int

	mu  sync.Mutex
	all []net.Conn // guarded by mu
}

type opened struct {
	name string
	conn net.Conn
}

func newLine(t testing.TB, cut string, after int) *line {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l := &line{ctx: ctx, stop: stop, opens: make(chan opened), over: make(chan struct{}), cut: cut, after: after}
	t.Cleanup(l.close)
	return l
}

func (l *line) close() {
	l.stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.all {
		_ = c.Close()
	}
}

func (l *line) Open(ctx context.Context, name string) (net.Conn, error) {
	here, there := net.Pipe()
	l.mu.Lock()
	l.all = append(l.all, here, there)
	l.mu.Unlock()
	select {
	case l.opens <- opened{name, there}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	case <-l.over: // a node refuses what belongs to no move
		return nil, errors.New("nobody takes it in any more")
	}
	return l.cuts(name, here), nil
}

// cuts is the end of a stream that is written to.
func (l *line) cuts(name string, c net.Conn) net.Conn {
	if name != l.cut {
		return c
	}
	return &cutConn{Conn: c, line: l, left: l.after}
}

func (l *line) Accept(ctx context.Context) (string, net.Conn, error) {
	select {
	case o := <-l.opens:
		return o.name, l.cuts("<"+o.name, o.conn), nil
	case <-ctx.Done():
		return "", nil, ctx.Err()
	case <-l.ctx.Done():
		return "", nil, net.ErrClosed
	}
}

// cutConn takes the whole line down once so much was written.
type cutConn struct {
	net.Conn
	line *line
	mu   sync.Mutex
	left int // guarded by mu
}

func (c *cutConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.Conn.Write(p[:min(len(p), c.left)])
	if c.left -= n; err == nil && n < len(p) {
		c.line.close()
		err = io.ErrClosedPipe
	}
	return n, err
}

// pair is two nodes, with a task on the first.
type nodes struct {
	images   string
	from, to *Driver
	dirs     [2]string
}

func twoNodes(t testing.TB, images string, change func(*Config)) *nodes {
	t.Helper()
	n := &nodes{images: images, dirs: [2]string{t.TempDir(), t.TempDir()}}
	n.from, n.to = n.again(t, 0, change), n.again(t, 1, change)
	return n
}

// again is a new agent on one of the nodes.
func (n *nodes) again(t testing.TB, i int, change func(*Config)) *Driver {
	t.Helper()
	return newDriver(t, n.dirs[i], func(c *Config) {
		c.ImageDirs = []string{n.images}
		c.UIDBase += i << 16
		if change != nil {
			change(c)
		}
	})
}

// next is the task that takes over from one.
func next(s runner.Spec) runner.Spec {
	ordinal, attempt, _ := s.Task.Member()
	s.Task = s.Job.Task(ordinal, attempt+1)
	return s
}

// move hands a task over and returns what both sides said.
func move(t testing.TB, n *nodes, h runner.Handle, s runner.Spec, mode placement.MoveMode, l *line, told func(runner.MoveProgress)) (sent, received error) {
	t.Helper()
	return moveOver(t, n, h, s, mode, l, told)
}

func moveOver(t testing.TB, n *nodes, h runner.Handle, s runner.Spec, mode placement.MoveMode, l runner.Streams, told func(runner.MoveProgress)) (sent, received error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := make(chan error, 1)
	go func() {
		_, err := n.to.Receive(ctx, s, l)
		if l, ok := l.(*line); ok && err != nil {
			close(l.over)
		}
		got <- err
	}()
	sent = n.from.Send(ctx, h, mode, l, told)
	select {
	case received = <-got:
	case <-ctx.Done():
		t.Fatal("the target does not come to an end")
	}
	return sent, received
}

// destroyed removes a task when the test is over.
func destroyed(t testing.TB, d *Driver, id placement.TaskID) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		h := runner.Handle{Task: id}
		if n, err := d.note(id); err == nil && n != nil && n.Stage == whole {
			if err := d.Finish(ctx, h, false); err != nil { // nothing of it is removed before
				t.Error(err)
			}
		}
		if err := d.Destroy(ctx, h); err != nil {
			t.Error(err)
		}
	})
}

// counted checks what a guest that counts has printed: one boot, and every
// number once. It returns the last.
func counted(t testing.TB, text string) int {
	t.Helper()
	last := 0
	for l := range strings.Lines(text) {
		var n int
		if _, err := fmt.Sscanf(l, "count %d\n", &n); err != nil || !strings.HasSuffix(l, "\n") {
			continue
		}
		if n != last+1 {
			t.Errorf("it counts %d after %d", n, last)
		}
		last = n
	}
	if boots := strings.Count(text, "boot "); boots != 1 {
		t.Errorf("it booted %d times:\n%.2000s", boots, text)
	}
	return last
}

func isHeld(t testing.TB, d *Driver, h runner.Handle, want runner.Hold) {
	t.Helper()
	o, err := d.Recover(t.Context(), h)
	if err != nil || o.Held != want {
		t.Errorf("it is held as %q (%s), want %q: %v", o.Held, o.State, want, err)
	}
}

// giveInput makes a text the input "model" of a task.
func giveInput(t testing.TB, s *runner.Spec, text string) {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	s.InputsDir = t.TempDir()
	s.Setup.Inputs = []placement.Input{{Name: "model", Digest: "sha256:" + hex.EncodeToString(sum[:])}}
	if err := os.WriteFile(filepath.Join(s.InputsDir, "model"), []byte(text), 0o444); err != nil {
		t.Fatal(err)
	}
}

// fillDisk writes half of a task's disk of 4 MiB, and returns what is on it.
func fillDisk(t *testing.T, d *Driver, s runner.Spec) string {
	t.Helper()
	content := strings.Repeat("sovereign data\n\n", 2<<20/16) + strings.Repeat("\x00", 2<<20)
	f, err := os.OpenFile(filepath.Join(d.kept(s.Task), "disk-data.raw"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return content
}

func TestMoveLive(t *testing.T) {
	n := twoNodes(t, smallGuest(t), nil)
	s := spec(30, "inputs model", func(s *runner.Spec) {
		s.Service = true
		s.Setup.Disks = []placement.Disk{{Name: "data", Size: 4 << 20}}
	})
	weights := strings.Repeat("weights of a model. ", 1<<16)
	giveInput(t, &s, weights)
	h := start(t, n.from, s)
	awaits(t, n.from, h, "count 5\n")
	awaits(t, n.from, h, fmt.Sprintf("read 1 %.20q %d <nil>\n", weights, len(weights)))
	content := fillDisk(t, n.from, s)
	s2 := next(s)
	giveInput(t, &s2, weights) // fetched there anew
	h2 := runner.Handle{Task: s2.Task}
	destroyed(t, n.to, s2.Task)
	began := time.Now()
	var phases []string
	sent, received := move(t, n, h, s2, placement.MoveLive, newLine(t, "", 0), func(p runner.MoveProgress) {
		if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
			phases = append(phases, p.Phase)
		}
		if p.Still > 0 {
			t.Logf("it stood still for %v", p.Still)
		}
	})
	if sent != nil || received != nil {
		t.Fatalf("send: %v\nreceive: %v", sent, received)
	}
	t.Logf("moved in %v: %v", time.Since(began), phases)
	isHeld(t, n.from, h, runner.HeldSent)
	isHeld(t, n.to, h2, runner.HeldReceived)
	if err := n.from.Resume(t.Context(), h); err == nil {
		t.Error("resumed at the source")
	}
	if err := n.to.Resume(t.Context(), h2); err == nil {
		t.Error("resumed at the target")
	}
	before := counted(t, printed(t, n.from, h))
	if err := n.to.Finish(t.Context(), h2, true); err != nil {
		t.Fatal(err)
	}
	if err := n.from.Finish(t.Context(), h, false); err != nil {
		t.Fatal(err)
	}
	awaits(t, n.to, h2, fmt.Sprintf("count %d\n", before+10))
	counted(t, printed(t, n.to, h2))
	read := strings.Count(printed(t, n.from, h), "read ")
	awaits(t, n.to, h2, fmt.Sprintf("read %d %.20q %d <nil>\n", read+2, weights, len(weights)))
	if text := printed(t, n.to, h2); strings.Contains(text, "inputs: ") {
		t.Errorf("of its inputs it says:\n%.2000s", text)
	}
	if got, err := os.ReadFile(filepath.Join(n.to.kept(s.Task), "disk-data.raw")); err != nil || string(got) != content {
		t.Errorf("its disk has %d bytes, %v", len(got), err)
	}
	if _, err := os.Stat(n.from.kept(s.Task)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its disks lie on the old node still: %v", err)
	}
	isHeld(t, n.to, h2, "")
	if err := n.to.Stop(t.Context(), h2, patience); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, n.to, h2); exit.Code != 0 || exit.Killed {
		t.Errorf("it ends with %+v", exit)
	}
}
