//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// writers counts the machines that may write to a file now, by the locks that QEMU
// holds on it: byte 101 is the permission to write.
// https://gitlab.com/qemu-project/qemu/-/blob/v7.2.0/block/file-posix.c (RAW_LOCK_PERM_BASE)
func writers(t *testing.T, path string) (n int) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Error(err)
		return 0
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(locks)) {
		f := strings.Fields(l)
		var first, last uint64
		if len(f) < 8 || f[1] != "OFDLCK" || !strings.HasSuffix(f[5], fmt.Sprintf(":%d", st.Ino)) {
			continue
		}
		if _, err := fmt.Sscan(f[6]+" "+f[7], &first, &last); err == nil && first <= 101 && 101 <= last {
			n++
		}
	}
	return n
}

// opens is a line that remembers which streams were opened.
type opens struct {
	*line
	mu    sync.Mutex
	names []string // guarded by mu
}

func (o *opens) Open(ctx context.Context, name string) (net.Conn, error) {
	o.mu.Lock()
	o.names = append(o.names, name)
	o.mu.Unlock()
	return o.line.Open(ctx, name)
}

// TestMoveOverSharedDisks moves a machine between two nodes that see the same
// disks: nothing of them is copied, one machine at a time may write to them, and
// neither a move that fails nor the end at the source takes them away.
func TestMoveOverSharedDisks(t *testing.T) {
	n := &nodes{images: smallGuest(t), dirs: [2]string{t.TempDir(), t.TempDir()}}
	if err := errors.Join(os.Mkdir(filepath.Join(n.dirs[0], "disks"), 0o700),
		os.Symlink(filepath.Join(n.dirs[0], "disks"), filepath.Join(n.dirs[1], "disks"))); err != nil {
		t.Fatal(err)
	}
	n.from, n.to = n.again(t, 0, nil), n.again(t, 1, nil)
	s := spec(47, "count", func(s *runner.Spec) {
		s.Service = true
		s.Setup.Disks = []placement.Disk{{Name: "data", Size: 4 << 20}}
	})
	h := start(t, n.from, s)
	awaits(t, n.from, h, "count 3\n")
	content := fillDisk(t, n.from, s)
	before, err := snapshotNow(t, n.from, h)
	if err != nil {
		t.Fatal(err)
	}
	s2 := next(s)
	h2 := runner.Handle{Task: s2.Task}
	neverBoth(t, n, s.Task, s2.Task)
	files := []string{filepath.Join(n.from.kept(s.Task), "root.qcow2"), filepath.Join(n.from.kept(s.Task), "disk-data.raw")}
	lets := func(want int) {
		t.Helper()
		for _, path := range files {
			if got := writers(t, path); got != want {
				t.Errorf("%d machines may write to %s, want %d", got, filepath.Base(path), want)
			}
		}
	}
	lets(1)

	sent, received := move(t, n, h, s2, placement.MoveLive, newLine(t, "memory", 20<<20), nil)
	if sent == nil || received == nil {
		t.Fatalf("send: %v\nreceive: %v", sent, received)
	}
	lets(1)
	countsOn(t, n.from, h)
	if o, err := n.to.Recover(t.Context(), h2); err != nil || o.State != runner.StateAbsent {
		t.Errorf("at the target it is %s, %v", o.State, err)
	}

	destroyed(t, n.to, s2.Task)
	l := &opens{line: newLine(t, "", 0)}
	sent, received = moveOver(t, n, h, s2, placement.MoveLive, l, func(runner.MoveProgress) {
		for _, path := range files {
			if got := writers(t, path); got > 1 {
				t.Errorf("%d machines may write to %s", got, filepath.Base(path))
			}
		}
	})
	if sent != nil || received != nil {
		t.Fatalf("send: %v\nreceive: %v", sent, received)
	}
	if slices.ContainsFunc(l.names, func(name string) bool { return strings.HasPrefix(name, "disk") || name == streamSnapshots }) {
		t.Errorf("disks were copied: %q", l.names)
	}
	lets(0)
	if err := n.to.Finish(t.Context(), h2, true); err != nil {
		t.Fatal(err)
	}
	lets(1)
	if err := errors.Join(n.from.Finish(t.Context(), h, false), n.from.Destroy(t.Context(), h)); err != nil {
		t.Fatal(err)
	}
	lets(1)
	countsOn(t, n.to, h2)
	if got, err := os.ReadFile(files[1]); err != nil || string(got) != content {
		t.Errorf("its disk has %d bytes, %v", len(got), err)
	}
	if after, err := n.to.DiskSnapshots(t.Context(), h2); err != nil || !same(before, after) {
		t.Errorf("of its disks it had the snapshots %+v, and has %+v, %v", before, after, err)
	}
	if left, _ := filepath.Glob(filepath.Join(n.from.disks(), probeName+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
