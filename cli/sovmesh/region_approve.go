package main

import (
	"io"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) regionApprove() *cli.Command {
	return &cli.Command{
		Name: "approve", Usage: "pin a region that answered an invitation", ArgsUsage: "NAME",
		Description: "FP is the other region's fingerprint, as its operator told you by another channel.\nIts country, operator and claims are pinned as they stand now.",
		UsageText:   "sovmesh region approve ber-1 --confirm-fingerprint Q9TT-...",
		Flags:       append([]cli.Flag{&cli.StringFlag{Name: "confirm-fingerprint", Usage: "`FP` of the region"}}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err == nil {
				err = regionName(args[0])
			}
			if err != nil {
				return err
			}
			fp, err := fingerprintFlag(c, "region "+args[0])
			if err != nil {
				return err
			}
			client, _, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.ApproveRegion(c.Context, placement.RegionID(args[0]), fp)
			if err != nil {
				return err
			}
			return p.show(r, func(w io.Writer) { p.writeRegion(w, r) })
		},
	}
}
