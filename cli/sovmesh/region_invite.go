package main

import (
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) regionInvite() *cli.Command {
	return &cli.Command{
		Name: "invite", Usage: "make a code by which another region may ask to federate", ArgsUsage: "NAME",
		Description: "Hand the code to the other operator, and tell this region's fingerprint by another\nchannel. Nothing is exchanged before both sides confirmed the other's fingerprint.",
		UsageText:   "sovmesh region invite ber-1",
		Flags:       connectionFlags(),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err == nil {
				err = regionName(args[0])
			}
			if err != nil {
				return err
			}
			client, _, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			inv, err := client.InviteRegion(c.Context, placement.RegionID(args[0]))
			if err != nil {
				return err
			}
			return p.show(inv, func(w io.Writer) {
				p.facts(w, "code", inv.Code, "our fingerprint", inv.Fingerprint, "good until", stamp(inv.ExpiresAt))
				fmt.Fprintf(p.err, "there: sovmesh region join --code CODE --confirm-fingerprint %s\n", inv.Fingerprint)
			})
		},
	}
}
