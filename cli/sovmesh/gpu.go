package main

import (
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/urfave/cli/v2"
)

func (p *program) gpuCommands() *cli.Command {
	return group("gpu", "the devices of the region", p.gpuList(), p.gpuDefrag())
}

func (p *program) gpuList() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list devices, their health and who holds them", UsageText: "sovmesh gpu list", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			return listing(p, c, api.ListOptions{}, (*api.Client).GPUs, func(w io.Writer, gpus []api.GPU) {
				t := p.table("NODE", "DEVICE", "MODEL", "MEMORY", "HEALTH", "TASK")
				for _, g := range gpus {
					model := g.Model
					if g.Simulated {
						model += " (simulated)"
					}
					t.add(string(g.Node), g.UUID, model, human(g.Memory), string(g.Health), string(g.Task))
				}
				t.write(w)
			})
		},
	}
}
