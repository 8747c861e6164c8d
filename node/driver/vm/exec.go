//go:build linux

package vm

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
)

// mostInput bounds what a command in a guest is given to read, in bytes: its
// agent takes all of it at the start.
const mostInput = 256 << 10

// inputPatience is how long a command waits for the first byte of what it is to read.
const inputPatience = 300 * time.Millisecond

// Exec runs a command by the agent in the guest, as the guest's root. The agent
// gives no terminal, takes what the command reads before it begins, and hands its
// output over at the end: a shell is had by SSH or on the console.
func (d *Driver) Exec(ctx context.Context, h runner.Handle, req runner.ExecRequest) (runner.Exit, error) {
	refuse := func(reason, advice string) (runner.Exit, error) {
		return runner.Exit{}, &runner.StartError{Task: h.Task, Reason: reason, Advice: advice}
	}
	switch {
	case len(req.Command) == 0:
		return refuse("no command is named", "write one after --")
	case req.TTY:
		return refuse("the agent in the guest gives no terminal", "add --no-tty, use sovmesh job console, or SSH through sovmesh job connect")
	}
	input, err := readInput(ctx, req.Stdin)
	if err != nil {
		return refuse(err.Error(), "copy it over with SSH through sovmesh job connect")
	}
	var pid int
	err = d.withAgent(ctx, h, func(ctx context.Context, g *qmp.Guest) (err error) {
		pid, err = begin(ctx, g, req, input)
		return err
	})
	var known *qmp.Error
	switch {
	case ctx.Err() != nil:
		return runner.Exit{}, ctx.Err()
	case errors.As(err, &known):
		return refuse(fmt.Sprintf("%s cannot be run in the guest: %s", req.Command[0], known.Desc), "name a program that the guest has, by its whole path")
	case err != nil:
		return refuse("no agent answers in its guest, which would run the command", "install qemu-guest-agent in the image, or wait until the guest is up; SSH goes through sovmesh job connect")
	}
	return d.follow(ctx, h, req, pid)
}

// withAgent speaks to the guest's agent once. QEMU lets one speak to it at a
// time, so nobody holds the line for longer than a question takes.
func (d *Driver) withAgent(ctx context.Context, h runner.Handle, do func(context.Context, *qmp.Guest) error) error {
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	g, err := d.agent(ctx, h)
	if err != nil {
		return err
	}
	defer g.Close()
	return do(ctx, g)
}

// readInput takes what is to be read; somebody who sends nothing, and does not say
// so, is not waited for.
func readInput(ctx context.Context, in io.Reader) ([]byte, error) {
	if in == nil {
		return nil, nil
	}
	type part struct {
		data []byte
		err  error
	}
	parts := make(chan part)
	over := make(chan struct{})
	defer close(over)
	go func() { // ends with the session, which closes what it reads
		for {
			buf := make([]byte, 32<<10)
			n, err := in.Read(buf)
			select {
			case parts <- part{buf[:n], err}:
			case <-over:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	var all []byte
	nothing := time.After(inputPatience)
	for {
		select {
		case p := <-parts:
			nothing = nil
			if all = append(all, p.data...); len(all) > mostInput {
				return nil, fmt.Errorf("a command in a guest is given at most %d KiB to read", mostInput>>10)
			}
			if p.err != nil {
				return all, nil
			}
		case <-nothing:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func begin(ctx context.Context, g *qmp.Guest, req runner.ExecRequest, input []byte) (int, error) {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	for _, name := range slices.Sorted(maps.Keys(req.Env)) {
		env = append(env, name+"="+req.Env[name])
	}
	args := map[string]any{"path": req.Command[0], "arg": req.Command[1:], "env": env, "capture-output": true}
	if len(input) > 0 {
		args["input-data"] = base64.StdEncoding.EncodeToString(input)
	}
	var started struct {
		PID int `json:"pid"`
	}
	err := g.Run(ctx, "guest-exec", args, &started)
	return started.PID, err
}

// ended is what the agent says of a command. It is the guest's word.
type ended struct {
	Exited bool   `json:"exited"`
	Code   int    `json:"exitcode"`
	Signal int    `json:"signal"`
	Out    []byte `json:"out-data"` // base64, as JSON has bytes
	Err    []byte `json:"err-data"`
	Cut    bool   `json:"out-truncated"`
	ErrCut bool   `json:"err-truncated"`
}

// deafPatience is for how long an agent that does not answer is asked again how
// a command does, while its machine runs.
const deafPatience = 30 * time.Second

// follow asks until the command has ended, or ends it. An agent that is busy, or
// starts anew, is asked again; one that does not know the command has none to end.
func (d *Driver) follow(ctx context.Context, h runner.Handle, req runner.ExecRequest, pid int) (runner.Exit, error) {
	heard := time.Now()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		var e ended
		err := d.withAgent(ctx, h, func(ctx context.Context, g *qmp.Guest) error {
			return g.Run(ctx, "guest-exec-status", map[string]int{"pid": pid}, &e)
		})
		switch {
		case ctx.Err() != nil:
			d.end(h, pid)
			return runner.Exit{}, ctx.Err()
		case errors.As(err, new(*qmp.Error)):
			return runner.Exit{}, fmt.Errorf("task %s: %w", h.Task, err)
		case err != nil:
			if o, seen := d.Driver.Recover(ctx, h); seen == nil && o.State == runner.StateRunning && time.Since(heard) < deafPatience {
				break
			}
			d.end(h, pid)
			return runner.Exit{}, fmt.Errorf("task %s: the agent in its guest does not say how the command does: %w", h.Task, err)
		case e.Exited:
			return e.hand(req)
		default:
			heard = time.Now()
		}
		pause(ctx, wait)
	}
}

// end kills a command that nobody waits for any more.
func (d *Driver) end(h runner.Handle, pid int) {
	ctx, cancel := context.WithTimeout(context.Background(), agentPatience)
	defer cancel()
	_ = d.withAgent(ctx, h, func(ctx context.Context, g *qmp.Guest) error {
		return g.Run(ctx, "guest-exec", map[string]any{"path": "/bin/kill", "arg": []string{"-KILL", fmt.Sprint(pid)}}, nil)
	})
}

// hand gives the output out and says how the command ended.
func (e ended) hand(req runner.ExecRequest) (runner.Exit, error) {
	for _, out := range []struct {
		to   io.Writer
		data []byte
		cut  bool
	}{{req.Stdout, e.Out, e.Cut}, {req.Stderr, e.Err, e.ErrCut}} {
		if out.to == nil {
			continue
		}
		if _, err := out.to.Write(out.data); err != nil {
			return runner.Exit{}, err
		}
		if out.cut {
			if _, err := fmt.Fprintln(out.to, "[the guest's agent kept no more of the output]"); err != nil {
				return runner.Exit{}, err
			}
		}
	}
	exit := runner.Exit{Code: e.Code, At: time.Now()}
	if exit.Code < 0 || exit.Code > 255 {
		exit.Code = 255
	}
	if e.Signal > 0 && e.Signal < 65 {
		exit.Code, exit.Signal = 128+e.Signal, syscall.Signal(e.Signal).String()
	}
	return exit, nil
}
