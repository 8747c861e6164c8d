package agents

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/placement"
)

// Whatever keeps an agent from starting is said in one line, with what to do,
// and the process ends.
func TestProcesses_startFaultsAreOneLine(t *testing.T) {
	w := newWorld(t)
	fr := found(t, w, "fra-1", "FR", 1)
	home := fr.Agents[0]
	runs(t, fr, home, shell(t, "first", "FR", "exit 0", nil), "--wait")

	t.Run("port already taken", func(t *testing.T) {
		other, err := w.Init(within(t, startLimit), "par-1", "FR")
		if err != nil {
			t.Fatal(err)
		}
		a := other.Agents[0]
		l, err := net.Listen("tcp4", a.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		oneLine(t, a, a.Addr, "port taken")
	})
	t.Run("data directory of another region", func(t *testing.T) {
		ber, err := w.Init(within(t, startLimit), "ber-1", "DE")
		if err != nil {
			t.Fatal(err)
		}
		a := ber.Agents[0]
		config, err := os.ReadFile(a.Config)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.ReplaceAll(string(config), a.Data, home.Data)
		if err := os.WriteFile(a.Config, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		oneLine(t, a, "fra-1", "ber-1-n1")
	})
	if err := home.Stop(within(t, startLimit)); err != nil {
		t.Fatal(err)
	}
	t.Run("raft log of another region", func(t *testing.T) {
		other, err := w.Init(within(t, startLimit), "muc-1", "DE")
		if err != nil {
			t.Fatal(err)
		}
		a := other.Agents[0]
		if err := os.CopyFS(filepath.Join(a.Data, "raft"), os.DirFS(filepath.Join(home.Data, "raft"))); err != nil {
			t.Fatal(err)
		}
		oneLine(t, a, "fra-1", "muc-1")
	})
	for i, damage := range []struct {
		name string
		do   func([]byte) []byte
	}{
		{"raft log with flipped bytes", flipped},
		{"raft log cut short", func(data []byte) []byte { return data[:used(data)/2] }},
		{"raft log overwritten with zeros", func(data []byte) []byte { clear(data[used(data)/2:]); return data }},
	} {
		t.Run(damage.name, func(t *testing.T) {
			r := found(t, w, fmt.Sprintf("lyo-%d", i+1), "FR", 1)
			a := r.Agents[0]
			runs(t, r, a, shell(t, "first", "FR", "exit 0", nil), "--wait")
			if err := a.Stop(within(t, startLimit)); err != nil {
				t.Fatal(err)
			}
			spoil(t, filepath.Join(a.Data, "raft"), damage.do)
			oneLine(t, a, "raft log", "damaged")
		})
	}
	t.Run("clock an hour wrong", func(t *testing.T) {
		t.Skip("a process cannot be given a clock of its own here (no libfaketime); scenarios/mesh shows it in virtual time")
	})
}

// oneLine starts the agent and wants it to end with one line that holds the
// words, and one that says what to do.
func oneLine(t *testing.T, a *Agent, words ...string) {
	t.Helper()
	before := len(a.Output())
	if err := a.Launch(); err != nil {
		t.Fatal(err)
	}
	code, err := a.Exit(within(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var said, advice []string
	for line := range strings.SplitSeq(strings.TrimSpace(a.Output()[before:]), "\n") {
		switch {
		case strings.HasPrefix(line, "sovmesh: "):
			said = append(said, line)
		case strings.Contains(line, "what to do:"):
			advice = append(advice, line)
		case strings.Contains(line, "goroutine ") || strings.HasPrefix(line, "panic:"):
			t.Errorf("the agent panicked: %s", line)
		}
	}
	t.Logf("exit %d: %s", code, strings.Join(append(said, advice...), " "))
	if code == 0 || len(said) != 1 || len(advice) != 1 {
		t.Fatalf("exit %d, %d lines and %d of advice; want a failure in one line with one of advice:\n%s", code, len(said), len(advice), a.Output()[before:])
	}
	for _, word := range words {
		if !strings.Contains(said[0], word) {
			t.Errorf("the line does not say %q: %s", word, said[0])
		}
	}
}

// spoil changes the log's segments.
func spoil(t *testing.T, dir string, change func([]byte) []byte) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "raft", "*.wal"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("no log segments below %s: %v", dir, err)
	}
	for _, path := range segments {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, change(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// used is how much of a segment, which is laid out in full, holds entries.
func used(segment []byte) int { return len(bytes.TrimRight(segment, "\x00")) }

// flipped damages the middle of what a segment holds.
func flipped(segment []byte) []byte {
	n := used(segment)
	for at := n / 4; at < n/2; at++ {
		segment[at] ^= 0x5a
	}
	return segment
}

// A full disk ends no task and no agent: submits are refused or wait with a
// reason, and are taken again once there is room.
func TestProcesses_fullDiskDegrades(t *testing.T) {
	w := newWorld(t)
	disk := filepath.Join(w.Dir, "fra-1")
	if err := os.MkdirAll(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=96m"); err != nil {
		t.Skipf("no small file system can be mounted here (%v): a full disk is not tried", err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r := found(t, w, "fra-1", "FR", 1)
	a := r.Agents[0]
	c := clientOf(t, r, a)
	stays := runs(t, r, a, shell(t, "stays", "FR", "exec sleep 600", nil))
	becomes(t, c, stays.ID, "running", startLimit, is(placement.JobRunning))

	fill := filepath.Join(disk, "fill")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		_, err = f.Write(block[:1])
	}
	_ = f.Close()

	// The log's segment has room of its own; only a large job overflows it.
	wire, err := r.Wire(1)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	big := map[string]string{}
	for i := range 7 {
		big[fmt.Sprintf("BIG%d", i)] = strings.Repeat("x", 100<<10)
	}
	refused := false
	for i := 0; i < 150 && !refused; i++ {
		ans, err := wire.Submit(within(t, 20*time.Second), a.API, "FR", fmt.Sprintf("big-%d", i), shell(t, "big", "FR", "exit 0", map[string]any{"env": big}))
		if err != nil {
			t.Fatalf("submit %d on a full disk: no answer: %v", i, err)
		}
		if ans.Status/100 == 4 {
			t.Fatalf("submit %d on a full disk: answered %d: %s", i, ans.Status, ans.Body)
		}
		refused = ans.Status >= 500
		if refused && !strings.Contains(string(ans.Body), `"hint"`) {
			t.Errorf("the refusal says nothing to do: %s", ans.Body)
		}
	}
	if !refused {
		t.Error("the disk is full and every submit was accepted")
	}
	if !Running(a.PID()) {
		t.Fatalf("the agent ended: %s", a.LastWords())
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	if err := Until(within(t, startLimit), func(ctx context.Context) string {
		ans, err := wire.Submit(ctx, a.API, "FR", "", shell(t, "after", "FR", "exit 0", nil))
		if err != nil {
			return err.Error()
		}
		if ans.Status/100 != 2 {
			return string(ans.Body)
		}
		return ""
	}); err != nil {
		t.Errorf("there is room again and submits are not taken: %v; %s", err, a.LastWords())
	}
	j, err := c.Job(within(t, startLimit), stays.ID)
	if err != nil || j.Status != placement.JobRunning || j.Restarts != 0 {
		t.Errorf("the task of before: %+v, %v; want running, not restarted", j, err)
	}
}
