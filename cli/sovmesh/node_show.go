package main

import (
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/urfave/cli/v2"
)

func (p *program) nodeShow() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "one node with its tasks", ArgsUsage: "NODE", UsageText: "sovmesh node show fra-1-n2", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			return showing(p, c, "NODE", (*api.Client).Node, p.writeNodeDetail)
		},
	}
}

func (p *program) writeNodeDetail(w io.Writer, n *api.NodeDetail) {
	p.writeNode(w, &n.Node)
	if n.Leader {
		fmt.Fprintln(w, "it leads its region")
	}
	if n.Hidden > 0 {
		fmt.Fprintf(w, "tasks of jobs that you may not see: %d\n", n.Hidden)
	}
	if len(n.Tasks) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := p.table("TASK", "KIND", "STATUS", "CPU", "MEMORY", "GPUS", "REASON")
	for _, k := range n.Tasks {
		t.add(string(k.ID), string(k.Kind), string(k.Status), k.Resources.CPU.String(), human(k.Resources.Memory), fmt.Sprint(len(k.Devices)), k.Reason)
	}
	t.write(w)
}
