//go:build linux

package vm

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
)

// An agent that is killed while it sets disks back leaves them as they were, or as
// the snapshot has them: never one of each, and never a guest that writes where
// nobody reads.
func TestKilledWhileDisksAreSetBack(t *testing.T) {
	images := smallGuest(t)
	for n, c := range []struct {
		step, stands string // empty: the guest runs on
		then         string // "started": what is looked at is the next start, for QEMU went too; "paused": it was, before
	}{
		{"stands", "", ""},
		{"swapped", "first", ""},
		{"named", "first", ""},
		{"done", "first", ""},
		{"stands", "second", "started"},
		{"decided", "first", "started"},
		{"stands", "", "paused"},
		{"named", "first", "paused"},
	} {
		t.Run(strings.TrimSpace(c.step+" "+c.then), func(t *testing.T) {
			dir := t.TempDir()
			d := newDriver(t, dir, func(c *Config) { c.ImageDirs = []string{images} })
			b := openNotebook(t, d, notebookSpec(81+n, 1))
			b.says("stands")
			b.writes("first")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, err := d.SnapshotDisks(ctx, b.h, "before"); err != nil {
				t.Fatal(err)
			}
			b.writes("second")
			if c.then == "paused" {
				if err := d.Pause(ctx, b.h); err != nil {
					t.Fatal(err)
				}
			}
			over := make(chan struct{})
			d.marks = func(step string) {
				if step == c.step {
					close(over)
					runtime.Goexit() // all that it had in hand is gone; what is on the disk stays
				}
			}
			go func() { _, _ = d.RestoreDisks(ctx, b.h, "before") }()
			<-over
			again := newDriver(t, dir, func(c *Config) { c.ImageDirs = []string{images} })
			if c.then == "started" {
				if err := again.Driver.Stop(ctx, b.h, 0); err != nil {
					t.Fatal(err)
				}
				wait(t, again, b.h)
				next := openNotebook(t, again, notebookSpec(81+n, 2))
				if got := next.says("stands"); got != all(c.stands) {
					t.Errorf("its next start finds %s", got)
				}
				return
			}
			b.d = again
			if o, err := again.Recover(ctx, b.h); err != nil || o.State != runner.StateRunning {
				t.Fatalf("the next agent sees %s, %v", o.State, err)
			}
			if b.runs() != (c.then == "") {
				t.Errorf("by the next agent it runs: %t", b.runs())
			}
			if c.then == "paused" {
				if err := again.Resume(ctx, b.h); err != nil {
					t.Fatal(err)
				}
			}
			if c.stands != "" {
				if got := b.says("stands"); got != all(c.stands) {
					t.Errorf("there stands %s", got)
				}
			}
			b.writes("third")
			if _, err := again.RestoreDisks(ctx, b.h, "before"); err != nil {
				t.Fatal(err)
			}
			if got := b.says("stands"); got != all("first") {
				t.Errorf("set back by the next agent, there stands %s", got)
			}
		})
	}
}

// QEMU answers before it has reset a machine: one that goes on then has its old memory.
func TestAResetIsWaitedFor(t *testing.T) {
	q := &double{stands: true}
	d, h := doubled(t, q)
	var at []string
	q.at = func(command string) {
		q.mu.Lock()
		defer q.mu.Unlock()
		if command == "cont" && q.anew != 1 {
			t.Error("it goes on before it was reset")
		}
		at = append(at, command)
	}
	err := d.askLong(t.Context(), h, func(ctx context.Context, m *qmp.Client) error {
		if err := reset(ctx, m); err != nil {
			return err
		}
		return ask(ctx, m, "cont", nil, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if at[len(at)-1] != "cont" {
		t.Errorf("QEMU was told %v", at)
	}
}

// A snapshot that QEMU's guest had a hand in names no other file.
func TestADamagedSnapshotIsNotUsed(t *testing.T) {
	d, h := beside(t, nil)
	snapshotByHand(t, d, h, "bad")
	path := filepath.Join(d.snapshots(h.Task), "bad", "disk0-root.qcow2")
	for name, change := range map[string]func([]byte){
		"a backing file": func(b []byte) { b[15], b[19] = 200, 11; copy(b[200:], "/etc/shadow") },
		"a larger disk":  func(b []byte) { b[28] = 1 },
		"no image":       func(b []byte) { b[0] = 0 },
	} {
		data := qcow(t, 1<<20)
		change(data)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.RestoreDisks(t.Context(), h, "bad"); err == nil || !strings.Contains(err.Error(), "its copy") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A start that was cut off while disks got their names goes on where it was.
func TestNamesOfRestoredDisksAreCompleted(t *testing.T) {
	d, h := beside(t, nil)
	at := d.kept(h.Task)
	puts(t, filepath.Join(at, restoreDir), "restored")
	puts(t, filepath.Join(at, restoreFresh), "half")
	for range 2 {
		if err := d.settleRestore(h.Task); err != nil {
			t.Fatal(err)
		}
		lies(t, at, "restored")
	}
	for _, name := range []string{restoreDir, restoreFresh} {
		if there(at, name) {
			t.Errorf("%s is left", name)
		}
	}
}
