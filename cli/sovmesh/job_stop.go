package main

import (
	"io"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) jobStop() *cli.Command {
	return &cli.Command{
		Name: "stop", Usage: "end a job, with its grace", ArgsUsage: "ID", Description: jobIDText,
		UsageText: "sovmesh job stop fra-1.01jd --wait",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "`TEXT` kept with the job"},
			&cli.BoolFlag{Name: "wait", Usage: "until it has ended"},
		}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			client, _, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			job, err := client.StopJob(c.Context, placement.JobID(args[0]), c.String("reason"))
			if err != nil {
				return err
			}
			w := waiter{p: p, client: client, job: job}
			for c.Bool("wait") && !w.job.Status.Terminal() {
				if err := w.next(c.Context, pollWait); err != nil {
					return err
				}
			}
			return p.show(w.job.Document(), func(out io.Writer) { p.writeJob(out, w.job) })
		},
	}
}
