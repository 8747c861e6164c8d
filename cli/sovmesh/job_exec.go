package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

const reachText = `
Whoever may end the job may do this; the region's ledger has who, which task and
when before anything is opened, and nothing of what is typed.`

func (p *program) jobExec() *cli.Command {
	return &cli.Command{
		Name: "exec", Usage: "run a further command in a job's task", ArgsUsage: "ID -- COMMAND [ARG...]",
		Description: jobIDText + reachText + `
The command runs in the boundary that the task runs in. Its exit code becomes
this program's. It has a terminal if this program has one on both sides.`,
		UsageText: "sovmesh job exec fra-1.01jd -- /bin/sh\nsovmesh job exec fra-1.01jd --env MODE=debug -- /usr/bin/env",
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "env", Usage: "`NAME=VALUE` in the command's environment; may be given again"},
			&cli.BoolFlag{Name: "no-tty", Usage: "no terminal for the command, even from one"},
		}, connectionFlags()...),
		Action: p.execJob,
	}
}

func (p *program) execJob(c *cli.Context) error {
	args := c.Args().Slice()
	if len(args) < 2 {
		return usage("write sovmesh job exec ID -- COMMAND [ARG...]", "exec needs a job and a command")
	}
	env := map[string]string{}
	for _, e := range c.StringSlice("env") {
		name, value, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			return usage("write --env NAME=VALUE", "--env cannot be %s", quoteWord(e))
		}
		env[name] = value
	}
	client, err := p.client(c)
	if err != nil {
		return err
	}
	defer client.Close()
	s := api.Session{Head: api.ReachHead{Command: args[1:], Env: env}, Stdin: p.in, Stdout: p.out, Stderr: p.err}
	restore, err := p.terminal(c.Context, &s, !c.Bool("no-tty"))
	if err != nil {
		return err
	}
	exit, err := client.Exec(c.Context, placement.JobID(args[0]), s)
	restore()
	switch {
	case err != nil:
		return err
	case exit.Code != 0:
		return &outcome{exit: exit.Code, message: exit.Reason}
	}
	return nil
}

// terminal gives the session this program's own terminal, if it has one and that
// is wanted: keys go through as they are, and changes of its size are told.
func (p *program) terminal(ctx context.Context, s *api.Session, wanted bool) (restore func(), err error) {
	in, ok := p.in.(*os.File)
	if !wanted || !ok || !p.outTTY || !term.IsTerminal(int(in.Fd())) {
		return func() {}, nil
	}
	size := func() api.TermSize {
		columns, rows, err := term.GetSize(int(in.Fd()))
		if err != nil {
			return api.TermSize{Columns: 80, Rows: 24}
		}
		return api.TermSize{Columns: columns, Rows: rows}
	}
	was, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("take the terminal over: %w", err)
	}
	s.Head.TTY, s.Head.Size, s.Stderr = true, size(), nil
	ctx, cancel := context.WithCancel(ctx)
	changed, sizes := make(chan os.Signal, 1), make(chan api.TermSize)
	signal.Notify(changed, syscall.SIGWINCH)
	s.Resize = sizes
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-changed:
				select {
				case sizes <- size():
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		cancel()
		<-done
		_ = term.Restore(int(in.Fd()), was) // the terminal is gone otherwise
	}, nil
}

func (p *program) jobConsole() *cli.Command {
	return &cli.Command{
		Name: "console", Usage: "the serial console of a job's task", ArgsUsage: "ID",
		Description: jobIDText + reachText + `
From a terminal, Ctrl-] ends it. What the console prints is in job logs as well.`,
		UsageText: "sovmesh job console fra-1.01jd",
		Flags:     connectionFlags(),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			s := api.Session{Stdin: p.in, Stdout: p.out}
			restore, err := p.terminal(c.Context, &s, true)
			if err != nil {
				return err
			}
			defer restore()
			if s.Head.TTY {
				s.Stdin = &until{r: p.in, end: 0x1d}
				ctx, cancel := context.WithCancel(c.Context)
				defer cancel()
				s.Stdin.(*until).stop = cancel
				if err := client.Console(ctx, placement.JobID(args[0]), s); err != nil && (ctx.Err() == nil || c.Context.Err() != nil) {
					return err
				}
				return nil
			}
			return client.Console(c.Context, placement.JobID(args[0]), s)
		},
	}
}

// until reads to a byte that ends the session.
type until struct {
	r    io.Reader
	end  byte
	stop func()
}

func (u *until) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	for i := range n {
		if p[i] == u.end {
			u.stop()
			return i, io.EOF
		}
	}
	return n, err
}

func (p *program) jobConnect() *cli.Command {
	return &cli.Command{
		Name: "connect", Usage: "carry bytes to a TCP port of a job's task", ArgsUsage: "ID PORT",
		Description: jobIDText + reachText + `
Standard input goes to the port, what comes from it to standard output. As
ProxyCommand of ssh it makes a vm's own sshd reachable, from other regions too.`,
		UsageText: "sovmesh job connect fra-1.01jd 5432\nssh -o ProxyCommand='sovmesh job connect %h 22' ops@fra-1.01jd",
		Flags:     connectionFlags(),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID", "PORT")
			if err != nil {
				return err
			}
			port, err := strconv.Atoi(args[1])
			if err != nil || port < 1 || port > 65535 {
				return usage("write a port from 1 to 65535", "PORT cannot be %s", quoteWord(args[1]))
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			return client.Connect(c.Context, placement.JobID(args[0]), port, api.Session{Stdin: p.in, Stdout: p.out})
		},
	}
}
