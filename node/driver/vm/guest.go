//go:build linux

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
)

// SupervisorMain supervises the machine whose task directory is args[0].
func SupervisorMain(args []string) int { return qemu.Supervise(args, newGuest()) }

// A guest that resets itself so often within so long does not come up.
const (
	mostResets  = 5
	resetWindow = 10 * time.Minute
)

// resetEcho is how long after a reset further ones belong to it: SeaBIOS sees that it
// has run before and asks for a harder one, of every device that can, and on a busy node
// QEMU does each of them. Without it two reboots were five resets.
const resetEcho = 5 * time.Second

// pressEvery is how often a guest that is to end is told so: one that is still
// starting hears nothing at first.
const pressEvery = 2 * time.Second

// guest knows what goes on in a machine from what QEMU says of it.
type guest struct {
	up       chan struct{} // closed once monitor is set
	monitor  *qmp.Client
	dir      string        // the task's; set with the monitor
	over     chan struct{} // closed when the machine ends
	pressing sync.Once
}

func newGuest() *guest { return &guest{up: make(chan struct{}), over: make(chan struct{})} }

// Attend copies the console and hears how the machine ends.
func (g *guest) Attend(r *qemu.Running) string {
	defer close(g.over)
	if r.Monitor == nil {
		r.Failed("QEMU did not start", "see the reason that it gave; the image or the machine that was asked for may not fit this node")
		return ""
	}
	g.monitor, g.dir = r.Monitor, r.Dir
	close(g.up)
	g.grow(r)
	r.Ready()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Console.Copy(r.Output)
	}()
	why := g.hear(r)
	<-done
	return why
}

// grow makes a kept root disk as large as it is to be now.
func (g *guest) grow(r *qemu.Running) {
	var t told
	if json.Unmarshal(r.Told.Guest, &t) != nil || len(t.Disks) == 0 || !t.Disks[0].Kept || t.Incoming {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := g.monitor.Run(ctx, "block_resize", map[string]any{"node-name": "disk0", "size": t.Disks[0].Size}, nil); err != nil {
		_, _ = fmt.Fprintf(r.Output, "[sovmesh: the root disk was not grown: %v]\r\n", err)
	}
}

// hear follows QEMU's events until it has ended.
func (g *guest) hear(r *qemu.Running) (why string) {
	var counted resets
	for e := range g.monitor.Events() {
		switch e.Name {
		case "SHUTDOWN":
			var d struct {
				Guest  bool   `json:"guest"`
				Reason string `json:"reason"`
			}
			_ = json.Unmarshal(e.Data, &d)
			why = g.ended(r, d.Reason)
		case "GUEST_PANICKED":
			r.Ended(runner.Exit{Code: 1, Reason: "its guest panicked; see its console"}, time.Minute)
		case "BLOCK_IO_ERROR":
			g.trouble(e.Data)
		case "RESUME":
			_ = os.Remove(filepath.Join(r.Dir, troubleFile))
		case "RESET":
			var by struct {
				Guest bool `json:"guest"`
			}
			fromOutside := json.Unmarshal(e.Data, &by) == nil && !by.Guest
			if took := counted.add(time.Now(), fromOutside); took > 0 {
				r.Ended(runner.Exit{Code: 1, Reason: fmt.Sprintf("its guest reset itself %d times in %v; see its console", mostResets, took.Round(time.Second))}, 0)
			}
		}
	}
	return why
}

// resets are those that a guest made itself, of late.
type resets struct {
	at   []time.Time
	last time.Time // the last that was no echo
}

// add counts one, and says how long the last ones took if they are too many. After one
// from outside, whose disks were set back, the guest begins anew.
func (r *resets) add(now time.Time, fromOutside bool) (took time.Duration) {
	if fromOutside {
		r.at, r.last = nil, now
		return 0
	}
	if now.Sub(r.last) < resetEcho {
		return 0
	}
	r.last = now
	if r.at = append(r.at, now); len(r.at) > mostResets {
		r.at = r.at[1:]
	}
	if took = now.Sub(r.at[0]); len(r.at) < mostResets || took >= resetWindow {
		return 0
	}
	return took
}

// troubleFile, in a task's directory, says what its disks suffer from, until the
// guest goes on.
const troubleFile = "trouble"

// trouble writes down that a disk could not be read or written: with no space left
// the machine stands still, which from outside looks like a guest that hangs.
// https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html#event-QMP-block-core.BLOCK_IO_ERROR
func (g *guest) trouble(data json.RawMessage) {
	var d struct {
		Node      string `json:"node-name"`
		Operation string `json:"operation"`
		Action    string `json:"action"`
		NoSpace   bool   `json:"nospace"`
		Reason    string `json:"reason"`
	}
	if json.Unmarshal(data, &d) != nil {
		return
	}
	text := fmt.Sprintf("its %.64s fails to %.16s: %.128s", d.Node, d.Operation, d.Reason)
	switch {
	case d.NoSpace && d.Action == "stop":
		text += "; it stands still until there is space on the node and somebody resumes it"
	case d.Action == "stop":
		text += "; it stands still until somebody resumes it"
	}
	_ = os.WriteFile(filepath.Join(g.dir, troubleFile), []byte(text), 0o600)
}

// ended says what an orderly end of QEMU means. https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html#enum-QMP-run-state.ShutdownCause
func (g *guest) ended(r *qemu.Running, reason string) string {
	switch reason {
	case "guest-shutdown":
		r.Ended(runner.Exit{Code: 0}, time.Minute)
	case "guest-panic":
		r.Ended(runner.Exit{Code: 1, Reason: "its guest panicked; see its console"}, time.Minute)
	case "host-qmp-quit":
		r.Ended(runner.Exit{Code: 1, Reason: "QEMU was told to quit"}, time.Minute)
	}
	return "its machine ended: " + reason
}

// Stop presses the power button, more than once if need be.
func (g *guest) Stop(grace time.Duration) {
	if grace <= 0 {
		return
	}
	g.pressing.Do(func() { go g.press() })
}

// there reports whether a file is in a directory, or may be.
func there(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return !errors.Is(err, fs.ErrNotExist)
}

func (g *guest) press() {
	select {
	case <-g.up:
	case <-g.over:
		return
	}
	tick := time.NewTicker(pressEvery)
	defer tick.Stop()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), pressEvery)
		if !there(g.dir, moveFile) && !there(g.dir, heldFile) && !there(g.dir, restoreNote) {
			_ = g.monitor.Run(ctx, "cont", nil, nil) // one that stands still hears nothing
		}
		_ = g.monitor.Run(ctx, "system_powerdown", nil, nil)
		cancel()
		select {
		case <-g.over:
			return
		case <-tick.C:
		}
	}
}
