package main

import (
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

// removedDocument is what commands answer that take something away.
type removedDocument struct {
	Removed string `json:"removed"`
}

func (p *program) nodeRemove() *cli.Command {
	return &cli.Command{
		Name: "remove", Usage: "end a node's membership for good", ArgsUsage: "NODE",
		Description: "Its certificate is revoked and its running tasks become lost: drain it first if it\nis alive. A removed node joins again only with a new join token.",
		UsageText:   "sovmesh node remove fra-1-n2 --yes",
		Flags:       append([]cli.Flag{yesFlag()}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NODE")
			if err != nil {
				return err
			}
			client, me, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			if err := p.confirm(c.Context, c, fmt.Sprintf("remove node %s from region %s for good?", args[0], me.Region)); err != nil {
				return err
			}
			if err := client.RemoveNode(c.Context, placement.NodeID(args[0])); err != nil {
				return err
			}
			return p.show(removedDocument{args[0]}, func(w io.Writer) { fmt.Fprintf(w, "node %s is removed\n", args[0]) })
		},
	}
}
