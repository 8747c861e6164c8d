package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// program is one run of the command line and the places where it touches the
// world. Tests pass their own.
type program struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
	now      func() time.Time
	// contexts is the path of contexts.yaml.
	contexts string
	// asks: a person sits in front of it, so questions make sense.
	asks bool
	// outTTY and errTTY say whether a stream is a terminal; width is that of
	// stdout in columns, 0 when it has none.
	outTTY, errTTY bool
	width          int

	// json is set by --json, before anything is printed.
	json bool
}

func newProgram() (*program, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		dir = "." // a service without a home: contexts are then beside it, if at all
	}
	p := &program{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv, now: time.Now,
		contexts: filepath.Join(dir, "sovmesh", "contexts.yaml"),
		outTTY:   term.IsTerminal(int(os.Stdout.Fd())), errTTY: term.IsTerminal(int(os.Stderr.Fd())),
	}
	p.asks = p.errTTY && term.IsTerminal(int(os.Stdin.Fd()))
	if p.outTTY {
		if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
			p.width = w
		}
	}
	return p, nil
}

// run runs one command line (without the program's name) and returns the exit
// code.
func (p *program) run(ctx context.Context, args []string) int {
	app := p.app()
	line, err := arrange(app, args)
	p.json = line.json
	switch {
	case err != nil:
	case line.help:
		printHelp(p.out, app, line.path)
	default:
		err = app.RunContext(ctx, line.argv)
	}
	return p.report(err)
}

// app is the tree of commands.
func (p *program) app() *cli.App {
	app := &cli.App{
		Name: "sovmesh", Usage: "run AI where the law says it must run, and prove it",
		Description:     "sovmesh joins datacenters of several jurisdictions into one mesh. Each job\ncarries a residency tag; it runs only where the tag permits.",
		UsageText:       "sovmesh residency check 'EEA,!HU' --sites sites.json\nsovmesh --context ber-1 job run job.yaml --wait",
		Writer:          p.out,
		ErrWriter:       p.err,
		HideHelp:        true,
		HideHelpCommand: true, HideVersion: true,
		// Claims and tags hold commas.
		DisableSliceFlagSeparator: true,
		ExitErrHandler:            func(*cli.Context, error) {}, // main alone ends the process
		Commands: []*cli.Command{
			p.statusCommand(),
			p.jobCommands(),
			p.nodeCommands(),
			p.regionCommands(),
			p.tenantCommands(),
			p.lawCommands(),
			p.tokenCommands(),
			p.auditCommands(),
			p.residencyCommands(),
			p.gpuCommands(),
			p.simulateCommand(),
			p.devCommand(),
			p.demoCommand(),
			p.agentCommand(),
			p.canaryCommand(),
			p.versionCommand(),
			p.completionCommand(),
			p.completeCommand(),
		},
	}
	for _, c := range app.Commands {
		finish(c)
	}
	return app
}

// finish gives every command what all of them have.
func finish(c *cli.Command) {
	c.HideHelp, c.HideHelpCommand = true, true
	c.OnUsageError = flagFault
	if len(c.Subcommands) == 0 {
		c.Flags = append(c.Flags, jsonFlag())
	}
	for _, s := range c.Subcommands {
		finish(s)
	}
}

// group is a command that only has commands below it.
func group(name, usage string, commands ...*cli.Command) *cli.Command {
	return &cli.Command{Name: name, Usage: usage, Subcommands: commands}
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print one JSON document on stdout, errors too"}
}
