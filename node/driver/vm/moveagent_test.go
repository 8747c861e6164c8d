//go:build linux

package vm

import (
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
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// agentCommand makes the test binary an agent that does one side of a move, and
// can be killed in the middle.
const agentCommand = "move-agent"

// errand is what such an agent does.
type errand struct {
	Dir    string
	Node   int
	Images string
	Socket string
	Send   bool
	Spec   runner.Spec
}

func moveAgent(text string) int {
	var e errand
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return 2
	}
	cfg := DefaultConfig()
	cfg.Dir, cfg.Cgroup, cfg.UIDBase, cfg.ImageDirs = e.Dir, testCgroup, 1_950_000_000+e.Node<<16, []string{e.Images}
	d, err := New(cfg)
	if err == nil {
		line := &socketLine{path: e.Socket}
		if e.Send {
			err = d.Send(context.Background(), runner.Handle{Task: e.Spec.Task}, placement.MoveLive, line, nil)
		} else if line.l, err = net.Listen("unix", e.Socket); err == nil {
			fmt.Println("listening")
			e.Spec.Keep = func(runner.Handle) error { return nil }
			_, err = d.Receive(context.Background(), e.Spec, line)
		}
	}
	fmt.Println("over:", err)
	return 0
}

// socketLine is a runner.Streams over a unix socket. saw, which may be nil, is
// told of every piece before anybody else is: what it does not like never comes.
type socketLine struct {
	path string
	l    net.Listener
	saw  func(name string, incoming bool, p []byte) bool
}

func (l *socketLine) Open(ctx context.Context, name string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", l.path)
	if err == nil {
		_, err = io.WriteString(c, name+"\n")
	}
	return &seenConn{c, name, l.saw}, err
}

func (l *socketLine) Accept(ctx context.Context) (string, net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.l.Close() })
	defer stop()
	c, err := l.l.Accept()
	if err != nil {
		return "", nil, err
	}
	var name []byte
	for b := make([]byte, 1); len(name) < 64; name = append(name, b[0]) {
		if _, err := io.ReadFull(c, b); err != nil {
			return "", nil, err
		}
		if b[0] == '\n' {
			break
		}
	}
	return string(name), &seenConn{c, string(name), l.saw}, nil
}

type seenConn struct {
	net.Conn
	name string
	saw  func(string, bool, []byte) bool
}

func (c *seenConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.saw != nil && !c.saw(c.name, true, p[:n]) {
		_ = c.Close()
		return 0, io.ErrClosedPipe
	}
	return n, err
}

func (c *seenConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if c.saw != nil && !c.saw(c.name, false, p[:n]) {
		_ = c.Close()
		return n, io.ErrClosedPipe
	}
	return n, err
}

// killing is when an agent is killed: once so much of a stream went by, or a
// word in it did.
type killing struct {
	name   string
	sender bool
	stream string
	after  int
	word   string
}

var killings = []killing{
	{name: "source, having offered", sender: true, stream: "control"},
	{name: "source, at the output", sender: true, stream: "log"},
	{name: "source, in the middle of a snapshot", sender: true, stream: "snapshots", after: 1 << 20},
	{name: "source, in the middle of a disk", sender: true, stream: "disk1", after: 1 << 20},
	{name: "source, as memory begins", sender: true, stream: "memory"},
	{name: "source, in the middle of memory", sender: true, stream: "memory", after: 10 << 20},
	{name: "source, when the disks are over", sender: true, stream: "control", word: string(stepDisks)},
	{name: "target, when it is offered", stream: "control"},
	{name: "target, in the middle of a snapshot", stream: "snapshots", after: 1 << 20},
	{name: "target, in the middle of a disk", stream: "disk1", after: 1 << 20},
	{name: "target, in the middle of memory", stream: "memory", after: 10 << 20},
	{name: "target, when the disks are over", stream: "control", word: string(stepDisks)},
	{name: "target, when all was sent", stream: "control", word: string(stepSent)},
	{name: "target, having it all", stream: "control", word: string(stepReceived)},
	{name: "source, having sent all", sender: true, stream: "control", word: string(stepSent)},
}

// TestAgentsAreKilledInTheMiddleOfAMove kills one side's agent at every step, on
// one guest, which must run on one side at most and count on after each.
func TestAgentsAreKilledInTheMiddleOfAMove(t *testing.T) {
	n := twoNodes(t, smallGuest(t), nil)
	s := spec(32, "count", func(s *runner.Spec) {
		s.Service = true
		s.Setup.Disks = []placement.Disk{{Name: "data", Size: 4 << 20}}
	})
	h := start(t, n.from, s)
	awaits(t, n.from, h, "count 3\n")
	fillDisk(t, n.from, s)
	before, err := snapshotNow(t, n.from, h)
	if err != nil {
		t.Fatal(err)
	}
	s2 := next(s)
	destroyed(t, n.to, s2.Task)
	neverBoth(t, n, s.Task, s2.Task)
	for i, k := range killings {
		if !t.Run(k.name, func(t *testing.T) { killed(t, n, h, s2, k, i == len(killings)-1) }) {
			return
		}
	}
	if after, err := n.to.DiskSnapshots(t.Context(), runner.Handle{Task: s2.Task}); err != nil || !same(before, after) {
		t.Errorf("of its disks it had the snapshots %+v, and has %+v, %v", before, after, err)
	}
}

// killed moves the task with one side's agent in a process of its own, kills
// that, and decides as a region would: for the target if it has all of it and
// it is the last time, else for the source.
func killed(t *testing.T, n *nodes, h runner.Handle, s2 runner.Spec, k killing, last bool) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	line := &socketLine{path: filepath.Join(t.TempDir(), "s")}
	e := errand{Dir: n.dirs[1], Node: 1, Images: n.images, Socket: line.path, Spec: s2}
	if k.sender {
		e.Dir, e.Node, e.Send, e.Spec = n.dirs[0], 0, true, runner.Spec{Task: h.Task}
		l, err := net.Listen("unix", line.path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		line.l = l
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	agent := exec.Command("/proc/self/exe", agentCommand, string(text))
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = agent.Process.Kill(), agent.Wait() }()
	var mu sync.Mutex
	passed, dead := 0, false
	line.saw = func(name string, incoming bool, p []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		// What the source said before it was killed is heard.
		heard := k.sender && k.word != ""
		if name != k.stream || dead {
			return !dead || heard
		}
		passed += len(p)
		hit := passed > k.after && incoming == k.sender && k.word == ""
		if k.word != "" {
			hit = bytes.Contains(p, []byte(`"step":"`+k.word+`"`))
		}
		if hit {
			dead = true
			_ = agent.Process.Kill()
		}
		return !hit || heard
	}
	if k.sender {
		_, err = n.to.Receive(ctx, s2, line)
	} else {
		if _, err := io.ReadFull(out, make([]byte, len("listening\n"))); err != nil {
			t.Fatal(err)
		}
		err = n.from.Send(ctx, h, placement.MoveLive, line, nil)
	}
	_ = agent.Wait()
	mu.Lock()
	hit := dead
	mu.Unlock()
	if !hit {
		t.Fatalf("it was not killed: %v", err)
	}
	t.Logf("the other side: %v", err)
	decide(ctx, t, n, h, s2, err, last)
}

func decide(ctx context.Context, t *testing.T, n *nodes, h runner.Handle, s2 runner.Spec, err error, there bool) {
	t.Helper()
	h2 := runner.Handle{Task: s2.Task}
	n.from, n.to = n.again(t, 0, nil), n.again(t, 1, nil)
	at, err2 := n.to.note(s2.Task)
	if err2 != nil {
		t.Fatal(err2)
	}
	if has := at != nil && at.Stage == whole; there != (there && has) {
		t.Fatalf("the target does not have it: %v", err)
	}
	if at != nil {
		if at.Stage != whole && n.to.Finish(ctx, h2, true) == nil {
			t.Error("half a machine goes on")
		}
		if runs(ctx, n.to, s2.Task) {
			t.Error("it runs at the target, and nobody decided that")
		}
		if err := n.to.Finish(ctx, h2, there); err != nil {
			t.Error(err)
		}
	}
	if there {
		isHeld(t, n.from, h, runner.HeldSent)
		isFrozen(t, n.from, h) // also for an agent that knows nothing of it
		if err := n.from.Finish(ctx, h, false); err != nil {
			t.Error(err)
		}
		countsOn(t, n.to, h2)
		return
	}
	if err := n.to.Destroy(ctx, h2); err != nil {
		t.Error(err)
	}
	if o, err := n.to.Recover(ctx, h2); err != nil || o.State != runner.StateAbsent {
		t.Errorf("at the target it is %s, %v", o.State, err)
	}
	if _, err := os.Stat(n.to.kept(s2.Task)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a disk is left: %v", err)
	}
	comesBack(ctx, t, n.from, h)
}

// comesBack waits until the source's new agent either sees the guest run on, or
// sees it held, and lets it go on.
func comesBack(ctx context.Context, t *testing.T, d *Driver, h runner.Handle) {
	t.Helper()
	for {
		o, err := d.Recover(ctx, h)
		if err != nil || o.State != runner.StateRunning {
			t.Fatalf("at the source it is %s, %v\n%s", o.State, err, printed(t, d, h))
		}
		if o.Held == "" {
			break
		}
		if !runs(ctx, d, h.Task) {
			if err := d.Resume(ctx, h); err == nil || !strings.Contains(err.Error(), "being moved") {
				t.Errorf("resumed in the middle of a move: %v", err)
			}
			if err := d.Finish(ctx, h, true); err != nil {
				t.Fatal(err)
			}
			break
		}
		pause(ctx, 50*time.Millisecond)
	}
	countsOn(t, d, h)
}
