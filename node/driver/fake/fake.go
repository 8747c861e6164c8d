// Package fake runs tasks that exist only in memory.
//
// A [World] is the machine: it outlives the drivers built on it, so a driver
// that is built anew finds its tasks as they would be after a restart of the
// agent. It keeps no goroutine and no timer of its own: a task that ends by
// itself ends when its time is looked at, which makes it exact in virtual time.
//
// Meshes under test use it for jobs of kind fake. A job's command says what
// the task does:
//
//	run 5s [CODE]      end after five seconds with CODE, 0 unless given
//	exit CODE          end at once
//	sleep              run until stopped
//	stubborn           write "ready", run until killed: the request to end is not heard
//	print TEXT...      write TEXT and a line feed, then end at once
//	save NAME TEXT...  write TEXT to the output NAME, then end at once
//	flood BYTES        write so many bytes, the last ones "end", then end at once
//	oom 5s             end for want of memory after five seconds
//
// No command is "sleep". Anything else cannot be started, as a program that is
// not found cannot.
package fake

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// World is one machine and what runs on it.
type World struct {
	mu        sync.Mutex
	tasks     map[placement.TaskID]*task           // guarded by mu
	failStart func(runner.Spec) error              // guarded by mu
	failAsk   error                                // guarded by mu
	starts    map[placement.TaskID]int             // guarded by mu; outlives Destroy
	seen      map[placement.TaskID]runner.Actual   // guarded by mu
	denied    map[placement.TaskID][]runner.Denial // guarded by mu
	fleet     *Fleet                               // guarded by mu; nil for none
	key       string                               // guarded by mu: of its fleet
	onMove    func(context.Context, string, placement.TaskID) error
	carries   bool                                       // a session goes along with what is moved
	session   net.Conn                                   // the last that did
	disks     map[string]placement.TaskID                // guarded by mu: by job and copy, who wrote it first
	coming    map[string]coming                          // guarded by mu: what is taken in, and not decided
	snaps     map[placement.TaskID][]runner.DiskSnapshot // guarded by mu; nil for none
}

// coming is a disk that is this machine's if its move is decided so.
type coming struct {
	by    placement.TaskID // who takes it in
	first placement.TaskID
}

// place names a copy of a job, whose disk outlives its tasks.
func place(id placement.TaskID) string {
	ordinal, _, _ := id.Member()
	return fmt.Sprintf("%s.%d", id.Job(), ordinal)
}

// Disk is what the task's copy of its job keeps on this machine: the task that
// wrote it first. It is empty where there is none, or none yet.
func (w *World) Disk(id placement.TaskID) placement.TaskID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.disks[place(id)]
}

// task is guarded by World.mu.
type task struct {
	handle  runner.Handle
	began   time.Time
	ends    time.Time // zero: not by itself
	exit    *runner.Exit
	deaf    bool      // to a request to end
	killAt  time.Time // by a stop
	lease   time.Time // killed then, too
	oom     bool
	paused  bool
	left    time.Duration // until it would have ended, when it was paused
	code    int
	output  []byte
	cut     int64         // bytes dropped before output
	changed chan struct{} // closed and replaced when ends, killAt or exit change
	done    time.Duration // what its work came to until since
	since   time.Time     // when the work began that is done now; zero while it stands still
	held    runner.Hold   // by a move
	gone    bool          // it goes on elsewhere
	works   func(bool)    // tells the world whether its work is done
}

// NewWorld is an idle machine.
func NewWorld() *World {
	return &World{tasks: make(map[placement.TaskID]*task), starts: make(map[placement.TaskID]int),
		disks: make(map[string]placement.TaskID), coming: make(map[string]coming),
		seen: make(map[placement.TaskID]runner.Actual), denied: make(map[placement.TaskID][]runner.Denial)}
}

// Driver is a driver of this machine; a new one is what a new agent has.
func (w *World) Driver() *Driver { return &Driver{world: w} }

// FailStart makes starting fail with what fail returns for a task; nil ends that.
func (w *World) FailStart(fail func(runner.Spec) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failStart = fail
}

// FailAsk makes every question about tasks fail with err, as an engine that is
// down does; nil ends that. Tasks go on.
func (w *World) FailAsk(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failAsk = err
	for _, t := range w.tasks {
		t.touch()
	}
}

// Finish ends a running task from the inside.
func (w *World) Finish(id placement.TaskID, code int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.tasks[id]; t != nil && t.look(time.Now()) == nil {
		t.end(runner.Exit{Code: code, At: time.Now()})
	}
}

// Print adds to a task's output.
func (w *World) Print(id placement.TaskID, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.tasks[id]; t != nil {
		t.print(text)
		t.touch()
	}
}

// Reboot ends everything without a trace of how, as a power cut does.
func (w *World) Reboot() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.tasks {
		if t.look(time.Now()) == nil {
			t.handle.Data = []byte(`"lost"`)
			w.works(t, false)
			t.touch()
		}
	}
}

// Running are the tasks that run now, in order.
func (w *World) Running() []placement.TaskID {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []placement.TaskID
	for id, t := range w.tasks {
		if t.look(time.Now()) == nil && !t.lost() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Starts is how often each task was started since the world began: more than
// once is a broken promise.
func (w *World) Starts() map[placement.TaskID]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make(map[placement.TaskID]int, len(w.starts))
	for id, n := range w.starts {
		all[id] = n
	}
	return all
}

func (t *task) lost() bool { return string(t.handle.Data) == `"lost"` || t.gone }

func (t *task) touch() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// MaxOutput is how much of a task's output is kept, in bytes: the end of it.
const MaxOutput = 64 << 10

func (t *task) print(text string) {
	t.output = append(t.output, text...)
	if over := len(t.output) - MaxOutput; over > 0 {
		t.output = append([]byte(nil), t.output[over:]...)
		t.cut += int64(over)
	}
}

func (t *task) end(e runner.Exit) {
	t.exit = &e
	if t.works != nil {
		t.works(false)
	}
	t.touch()
}

// look is the task's exit if it has ended by now.
func (t *task) look(now time.Time) *runner.Exit {
	if t.exit != nil {
		return t.exit
	}
	kill := t.killed()
	switch {
	case t.held == "" && !t.ends.IsZero() && !t.ends.After(now) && (kill.IsZero() || !kill.Before(t.ends)):
		t.exit = &runner.Exit{Code: t.code, At: t.ends}
		if t.oom {
			t.exit.Code, t.exit.Signal, t.exit.OOM = 137, "SIGKILL", true
		}
	case !kill.IsZero() && !kill.After(now):
		t.exit = &runner.Exit{Code: 137, Signal: "SIGKILL", Stopped: true, Killed: true, At: kill}
		if kill.Equal(t.lease) {
			t.exit.Reason = "its lease ended before it was renewed"
		}
	}
	if t.exit != nil && t.works != nil {
		t.works(false)
	}
	return t.exit
}

// next is when the task would end by itself or be killed; zero is never.
func (t *task) next() time.Time {
	if t.held != "" {
		return t.killed()
	}
	return earlier(t.ends, t.killed())
}

// killed is when the task is killed from outside; zero is never.
func (t *task) killed() time.Time { return earlier(t.killAt, t.lease) }

// earlier is the first of two instants of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// parse reads the command language.
func parse(spec runner.Spec, now time.Time) (*task, error) {
	t := &task{began: now, changed: make(chan struct{})}
	words := spec.Command
	if len(words) == 0 {
		words = []string{"sleep"}
	}
	bad := &runner.StartError{Task: spec.Task, Reason: fmt.Sprintf("the fake driver has no program %q", strings.Join(words, " ")),
		Advice: "use run DURATION [CODE], exit CODE, sleep, stubborn, print TEXT, save NAME TEXT or oom DURATION"}
	arg := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	switch words[0] {
	case "sleep":
	case "stubborn":
		t.deaf = true
		t.output = []byte("ready\n")
	case "run", "oom":
		length, err := time.ParseDuration(arg(1))
		if err != nil {
			return nil, bad
		}
		t.ends, t.oom = now.Add(length), words[0] == "oom"
		if c := arg(2); c != "" {
			if _, err := fmt.Sscanf(c, "%d", &t.code); err != nil {
				return nil, bad
			}
		}
	case "exit":
		if _, err := fmt.Sscanf(arg(1), "%d", &t.code); err != nil {
			return nil, bad
		}
		t.ends = now
	case "print":
		t.output = []byte(strings.Join(words[1:], " ") + "\n")
		t.ends = now
	case "save":
		if err := os.WriteFile(filepath.Join(spec.OutputsDir, filepath.Base(arg(1))), []byte(strings.Join(words[min(2, len(words)):], " ")), 0o600); err != nil {
			return nil, &runner.StartError{Task: spec.Task, Reason: "it cannot save: " + err.Error(), Advice: "write outputs: true"}
		}
		t.ends = now
	case "flood":
		var n int
		if _, err := fmt.Sscanf(arg(1), "%d", &n); err != nil || n < 4 {
			return nil, bad
		}
		t.print(strings.Repeat("x", n-4) + "end\n")
		t.ends = now
	default:
		return nil, bad
	}
	return t, nil
}
