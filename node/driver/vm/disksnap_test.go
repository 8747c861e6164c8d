//go:build linux

package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// notebook is a guest of whose disks is known what was written to them.
type notebook struct {
	t *testing.T
	d *Driver
	h runner.Handle
	c io.ReadWriteCloser
	n int // lines of its output that were read
}

// says waits for the next line that begins with a word, and returns the rest.
func (b *notebook) says(word string) string {
	b.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		lines := strings.Split(printed(b.t, b.d, b.h), "\n")
		for ; b.n < len(lines)-1; b.n++ {
			if _, rest, ok := strings.Cut(lines[b.n], word+" "); ok {
				b.n++
				return rest
			}
		}
	}
	b.t.Fatalf("it never said %q:\n%s", word, printed(b.t, b.d, b.h))
	return ""
}

func (b *notebook) writes(word string) {
	b.t.Helper()
	if _, err := io.WriteString(b.c, word+"\n"); err != nil {
		b.t.Fatal(err)
	}
	if got := b.says("wrote"); got != all(word) {
		b.t.Fatalf("it wrote %s", got)
	}
}

// runs reports whether QEMU lets the guest run.
func (b *notebook) runs() bool {
	b.t.Helper()
	var machine struct{ Running bool }
	err := b.d.ask(b.t.Context(), b.h, func(ctx context.Context, m *qmp.Client) error {
		return ask(ctx, m, "query-status", nil, &machine)
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return machine.Running
}

// all is what the guest says when that word stands everywhere on its disks.
func all(word string) string { return strings.TrimSpace(strings.Repeat(fmt.Sprintf("%q ", word), 4)) }

func openNotebook(t *testing.T, d *Driver, s runner.Spec) *notebook {
	t.Helper()
	b := &notebook{t: t, d: d, h: start(t, d, s)}
	var err error
	if b.c, err = d.Console(t.Context(), b.h); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.c.Close() })
	go func() { _, _ = io.Copy(io.Discard, b.c) }()
	return b
}

func notebookSpec(n, attempt int) runner.Spec {
	return spec(n, "notes", func(s *runner.Spec) {
		s.Task, s.Service = testJob.Task(n, attempt), true
		s.Setup.RootSize, s.Setup.Disks = 4*placement.MiB, []placement.Disk{{Name: "data", Size: 2 * placement.MiB}}
	})
}

func TestDisksAreSetBackToASnapshot(t *testing.T) {
	images := smallGuest(t)
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ImageDirs = []string{images} })
	b := openNotebook(t, d, notebookSpec(80, 1))
	if got := b.says("stands"); got != all("") {
		t.Fatalf("at first stands %s", got)
	}
	b.writes("first")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	snap, err := d.SnapshotDisks(ctx, b.h, "before-upgrade")
	if err != nil {
		t.Fatal(err)
	}
	if snap.Frozen || !strings.Contains(snap.Why, "no agent") || fmt.Sprint(snap.Disks) != "[root data]" || snap.Bytes == 0 {
		t.Errorf("the snapshot is %+v", snap)
	}
	b.writes("second") // every cluster anew
	if _, err := d.SnapshotDisks(ctx, b.h, "before-upgrade"); err == nil || !strings.Contains(err.Error(), "have a snapshot") {
		t.Errorf("a second of that name: %v", err)
	}
	if _, err := d.SnapshotDisks(ctx, b.h, "later"); err != nil {
		t.Fatal(err)
	}
	if seen, err := d.Inspect(ctx, b.h); err != nil || fmt.Sprint(seen.Disks) != "[disk0 disk1]" {
		t.Errorf("its disks are seen as %v, %v", seen.Disks, err)
	}
	if why, err := d.CanMove(ctx, b.h); err != nil || len(why) > 0 { // they go along
		t.Errorf("it cannot be moved: %v, %v", why, err)
	}
	asked := 0
	d.marks = func(step string) {
		if step != "stands" && step != "swapped" {
			return
		}
		asked++
		_, err1 := d.SnapshotDisks(ctx, b.h, "meanwhile")
		_, err2 := d.RestoreDisks(ctx, b.h, "later")
		done, err3 := d.moving(b.h.Task)
		for _, err := range []error{err1, err2, err3, d.RemoveDiskSnapshot(ctx, b.h, "before-upgrade")} {
			if err == nil || !strings.Contains(err.Error(), "just now") {
				t.Errorf("while disks are set back: %v", err)
			}
		}
		if err3 == nil {
			done()
		}
	}
	for _, step := range []struct{ name, stands string }{{"before-upgrade", "first"}, {"later", "second"}, {"before-upgrade", "first"}} {
		began := time.Now()
		if _, err := d.RestoreDisks(ctx, b.h, step.name); err != nil {
			t.Fatal(err)
		}
		t.Logf("set back to %s after %v", step.name, time.Since(began).Round(time.Millisecond))
		if got := b.says("stands"); got != all(step.stands) {
			t.Errorf("set back to %s, there stands %s", step.name, got)
		}
		b.writes("third")
	}
	if seen, err := d.Inspect(ctx, b.h); err != nil || fmt.Sprint(seen.Disks) != "[disk0 disk1]" {
		t.Errorf("set back, its disks are seen as %v, %v", seen.Disks, err)
	}
	if o, err := d.Recover(ctx, b.h); err != nil || o.State != runner.StateRunning {
		t.Errorf("the task is %s, %v", o.State, err)
	}
	if asked != 6 {
		t.Errorf("asked %d times while disks were set back", asked)
	}
	d.marks = nil
	// One that somebody paused stays so.
	if err := d.Pause(ctx, b.h); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := d.RestoreDisks(ctx, b.h, "later"); err != nil {
			t.Fatal(err)
		}
	}
	if b.runs() {
		t.Error("it was paused, and was set back, and runs")
	}
	if err := d.Resume(ctx, b.h); err != nil {
		t.Fatal(err)
	}
	if got := b.says("stands"); got != all("second") {
		t.Errorf("set back while it was paused, there stands %s", got)
	}
	b.writes("third")
	for _, left := range []string{filepath.Join(d.kept(b.h.Task), restoreDir), filepath.Join(d.kept(b.h.Task), restoreFresh), filepath.Join(d.TaskDir(b.h.Task), restoreNote)} {
		if _, err := os.Lstat(left); err == nil {
			t.Errorf("%s is left", left)
		}
	}
	forensic, err := d.Snapshot(ctx, b.h, t.TempDir()) // the forensic one, of the disks that it has now
	if err != nil || len(forensic.Parts) < 3 {
		t.Errorf("a forensic snapshot of it: %+v, %v", forensic, err)
	}
	for _, name := range []string{"before-upgrade", "later"} {
		if err := d.RemoveDiskSnapshot(ctx, b.h, name); err != nil {
			t.Error(err)
		}
	}
	if why, err := d.CanMove(ctx, b.h); err != nil || len(why) > 0 {
		t.Errorf("without snapshots it cannot be moved: %v, %v", why, err)
	}
	// What it wrote after it was set back is there at its next start.
	if _, err := io.WriteString(b.c, "off\n"); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, d, b.h); exit.Code != 0 {
		t.Fatalf("it ends with %+v", exit)
	}
	next := openNotebook(t, d, notebookSpec(80, 2))
	if got := next.says("stands"); got != all("third") {
		t.Errorf("its next start finds %s", got)
	}
}

// beside has a task that was made by hand, with two kept disks and no QEMU.
func beside(t *testing.T, change func(*Config)) (*Driver, runner.Handle) {
	t.Helper()
	d := newDriver(t, t.TempDir(), change)
	id := testJob.Task(90, 1)
	h := leftByReboot(t, d, id, nil)
	puts(t, d.kept(id), "old")
	guest, err := json.Marshal(told{Disks: []disk{{Name: "root", Path: filepath.Join(d.kept(id), "root.qcow2"), Size: 1 << 20, Format: Qcow2, Kept: true}}})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]any{"told": qemu.Told{Guest: guest}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.TaskDir(id), "spec"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return d, h
}

func snapshotByHand(t *testing.T, d *Driver, h runner.Handle, name string) {
	t.Helper()
	dir := filepath.Join(d.snapshots(h.Task), name)
	if err := errors.Join(os.MkdirAll(dir, 0o700), writeJSON(filepath.Join(dir, snapshotNote), runner.DiskSnapshot{Name: name, At: time.Now()})); err != nil {
		t.Fatal(err)
	}
}

func TestSnapshotsAreRefused(t *testing.T) {
	d, h := beside(t, nil)
	victim := filepath.Join(d.kept(h.Task), "disk-data.raw")
	refused := func(what string, err error, want string) {
		t.Helper()
		var r *runner.DiskSnapshotError
		if !errors.As(err, &r) || r.Advice == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, name := range []string{"", "..", "../disk-data.raw", "a/b", ".new-a", "A", strings.Repeat("a", 41)} {
		_, err := d.SnapshotDisks(t.Context(), h, name)
		refused("called "+name, err, "cannot be called")
		refused("removed "+name, d.RemoveDiskSnapshot(t.Context(), h, name), "no snapshot")
		_, err = d.RestoreDisks(t.Context(), h, name)
		refused("set back to "+name, err, "no snapshot")
	}
	if _, err := os.Stat(victim); err != nil {
		t.Fatalf("a disk is gone: %v", err)
	}
	for n := range mostSnapshots {
		snapshotByHand(t, d, h, fmt.Sprint("s", n))
	}
	_, err := d.SnapshotDisks(t.Context(), h, "one-more")
	refused("one more", err, "which is the most")
	if err := d.RemoveDiskSnapshot(t.Context(), h, "s0"); err != nil {
		t.Fatal(err)
	}
	snapshotByHand(t, d, h, ".gone-s9") // and one that is being made has no note yet
	if err := os.Mkdir(filepath.Join(d.snapshots(h.Task), ".new-s9"), 0o700); err != nil {
		t.Fatal(err)
	}
	if left, err := d.DiskSnapshots(t.Context(), h); err != nil || len(left) != mostSnapshots-1 || left[0].Name != "s1" {
		t.Errorf("there are %v, %v", left, err)
	}
	done, err := d.moving(h.Task)
	if err != nil {
		t.Fatal(err)
	}
	_, err1 := d.SnapshotDisks(t.Context(), h, "moved")
	_, err2 := d.RestoreDisks(t.Context(), h, "s1")
	for _, err := range []error{err1, err2, d.RemoveDiskSnapshot(t.Context(), h, "s1")} {
		if err == nil || !strings.Contains(err.Error(), "moved to another node") {
			t.Errorf("as a move begins: %v", err)
		}
	}
	done()
	if err := writeNote(d.TaskDir(h.Task), note{Way: out, Stage: underWay}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SnapshotDisks(t.Context(), h, "moved"); err == nil || !strings.Contains(err.Error(), "moved to another node") {
		t.Errorf("while it is moved: %v", err)
	}
	if err := d.Forget(testJob); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(d.snapshots(h.Task)); !os.IsNotExist(err) {
		t.Errorf("forgotten, its snapshots are there: %v", err)
	}
}

func TestSnapshotsLeaveSpaceOnTheNode(t *testing.T) {
	d, h := beside(t, func(c *Config) { c.Reserve = math.MaxInt64 >> 1 })
	_, err := d.SnapshotDisks(t.Context(), h, "full")
	if err == nil || !strings.Contains(err.Error(), "more space than there is") {
		t.Errorf("on a full node: %v", err)
	}
	snapshotByHand(t, d, h, "full")
	if err := newQcow2(filepath.Join(d.snapshots(h.Task), "full", "disk0-root.qcow2"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := d.RestoreDisks(t.Context(), h, "full"); err == nil || !strings.Contains(err.Error(), "more space than there is") {
		t.Errorf("set back on a full node: %v", err)
	}
	lies(t, d.kept(h.Task), "old")
	if _, err := os.Lstat(filepath.Join(d.kept(h.Task), restoreFresh)); !os.IsNotExist(err) {
		t.Errorf("what was begun is left: %v", err)
	}
}

// fakeAgent answers for a guest's agent, and keeps what it was told.
type fakeAgent struct {
	mu      sync.Mutex
	heard   []string // guarded by mu
	silent  bool     // guarded by mu: hears a freeze and says nothing more to that connection
	nothing bool     // guarded by mu: freezes no file system
}

func (a *fakeAgent) serve(t *testing.T, d *Driver, h runner.Handle) {
	t.Helper()
	l, err := process.ListenUnix(filepath.Join(d.TaskDir(h.Task), qemu.Home), agentSocket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go a.answer(c)
		}
	}()
}

func (a *fakeAgent) answer(c net.Conn) {
	defer c.Close()
	in := bufio.NewScanner(c)
	for in.Scan() {
		var q struct {
			Execute   string
			Arguments struct{ ID int64 }
		}
		_, line, _ := strings.Cut("\xff"+strings.TrimLeft(in.Text(), "\xff"), "\xff")
		if json.Unmarshal([]byte(line), &q) != nil {
			return
		}
		a.mu.Lock()
		a.heard = append(a.heard, q.Execute)
		silent, nothing := a.silent, a.nothing
		a.mu.Unlock()
		answer := `{"return":{}}`
		switch q.Execute {
		case "guest-sync-delimited":
			answer = fmt.Sprintf("\xff{\"return\":%d}", q.Arguments.ID)
		case "guest-fsfreeze-freeze":
			if silent {
				return
			}
			answer = `{"return":2}`
			if nothing {
				answer = `{"return":0}`
			}
		case "guest-fsfreeze-thaw":
			answer = `{"return":2}`
		}
		if _, err := fmt.Fprintln(c, answer); err != nil {
			return
		}
	}
}

func (a *fakeAgent) told() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []string
	for _, s := range a.heard {
		if strings.HasPrefix(s, "guest-fs") {
			all = append(all, strings.TrimPrefix(s, "guest-fsfreeze-"))
		}
	}
	return strings.Join(all, " ")
}

func TestAGuestIsFrozenAndThawedWhateverHappens(t *testing.T) {
	for name, c := range map[string]struct {
		agent  *fakeAgent
		frozen bool
	}{
		"it freezes":         {&fakeAgent{}, true},
		"it falls silent":    {&fakeAgent{silent: true}, false},
		"it freezes nothing": {&fakeAgent{nothing: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			d, h := beside(t, nil)
			c.agent.serve(t, d, h)
			ctx, cancel := context.WithCancel(t.Context())
			thaw, why := d.freeze(ctx, h)
			if (why == "") != c.frozen {
				t.Errorf("not frozen, for %q", why)
			}
			if !there(d.TaskDir(h.Task), frozenFile) {
				t.Error("an agent that is killed now leaves no word of it")
			}
			cancel() // whoever asked is gone
			if err := thaw(); err != nil {
				t.Error(err)
			}
			if got := c.agent.told(); got != "freeze thaw" || there(d.TaskDir(h.Task), frozenFile) {
				t.Errorf("its agent was told %q", got)
			}
		})
	}
}

func TestTheNextAgentThawsAGuest(t *testing.T) {
	d, h := beside(t, nil)
	a := &fakeAgent{}
	a.serve(t, d, h)
	if _, why := d.freeze(t.Context(), h); why != "" {
		t.Fatal(why)
	}
	again := newDriver(t, d.cfg.Dir, nil)
	again.thawLeft(t.Context(), &runner.Observed{Handle: h, State: runner.StateRunning})
	if got := a.told(); got != "freeze thaw" || there(d.TaskDir(h.Task), frozenFile) {
		t.Errorf("its agent was told %q", got)
	}
}
