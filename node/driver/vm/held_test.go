//go:build linux

package vm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/output"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
)

// monitor is a QEMU that says that its guest runs, and has a failed copy of a disk.
type monitor struct {
	mu   sync.Mutex
	left bool     // guarded by mu; the job is there
	all  []string // guarded by mu; what it was asked
}

// serveMonitor answers on the monitor for moves of a task.
func serveMonitor(t *testing.T, dir string) *monitor {
	t.Helper()
	l, err := process.ListenUnix(filepath.Join(dir, qemu.Home), moveSocket)
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor{left: true}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.serve(c)
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return m
}

func (m *monitor) serve(c net.Conn) {
	defer c.Close()
	fmt.Fprint(c, `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}`+"\r\n")
	for in := bufio.NewScanner(c); in.Scan(); {
		var q struct {
			Execute string
			ID      uint64
		}
		if json.Unmarshal(in.Bytes(), &q) != nil {
			return
		}
		fmt.Fprintf(c, `{"return": %s, "id": %d}`+"\r\n", m.answer(q.Execute), q.ID)
	}
}

func (m *monitor) answer(command string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, command)
	switch command {
	case "query-status":
		return `{"running": true, "status": "running"}`
	case "query-named-block-nodes":
		return `[]`
	case "query-jobs":
		if m.left {
			return `[{"id": "move0", "status": "concluded", "error": "Broken pipe"}]`
		}
		return `[]`
	case "job-dismiss":
		m.left = false
	}
	return `{}`
}

// An agent that comes back asks QEMU whether the guest never left only while the
// other side cannot have it, and leaves nothing of the move in QEMU.
func TestWhoseGuestNeverLeft(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	for n, c := range []struct {
		stage moveStage
		held  runner.Hold
	}{{underWay, ""}, {said, runner.HeldSent}} {
		h := leftByReboot(t, d, testJob.Task(42+n, 1), &note{Way: out, Stage: c.stage})
		m := serveMonitor(t, d.TaskDir(h.Task))
		o := runner.Observed{Handle: h, State: runner.StateRunning}
		d.hold(t.Context(), &o)
		left, err := d.note(h.Task)
		if err != nil || o.Held != c.held || (left == nil) != (c.held == "") {
			t.Errorf("stage %q: it is held as %q, its note is %+v, %v", c.stage, o.Held, left, err)
		}
		m.mu.Lock()
		if asked := len(m.all) > 0; asked != (c.stage == underWay) || m.left == asked {
			t.Errorf("stage %q: QEMU was asked %q, and has a job of the move: %v", c.stage, m.all, m.left)
		}
		m.mu.Unlock()
	}
}

// A supervisor that writes the guest's last words late is waited for, and the
// guest does not stand long for one that has nothing to write.
func TestTheLastWordsGoAlong(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	h := leftByReboot(t, d, testJob.Task(44, 1), nil)
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		got := make(chan string)
		go func() {
			all, _ := io.ReadAll(there)
			got <- string(all)
		}()
		w := &output.Writer{Dir: d.TaskDir(h.Task), FileSize: 1 << 20, Files: 1}
		_, _ = w.Write([]byte("one "))
		go func() {
			for _, word := range []string{"two ", "three"} {
				time.Sleep(2*quietEvery + quietEvery/2)
				_, _ = w.Write([]byte(word))
			}
		}()
		began := time.Now()
		tail := &logTail{d: d, h: h, conn: here}
		if err := tail.rest(t.Context()); err != nil {
			t.Error(err)
		}
		if err := errors.Join(here.Close(), w.Close()); err != nil {
			t.Error(err)
		}
		if all := <-got; all != "one two three" {
			t.Errorf("%q went along", all)
		}
		if took := time.Since(began); took > 2*3*quietEvery+(quietLooks+1)*quietEvery {
			t.Errorf("it stood for %v", took)
		}
		if quietLooks*quietEvery > 100*time.Millisecond {
			t.Error("every guest stands too long")
		}
	})
}
