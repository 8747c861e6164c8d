package main

import (
	"io"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/urfave/cli/v2"
)

func (p *program) regionPolicy() *cli.Command {
	return &cli.Command{
		Name: "policy", Usage: "show or set what may leave the region, what it takes, and who witnesses it",
		Description: "Both rules are tags that narrow every job which crosses the border; an empty one\nremoves the rule. Without a flag the rules are shown. Peers witness the region's\nledger by themselves; an outside witness (c2sp.org/tlog-witness) is named by its\nverifier key and its address.",
		UsageText:   "sovmesh region policy --export EEA --import 'ANY,!RU'\nsovmesh region policy --witness 'witness.example/w+1b2c3d4e+BA... https://witness.example'",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "export", Usage: "`TAG` that jobs leaving for another region must satisfy"},
			&cli.StringFlag{Name: "import", Usage: "`TAG` that jobs taken from another region must satisfy"},
			&cli.StringFlag{Name: "witness", Usage: "`'VKEY URL'` of an outside witness to ask for cosignatures"},
			&cli.StringFlag{Name: "drop-witness", Usage: "`NAME` of an outside witness to ask no more"},
		}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			r, err := p.policyRequest(c)
			if err != nil {
				return err
			}
			if r == (api.RegionPolicyRequest{}) {
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
	for flag, field := range map[string]**string{"witness": &r.Witness, "drop-witness": &r.DropWitness} {
		if c.IsSet(flag) {
			text := c.String(flag)
			*field = &text
		}
	}
	return r, nil
}

func witnessText(all []state.Witness) string {
	var out []string
	for _, w := range all {
		out = append(out, w.Name+" at "+w.URL)
	}
	return strings.Join(out, ", ")
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
		p.facts(w, "region", string(r.ID), "export rule", nonEmpty(r.Export, "none"), "import rule", nonEmpty(r.Import, "none"), "outside witnesses", witnessText(r.Witnesses))
	})
}
