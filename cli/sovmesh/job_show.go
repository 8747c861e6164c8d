package main

import (
	"context"
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) jobShow() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "one job as it stands", ArgsUsage: "ID", Description: jobIDText,
		UsageText: "sovmesh job show fra-1.01jd", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			return showing(p, c, "ID", (*api.Client).Job, p.writeJob)
		},
	}
}

// showing is a command about one thing that its argument names: the thing as a
// document, or as text.
func showing[K ~string, T any](p *program, c *cli.Context, what string, get func(*api.Client, context.Context, K) (*T, error), text func(io.Writer, *T)) error {
	args, err := arguments(c, what)
	if err != nil {
		return err
	}
	client, err := p.client(c)
	if err != nil {
		return err
	}
	defer client.Close()
	one, err := get(client, c.Context, K(args[0]))
	if err != nil {
		return err
	}
	if job, ok := any(one).(*placement.Job); ok {
		return p.show(job.Document(), func(w io.Writer) { text(w, one) })
	}
	return p.show(one, func(w io.Writer) { text(w, one) })
}
