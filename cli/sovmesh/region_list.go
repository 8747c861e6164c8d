package main

import (
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/urfave/cli/v2"
)

func (p *program) regionList() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list this region and its peers", UsageText: "sovmesh region list", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			return listing(p, c, api.ListOptions{}, (*api.Client).Regions, func(w io.Writer, regions []api.RegionStatus) {
				t := p.table("REGION", "COUNTRY", "STATE", "LINK", "SINCE", "LAW PACK", "OPERATOR")
				for _, r := range regions {
					t.add(string(r.ID), nonEmpty(r.Facts.Subdivision, r.Facts.Country), string(r.State), r.Link, p.since(r.Since), shortHash(r.LawPack), operatorText(r.Facts.Operator))
				}
				t.write(w)
			})
		},
	}
}
