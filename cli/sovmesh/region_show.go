package main

import (
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/urfave/cli/v2"
)

func (p *program) regionShow() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "one region: its pinned facts, contact, fingerprint", ArgsUsage: "NAME", UsageText: "sovmesh region show fra-1", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			return showing(p, c, "NAME", (*api.Client).Region, p.writeRegion)
		},
	}
}
