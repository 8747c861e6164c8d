package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// MaxGuestFrame bounds one object that a guest agent sends, in bytes: the
// agent reads files and outputs in parts of at most 48 MB, ours ask for less.
const MaxGuestFrame = 4 << 20

// sentinel never occurs in JSON text: what comes before it is left over from an
// earlier conversation.
const sentinel = 0xFF

// Guest is a connection to the agent inside a guest, over a virtio-serial port.
// The agent answers in order and without ids, so commands are executed one
// after the other, and one that was given up is followed by a new
// synchronisation. Everything it says is the guest's word: bounded, and never
// trusted to be more.
//
// https://www.qemu.org/docs/master/interop/qemu-ga-ref.html
type Guest struct {
	conn net.Conn
	in   *bufio.Reader
	busy chan struct{} // holds one token while a command is under way; owns what follows
	lost bool          // the next command synchronises first
}

// DialGuest connects to the socket of the agent's port. That somebody answers
// is known only after the first [Guest.Run].
func DialGuest(ctx context.Context, path string) (*Guest, error) {
	conn, err := DialSocket(ctx, path)
	if err != nil {
		return nil, err
	}
	return NewGuest(conn), nil
}

// NewGuest speaks to an agent over a connection, which it then owns.
func NewGuest(conn net.Conn) *Guest {
	return &Guest{conn: conn, in: bufio.NewReaderSize(conn, 16<<10), busy: make(chan struct{}, 1), lost: true}
}

// Close ends the connection.
func (g *Guest) Close() error { return g.conn.Close() }

// Run executes a command of the agent. It ends when ctx does, and the guest
// remains usable.
func (g *Guest) Run(ctx context.Context, command string, args, out any) error {
	select {
	case g.busy <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("guest agent: %s: %w", command, ctx.Err())
	}
	defer func() { <-g.busy }()
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = g.conn.SetDeadline(time.Unix(1, 0))
		close(done)
	})
	err := g.converse(command, args, out)
	if !stop() {
		<-done
		_ = g.conn.SetDeadline(time.Time{})
		if err != nil {
			err = errors.Join(ctx.Err(), err)
		}
	}
	if err != nil {
		var refused *Error
		g.lost = !errors.As(err, &refused)
		return fmt.Errorf("guest agent: %s: %w", command, err)
	}
	return nil
}

func (g *Guest) converse(command string, args, out any) error {
	if g.lost {
		if err := g.sync(); err != nil {
			return err
		}
		g.lost = false
	}
	if err := g.send(command, args, false); err != nil {
		return err
	}
	r, err := g.receive()
	if err != nil {
		return err
	}
	return r.into(command, out)
}

// sync throws away what an earlier conversation left on the line, on both sides.
func (g *Guest) sync() error {
	id := rand.Int64N(1 << 53)
	if err := g.send("guest-sync-delimited", map[string]int64{"id": id}, true); err != nil {
		return err
	}
	for range 16 {
		if err := skipTo(g.in, sentinel, MaxGuestFrame); err != nil {
			return err
		}
		r, err := g.receive()
		if err != nil {
			return err
		}
		var got int64
		if r.Error == nil && json.Unmarshal(r.Return, &got) == nil && got == id {
			return nil
		}
	}
	return errors.New("it does not synchronise")
}

func (g *Guest) send(command string, args any, first bool) error {
	data, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args})
	if err != nil {
		return err
	}
	if first { // makes the agent's parser drop what it has half of
		data = append([]byte{sentinel}, data...)
	}
	_, err = g.conn.Write(append(data, '\n'))
	return err
}

func (g *Guest) receive() (reply, error) {
	line, err := readFrame(g.in, MaxGuestFrame)
	if err != nil {
		return reply{}, err
	}
	m, err := parse(line)
	if err == nil && m.Return == nil && m.Error == nil {
		err = errors.New("an object that answers nothing")
	}
	return reply{m.Return, m.Error}, err
}

// skipTo drops input up to and with a byte, but no more than so many.
func skipTo(in *bufio.Reader, b byte, most int) error {
	for range most {
		c, err := in.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("no agent answers")
			}
			return err
		}
		if c == b {
			return nil
		}
	}
	return fmt.Errorf("%d bytes without a synchronisation", most)
}
