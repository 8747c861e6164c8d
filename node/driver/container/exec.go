//go:build linux

package container

import (
	"context"

	"fmt"
	"io"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Exec runs a command in the task's container, as its user and with no more
// than it has.
func (d *Driver) Exec(ctx context.Context, h runner.Handle, req runner.ExecRequest) (runner.Exit, error) {
	return execute(ctx, d.engine, h.Task, d.containerName(h.Task), req)
}

func execute(ctx context.Context, engine *client.Client, task placement.TaskID, name string, req runner.ExecRequest) (runner.Exit, error) {
	if len(req.Command) == 0 {
		return runner.Exit{}, &runner.StartError{Task: task, Reason: "there is no command", Advice: "name one, and its arguments"}
	}
	options := client.ExecCreateOptions{
		TTY: req.TTY, AttachStdin: req.Stdin != nil, AttachStdout: true, AttachStderr: true, Cmd: req.Command,
	}
	for k, v := range req.Env {
		options.Env = append(options.Env, k+"="+v)
	}
	made, err := engine.ExecCreate(ctx, name, options)
	if err != nil {
		return runner.Exit{}, execError(task, err)
	}
	attach := client.ExecAttachOptions{TTY: req.TTY}
	if req.TTY && req.Size.Rows > 0 && req.Size.Columns > 0 {
		attach.ConsoleSize = client.ConsoleSize{Height: uint(req.Size.Rows), Width: uint(req.Size.Columns)}
	}
	stream, err := engine.ExecAttach(ctx, made.ID, attach)
	if err != nil && attach.ConsoleSize != (client.ConsoleSize{}) { // older engines take it by itself
		attach.ConsoleSize = client.ConsoleSize{}
		stream, err = engine.ExecAttach(ctx, made.ID, attach)
	}
	if err != nil {
		return runner.Exit{}, execError(task, err)
	}
	e := &execution{engine: engine, task: task, id: made.ID, stream: &stream.HijackedResponse, req: req}
	return e.run(ctx)
}

func execError(task placement.TaskID, err error) error {
	switch {
	case isNotFound(err), isConflict(err):
		return &runner.StartError{Task: task, Reason: "the task does not run, or is paused: " + err.Error(), Advice: "see its state with: sovmesh job show"}
	default:
		return startError(task, err)
	}
}

// execution is one command that runs in a container.
type execution struct {
	engine *client.Client
	task   placement.TaskID
	id     string
	stream *client.HijackedResponse
	req    runner.ExecRequest
}

func (e *execution) run(ctx context.Context) (runner.Exit, error) {
	ended := make(chan struct{})
	defer close(ended)
	defer e.stream.Close()
	defer context.AfterFunc(ctx, func() { e.kill(); e.stream.Close() })()
	if e.req.Stdin != nil {
		go func() { // ends with the connection, or with what it reads from
			_, _ = io.Copy(e.stream.Conn, e.req.Stdin)
			_ = e.stream.CloseWrite()
		}()
	}
	if e.req.TTY {
		e.resize(ctx, e.req.Size)
		go func() {
			for {
				select {
				case size, ok := <-e.req.Resize:
					if !ok {
						return
					}
					e.resize(ctx, size)
				case <-ended:
					return
				}
			}
		}()
	}
	var err error
	if e.req.TTY {
		_, err = io.Copy(orDiscard(e.req.Stdout), e.stream.Reader)
	} else {
		_, err = stdcopy.StdCopy(orDiscard(e.req.Stdout), orDiscard(e.req.Stderr), e.stream.Reader)
	}
	if ctx.Err() != nil {
		return runner.Exit{}, ctx.Err()
	}
	if err != nil {
		return runner.Exit{}, fmt.Errorf("read what the command prints: %w", err)
	}
	return e.exit(ctx)
}

func (e *execution) exit(ctx context.Context) (runner.Exit, error) {
	for {
		seen, err := e.engine.ExecInspect(ctx, e.id, client.ExecInspectOptions{})
		if err != nil {
			return runner.Exit{}, fmt.Errorf("see how the command ended: %w", err)
		}
		if !seen.Running {
			return execExit(e.task, e.req.Command[0], seen.ExitCode)
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return runner.Exit{}, err
		}
	}
}

// execExit knows the codes by which engines say that there is no such command.
func execExit(task placement.TaskID, command string, code int) (runner.Exit, error) {
	switch code {
	case 126, 127:
		return runner.Exit{}, &runner.StartError{Task: task, Reason: fmt.Sprintf("%s cannot be run in the container (code %d)", command, code), Advice: "name a program that its image holds"}
	}
	exit := runner.Exit{Code: code, At: time.Now()}
	if code > 128 && code < 128+65 {
		exit.Signal = signalName(code - 128)
	}
	return exit, nil
}

func (e *execution) resize(ctx context.Context, s runner.TermSize) {
	if s.Rows > 0 && s.Columns > 0 {
		_, _ = e.engine.ExecResize(ctx, e.id, client.ExecResizeOptions{Height: uint(s.Rows), Width: uint(s.Columns)})
	}
}

// kill ends the command: engines have no call for that, but tell its process.
func (e *execution) kill() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for {
		seen, err := e.engine.ExecInspect(ctx, e.id, client.ExecInspectOptions{})
		if err != nil || (!seen.Running && seen.PID != 0) {
			return
		}
		if seen.PID > 1 {
			if fd, err := unix.PidfdOpen(seen.PID, 0); err == nil {
				// Still running when it was opened: it is this one.
				again, err := e.engine.ExecInspect(ctx, e.id, client.ExecInspectOptions{})
				if err == nil && again.Running {
					_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
				}
				_ = unix.Close(fd)
			}
			return
		}
		if pause(ctx, 10*time.Millisecond) != nil {
			return
		}
	}
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
