//go:build linux

package qemu

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
)

// Guest is what a driver adds to the supervision of a machine: it knows what
// runs inside. Its methods are called in the supervisor.
type Guest interface {
	// Attend is [process.Work]'s: it says when the workload runs and how it ended,
	// and returns when nothing more is to be heard.
	Attend(r *Running) (why string)
	// Stop is [process.Work]'s.
	Stop(grace time.Duration)
}

// Running is a machine that was started.
type Running struct {
	process.Tending
	Spec    runner.Spec
	Told    Told
	Console *Broker
	Monitor *qmp.Client // nil if QEMU did not answer
	// Channels are those that the machine ordered, by name.
	Channels map[string]net.Conn
	// Vsock is the machine's, by which the guest is reached; nil without one. It is
	// released when it has been.
	Vsock *Vsock
}

// Supervise is [process.Supervise] for a machine and what runs inside.
func Supervise(args []string, guest Guest) int {
	return process.Supervise(args, &work{guest: guest})
}

// console sizes: what is kept of it, beside the task's output, in bytes.
const consoleFile, consoleFiles = 1 << 20, 2

// ConsoleLog is the directory in the task's that keeps the console's text where
// that is not the task's output.
const ConsoleLog = "console"

// Attend wires the console and the monitor, then leaves the rest to the guest.
func (w *work) Attend(t process.Tending) string {
	defer w.dir.Close()
	defer w.vsock.Release()
	defer func() {
		for _, c := range w.ends {
			_ = c.Close()
		}
	}()
	serving, stop := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() { w.net.serve(serving) })
	defer served.Wait()
	defer stop()
	said, heard := &tail{}, make(chan struct{})
	go func() {
		defer close(heard)
		_, _ = io.Copy(said, t.Said)
	}()
	r := &Running{Tending: t, Spec: w.spec, Told: w.told, Channels: w.ends, Vsock: w.vsock, Console: newBroker(w.ends["console"])}
	r.Failed = func(reason, advice string) {
		t.Failed(explain(reason, said, heard), advice)
	}
	if l, err := process.ListenUnix(t.Dir, Console); err == nil {
		defer l.Close()
		go r.Console.serve(l)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if m, err := qmp.New(ctx, w.ends["monitor"]); err == nil {
		r.Monitor = m
		defer m.Close()
	}
	why := w.guest.Attend(r)
	if why == "" {
		why = "its machine ended"
	}
	return explain(why, said, heard)
}

// explain adds what QEMU said, which it may do as the last thing before it ends.
func explain(reason string, said *tail, heard <-chan struct{}) string {
	select {
	case <-heard:
	case <-time.After(500 * time.Millisecond):
	}
	if text := strings.TrimSpace(said.String()); text != "" {
		return reason + ": " + text
	}
	return reason
}

// Stop is the guest's business.
func (w *work) Stop(grace time.Duration) { w.guest.Stop(grace) }

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	data []byte // guarded by mu
}

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - tailSize; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// String is the last lines, as text.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.ToValidUTF8(t.data, []byte("?")))
}

// Broker shares one serial line: every client sees what the machine prints from
// now on and a little of what came before, and may type. A client that does not
// keep up is let go; the machine is never held up.
type Broker struct {
	line    net.Conn
	mu      sync.Mutex
	clients map[net.Conn]chan []byte // guarded by mu
	past    tail
	over    bool // guarded by mu
}

func newBroker(line net.Conn) *Broker {
	return &Broker{line: line, clients: make(map[net.Conn]chan []byte)}
}

// Past is the last text of the console.
func (b *Broker) Past() string { return b.past.String() }

// Copy hands what the machine prints to out and to the clients until the line
// ends. One goroutine does it.
func (b *Broker) Copy(out io.Writer) {
	buf := make([]byte, 32<<10)
	for {
		n, err := b.line.Read(buf)
		if n > 0 {
			_, _ = out.Write(buf[:n])
			b.spread(bytes.Clone(buf[:n]))
		}
		if err != nil {
			b.end()
			return
		}
	}
}

func (b *Broker) spread(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _ = b.past.Write(p)
	for c, queue := range b.clients {
		select {
		case queue <- p:
		default:
			_ = c.Close() // its reader sees the end, and takes it off the list
		}
	}
}

func (b *Broker) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	for c, queue := range b.clients {
		close(queue)
		delete(b.clients, c)
	}
}

// serve takes clients until the listener is closed.
func (b *Broker) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go b.client(c)
	}
}

func (b *Broker) client(c net.Conn) {
	queue := make(chan []byte, 256)
	b.mu.Lock()
	if b.over || len(b.clients) >= 16 {
		b.mu.Unlock()
		_ = c.Close()
		return
	}
	queue <- []byte(b.past.String())
	b.clients[c] = queue
	b.mu.Unlock()
	go func() {
		defer c.Close()
		for p := range queue {
			if _, err := c.Write(p); err != nil {
				return
			}
		}
	}()
	_, _ = io.Copy(b.line, c)
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, there := b.clients[c]; there {
		delete(b.clients, c)
		close(queue)
	}
}

// DialConsole opens the serial console of the task in dir.
func DialConsole(ctx context.Context, dir string) (net.Conn, error) {
	c, err := process.DialUnix(ctx, dir, Console)
	if err != nil {
		return nil, fmt.Errorf("open the console: %w", err)
	}
	return c, nil
}

// DialMonitor opens the agent's monitor of the task in dir. QEMU serves one
// client at a time: close it soon. A QEMU that does not answer ends with ctx.
func DialMonitor(ctx context.Context, dir string) (*qmp.Client, error) {
	conn, err := process.DialUnix(ctx, filepath.Join(dir, Home), Monitor)
	if err != nil {
		return nil, fmt.Errorf("open the monitor: %w", err)
	}
	return qmp.New(ctx, conn)
}
