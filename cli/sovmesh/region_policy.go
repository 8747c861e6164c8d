package main

import (
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/urfave/cli/v2"
)

func (p *program) regionPolicy() *cli.Command {
	return &cli.Command{
		Name: "policy", Usage: "show or set what may leave the region, and what it takes",
		Description: "Both rules are tags that narrow every job which crosses the border; an empty one\nremoves the rule. Without a flag the rules are shown.",
		UsageText:   "sovmesh region policy --export EEA --import 'ANY,!RU'",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "export", Usage: "`TAG` that jobs leaving for another region must satisfy"},
			&cli.StringFlag{Name: "import", Usage: "`TAG` that jobs taken from another region must satisfy"},
		}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			r, err := p.policyRequest(c)
			if err != nil {
				return err
			}
			if r.Export == nil && r.Import == nil {
				return p.showPolicy(c)
			}
			client, _, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			out, err := client.SetRegionPolicy(c.Context, r)
			if err != nil {
				return err
			}
			return p.show(out, func(w io.Writer) { p.writeRegion(w, out) })
		},
	}
}

func (p *program) policyRequest(c *cli.Context) (r api.RegionPolicyRequest, err error) {
	for flag, field := range map[string]**string{"export": &r.Export, "import": &r.Import} {
		if !c.IsSet(flag) {
			continue
		}
		wire := ""
		if given := c.String(flag); given != "" {
			if wire, err = p.wireTag(given); err != nil {
				return r, err
			}
		}
		*field = &wire
	}
	return r, nil
}

func (p *program) showPolicy(c *cli.Context) error {
	client, err := p.client(c)
	if err != nil {
		return err
	}
	defer client.Close()
	me, err := client.Whoami(c.Context)
	if err != nil {
		return err
	}
	r, err := client.Region(c.Context, me.Region)
	if err != nil {
		return err
	}
	return p.show(r, func(w io.Writer) {
		p.facts(w, "region", string(r.ID), "export rule", nonEmpty(r.Export, "none"), "import rule", nonEmpty(r.Import, "none"))
	})
}
