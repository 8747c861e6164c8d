package main

import (
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) nodeTokenCreate() *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "make a join token for one new node", Description: "It is shown once, good for one node and for 15 minutes. Put it into the new node's\nagent config as join: TOKEN, or into a file named by join_file.",
		UsageText: "sovmesh node token create --name fra-1-n2",
		Flags:     append([]cli.Flag{&cli.StringFlag{Name: "name", Usage: "`N`: the name that the node must have; any if left out"}}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			name := c.String("name")
			if c.IsSet("name") && !placement.ValidName(name) {
				return usage("use 1 to 63 lower-case letters, digits and hyphens", "no node can be called %s", quoteWord(name))
			}
			client, _, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			token, err := client.CreateNodeToken(c.Context, api.NodeTokenRequest{Node: placement.NodeID(name)})
			if err != nil {
				return err
			}
			return p.show(token, func(w io.Writer) {
				fmt.Fprintln(w, token.Token)
				fmt.Fprintf(p.err, "good until %s, for one node; on it: sovmesh agent --config agent.yaml with join: TOKEN\n", stamp(token.ExpiresAt))
			})
		},
	}
}
