//go:build linux

package microvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
)

// Exec runs a command in the task's machine, as the user and in the directory of
// its own command. Both end together.
func (d *Driver) Exec(ctx context.Context, h runner.Handle, req runner.ExecRequest) (runner.Exit, error) {
	var o order
	if _, err := d.told(h.Task, &o); err != nil {
		return runner.Exit{}, err
	}
	conn, err := process.DialUnix(ctx, d.base.TaskDir(h.Task), guestSocket)
	if err != nil {
		return runner.Exit{}, fmt.Errorf("reach the guest of task %s: %w", h.Task, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	c := wire.Command{Argv: req.Command, Env: append(slices.Clone(o.Command.Env), pairs(req.Env)...), User: o.Command.User, Dir: o.Command.Dir,
		TTY: req.TTY, Rows: uint16(req.Size.Rows), Cols: uint16(req.Size.Columns)}
	e := &execution{w: wire.NewWriter(conn), req: req, gate: wire.NewGate()}
	defer e.gate.Close()
	if err := e.w.SendCommand(1, c); err != nil {
		return runner.Exit{}, err
	}
	exit, err := e.converse(conn)
	var refused *wire.Failure
	switch {
	case ctx.Err() != nil:
		return runner.Exit{}, ctx.Err()
	case errors.As(err, &refused):
		return runner.Exit{}, &runner.StartError{Task: h.Task, Reason: refused.Reason, Advice: refused.Advice}
	case err != nil:
		return runner.Exit{}, fmt.Errorf("execute in task %s: %w", h.Task, err)
	}
	return exit, nil
}

// pairs are variables in order.
func pairs(env map[string]string) []string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		all = append(all, k+"="+env[k])
	}
	return all
}

// execution is one command that an agent runs.
type execution struct {
	w    *wire.Writer
	req  runner.ExecRequest
	gate *wire.Gate
}

func (e *execution) converse(conn net.Conn) (runner.Exit, error) {
	done := make(chan struct{})
	defer close(done)
	for in := wire.NewReader(conn); ; {
		f, err := in.Next()
		if err == io.EOF {
			err = errors.New("the machine ended, or runs too many commands")
		}
		if err != nil {
			return runner.Exit{}, err
		}
		switch f.Type {
		case wire.Started:
			go e.feed()
			go e.resize(done)
		case wire.Failed:
			var why wire.Failure
			if err := f.Decode(&why); err != nil {
				return runner.Exit{}, err
			}
			return runner.Exit{}, &why
		case wire.Stdout, wire.Stderr:
			to := e.req.Stdout
			if f.Type == wire.Stderr {
				to = e.req.Stderr
			}
			if to != nil {
				if _, err := to.Write(f.Payload); err != nil {
					return runner.Exit{}, err
				}
			}
			if err := e.w.SendCredit(1, len(f.Payload)); err != nil {
				return runner.Exit{}, err
			}
		case wire.Credit:
			n, err := f.Number()
			if err != nil {
				return runner.Exit{}, err
			}
			e.gate.Add(n)
		case wire.Exited:
			exit, err := exitOf(f)
			exit.At = time.Now()
			return exit, err
		}
	}
}

// feed sends what is typed. It ends with what it reads from, or with the command
// at the next byte.
func (e *execution) feed() {
	if e.req.Stdin != nil {
		buf := make([]byte, 32<<10)
		for {
			n, err := e.req.Stdin.Read(buf)
			for rest := buf[:n]; len(rest) > 0; {
				part := e.gate.Take(len(rest))
				if part == 0 || e.w.Send(wire.Stdin, 1, rest[:part]) != nil {
					return
				}
				rest = rest[part:]
			}
			if err != nil {
				break
			}
		}
	}
	_ = e.w.Send(wire.Stdin, 1, nil)
}

func (e *execution) resize(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case size, ok := <-e.req.Resize:
			if !ok || e.w.Send(wire.Resize, 1, wire.AppendSize(size.Columns, size.Rows)) != nil {
				return
			}
		}
	}
}

// ask puts one question to the guest.
func (d *Driver) ask(ctx context.Context, h runner.Handle, t wire.Type, payload []byte, answer any) error {
	conn, err := process.DialUnix(ctx, d.base.TaskDir(h.Task), guestSocket)
	if err != nil {
		return fmt.Errorf("reach the guest of task %s: %w", h.Task, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := wire.NewWriter(conn).Send(t, 1, payload); err != nil || answer == nil {
		return err
	}
	f, err := wire.NewReader(conn).Next()
	if err != nil {
		return fmt.Errorf("hear from the guest of task %s: %w", h.Task, errors.Join(ctx.Err(), err))
	}
	return f.Decode(answer)
}

// patience bounds what QEMU and a guest may take for an answer.
const patience = 10 * time.Second

// monitor runs one command of QEMU's.
func (d *Driver) monitor(ctx context.Context, h runner.Handle, command string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, err := qemu.DialMonitor(ctx, d.base.TaskDir(h.Task))
	if err != nil {
		return fmt.Errorf("task %s: %w", h.Task, err)
	}
	defer m.Close()
	if err := m.Run(ctx, command, nil, nil); err != nil {
		return fmt.Errorf("task %s: %w", h.Task, err)
	}
	return nil
}

// Pause holds the machine's processors.
func (d *Driver) Pause(ctx context.Context, h runner.Handle) error { return d.monitor(ctx, h, "stop") }

// Resume lets them go on, and tells the guest how late it is.
func (d *Driver) Resume(ctx context.Context, h runner.Handle) error {
	if err := d.monitor(ctx, h, "cont"); err != nil {
		return err
	}
	return d.ask(ctx, h, wire.Clock, now(), nil)
}

// Console is the machine's serial line: what its kernel and its init say. The
// workload's output does not go there.
func (d *Driver) Console(ctx context.Context, h runner.Handle) (io.ReadWriteCloser, error) {
	return qemu.DialConsole(ctx, d.base.TaskDir(h.Task))
}

// Stats are QEMU's processor time and memory, with the guest's own processes
// where it answers.
func (d *Driver) Stats(ctx context.Context, h runner.Handle) (runner.Stats, error) {
	s, err := d.base.Stats(ctx, h)
	if err != nil || s.Processes == 0 {
		return s, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var m wire.Memory
	if d.ask(ctx, h, wire.Measure, nil, &m) == nil && m.Processes > 0 && m.Processes < 1<<20 {
		s.Processes = m.Processes
	}
	return s, nil
}
