package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) nodeList() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list nodes", UsageText: "sovmesh node list", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			return listing(p, c, api.ListOptions{}, (*api.Client).Nodes, func(w io.Writer, nodes []placement.Node) {
				t := p.table("NAME", "ROLE", "STATE", "CONTACT", "CPU", "MEMORY", "GPUS", "TASKS", "DRIVERS")
				for _, n := range nodes {
					t.add(string(n.ID), string(n.Role), string(n.State), string(n.Contact),
						fmt.Sprintf("%s/%s", n.Used.CPU, n.Inventory.CPU), fmt.Sprintf("%s/%s", human(n.Used.Memory), human(n.Inventory.Memory)),
						fmt.Sprintf("%d/%d%s", len(n.Used.Devices), len(n.Inventory.Devices), simulatedText(n.SimulatedDevices(), len(n.Inventory.Devices))), fmt.Sprint(n.Used.Tasks), strings.Join(n.Inventory.Drivers, " "))
				}
				t.write(w)
			})
		},
	}
}
