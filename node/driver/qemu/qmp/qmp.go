// Package qmp speaks to a running QEMU, and through it to the agent inside its guest.
//
// [Client] is the QEMU Machine Protocol: JSON objects, one a line, over a Unix
// socket. Replies are matched to commands by id, so a reply that comes late, or
// never, holds up nobody but the one who asked, and only for as long as the
// caller's context lasts. Events never hold up replies: what a consumer does not
// take in time is dropped and counted, and the consumer asks anew.
//
// A QEMU serves one connection at a time on each of its monitor sockets. The
// rule of this package is that nothing the other side sends can make it keep
// more than [MaxFrame] bytes, block for longer than the caller allows, or panic:
// a QEMU may have been taken over by its guest. node/driver/qemu and the drivers
// of machines rely on it. The package imports nothing of ours.
//
// https://www.qemu.org/docs/master/interop/qmp-spec.html
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// MaxFrame bounds one object that QEMU sends, in bytes. The largest honest one
// is the answer to query-qmp-schema, about a quarter of a megabyte.
const MaxFrame = 4 << 20

// eventRoom is how many events wait for their consumer.
const eventRoom = 256

// ErrClosed is the answer to a command on a connection that has ended.
var ErrClosed = errors.New("qmp: the connection has ended")

// Error is a command that QEMU refused.
type Error struct {
	Command string `json:"-"`
	Class   string `json:"class"` // GenericError, CommandNotFound, DeviceNotFound ...
	Desc    string `json:"desc"`  // in words; not to be branched on
}

func (e *Error) Error() string {
	return fmt.Sprintf("qemu refuses %s: %s (%s)", e.Command, e.Desc, e.Class)
}

// Event is something that happened in QEMU or its guest.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data,omitempty"`
	At   time.Time       `json:"-"`
}

// Greeting is the first word of a QEMU.
type Greeting struct {
	Major, Minor, Micro int
	Package             string
	Capabilities        []string
}

// String is the version as in "7.2.22".
func (g Greeting) String() string { return fmt.Sprintf("%d.%d.%d", g.Major, g.Minor, g.Micro) }

// Client is one connection to a QEMU. Its methods may be called by several
// goroutines at once.
type Client struct {
	greeting Greeting
	conn     net.Conn
	writing  chan struct{} // holds one token while somebody writes
	events   chan Event
	dropped  atomic.Uint64
	ended    chan struct{} // closed by the reader after its last act

	mu      sync.Mutex
	next    uint64                // guarded by mu
	pending map[uint64]chan reply // guarded by mu; each takes one without blocking
	cause   error                 // guarded by mu; why the connection ended
}

// reply is an answer to one command.
type reply struct {
	Return json.RawMessage
	Error  *Error
}

// Dial connects to the monitor socket of a QEMU and ends the negotiation. A
// socket on which nobody greets, because somebody else is connected or QEMU
// hangs, is given up when ctx ends. The path may be longer than a socket
// address takes.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := DialSocket(ctx, path)
	if err != nil {
		return nil, err
	}
	c, err := New(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// DialSocket connects to a Unix socket whose path may be longer than the 107
// bytes of a socket address.
func DialSocket(ctx context.Context, path string) (net.Conn, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	defer unix.Close(fd)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(fd))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, errors.Unwrap(err))
	}
	return conn, nil
}

// New greets and negotiates on a connection, which it then owns, also when it fails.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	in := bufio.NewReaderSize(conn, 64<<10)
	greeting, err := readGreeting(in)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("no greeting: %w; another client may be connected, or QEMU hangs", ctx.Err())
		}
		return nil, fmt.Errorf("qmp: %w", err)
	}
	c := &Client{
		greeting: greeting, conn: conn, writing: make(chan struct{}, 1), events: make(chan Event, eventRoom),
		ended: make(chan struct{}), pending: make(map[uint64]chan reply),
	}
	go c.read(in) // ends when the connection does: see Close
	if err := c.Run(ctx, "qmp_capabilities", nil, nil); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Greeting is what QEMU said of itself.
func (c *Client) Greeting() Greeting { return c.greeting }

// Events are what happens from now on; closed when the connection has ended.
// What is not taken in time is dropped: see [Client.Dropped].
func (c *Client) Events() <-chan Event { return c.events }

// Dropped counts the events that nobody took in time. A consumer that sees it
// rise has missed something and asks QEMU for its state.
func (c *Client) Dropped() uint64 { return c.dropped.Load() }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.ended }

// Err says why the connection ended; nil while it lasts.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// Close ends the connection and waits for its reader.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.ended
	if errors.Is(err, net.ErrClosed) {
		return nil // the reader met its end before
	}
	return err
}

// Run executes a command with args (nil for none) and stores what it returns in
// out (nil to drop it). A refusal is an [*Error]. It ends when ctx does; the
// command may then still take effect, and the client remains usable.
func (c *Client) Run(ctx context.Context, command string, args, out any) error {
	return c.run(ctx, command, args, out, nil)
}

// RunFD is [Client.Run] that passes a file along, as getfd and add-fd want it.
// The file remains the caller's.
func (c *Client) RunFD(ctx context.Context, command string, args, out any, file *os.File) error {
	if file == nil {
		return fmt.Errorf("qmp: %s: no file to pass", command)
	}
	return c.run(ctx, command, args, out, file)
}

func (c *Client) run(ctx context.Context, command string, args, out any, file *os.File) error {
	answer, id, err := c.expect()
	if err != nil {
		return fmt.Errorf("qmp: %s: %w", command, err)
	}
	defer c.forget(id)
	if err := c.send(ctx, id, command, args, file); err != nil {
		return fmt.Errorf("qmp: %s: %w", command, err)
	}
	select {
	case r := <-answer:
		return r.into(command, out)
	case <-ctx.Done():
		return fmt.Errorf("qmp: %s: no answer: %w", command, ctx.Err())
	case <-c.ended:
	}
	select { // the reply may have been the last thing that came
	case r := <-answer:
		return r.into(command, out)
	default:
		return fmt.Errorf("qmp: %s: %w: %w", command, ErrClosed, c.Err())
	}
}

func (r reply) into(command string, out any) error {
	if r.Error != nil {
		r.Error.Command = command
		return r.Error
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(r.Return, out); err != nil {
		return fmt.Errorf("qmp: answer to %s: %w", command, err)
	}
	return nil
}

// expect makes room for the answer to a command.
func (c *Client) expect() (<-chan reply, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrClosed, c.cause)
	}
	c.next++
	answer := make(chan reply, 1)
	c.pending[c.next] = answer
	return answer, c.next, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// request is a command as it goes out.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// send writes one command. One that was cut off in the middle ends the
// connection: what would follow it could be read as part of it.
func (c *Client) send(ctx context.Context, id uint64, command string, args any, file *os.File) error {
	data, err := json.Marshal(request{command, args, id})
	if err != nil {
		return err
	}
	data = append(data, '\n')
	select {
	case c.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ended:
		return fmt.Errorf("%w: %w", ErrClosed, c.Err())
	}
	defer func() { <-c.writing }()
	if err := ctx.Err(); err != nil {
		return err
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.conn.SetWriteDeadline(time.Unix(1, 0))
		close(cut)
	})
	n, err := c.write(data, file)
	if !stop() {
		<-cut
		_ = c.conn.SetWriteDeadline(time.Time{})
	}
	if err == nil {
		return nil
	}
	if n > 0 && n < len(data) {
		_ = c.conn.Close()
	}
	return errors.Join(ctx.Err(), err)
}

func (c *Client) write(data []byte, file *os.File) (int, error) {
	if file == nil {
		return c.conn.Write(data)
	}
	u, ok := c.conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("files are passed over Unix sockets only")
	}
	// QEMU gives the descriptor to the command that it reads with it.
	n, _, err := u.WriteMsgUnix(data, unix.UnixRights(int(file.Fd())), nil)
	return n, err
}

// read takes what QEMU sends until the connection ends.
func (c *Client) read(in *bufio.Reader) {
	var err error
	for {
		var line []byte
		if line, err = readFrame(in, MaxFrame); err != nil {
			break
		}
		if err = c.take(line); err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("QEMU hung up")
	}
	c.mu.Lock()
	c.cause = err
	c.mu.Unlock()
	_ = c.conn.Close()
	close(c.events)
	close(c.ended)
}

// take handles one object from QEMU.
func (c *Client) take(line []byte) error {
	m, err := parse(line)
	switch {
	case err != nil:
		return err
	case m.Event != "":
		e := Event{Name: m.Event, Data: m.Data, At: time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)}
		select {
		case c.events <- e:
		default:
			c.dropped.Add(1)
		}
		return nil
	}
	c.mu.Lock()
	answer := c.pending[m.ID]
	delete(c.pending, m.ID)
	c.mu.Unlock()
	if answer != nil { // else nobody waits for it any more
		answer <- reply{m.Return, m.Error}
	}
	return nil
}
