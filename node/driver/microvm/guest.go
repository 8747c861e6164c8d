//go:build linux

package microvm

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
	"github.com/sovmesh/sovmesh/node/driver/output"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
)

// SupervisorCommand is the first argument of a micro-VM's supervisor.
const SupervisorCommand = "microvm-supervisor"

// SupervisorMain supervises the task whose directory is args[0].
func SupervisorMain(args []string) int { return qemu.Supervise(args, &guest{}) }

// Names in the task's directory.
const (
	channel     = "ctl"        // the machine's control channel
	guestSocket = "guest.sock" // the supervisor's, for the agent
	guestFile   = "guest"      // what the guest said of itself
)

// order is what the supervisor is told of a guest.
type order struct {
	Command wire.Command `json:"command"`
	// Image is the manifest's digest and Disk what was made of it.
	Image string `json:"image"`
	Disk  string `json:"disk"`
	// Boot bounds the time until init speaks.
	Boot time.Duration `json:"boot"`
	// Token is what the guest's init is shown, where it is reached by vsock.
	Token []byte `json:"token,omitempty"`
}

// linger is how long a machine may take to end after its workload.
const linger = 5 * time.Second

// guest is the supervisor's side of the control channel.
type guest struct {
	mu      sync.Mutex
	w       *wire.Writer       // guarded by mu; nil until init spoke
	stopped bool               // guarded by mu
	clients map[uint32]*client // guarded by mu
	last    uint32             // guarded by mu; the latest run
}

// Attend boots the guest, starts the command and tells how it went.
func (g *guest) Attend(r *qemu.Running) string {
	var o order
	if err := json.Unmarshal(r.Told.Guest, &o); err != nil {
		r.Failed("read what the guest is told: "+err.Error(), "start the job again")
		return ""
	}
	console := make(chan struct{})
	go func() {
		defer close(console)
		dir := filepath.Join(r.Dir, qemu.ConsoleLog)
		_ = os.Mkdir(dir, 0o700)
		log := &output.Writer{Dir: dir, FileSize: 1 << 20, Files: 2}
		defer log.Close()
		r.Console.Copy(log)
	}()
	if l, err := process.ListenUnix(r.Dir, guestSocket); err == nil {
		defer l.Close()
		go g.serve(l)
	}
	err := reach(r, o, console, wire.DialVsock)
	if err == nil {
		err = g.converse(r, o)
	}
	g.mu.Lock()
	booted := g.w != nil
	g.mu.Unlock()
	switch {
	case !booted:
		reason := "its guest did not come up"
		if err != nil && !errors.Is(err, io.EOF) {
			reason += ": " + err.Error()
		}
		select {
		case <-console: // to its end, if the machine has ended
		case <-time.After(time.Second):
		}
		if last := lastLines(r.Console.Past(), 3); last != "" {
			reason += "; its console ends with: " + last
		}
		r.Failed(reason, "see the machine's console, and whether the node is overloaded")
	case err != nil && !errors.Is(err, io.EOF):
		return "its guest says what cannot be understood: " + err.Error()
	}
	return "its machine ended"
}

// lastLines are what a console says of its end: why the kernel or init gave up
// if they say so, or else the last n lines; all in one.
func lastLines(text string, n int) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	var why []string
	for _, l := range lines {
		if strings.Contains(l, "Kernel panic") || strings.Contains(l, "sovmesh init:") {
			why = append(why, l)
		}
	}
	if len(why) == 0 {
		why = lines
	}
	return strings.Join(why[max(0, len(why)-n):], " | ")
}

// converse reads what the guest says until it ends.
func (g *guest) converse(r *qemu.Running, o order) error {
	conn := r.Channels[channel]
	w := wire.NewWriter(conn)
	_ = conn.SetReadDeadline(time.Now().Add(o.Boot))
	in := wire.NewReader(conn)
	for {
		f, err := in.Next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("not within %v", o.Boot)
		}
		if err != nil {
			return err
		}
		if f.Run != 0 {
			g.pass(f)
			continue
		}
		switch f.Type {
		case wire.Hello:
			_ = conn.SetReadDeadline(time.Time{})
			var hello wire.Greeting
			if err := f.Decode(&hello); err != nil {
				return err
			}
			_ = os.WriteFile(filepath.Join(r.Dir, guestFile), f.Payload, 0o600)
			if hello.Version != wire.Version {
				return fmt.Errorf("init speaks version %d, this program %d", hello.Version, wire.Version)
			}
			secrets, err := readSecrets(r.Spec.SecretsDir)
			if err != nil {
				r.Failed("its secrets cannot be read: "+err.Error(), "start the job again")
				return err
			}
			if err := g.start(w, o.Command, secrets); err != nil {
				return err
			}
		case wire.Started:
			r.Ready()
		case wire.Failed:
			var why wire.Failure
			if err := f.Decode(&why); err != nil {
				return err
			}
			r.Failed(why.Reason, why.Advice)
		case wire.Stdout, wire.Stderr:
			if _, err := r.Output.Write(f.Payload); err != nil {
				return err
			}
		case wire.Exited:
			exit, err := exitOf(f)
			if err != nil {
				return err
			}
			r.Ended(exit, linger)
			_ = w.Send(wire.Off, 0, nil)
		}
	}
}

// readSecrets reads what the job's author handed over, for the moment it takes to
// pass it on.
func readSecrets(dir string) (map[string][]byte, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := make(map[string][]byte, len(entries))
	for _, e := range entries {
		if all[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// start tells the guest the time, its secrets and the command, unless it is to
// end already.
func (g *guest) start(w *wire.Writer, c wire.Command, secrets map[string][]byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.w, g.clients = w, make(map[uint32]*client)
	if g.stopped {
		return w.Send(wire.Off, 0, nil)
	}
	if err := w.Send(wire.Clock, 0, now()); err != nil {
		return err
	}
	for name, value := range secrets {
		if err := w.SendSecret(name, value); err != nil {
			return err
		}
		clear(value)
	}
	return w.SendCommand(0, c)
}

// now is a Clock's payload.
func now() []byte { return binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano())) }

// exitOf is how the guest says that a run ended. It is the guest's word: a code
// that no process has is taken for a failure.
func exitOf(f wire.Frame) (runner.Exit, error) {
	var e wire.Exit
	if err := f.Decode(&e); err != nil {
		return runner.Exit{}, err
	}
	exit := runner.Exit{Code: e.Code, OOM: e.OOM && e.Code != 0}
	if e.Code < 0 || e.Code > 255 {
		exit.Code = 255
	}
	if e.Signal > 0 && e.Signal < 65 {
		exit.Signal = unix.SignalName(unix.Signal(e.Signal))
	}
	return exit, nil
}

// Stop asks the workload to end; of a guest that is not up yet nothing runs.
func (g *guest) Stop(time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	if g.w != nil {
		_ = g.w.Send(wire.Signal, 0, []byte{byte(unix.SIGTERM)})
	}
}

// client is an agent that executes one command, or asks one question.
type client struct {
	conn   net.Conn
	queue  chan []byte // frames for it
	queued atomic.Int64
}

// serve takes agents until the listener is closed.
func (g *guest) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go g.client(c)
	}
}

// client passes on what an agent says, under a run of its own. When it goes
// away its command does too.
func (g *guest) client(conn net.Conn) {
	defer conn.Close()
	c := &client{conn: conn, queue: make(chan []byte, 2048)}
	g.mu.Lock()
	w := g.w
	if w == nil || len(g.clients) >= wire.MaxRuns {
		g.mu.Unlock()
		return
	}
	g.last++
	if g.last == 0 {
		g.last = 1
	}
	run := g.last
	g.clients[run] = c
	g.mu.Unlock()
	gone := make(chan struct{})
	defer close(gone)
	go func() {
		for {
			select {
			case p := <-c.queue:
				_, err := conn.Write(p)
				c.queued.Add(-int64(len(p)))
				if err != nil {
					_ = conn.Close()
					return
				}
			case <-gone:
				return
			}
		}
	}()
	in := wire.NewReader(conn)
	for {
		f, err := in.Next()
		if err != nil {
			break
		}
		switch f.Type {
		case wire.Start, wire.Begin, wire.Stdin, wire.Credit, wire.Signal, wire.Resize, wire.Measure, wire.Clock, wire.Dial:
			if w.Send(f.Type, run, f.Payload) != nil {
				return
			}
		}
	}
	_ = w.Send(wire.Signal, run, []byte{byte(unix.SIGKILL)})
	_ = w.SendCredit(run, wire.Window) // what it still has to say is dropped
	g.mu.Lock()
	delete(g.clients, run)
	g.mu.Unlock()
}

// pass hands a frame to the agent it is for. One that does not keep up, or a
// guest that sends more than it has credit for, ends the connection.
func (g *guest) pass(f wire.Frame) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.clients[f.Run]
	if c == nil {
		return
	}
	var frame strings.Builder
	_ = wire.NewWriter(&frame).Send(f.Type, 1, f.Payload)
	data := []byte(frame.String())
	if c.queued.Add(int64(len(data))) > 4*wire.Window {
		_ = c.conn.Close()
		return
	}
	select {
	case c.queue <- data:
	default:
		_ = c.conn.Close()
	}
}
