//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
)

// Exec runs a command where the task runs: in its namespaces, groups and rules, as
// its user, in its directory. The command ends with the task, with ctx, and with
// this agent.
func (d *Driver) Exec(ctx context.Context, h runner.Handle, req runner.ExecRequest) (runner.Exit, error) {
	t := d.dir(h.Task)
	key, err := readBounded(t.path(doorKey), 1<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return runner.Exit{}, &runner.StartError{Task: h.Task, Reason: "its supervisor runs no further commands", Advice: "it was started by an earlier version, or the node's disk was full: start the job anew"}
	}
	if err != nil {
		return runner.Exit{}, fmt.Errorf("execute in task %s: %w", h.Task, err)
	}
	dialled, err := DialUnix(ctx, string(t), doorSocket)
	if err != nil {
		return runner.Exit{}, fmt.Errorf("reach the supervisor of task %s: %w", h.Task, err)
	}
	conn := dialled.(*net.UnixConn)
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	p := &pipes{req: req}
	defer p.close()
	if err := send(conn, opening{Key: string(key)}); err != nil && ctx.Err() == nil {
		return runner.Exit{}, fmt.Errorf("execute in task %s: %w", h.Task, err)
	}
	theirs, err := p.open()
	if err == nil {
		err = send(conn, call{Command: req.Command, Env: req.Env, TTY: req.TTY, Columns: short(req.Size.Columns), Rows: short(req.Size.Rows)}, theirs...)
	}
	closeAll(theirs)
	var said answer
	var handed []*os.File
	if err == nil {
		handed, err = receive(conn, &said, maxCall)
	}
	switch {
	case ctx.Err() != nil:
		closeAll(handed)
		return runner.Exit{}, ctx.Err()
	case err != nil:
		closeAll(handed)
		return runner.Exit{}, fmt.Errorf("execute in task %s: %w", h.Task, err)
	case !said.Started:
		closeAll(handed)
		return runner.Exit{}, &runner.StartError{Task: h.Task, Reason: said.Reason, Advice: said.Advice}
	}
	if req.TTY {
		if len(handed) != 1 {
			closeAll(handed)
			return runner.Exit{}, fmt.Errorf("execute in task %s: its supervisor handed no terminal over", h.Task)
		}
		p.in, p.out = handed[0], handed[:1]
	}
	exit, err := p.run(conn)
	switch {
	case ctx.Err() != nil:
		return runner.Exit{}, ctx.Err()
	case err != nil:
		return runner.Exit{}, fmt.Errorf("execute in task %s: %w", h.Task, err)
	}
	return exit, nil
}

func short(n int) uint16 { return uint16(min(max(n, 0), 1<<16-1)) }

// pipes are our ends of a command's streams; those of a terminal are one file.
type pipes struct {
	req runner.ExecRequest
	in  *os.File
	out []*os.File
}

// open makes them, and returns the command's ends. A terminal has none.
func (p *pipes) open() (theirs []*os.File, err error) {
	if p.req.TTY {
		return nil, nil
	}
	for i := range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		if i == 0 {
			p.in, theirs = w, append(theirs, r)
		} else {
			p.out, theirs = append(p.out, r), append(theirs, w)
		}
	}
	return theirs, nil
}

func (p *pipes) close() {
	if p.in != nil {
		_ = p.in.Close()
	}
	closeAll(p.out)
}

// run carries the bytes until the command has ended, and then what it left.
func (p *pipes) run(conn *net.UnixConn) (runner.Exit, error) {
	over := make(chan struct{})
	defer close(over)
	go p.feed()
	go p.resize(over)
	var copying sync.WaitGroup
	failed := make(chan error, len(p.out))
	for i, from := range p.out {
		to := p.req.Stdout
		if i == 1 {
			to = p.req.Stderr
		}
		if to == nil {
			to = io.Discard
		}
		copying.Go(func() {
			if err := drain(to, from); err != nil {
				failed <- err
				_ = conn.Close() // nobody takes its output: it ends
			}
		})
	}
	var said answer
	files, err := receive(conn, &said, maxCall)
	closeAll(files)
	for _, from := range p.out {
		_ = from.SetReadDeadline(time.Now().Add(p.linger()))
	}
	copying.Wait()
	select {
	case err = <-failed:
	default:
	}
	if err == nil && said.Exit == nil {
		err = errors.New("its supervisor does not say how the command ended")
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the task's supervisor has ended")
	}
	if err != nil {
		return runner.Exit{}, err
	}
	return *said.Exit, nil
}

// linger is how long more is waited for after the end. A terminal is hung up with
// the command that it belongs to, after what was written to it; of a pipe the
// rest is there.
func (p *pipes) linger() time.Duration {
	if p.req.TTY {
		return time.Second
	}
	return 0
}

// drain copies until nobody can write any more, or, from the deadline on, what is
// there: a process that the command left may have its output for as long as the task.
func drain(to io.Writer, from *os.File) error {
	_, err := io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		if errors.Is(err, unix.EIO) || errors.Is(err, os.ErrClosed) { // a terminal that was hung up
			return nil
		}
		return err
	}
	raw, err := from.SyscallConn()
	if err != nil {
		return nil
	}
	left := 0
	if err := raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil || left == 0 {
		return nil
	}
	_ = from.SetReadDeadline(time.Time{})
	_, err = io.CopyN(struct{ io.Writer }{to}, struct{ io.Reader }{from}, int64(left))
	return err
}

// feed passes on what is typed. It ends with what it reads from, or with the
// command at the next byte.
func (p *pipes) feed() {
	whole := true
	if p.req.Stdin != nil {
		buf := make([]byte, 32<<10)
		for {
			n, err := p.req.Stdin.Read(buf)
			if n > 0 {
				if _, err := p.in.Write(buf[:n]); err != nil {
					return
				}
				whole = buf[n-1] == '\n'
			}
			if err != nil {
				break
			}
		}
	}
	if !p.req.TTY {
		_ = p.in.Close()
		return
	}
	end := []byte{4} // what a terminal reads as the end of a line, and as the end where there is none
	if !whole {
		end = append(end, 4)
	}
	_, _ = p.in.Write(end)
}

func (p *pipes) resize(over <-chan struct{}) {
	if !p.req.TTY {
		return
	}
	for {
		select {
		case <-over:
			return
		case size, ok := <-p.req.Resize:
			if !ok {
				return
			}
			raw, err := p.in.SyscallConn()
			if err == nil {
				err = raw.Control(func(fd uintptr) {
					_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: short(size.Rows), Col: short(size.Columns)})
				})
			}
			if err != nil {
				return
			}
		}
	}
}
