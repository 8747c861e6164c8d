//go:build linux

package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
)

// double is a QEMU as far as its monitor goes: it runs or stands, and does what it is
// told in that order, whether anybody waits for it or not.
type double struct {
	at func(command string) // told of each command before it is done; nil for nobody

	mu     sync.Mutex
	stands bool // guarded by mu
	anew   int  // guarded by mu: 1 once it was reset, more until it is
}

func (q *double) standing() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stands
}

// doubled is a driver with a task whose QEMU is a double.
func doubled(t *testing.T, q *double) (*Driver, runner.Handle) {
	t.Helper()
	d, h := newDriver(t, t.TempDir(), nil), runner.Handle{Task: testJob.Task(0, 1)}
	home := filepath.Join(d.TaskDir(h.Task), qemu.Home)
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := process.ListenUnix(home, qemu.Monitor)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			q.serve(conn)
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-over })
	return d, h
}

func (q *double) serve(conn net.Conn) {
	defer conn.Close()
	_, _ = fmt.Fprintln(conn, `{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}`)
	for in := bufio.NewScanner(conn); in.Scan(); {
		var c struct {
			Execute string `json:"execute"`
			ID      uint64 `json:"id"`
		}
		if json.Unmarshal(in.Bytes(), &c) != nil {
			return
		}
		if q.at != nil {
			q.at(c.Execute)
		}
		q.mu.Lock()
		answer := "{}"
		switch c.Execute {
		case "stop":
			q.stands = true
		case "cont":
			q.stands = false
		case "system_reset":
			q.anew = 3
		case "query-status":
			answer = map[bool]string{false: `{"status": "running"}`, true: `{"status": "paused"}`}[q.stands]
			if q.anew > 1 {
				q.anew--
			} else if q.anew == 1 {
				answer = `{"status": "prelaunch"}`
			}
		case "query-jobs", "query-named-block-nodes":
			answer = "[]"
		}
		q.mu.Unlock()
		_, _ = fmt.Fprintf(conn, `{"return": %s, "id": %d}`+"\n", answer, c.ID)
	}
}

// TestASnapshotThatIsCancelledLeavesTheGuestAsItWas: QEMU has been told, and does it.
func TestASnapshotThatIsCancelledLeavesTheGuestAsItWas(t *testing.T) {
	for _, at := range []string{"query-status", "stop", "getfd", "dump-guest-memory", "cont", "none"} {
		for _, paused := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			q := &double{stands: paused}
			q.at = func(command string) {
				if command == at {
					cancel()
				}
			}
			d, h := doubled(t, q)
			c := copier{dir: t.TempDir(), task: d.TaskDir(h.Task), snap: &runner.Snapshot{}}
			err := d.askLong(ctx, h, c.run)
			cancel()
			if (err == nil) != (at == "none" || at == "cont" && paused) {
				t.Errorf("cancelled at %s, it ends with %v", at, err)
			}
			if q.standing() != paused {
				t.Errorf("cancelled at %s, the guest stands: %t; before: %t", at, !paused, paused)
			}
			if heldStill(d.TaskDir(h.Task)) {
				t.Errorf("cancelled at %s, it is noted as held still", at)
			}
		}
	}
}

// TestNobodyWakesAGuestThatIsPaused: what a snapshot left still goes on, unless
// somebody has paused it since.
func TestNobodyWakesAGuestThatIsPaused(t *testing.T) {
	for _, paused := range []bool{false, true} {
		q := &double{stands: true}
		d, h := doubled(t, q)
		err := writeJSON(filepath.Join(d.TaskDir(h.Task), heldFile), time.Now())
		if paused {
			err = errors.Join(err, d.Pause(t.Context(), h))
		}
		if err != nil {
			t.Fatal(err)
		}
		d.letGo(t.Context(), &runner.Observed{Handle: h, State: runner.StateRunning})
		if q.standing() != paused || heldStill(d.TaskDir(h.Task)) {
			t.Errorf("paused: %t; then it stands: %t", paused, q.standing())
		}
		if err := d.Resume(t.Context(), h); err != nil || q.standing() {
			t.Errorf("it is not resumed: %v", err)
		}
	}
}
