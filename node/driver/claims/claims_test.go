//go:build linux

package claims

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestBlocksAreTakenOnce(t *testing.T) {
	dir, owners := filepath.Join(t.TempDir(), "users"), t.TempDir()
	const blocks = 4
	var mu sync.Mutex
	var all sync.WaitGroup
	got := map[int]string{}
	for n := range blocks {
		owner := filepath.Join(owners, fmt.Sprint(n))
		if err := os.Mkdir(owner, 0o700); err != nil {
			t.Fatal(err)
		}
		for range 4 { // an agent asks as often as it likes
			all.Go(func() {
				b, err := Block(dir, owner, blocks)
				mu.Lock()
				defer mu.Unlock()
				if err != nil || got[b] != "" && got[b] != owner {
					t.Errorf("%s: %d, which is %q's, %v", owner, b, got[b], err)
				}
				got[b] = owner
			})
		}
	}
	all.Wait()
	late := t.TempDir()
	if b, err := Block(dir, late, blocks); err == nil {
		t.Errorf("one more has %d", b)
	}
	if err := os.Remove(got[2]); err != nil { // an agent whose data is gone
		t.Fatal(err)
	}
	if b, err := Block(dir, late, blocks); err != nil || b != 2 {
		t.Errorf("after one has gone: %d, %v", b, err)
	}
	if b, err := Block(dir, got[1], blocks); err != nil || b != 1 {
		t.Errorf("the other ones: %d, %v", b, err)
	}
}

// TestAnUnusedBlockIsTakenOver: of an owner that has nothing, and has not just asked.
func TestAnUnusedBlockIsTakenOver(t *testing.T) {
	dir, idle, busy, late := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(busy, "task"), 0o700); err != nil {
		t.Fatal(err)
	}
	age := func() {
		t.Helper()
		then := time.Now().Add(-2 * Unasked)
		for _, n := range []string{"0", "1"} {
			if err := os.Chtimes(filepath.Join(dir, n), then, then); err != nil {
				t.Fatal(err)
			}
		}
	}
	take := func(owner string) int {
		t.Helper()
		n, err := Block(dir, owner, 2)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	one, two := take(idle), take(busy)
	age()
	if got := take(idle); got != one || one == two {
		t.Fatalf("it has %d, then %d; the other %d", one, got, two)
	}
	if n, err := Block(dir, late, 2); err == nil {
		t.Errorf("one that has just asked may be about to use it, and another has %d", n)
	}
	age()
	if got := take(late); got != one {
		t.Errorf("a third has %d, which is in use", got)
	}
	if n, err := Block(dir, idle, 2); err == nil {
		t.Errorf("whose block was taken over has %d", n)
	}
	age()
	if err := os.Remove(filepath.Join(busy, "task")); err != nil {
		t.Fatal(err)
	}
	if got := take(busy); got != two {
		t.Errorf("who asks again has %d, and had %d", got, two)
	}
}

// TestAQueueIsNoHang: a lock that goes from one to the next is waited for, however
// long that takes, and one who does not let go is named.
func TestAQueueIsNoHang(t *testing.T) {
	wait := func(t *testing.T, among, turns int) (string, time.Duration) {
		began, locked := time.Now(), make(chan got)
		turn := func() int { return int(time.Since(began) / (Patience - time.Second)) }
		if turns > 0 {
			go func() {
				time.Sleep(time.Duration(turns)*(Patience-time.Second) + time.Millisecond)
				locked <- got{}
			}()
		}
		who, g := await(locked, Patience, func() string { return fmt.Sprint("process ", min(turn(), among)) })
		if g.err != nil {
			t.Error(g.err)
		}
		return who, time.Since(began)
	}
	synctest.Test(t, func(t *testing.T) {
		if who, _ := wait(t, 100, 100); who != "" {
			t.Errorf("in a queue of 100 it waits for %s alone", who)
		}
		if who, took := wait(t, 2, 0); who != "process 2" || took > 4*Patience {
			t.Errorf("it waits %s for %q, who hangs", took, who)
		}
	})
}

// TestWaitsThatWereGivenUpKeepNothing: whoever waited in vain, one thread and one
// descriptor wait for all of them, and nothing once the holder has ended.
func TestWaitsThatWereGivenUpKeepNothing(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	count := func(what string) int {
		t.Helper()
		all, err := os.ReadDir("/proc/self/" + what)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	unlock, err := Lock(dir, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	threads, files := count("task"), count("fd")
	const waits = 200
	var all sync.WaitGroup
	for range waits {
		all.Go(func() {
			var locked *LockedError
			if _, err := Lock(dir, time.Millisecond); !errors.As(err, &locked) {
				t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
	// The runtime has threads of its own for its processors and the files of a test.
	if now := count("task"); now > threads+waits/4 {
		t.Errorf("%d threads after %d waits in vain, and %d before", now, waits, threads)
	}
	if now := count("fd"); now > files+1 {
		t.Errorf("%d descriptors after %d waits in vain, and %d before", now, waits, files)
	}
	if free, err := Lock(other, time.Millisecond); err != nil {
		t.Errorf("another lock: %v", err)
	} else {
		free()
	}
	// Later callers join, and have it one after the other.
	var inside, turns atomic.Int32
	for range 20 {
		all.Go(func() {
			free, err := Lock(dir, time.Minute)
			if err != nil || inside.Add(1) != 1 {
				t.Errorf("it is not the only one, %v", err)
				return
			}
			turns.Add(1)
			inside.Add(-1)
			free()
		})
	}
	unlock()
	all.Wait()
	if turns.Load() != 20 {
		t.Errorf("%d have had it", turns.Load())
	}
	for left, until := 1, time.Now().Add(time.Minute); left > 0; runtime.Gosched() {
		waiting.mu.Lock()
		left = len(waiting.of)
		waiting.mu.Unlock()
		if time.Now().After(until) {
			t.Fatalf("%d queues stay", left)
		}
	}
	if now := count("fd"); now > files-1 {
		t.Errorf("%d descriptors at the end, and %d before", now, files-1)
	}
}

func TestALockIsWaitedForAndItsHolderNamed(t *testing.T) {
	dir := t.TempDir()
	unlock, err := Lock(dir, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var locked *LockedError
	if _, err := Lock(dir, 10*time.Millisecond); !errors.As(err, &locked) || !strings.Contains(locked.Holder, fmt.Sprint(os.Getpid())) || locked.Hint() == "" {
		t.Errorf("%v", err)
	}
	got := make(chan error, 1)
	go func() {
		again, err := Lock(dir, time.Minute)
		if err == nil {
			again()
		}
		got <- err
	}()
	unlock()
	if err := <-got; err != nil {
		t.Errorf("once it is free: %v", err)
	}
	other := exec.Command("flock", "-x", dir, "sh", "-c", "echo locked; read x")
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); errors.Is(err, exec.ErrNotFound) {
		t.Skip("the program flock is missing (package util-linux)")
	} else if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir, 10*time.Millisecond); !errors.As(err, &locked) || !strings.Contains(err.Error(), "process ") {
		t.Errorf("held by another process: %v", err)
	}
	_ = in.Close()
	_ = other.Wait()
}
