package main

import (
	"errors"
	"io"
	"os"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/urfave/cli/v2"
)

func (p *program) auditCommands() *cli.Command {
	return group("audit", "evidence for outsiders, and how it holds", p.auditReceipt(), p.auditExport(), p.auditVerify(), p.auditReport(), p.auditPolicy(), p.auditErase())
}

func (p *program) auditVerify() *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "judge evidence packs and receipts, offline", ArgsUsage: "FILE...",
		Description: "Needs no region and opens no connection. The policy is the only thing that is\ntrusted: get it from the operator and compare it by another way; without it the\nverdict is \"origin: self-declared\" and the exit code 1. Seven verdicts are given,\neach by itself, and what the evidence cannot show is listed. Exit: 0 if every\nverdict holds, 1 if not, 2 if nothing could be judged. sovmesh-verify is the same\nas a small program of its own.",
		UsageText:   "sovmesh audit verify --policy mesh.policy fra-1.tar ber-1.tar receipt.txt",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "policy", Usage: "the auditor's policy `FILE`: logs, witnesses and the regions' roots"},
			&cli.DurationFlag{Name: "max-age", Usage: "fail if the last checkpoint is older than `AGE`, as in 24h"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usage("name one or more packs or receipts: sovmesh audit verify --policy POLICY FILE...", "verify needs a FILE")
			}
			if c.Duration("max-age") < 0 {
				return usage("give it as in 24h", "an age is not negative")
			}
			q := p.evidence(c)
			q.MaxAge = c.Duration("max-age")
			exit, err := q.Run(p.out)
			if err != nil {
				return misjudged(err)
			}
			if exit != evidence.ExitHolds {
				return &outcome{exit: exit}
			}
			return nil
		},
	}
}

// evidence is what a command line asks of files.
func (p *program) evidence(c *cli.Context) *evidence.Request {
	return &evidence.Request{
		Policy: c.String("policy"), Files: c.Args().Slice(), JSON: p.json, Options: evidence.Options{Now: p.now()},
		Open: func(name string) (io.ReadCloser, error) { return os.Open(name) },
	}
}

// misjudged says why nothing could be judged: 2 is for it alone.
func misjudged(err error) error {
	var wrong *evidence.Misuse
	if errors.As(err, &wrong) {
		return usage(wrong.Help, "%s", wrong.What)
	}
	return err
}
