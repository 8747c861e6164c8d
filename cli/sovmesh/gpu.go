package main

import (
	"io"
	"strings"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) gpuCommands() *cli.Command {
	return group("gpu", "the devices of the region", p.gpuList(), p.gpuShow(), p.gpuTop(), p.gpuClear(), p.gpuDefrag())
}

func (p *program) gpuList() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list devices, their health and who holds them",
		Description: "Who shares a device stands there with all others that share it. Of tasks whose\njobs you may not see it says held, and no more.",
		UsageText:   "sovmesh gpu list", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			return listing(p, c, api.ListOptions{}, (*api.Client).GPUs, func(w io.Writer, gpus []api.GPU) {
				t := p.table("NODE", "DEVICE", "MODEL", "MEMORY", "HEALTH", "TASK")
				for _, g := range gpus {
					t.add(string(g.Node), g.UUID, deviceModel(g.Device), human(g.Memory), deviceHealth(g.Device), holders(&g))
				}
				t.write(w)
			})
		},
	}
}

// deviceModel says what a device is; a pretended one says so.
func deviceModel(d placement.Device) string {
	text := d.Model
	if d.Profile != "" {
		text += " MIG " + d.Profile
	}
	if d.Simulated {
		text += " (simulated)"
	}
	return text
}

// holders are the tasks that hold a device. Of those that the caller may not see
// it says that there are some.
func holders(g *api.GPU) string {
	var names []string
	for _, t := range g.Tasks {
		names = append(names, string(t))
	}
	if g.Held {
		names = append(names, "held")
	}
	return strings.Join(names, " ")
}

// deviceHealth is its health, or that it is given away in parts.
func deviceHealth(d placement.Device) string {
	if d.Partitioned {
		return string(d.Health) + ", in instances"
	}
	return string(d.Health)
}
