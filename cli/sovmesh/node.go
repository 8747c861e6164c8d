package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) nodeCommands() *cli.Command {
	return group("node", "the nodes of the region", p.nodeList(), p.nodeShow(), p.nodeDrain(), p.nodeCordon(), p.nodeResume(), p.nodeRemove(),
		group("token", "tokens by which nodes join", p.nodeTokenCreate()))
}

// changeNode is a command that changes one node and shows it.
func (p *program) changeNode(name, usage, text string, change func(*api.Client, context.Context, placement.NodeID) (*placement.Node, error)) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "NODE", Description: text, UsageText: "sovmesh node " + name + " fra-1-n2", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NODE")
			if err != nil {
				return err
			}
			client, _, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			n, err := change(client, c.Context, placement.NodeID(args[0]))
			if err != nil {
				return err
			}
			return p.show(n, func(w io.Writer) { p.writeNode(w, n) })
		},
	}
}

func (p *program) writeNode(w io.Writer, n *placement.Node) {
	drain := ""
	if n.Drain != nil {
		drain = "since " + stamp(n.Drain.StartedAt) + ", deadline " + stamp(n.Drain.Deadline) + prefixed(", ", n.Drain.Reason)
	}
	p.facts(w, "node", string(n.ID), "region", string(n.Region), "site", n.Site, "role", string(n.Role), "state", string(n.State), "drain", drain,
		"contact", string(n.Contact)+prefixed(" since ", stamp(n.ContactAt)), "quic", n.QUIC, "api", n.API,
		"cpu", fmt.Sprintf("%s, %s in use", n.Inventory.CPU, n.Used.CPU), "memory", fmt.Sprintf("%s, %s in use", human(n.Inventory.Memory), human(n.Used.Memory)),
		"devices", deviceText(n), "drivers", strings.Join(n.Inventory.Drivers, " "), "version", n.Inventory.Program,
		"tasks", fmt.Sprint(n.Used.Tasks), "joined", stamp(n.JoinedAt), "certificate until", stamp(n.NotAfter))
}

func deviceText(n *placement.Node) string {
	if len(n.Inventory.Devices) == 0 {
		return "none"
	}
	models := map[string]int{}
	for _, d := range n.Inventory.Devices {
		models[d.Model]++
	}
	return counts(models) + fmt.Sprintf(", %d in use", len(n.Used.Devices)) + simulatedText(n.SimulatedDevices(), len(n.Inventory.Devices))
}
