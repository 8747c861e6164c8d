//go:build linux

package microvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
)

// Dial reaches a port of the guest's own loopback, through its control channel:
// the machine needs no network for that, and none of the node's ports is opened.
func (d *Driver) Dial(ctx context.Context, h runner.Handle, port int) (net.Conn, error) {
	if port < 1 || port > 65535 {
		return nil, fmt.Errorf("task %s: there is no port %d", h.Task, port)
	}
	conn, err := process.DialUnix(ctx, d.base.TaskDir(h.Task), guestSocket)
	if err != nil {
		return nil, fmt.Errorf("reach the guest of task %s: %w", h.Task, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	in, w := wire.NewReader(conn), wire.NewWriter(conn)
	err = w.Send(wire.Dial, 1, wire.AppendPort(port))
	if err == nil {
		err = answered(in)
	}
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("task %s: reach port %d: %w", h.Task, port, err)
	}
	ours, theirs, err := streamPair()
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("task %s: reach port %d: %w", h.Task, port, err)
	}
	s := &stream{conn: conn, in: in, w: w, gate: wire.NewGate(), local: theirs}
	go s.out()
	go s.back()
	return ours, nil
}

// answered waits for the guest's word on a connection.
func answered(in *wire.Reader) error {
	f, err := in.Next()
	if err == io.EOF {
		err = errors.New("the machine ended, or serves too many already")
	}
	if err != nil {
		return err
	}
	switch f.Type {
	case wire.Started:
		return nil
	case wire.Failed:
		var why wire.Failure
		if err := f.Decode(&why); err != nil {
			return err
		}
		return errors.New(clip(why.Reason))
	}
	return fmt.Errorf("the guest answers with a frame of type %d", f.Type)
}

// stream carries one connection's bytes between its caller, who has the other
// end of local, and the guest. Both goroutines end with either.
type stream struct {
	conn  net.Conn
	in    *wire.Reader
	w     *wire.Writer
	gate  *wire.Gate
	local *net.UnixConn
}

// out sends what the caller writes, as far as the guest has room.
func (s *stream) out() {
	buf := make([]byte, 32<<10)
	for {
		n, err := s.local.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			part := s.gate.Take(len(rest))
			if part == 0 || s.w.Send(wire.Stdin, 1, rest[:part]) != nil {
				return
			}
			rest = rest[part:]
		}
		if err != nil {
			_ = s.w.Send(wire.Stdin, 1, nil)
			return
		}
	}
}

// back hands the caller what the guest sends. When nobody reads it any more the
// guest is told by the end of the connection.
func (s *stream) back() {
	defer s.conn.Close()
	defer s.local.Close()
	defer s.gate.Close()
	for {
		f, err := s.in.Next()
		if err != nil {
			return
		}
		switch f.Type {
		case wire.Stdout:
			if len(f.Payload) == 0 {
				_ = s.local.CloseWrite()
				continue
			}
			if _, err := s.local.Write(f.Payload); err != nil || s.w.SendCredit(1, len(f.Payload)) != nil {
				return
			}
		case wire.Credit:
			n, err := f.Number()
			if err != nil {
				return
			}
			s.gate.Add(n)
		case wire.Exited, wire.Failed:
			return
		}
	}
}

// streamPair is a connection with both of its ends here: deadlines and the end
// of one way work on it as on any.
func streamPair() (ours, theirs *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "stream")
		c, fileErr := net.FileConn(f)
		_ = f.Close()
		if fileErr != nil {
			err = errors.Join(err, fileErr)
			continue
		}
		ends[i] = c.(*net.UnixConn)
	}
	if err != nil {
		for _, c := range ends {
			if c != nil {
				_ = c.Close()
			}
		}
		return nil, nil, err
	}
	return ends[0], ends[1], nil
}
