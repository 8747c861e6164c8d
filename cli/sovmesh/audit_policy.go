package main

import (
	"io"

	"github.com/urfave/cli/v2"
)

func (p *program) auditPolicy() *cli.Command {
	return &cli.Command{
		Name: "policy", Usage: "print the trust policy to hand to an auditor",
		Description: `A C2SP tlog-policy with the logs and witnesses of the region and its peers, and
the regions' roots. Hand it over by another way than the evidence. Its comments
name each region's fingerprint: the auditor compares them with what each region's
operator says (sovmesh region show NAME there), or it proves nothing.`,
		UsageText: "sovmesh audit policy > mesh.policy\nsovmesh audit policy --quorum 2 > mesh.policy",
		Flags: append([]cli.Flag{
			&cli.IntFlag{Name: "quorum", Usage: "`N` witnesses have to cosign; default a majority of those that a log can have"},
		}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			if c.IsSet("quorum") && c.Int("quorum") < 1 {
				return usage("write how many witnesses have to cosign, from 1", "--quorum cannot be %d", c.Int("quorum"))
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			text, err := client.TrustPolicy(c.Context, c.Int("quorum"))
			if err != nil {
				return err
			}
			return p.show(map[string]string{"policy": text}, func(w io.Writer) { _, _ = io.WriteString(w, text) })
		},
	}
}
