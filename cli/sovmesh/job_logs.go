package main

import (
	"context"
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) jobLogs() *cli.Command {
	return &cli.Command{
		Name: "logs", Usage: "print a job's output, raw", ArgsUsage: "ID",
		Description: jobIDText + "\nThe bytes are printed as the task wrote them, also with --json, which then only\nshapes errors. Output is kept after the end.",
		UsageText:   "sovmesh job logs fra-1.01jd --follow",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "follow", Usage: "go on until the job ends"},
			&cli.Int64Flag{Name: "from", Usage: "begin at this `BYTE` of the output"},
		}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			if c.Int64("from") < 0 {
				return usage("count bytes from 0", "--from cannot be %d", c.Int64("from"))
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			return p.copyLogs(c.Context, client, placement.JobID(args[0]), api.LogOptions{Follow: c.Bool("follow"), From: c.Int64("from")}, p.out)
		},
	}
}

func (p *program) copyLogs(ctx context.Context, client *api.Client, id placement.JobID, o api.LogOptions, w io.Writer) error {
	logs, err := client.Logs(ctx, id, o)
	if err != nil {
		return err
	}
	defer logs.Close()
	if _, err := io.Copy(w, logs); err != nil {
		return firstOf(ctx.Err(), fmt.Errorf("the output of %s broke off: %w", id, err))
	}
	return nil
}
