package main

import (
	"io"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) regionShow() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "one region: its pinned facts, contact, fingerprint", ArgsUsage: "NAME", UsageText: "sovmesh region show fra-1", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.Region(c.Context, placement.RegionID(args[0]))
			if err != nil {
				return err
			}
			return p.show(r, func(w io.Writer) { p.writeRegion(w, r) })
		},
	}
}
