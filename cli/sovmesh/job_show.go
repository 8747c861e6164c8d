package main

import (
	"io"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) jobShow() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "one job as it stands", ArgsUsage: "ID", Description: jobIDText,
		UsageText: "sovmesh job show fra-1.01jd", Flags: connectionFlags(),
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
			job, err := client.Job(c.Context, placement.JobID(args[0]))
			if err != nil {
				return err
			}
			return p.show(job.Document(), func(w io.Writer) { p.writeJob(w, job) })
		},
	}
}
