//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// runs asks a task's QEMU whether its guest runs. No QEMU, no guest.
func runs(ctx context.Context, d *Driver, id placement.TaskID) bool {
	if d.Frozen(id) {
		return false // and would not answer
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	running := false
	_ = d.ask(ctx, runner.Handle{Task: id}, func(ctx context.Context, m *qmp.Client) error {
		var s struct{ Running bool }
		err := m.Run(ctx, "query-status", nil, &s)
		running = err == nil && s.Running
		return err
	})
	return running
}

// neverBoth watches that not both run. A look at two takes a moment: each is
// seen running in turn, twice.
func neverBoth(t *testing.T, n *nodes, one, other placement.TaskID) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if runs(ctx, n.from, one) && runs(ctx, n.to, other) && runs(ctx, n.from, one) && runs(ctx, n.to, other) && ctx.Err() == nil {
				t.Error("both sides run")
				return
			}
			pause(ctx, 20*time.Millisecond)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// countsOn waits until a task counts further than it did.
func countsOn(t *testing.T, d *Driver, h runner.Handle) {
	t.Helper()
	awaits(t, d, h, fmt.Sprintf("count %d\n", counted(t, printed(t, d, h))+3))
}

// nothingThere makes sure that a target has nothing of a task.
func nothingThere(t *testing.T, d *Driver, id placement.TaskID) {
	t.Helper()
	if o, err := d.Recover(t.Context(), runner.Handle{Task: id}); err != nil || o.State != runner.StateAbsent {
		t.Errorf("at the target it is %s, %v", o.State, err)
	}
	for _, path := range []string{d.TaskDir(id), d.kept(id), d.beside("fresh", place(id)), d.beside("before", place(id)), d.beside("gone", place(id))} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

// fault is what goes wrong with one move.
type fault struct {
	name  string
	cut   string
	after int
	// killAt is the phase in which the target's QEMU is killed.
	killAt string
	change func(*runner.Spec) // of the target's task
	says   string             // in the source's error
}

var faults = []fault{
	{name: "no control", cut: "control"},
	{name: "half an offer", cut: "control", after: 100},
	{name: "no answer", cut: "<control", says: "hear the other node's answer"},
	{name: "no output", cut: "log"},
	{name: "no disk", cut: "disk0"},
	{name: "half a handshake of a disk", cut: "disk0", after: 60},
	{name: "half a disk", cut: "disk1", after: 1 << 20},
	{name: "no snapshots", cut: "snapshots"},
	{name: "half a snapshot", cut: "snapshots", after: 1 << 20},
	{name: "nobody says that the snapshots are there", cut: "<snapshots"},
	{name: "no memory", cut: "memory"},
	{name: "a little memory", cut: "memory", after: 1000},
	{name: "half the memory", cut: "memory", after: 20 << 20},
	{name: "the target's QEMU is killed at the snapshots", killAt: "snapshots"},
	{name: "the target's QEMU is killed at the disks", killAt: "disk"},
	{name: "the target's QEMU is killed at the memory", killAt: "memory"},
	{name: "another image", change: func(s *runner.Spec) { s.Setup.ImageDigest = "sha256:" + strings.Repeat("0", 64) }, says: "does not take it"},
	{name: "another seed", change: func(s *runner.Spec) { s.Setup.CloudInit += "# more\n" }, says: "its seed is"},
	{name: "more memory", change: func(s *runner.Spec) { s.Resources.Memory += 64 << 20 }, says: "its memory is"},
	{name: "another disk", change: func(s *runner.Spec) { s.Setup.Disks[0].Size *= 2 }, says: "its disks is"},
	{name: "another copy", change: func(s *runner.Spec) { s.Task = s.Job.Task(99, 2) }, says: "its copy is"},
}

// TestAMoveThatFails tries every fault on one guest, which counts on through all
// of them, and then moves it.
func TestAMoveThatFails(t *testing.T) {
	n := twoNodes(t, smallGuest(t), nil)
	s := spec(31, "count", func(s *runner.Spec) {
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
	neverBoth(t, n, s.Task, s2.Task)
	for _, f := range faults {
		if !t.Run(f.name, func(t *testing.T) { fails(t, n, h, s2, f) }) {
			return
		}
	}
	undecided(t, n, h, s2)
	// What lay at the target before is put away, and gone for good with the end.
	if err := os.MkdirAll(n.to.kept(s.Task), 0o700); err != nil {
		t.Fatal(err)
	}
	arrives(t, n, h, s2)
	if after, err := n.to.DiskSnapshots(t.Context(), runner.Handle{Task: s2.Task}); err != nil || !same(before, after) {
		t.Errorf("of its disks it had the snapshots %+v, and has %+v, %v", before, after, err)
	}
}

// snapshotNow makes a snapshot of a task's disks, and lists all that there are.
func snapshotNow(t *testing.T, d *Driver, h runner.Handle) ([]runner.DiskSnapshot, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := d.SnapshotDisks(ctx, h, "before"); err != nil {
		return nil, err
	}
	return d.DiskSnapshots(ctx, h)
}

func fails(t *testing.T, n *nodes, h runner.Handle, s2 runner.Spec, f fault) {
	if f.change != nil {
		setup := *s2.Setup
		setup.Disks = append([]placement.Disk(nil), setup.Disks...)
		s2.Setup = &setup
		f.change(&s2)
	}
	var once sync.Once
	sent, received := move(t, n, h, s2, placement.MoveLive, newLine(t, f.cut, f.after), func(p runner.MoveProgress) {
		if p.Phase == f.killAt {
			once.Do(func() { _ = unix.Kill(n.to.PID(s2.Task), unix.SIGKILL) })
		}
	})
	if received == nil || sent == nil || errors.As(sent, new(*runner.UndecidedError)) || !strings.Contains(sent.Error(), f.says) {
		t.Fatalf("send: %v\nreceive: %v", sent, received)
	}
	isHeld(t, n.from, h, "")
	nothingThere(t, n.to, s2.Task)
	countsOn(t, n.from, h)
	if err := n.from.Finish(t.Context(), h, false); err == nil {
		t.Error("what is in no move was given up")
	}
}

// undecided loses the target's last word, and decides for the source.
func undecided(t *testing.T, n *nodes, h runner.Handle, s2 runner.Spec) {
	t.Helper()
	h2 := runner.Handle{Task: s2.Task}
	answered := len(`{"disks":[0,1]}` + "\n")
	sent, received := move(t, n, h, s2, placement.MoveLive, newLine(t, "<control", answered), nil)
	if !errors.As(sent, new(*runner.UndecidedError)) || received != nil {
		t.Fatalf("send: %v\nreceive: %v", sent, received)
	}
	isHeld(t, n.from, h, runner.HeldSent)
	isHeld(t, n.to, h2, runner.HeldReceived)
	isFrozen(t, n.from, h)
	if runs(t.Context(), n.from, h.Task) || runs(t.Context(), n.to, s2.Task) {
		t.Error("one runs before anything is decided")
	}
	if _, err := n.from.Snapshot(t.Context(), h, t.TempDir()); err == nil {
		t.Error("a snapshot is made in the middle of a move, and would let it go on")
	}
	if err := n.to.Finish(t.Context(), h2, false); err != nil {
		t.Fatal(err)
	}
	if _, err := n.to.Wait(t.Context(), h2); err == nil {
		t.Error("the end of what goes on elsewhere is told")
	}
	if err := n.from.Finish(t.Context(), h, true); err != nil {
		t.Fatal(err)
	}
	for range 2 { // decided is decided, asked again or not
		if err := errors.Join(n.to.Finish(t.Context(), h2, false), n.from.Finish(t.Context(), h, true)); err != nil {
			t.Error(err)
		}
		if n.to.Finish(t.Context(), h2, true) == nil || n.from.Finish(t.Context(), h, false) == nil {
			t.Error("decided the other way after all")
		}
	}
	if err := n.to.Destroy(t.Context(), h2); err != nil {
		t.Fatal(err)
	}
	nothingThere(t, n.to, s2.Task)
	countsOn(t, n.from, h)
}

// arrives moves it, ends the source's part, and sees it count on.
func arrives(t *testing.T, n *nodes, h runner.Handle, s2 runner.Spec) {
	t.Helper()
	h2 := runner.Handle{Task: s2.Task}
	destroyed(t, n.to, s2.Task)
	sent, received := move(t, n, h, s2, placement.MoveNearLive, newLine(t, "", 0), nil)
	if sent != nil || received != nil {
		t.Fatalf("send: %v\nreceive: %v", sent, received)
	}
	if err := errors.Join(n.from.Finish(t.Context(), h, false), n.to.Finish(t.Context(), h2, true)); err != nil {
		t.Fatal(err)
	}
	countsOn(t, n.to, h2)
	if err := n.from.Destroy(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	nothingThere(t, n.from, h.Task)
}

// TestAMachineThatEndsWhileItStands kills either QEMU once both have all of it:
// the move is decided all the same, and an end here is told here.
func TestAMachineThatEndsWhileItStands(t *testing.T) {
	n := twoNodes(t, smallGuest(t), nil)
	s := spec(33, "count", nil)
	h := start(t, n.from, s)
	awaits(t, n.from, h, "count 3\n")
	s2 := next(s)
	h2 := runner.Handle{Task: s2.Task}
	destroyed(t, n.to, s2.Task)
	if sent, received := move(t, n, h, s2, placement.MoveLive, newLine(t, "", 0), nil); sent != nil || received != nil {
		t.Fatalf("send: %v\nreceive: %v", sent, received)
	}
	for d, id := range map[*Driver]placement.TaskID{n.from: s.Task, n.to: s2.Task} {
		if err := unix.Kill(d.PID(id), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(n.to.Finish(t.Context(), h2, true), n.from.Finish(t.Context(), h, false)); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, n.to, h2); exit.Code != 137 || exit.Stopped {
		t.Errorf("killed where it was to go on, it ends with %+v", exit)
	}
	if _, err := n.from.Wait(t.Context(), h); err == nil {
		t.Error("its end is told where it does not go on")
	}
	if o, err := n.from.Recover(t.Context(), h); err != nil || o.State == runner.StateRunning || o.Exit != nil || o.Held != "" {
		t.Errorf("where it does not go on it is %+v, %v", o, err)
	}
}

// A machine that is being moved is ended without being asked: to hear that it
// would have to run.
func TestAMachineThatStandsIsEnded(t *testing.T) {
	n := twoNodes(t, smallGuest(t), nil)
	s := spec(34, "count", nil)
	h := start(t, n.from, s)
	awaits(t, n.from, h, "count 3\n")
	s2 := next(s)
	h2 := runner.Handle{Task: s2.Task}
	destroyed(t, n.to, s2.Task)
	neverRuns := func(d *Driver, h runner.Handle) {
		before := counted(t, printed(t, d, h))
		if err := d.Stop(t.Context(), h, patience); err != nil {
			t.Error(err)
		}
		if after := counted(t, printed(t, d, h)); after != before {
			t.Errorf("it counted from %d to %d while it was ended", before, after)
		}
	}
	if sent, received := move(t, n, h, s2, placement.MoveLive, newLine(t, "", 0), nil); sent != nil || received != nil {
		t.Fatalf("send: %v\nreceive: %v", sent, received)
	}
	isFrozen(t, n.from, h)
	// The node goes down, and the supervisor would press its power button.
	pid := supervisorOf(t, n.to.PID(s2.Task))
	before := counted(t, printed(t, n.to, h2))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := n.to.dialControl(ctx, s2.Task)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for pressed := false; !pressed; { // one that is let go on is let go on before
		select {
		case e := <-m.Events():
			pressed = e.Name == "POWERDOWN"
		case <-ctx.Done():
			t.Fatal("nobody pressed its power button")
		}
	}
	if runs(t.Context(), n.to, s2.Task) || counted(t, printed(t, n.to, h2)) != before {
		t.Error("its supervisor let it go on")
	}
	neverRuns(n.from, h)
	neverRuns(n.to, h2)
}

// isFrozen makes sure that a QEMU which would run on, taken over by its guest,
// cannot: not even its monitor answers.
func isFrozen(t *testing.T, d *Driver, h runner.Handle) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := d.control(ctx, h.Task, func(m *qmp.Client) error { return ask(ctx, m, "cont", nil, nil) })
	if err == nil || !d.Frozen(h.Task) {
		t.Errorf("a machine that was sent would run on: %v", err)
	}
}

// supervisorOf is the parent of a QEMU.
func supervisorOf(t *testing.T, pid int) (parent int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	var state string
	if _, err := fmt.Sscanf(rest, "%s %d", &state, &parent); err != nil {
		t.Fatal(err)
	}
	return parent
}
