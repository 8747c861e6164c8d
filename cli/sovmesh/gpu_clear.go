package main

import (
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) gpuClear() *cli.Command {
	return &cli.Command{
		Name: "clear", Usage: "record that what stands against a device is dealt with", ArgsUsage: "NODE UUID",
		Description: `UUID all stands for every device of the node that something stands against. The
ledger records who said so; the node heeds it within a second or two, and it
holds across restarts. What the node sees later counts again, and a device that
is lost, or whose driver does not answer, no word makes sound. A device that the
driver does not list any more is forgotten.`,
		UsageText: "sovmesh gpu clear --reason 'reset after XID 95' fra-1-n2 GPU-8f2e6c1a",
		Flags:     append([]cli.Flag{&cli.StringFlag{Name: "reason", Usage: "`WHY` it is, for those who look later"}}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NODE", "UUID")
			if err != nil {
				return err
			}
			client, _, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			page, err := client.ClearGPU(c.Context, placement.NodeID(args[0]), args[1], api.ClearDeviceRequest{Reason: c.String("reason")})
			if err != nil {
				return err
			}
			return p.show(page.Items, func(w io.Writer) {
				if len(page.Items) == 0 {
					fmt.Fprintln(w, "nothing stands against any device of the node")
					return
				}
				for _, g := range page.Items {
					fmt.Fprintf(w, "recorded: device %s of node %s is cleared\n", clean(g.UUID), g.Node)
				}
			})
		},
	}
}
