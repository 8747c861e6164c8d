package main

import (
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) regionLeave() *cli.Command {
	return &cli.Command{
		Name: "leave", Usage: "end the federation with a region", ArgsUsage: "NAME",
		Description: `Both sides end it, each for itself: a region that does not answer is not left,
because what it holds of yours is not known then (exit 30). --peer-dead is your
word that it is gone for good and cannot confirm: work of yours that ran there
counts as lost. While it answers, that word is not taken (exit 2).`,
		UsageText: "sovmesh region leave ber-1 --peer-dead --yes",
		Flags:     append([]cli.Flag{&cli.BoolFlag{Name: "peer-dead", Usage: "the other side is gone for good"}, yesFlag()}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err == nil {
				err = regionName(args[0])
			}
			if err != nil {
				return err
			}
			client, me, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			if err := p.confirm(c.Context, c, fmt.Sprintf("end the federation of %s with %s?", me.Region, args[0])); err != nil {
				return err
			}
			if err := client.LeaveRegion(c.Context, placement.RegionID(args[0]), c.Bool("peer-dead")); err != nil {
				return err
			}
			return p.show(removedDocument{args[0]}, func(w io.Writer) { fmt.Fprintf(w, "the federation with %s is ended\n", args[0]) })
		},
	}
}
