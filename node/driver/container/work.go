//go:build linux

package container

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
)

// work is one container, as its supervisor sees it.
type work struct {
	told   told
	spec   runner.Spec
	engine *client.Client
	ctx    context.Context // ended by Kill before the container has started
	cancel context.CancelFunc

	mu      sync.Mutex
	started bool   // the engine was asked to start it; guarded by mu
	killed  bool   // guarded by mu
	ill     string // why it is ended as unhealthy; guarded by mu
	stopped atomic.Bool
	oom     atomic.Bool   // the kernel ended something of it for want of memory
	watched chan struct{} // closed when the kernel will tell no more; nil where it is not asked
	network *attachment   // nil where nothing holds its network
	unseen  bool          // it had ended before that could be watched; set before the start is over
}

// made is what is written down of the container once it is there.
type made struct {
	ID     string `json:"id"`
	PID    int    `json:"pid,omitempty"`
	Engine string `json:"engine"`
	Image  image  `json:"image"`
}

const madeFile = "container"

// Launch starts nothing: the engine does.
func (w *work) Launch(_ string, s runner.Spec, data json.RawMessage) (process.Launch, error) {
	if err := json.Unmarshal(data, &w.told); err != nil {
		return process.Launch{}, err
	}
	w.spec = s
	engine, err := client.New(client.WithHost(w.told.Host), client.WithAPIVersion(w.told.API))
	if err != nil {
		return process.Launch{}, err
	}
	w.engine = engine
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return process.Launch{}, nil
}

// Attend brings the container up and stays until it has ended.
func (w *work) Attend(t process.Tending) string {
	defer w.engine.Close()
	id, pid, stream, err := w.bringUp(t)
	if err != nil {
		w.network.close()
		w.remove()
		e := startError(w.spec.Task, err)
		t.Failed(e.Reason, e.Advice)
		return e.Reason
	}
	t.Ready()
	defer w.network.close()
	w.network.count(id, pid)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if w.told.Health != nil {
		go w.watchHealth(ctx, t.Dir, id)
	}
	w.copyOutput(t.Output, id, stream)
	exit := w.end(id)
	w.network.close()
	t.Ended(exit, 0)
	return exit.Reason
}

// bringUp makes the container, attaches to it and starts it, and looks whether
// it is what was asked for.
func (w *work) bringUp(t process.Tending) (id string, pid int, stream *client.HijackedResponse, err error) {
	id, err = w.create()
	if err != nil {
		return "", 0, nil, err
	}
	m := made{ID: id, Engine: w.told.Engine, Image: w.told.Image}
	if err := write(t.Dir, madeFile, m); err != nil {
		return id, 0, nil, err
	}
	stream, err = w.attach(id)
	if err != nil {
		// Podman readies the container for that and keeps to itself why it cannot;
		// asked to start it, it says so.
		if why := w.start(id); why != nil {
			return id, 0, nil, why
		}
		return id, 0, nil, fmt.Errorf("attach to the container: %w", err)
	}
	if w.network, err = newAttachment(w, t.Dir); err != nil {
		stream.Close()
		return id, 0, nil, err
	}
	if w.told.Quirks.SilentOOM || w.network.first() { // it is there already, and has not begun
		c, err := w.engine.ContainerInspect(w.ctx, id, client.ContainerInspectOptions{})
		if err == nil && w.told.Quirks.SilentOOM {
			w.watchMemory(c.Container.State.Pid)
		}
		if err == nil && w.network.first() {
			err = w.network.connect(w.ctx, id, c.Container.State.Pid)
		}
		if err != nil && w.network.first() {
			stream.Close()
			return id, 0, nil, err
		}
	}
	if err := w.start(id); err != nil {
		stream.Close()
		return id, 0, nil, err
	}
	seen, err := w.engine.ContainerInspect(w.ctx, id, client.ContainerInspectOptions{})
	if err == nil {
		err = w.verify(seen.Container)
	}
	if err == nil {
		m.PID = seen.Container.State.Pid
		err = w.network.release(w.ctx, id, m.PID)
	}
	if err != nil {
		stream.Close()
		return id, 0, nil, err
	}
	if w.unseen {
		w.unseen = false
		w.watchMemory(m.PID)
	}
	return id, m.PID, stream, write(t.Dir, madeFile, m)
}

// create makes the container. One that has its name already never ran, for the
// task is ours alone: it is of a start that was cut off.
func (w *work) create() (string, error) {
	options := client.ContainerCreateOptions{Config: w.told.Config, HostConfig: w.told.Limits, Name: w.told.Name}
	c, err := w.engine.ContainerCreate(w.ctx, options)
	if isConflict(err) {
		w.remove()
		c, err = w.engine.ContainerCreate(w.ctx, options)
	}
	return c.ID, err
}

func (w *work) attach(id string) (*client.HijackedResponse, error) {
	r, err := w.engine.ContainerAttach(w.ctx, id, client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return nil, err
	}
	return &r.HijackedResponse, nil
}

// start asks the engine to start it, unless it was to be killed before.
func (w *work) start(id string) error {
	w.mu.Lock()
	if w.killed {
		w.mu.Unlock()
		return context.Canceled
	}
	w.started = true
	w.mu.Unlock()
	_, err := w.engine.ContainerStart(w.ctx, id, client.ContainerStartOptions{})
	return err
}

// copyOutput keeps all that the container prints until it has ended, also over
// an engine that goes away and comes back.
func (w *work) copyOutput(out io.Writer, id string, stream *client.HijackedResponse) {
	for {
		errs := out
		if w.told.Quirks.NoisyAttach {
			errs = &withoutLast{out: out}
		}
		_, _ = stdcopy.StdCopy(out, errs, stream.Reader)
		stream.Close()
		lost := time.Now()
		for {
			running, sure := w.running(id)
			if sure && !running {
				return
			}
			var err error
			if sure {
				if stream, err = w.attach(id); err == nil {
					break
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if gone := time.Since(lost); gone > time.Second {
			fmt.Fprintf(out, "\n[sovmesh: the container engine was away for %v; what was printed meanwhile was not kept]\n", gone.Round(time.Second))
		}
	}
}

// withoutLast writes what it is given but for an engine's own words about a
// connection, if they come last. Each write is one part as the engine sent it.
type withoutLast struct {
	out  io.Writer
	held []byte
}

func (w *withoutLast) Write(p []byte) (int, error) {
	if len(w.held) > 0 {
		if _, err := w.out.Write(w.held); err != nil {
			return 0, err
		}
		w.held = nil
	}
	if bytes.HasPrefix(p, []byte("Error: read unixpacket ")) && bytes.HasSuffix(p, []byte("connection reset by peer\n")) {
		w.held = bytes.Clone(p)
		return len(p), nil
	}
	return w.out.Write(p)
}

// running reports whether the container runs, and whether that is sure.
func (w *work) running(id string) (running, sure bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	seen, err := w.engine.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return false, isNotFound(err)
	}
	return seen.Container.State.Running || seen.Container.State.Paused, true
}

// codeWait is how long an engine that reports a container's end may take to say
// with which code it ended.
const codeWait = 30 * time.Second

// end waits until the container has ended, and says how.
func (w *work) end(id string) runner.Exit {
	var ended time.Time
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		seen, err := w.engine.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		cancel()
		switch {
		case isNotFound(err):
			return runner.Exit{Code: 255, At: time.Now(), Reason: "its container was removed from the engine by somebody else"}
		case err == nil && !seen.Container.State.Running && !seen.Container.State.Paused:
			state := seen.Container.State
			if code, ok := w.code(id); ok {
				state.ExitCode = code
			}
			if ended.IsZero() {
				ended = time.Now()
			}
			if state.ExitCode >= 0 {
				return w.exit(state)
			}
			if time.Since(ended) > codeWait {
				return runner.Exit{Code: 255, At: time.Now(), Reason: fmt.Sprintf("its engine says that it ended, and not with which code: %d", state.ExitCode)}
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// code asks an engine for the exit code that tells of the end before it knows how
// it was: for a moment Podman shows 0. Its answer to who waits is the one that
// counts; it is -1 until the program that it starts for that, once a container has
// ended, has written the code down.
func (w *work) code(id string) (int, bool) {
	if !w.told.Quirks.SilentOOM {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	wait := w.engine.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case r := <-wait.Result:
		return int(r.StatusCode), r.Error == nil
	case <-wait.Error:
		return 0, false
	}
}

func (w *work) exit(s *container.State) runner.Exit {
	e := runner.Exit{Code: s.ExitCode, At: time.Now()}
	if at, err := time.Parse(time.RFC3339Nano, s.FinishedAt); err == nil && at.Year() > 1 {
		e.At = at
	}
	if e.Code > 128 && e.Code < 128+65 {
		e.Signal = signalName(e.Code - 128)
	}
	if w.watched != nil && e.Code == 128+9 {
		select {
		case <-w.watched:
		case <-time.After(2 * time.Second):
		}
	}
	w.mu.Lock()
	ill := w.ill
	killed := w.killed
	w.mu.Unlock()
	switch {
	case ill != "":
		e.Reason = ill
	case (s.OOMKilled || w.oom.Load()) && e.Code != 0 && !killed && !w.stopped.Load():
		e.OOM = true
	case w.unseen && w.told.Quirks.SilentOOM && e.Code == 128+9 && !killed && !w.stopped.Load():
		e.Reason = "it was killed right after its start, most likely for want of memory: its engine does not tell"
	}
	return e
}

// Stop asks the container to end, with the signal that its image names.
func (w *work) Stop(grace time.Duration) {
	w.stopped.Store(true)
	if grace <= 0 {
		return // it is killed at once
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	signal := "SIGTERM"
	for {
		seen, err := w.engine.ContainerInspect(ctx, w.told.Name, client.ContainerInspectOptions{})
		if err == nil {
			if seen.Container.State.Paused { // a frozen one hears nothing
				_, _ = w.engine.ContainerUnpause(ctx, w.told.Name, client.ContainerUnpauseOptions{})
			}
			if s := seen.Container.Config.StopSignal; s != "" {
				signal = s
			}
			pid := seen.Container.State.Pid
			heard, program := catches(pid, signal), programOf(pid)
			_, err = w.engine.ContainerKill(ctx, w.told.Name, client.ContainerKillOptions{Signal: signal})
			if err == nil && (!heard || w.becameAnother(ctx, pid, program, seen.Container.State.StartedAt)) && awaitCatch(ctx, pid, signal) {
				_, err = w.engine.ContainerKill(ctx, w.told.Name, client.ContainerKillOptions{Signal: signal})
			}
		}
		if err == nil || ctx.Err() != nil || isNotFound(err) || isConflict(err) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// freshFor is how long after a container's start its first process may still be the
// runtime's own, which becomes the workload and forgets what it was sent.
const freshFor = 3 * time.Second

// becameAnother waits for a moment whether the first process of a container that
// has just started becomes another program.
func (w *work) becameAnother(ctx context.Context, pid int, program, started string) bool {
	at, err := time.Parse(time.RFC3339Nano, started)
	if program == "" || err == nil && time.Since(at) > freshFor {
		return false
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		switch now := programOf(pid); {
		case now == "":
			return false // it has ended
		case now != program:
			return true
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return false
		}
	}
	return false
}

// programOf is what a process runs; empty if it is gone.
func programOf(pid int) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	return path
}

// catches reports whether a process has a handler for a signal. The first process
// of a container without one hears nothing of it: one that has just started may
// not be so far yet. pid_namespaces(7)
func catches(pid int, signal string) bool {
	n := int(unix.SignalNum(signal))
	if n == 0 {
		n, _ = strconv.Atoi(signal)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if n <= 0 || n > 64 || pid <= 0 || err != nil {
		return true // not known: asked once, as ever
	}
	for line := range strings.Lines(string(data)) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err != nil || bits&(1<<(n-1)) != 0
		}
	}
	return true
}

// awaitCatch waits until a process has a handler for a signal; false is that it
// has none in time, or has ended.
func awaitCatch(ctx context.Context, pid int, signal string) bool {
	for pause(ctx, 20*time.Millisecond) == nil {
		if catches(pid, signal) {
			return true
		}
	}
	return false
}

// Kill ends the container, or the attempt to start it. It asks until there is an answer.
func (w *work) Kill() {
	w.mu.Lock()
	again := w.killed
	w.killed = true
	started := w.started
	w.mu.Unlock()
	if again {
		return
	}
	if !started {
		w.cancel()
		return
	}
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, err := w.engine.ContainerKill(ctx, w.told.Name, client.ContainerKillOptions{Signal: "SIGKILL"})
		cancel()
		running, sure := w.running(w.told.Name)
		if sure && !running {
			return
		}
		if err != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			_, _ = w.engine.ContainerUnpause(ctx, w.told.Name, client.ContainerUnpauseOptions{})
			cancel()
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// remove removes the container by its name, as far as the engine answers within
// a few seconds; later the agent does.
func (w *work) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for {
		_, err := w.engine.ContainerRemove(ctx, w.told.Name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil || isNotFound(err) || ctx.Err() != nil || isLost(err) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// write leaves v in a file of the task's directory, whole or not at all.
func write(dir, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	fresh := filepath.Join(dir, "."+name)
	if err := os.WriteFile(fresh, data, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, filepath.Join(dir, name))
}
