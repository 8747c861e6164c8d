//go:build linux

package boundary

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/claims"
	"github.com/sovmesh/sovmesh/placement"
)

// neighbour is another agent on the same machine, with data of its own.
func (w *world) neighbour(dir string) *Boundary {
	w.Helper()
	own := w.cfg.Dir
	defer func() { w.cfg.Dir = own }()
	w.cfg.Dir = dir
	return w.boundary()
}

// TestAgentsShareTheSwitches: a device forwards until the last task of any agent
// has gone, also if that agent died meanwhile; one whose data is gone holds nothing.
func TestAgentsShareTheSwitches(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outside, farther+":80", "far")
	forwards := func() (value string) {
		w.do(w.host, func() error {
			value = strings.TrimSpace(readSetting("ipv4/conf/up0/forwarding"))
			return nil
		})
		return value
	}
	w.do(w.host, func() error { return setting("ipv4/conf/up0/forwarding", "0") })
	list, err := Parse(&placement.Network{Allow: []string{farther + ":80"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	others := filepath.Join(t.TempDir(), "other")
	other := w.neighbour(others)
	up := func(b *Boundary, task placement.TaskID) *Net {
		t.Helper()
		n, err := b.Up(t.Context(), task, list)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	up(w.b, "a.b/0.1")
	theirs := up(other, "a.b/0.1") // as of a job that both know by one name
	if err := w.b.Down(t.Context(), "a.b/0.1"); err != nil {
		t.Fatal(err)
	}
	if got := forwards(); got != "1" {
		t.Errorf("the other agent's task needs it still: %s", got)
	}
	w.reaches(theirs, "tcp", farther+":80", "far")
	mine := up(w.b, "a.b/0.2")
	if err := other.Down(t.Context(), "a.b/0.1"); err != nil {
		t.Fatal(err)
	}
	if got := forwards(); got != "1" {
		t.Errorf("this agent's task needs it again: %s", got)
	}
	w.reaches(mine, "tcp", farther+":80", "far")
	up(other, "a.b/0.3")
	if err := w.b.Down(t.Context(), "a.b/0.2"); err != nil {
		t.Fatal(err)
	}
	// The other agent's data is removed without its word, and its task with it.
	if err := other.Down(t.Context(), "a.b/0.3"); err != nil {
		t.Fatal(err)
	}
	if got := forwards(); got != "0" {
		t.Errorf("nobody needs it any more: %s", got)
	}
	if left, _ := filepath.Glob(filepath.Join(w.cfg.Shared, "*", "*")); len(left) != 0 {
		t.Errorf("links that stay: %v", left)
	}
	up(other, "a.b/0.4")
	if err := inside(other.host, func() error { return other.disconnect(state{Net: Net{Veth: other.states(others)[0].Veth}}) }); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unpin(other.nsPath("a.b/0.4")), os.RemoveAll(others), os.Mkdir(others+".gone", 0o700)); err != nil {
		t.Fatal(err)
	}
	up(w.b, "a.b/0.5")
	if left, _ := filepath.Glob(filepath.Join(w.cfg.Shared, "*", "*")); len(left) != 1 {
		t.Errorf("links beside this agent's: %v", left)
	}
	if err := os.MkdirAll(others, 0o700); err != nil { // for the end of the test
		t.Fatal(err)
	}
}

// TestAQueueOfTasksIsNoHang: all of many tasks that end at once get their turn, and
// they are told when somebody does not let go.
func TestAQueueOfTasksIsNoHang(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &Boundary{cfg: Config{Dir: dir}, turn: make(chan struct{}, 1)}
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				unlock, err := b.lock()
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Second)
				unlock()
			})
		}
		all.Wait()
		unlock, err := b.lock()
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		began := time.Now()
		for range 3 {
			all.Go(func() {
				if _, err := b.lock(); err == nil || time.Since(began) > claims.Patience {
					t.Errorf("beside one that hangs: %v after %s", err, time.Since(began))
				}
			})
		}
		all.Wait()
	})
}

// TestALockIsHeldByOneAtATime: how long it is waited for is for the claims to test.
func TestALockIsHeldByOneAtATime(t *testing.T) {
	w := newWorld(t)
	unlock, err := w.b.lock()
	if err != nil {
		t.Fatal(err)
	}
	var locked *claims.LockedError
	if _, err := claims.Lock(w.cfg.Dir, 10*time.Millisecond); !errors.As(err, &locked) || !strings.Contains(err.Error(), "process") {
		t.Errorf("beside its holder: %v", err)
	}
	unlock()
	if err := w.b.Down(context.Background(), "a.b/0.1"); err != nil {
		t.Error(err)
	}
}
