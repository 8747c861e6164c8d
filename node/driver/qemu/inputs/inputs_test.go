//go:build linux

package inputs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

const testJob = placement.JobID("fra-1.01jd0000000000000000000000")

// task has files of these names and contents as its inputs, in this order.
func task(t testing.TB, pairs ...string) runner.Spec {
	t.Helper()
	s := runner.Spec{Task: testJob.Task(0, 1), Job: testJob, InputsDir: t.TempDir(), Setup: &placement.Setup{}}
	for i := 0; i < len(pairs); i += 2 {
		if err := os.WriteFile(filepath.Join(s.InputsDir, pairs[i]), []byte(pairs[i+1]), 0o444); err != nil {
			t.Fatal(err)
		}
		s.Setup.Inputs = append(s.Setup.Inputs, placement.Input{Name: pairs[i], Digest: digestOf(pairs[i+1])})
	}
	return s
}

func testStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := New(Config{Dir: dir, Most: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func names(t testing.TB, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// A guest that is moved has begun to read the disk that the first node made: the
// other's must be the same in every byte.
func TestADiskIsTheSameWhereverItIsMade(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 1<<17)
	var disks [][]byte
	var called []string
	for i, s := range []runner.Spec{task(t, "model.bin", large, "words", "bonjour"), task(t, "words", "bonjour", "model.bin", large)} {
		old := time.Unix(int64(i)*1e6, 0)
		if err := os.Chtimes(filepath.Join(s.InputsDir, "words"), old, old); err != nil {
			t.Fatal(err)
		}
		store := testStore(t, t.TempDir())
		name, err := store.Disk(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(store.path(name))
		if err != nil {
			t.Fatal(err)
		}
		disks, called = append(disks, data), append(called, name)
	}
	if called[0] != called[1] || !bytes.Equal(disks[0], disks[1]) {
		t.Errorf("%s and %s differ", called[0], called[1])
	}
	// What makes them may change with a library: then version must, too.
	if got, want := digestOf(string(disks[0])), wantDisk; got != want {
		t.Errorf("the disk of these inputs is %s now, and was %s: raise version, or a guest that is moved between old and new nodes reads damage", got, want)
	}
	if !bytes.Contains(disks[0][1024:2048], []byte(Label)) {
		t.Error("it has no label")
	}
	other := task(t, "model.bin", large, "other", "bonjour")
	if name, err := testStore(t, t.TempDir()).Disk(t.Context(), other); err != nil || name == called[0] {
		t.Errorf("another name gives %s, %v", name, err)
	}
}

// wantDisk is the disk of two inputs as version 1 makes it.
const wantDisk = "sha256:ac4b83d46bf52a5b6a7efda180e503216a0052e69af87cb4b15e6ca0a865b4a2"

func TestADiskIsSound(t *testing.T) {
	fsck, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Skip("e2fsck is missing: install e2fsprogs")
	}
	store := testStore(t, t.TempDir())
	name, err := store.Disk(t.Context(), task(t, "empty", "", "words", "bonjour", "large", strings.Repeat("x", 9<<20)))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(fsck, "-fn", store.path(name)).CombinedOutput()
	// The padding is what tar2ext4 leaves unset, and is of no account.
	if err != nil && !strings.Contains(string(out), "Padding at end of inode bitmap is not set") {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	for file, want := range map[string]string{"words": "bonjour", "empty": ""} {
		got, err := exec.Command("debugfs", "-R", "cat "+file, store.path(name)).Output()
		if err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", file, got, err)
		}
	}
}

func TestADiskIsMadeOnceAndGoesWithItsTasks(t *testing.T) {
	dir, tasks := t.TempDir(), t.TempDir()
	store, s := testStore(t, dir), task(t, "words", "bonjour")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := store.Disk(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got := names(t, dir)
	if len(got) != 1 {
		t.Fatalf("there are %v", got)
	}
	if none, err := store.Disk(t.Context(), runner.Spec{Setup: &placement.Setup{}}); none != "" || err != nil {
		t.Errorf("a task without inputs has %q, %v", none, err)
	}
	if err := store.Link(got[0], tasks); err != nil {
		t.Fatal(err)
	}
	// An agent that was killed left half a disk; the next one removes that alone.
	if err := os.WriteFile(filepath.Join(dir, partial+"1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := testStore(t, dir)
	if left := names(t, dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	collect := func(want int, when string) {
		t.Helper()
		if err := again.Collect(); err != nil {
			t.Fatal(err)
		}
		if left := names(t, dir); len(left) != want {
			t.Errorf("%s there are %v", when, left)
		}
	}
	long := time.Now().Add(-2 * fresh)
	if err := os.Chtimes(again.path(got[0]), long, long); err != nil {
		t.Fatal(err)
	}
	collect(1, "while a task has it")
	if err := os.Remove(filepath.Join(tasks, File)); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Disk(t.Context(), s); err != nil { // somebody is about to have it
		t.Fatal(err)
	}
	collect(1, "just asked for")
	if err := os.Chtimes(again.path(got[0]), long, long); err != nil {
		t.Fatal(err)
	}
	collect(0, "at the end")
	// Nobody need be destroyed for that: a new store, and the next disk, see to it.
	for when, next := range map[string]func() error{
		"with a new agent": func() error { _, err := New(again.cfg); return err },
		"with another's":   func() error { _, err := again.Disk(t.Context(), task(t, "other", "words")); return err },
	} {
		name, err := again.Disk(t.Context(), s)
		if err := errors.Join(err, os.Chtimes(again.path(name), long, long), next()); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(names(t, dir), name) {
			t.Errorf("%s it is there yet", when)
		}
	}
}

func TestADiskThatCannotBeMadeLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	store := testStore(t, dir)
	changed := task(t, "words", "bonjour")
	if err := errors.Join(os.Remove(filepath.Join(changed.InputsDir, "words")), os.WriteFile(filepath.Join(changed.InputsDir, "words"), []byte("adieu!!"), 0o444)); err != nil {
		t.Fatal(err)
	}
	link := task(t, "words", "bonjour")
	if err := errors.Join(os.Remove(filepath.Join(link.InputsDir, "words")), os.Symlink("/etc/passwd", filepath.Join(link.InputsDir, "words"))); err != nil {
		t.Fatal(err)
	}
	missing := task(t, "words", "bonjour")
	missing.InputsDir = t.TempDir()
	stopped := task(t, "words", "bonsoir")
	stopped.Unwanted = func() bool { return true }
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx  context.Context
		s    runner.Spec
		want string
	}{
		"another file":    {t.Context(), changed, "not the file that the job names"},
		"a link":          {t.Context(), link, "no plain file"},
		"a file too few":  {t.Context(), missing, "no such file"},
		"given up":        {gone, task(t, "words", "bonsoir"), "canceled"},
		"told to end":     {t.Context(), stopped, "told to end"},
		"more than taken": {t.Context(), task(t, "words", strings.Repeat("x", 64<<20+1)), "have 67108865 bytes together"},
	} {
		if _, err := store.Disk(test.ctx, test.s); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", name, err, test.want)
		}
		if left := names(t, dir); len(left) != 0 {
			t.Errorf("%s leaves %v", name, left)
		}
	}
}

func TestNoSpace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a small file system needs root: run as root")
	}
	dir := t.TempDir()
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=20m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	s := task(t, "words", strings.Repeat("0123456789abcdef", 1<<16)) // 1 MiB
	reserved, err := New(Config{Dir: dir, Most: 64 << 20, Reserve: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reserved.Disk(t.Context(), s); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "of which 8 MiB stay free") {
		t.Errorf("what would take of the reserve gives %v", err)
	}
	// It fills up while the disk is written.
	store := testStore(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 19<<20+1<<19), 0o600); err != nil {
		t.Fatal(err)
	}
	all, whole, err := store.parts(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.write(until{ctx: t.Context()}, diskName(all), s.InputsDir, all, whole+16<<20); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full disk gives %v", err)
	}
	if left := names(t, dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}
