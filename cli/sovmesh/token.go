package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) tokenCommands() *cli.Command {
	return group("token", "bearer tokens of the region", p.tokenCreate(), p.tokenList(), p.tokenRevoke())
}

var roleNames = []string{string(state.RoleViewer), string(state.RoleSubmitter), string(state.RoleOperator), string(state.RoleAuditor), string(state.RoleAdmin)}

func (p *program) tokenCreate() *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "make a bearer token; its secret is shown once",
		Description: "A token's tenant and tag narrow what it may do; ANY needs --allow-any.",
		UsageText:   "sovmesh token create --role submitter --tenant acme --residency EEA --ttl 24h",
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "role", Usage: "`ROLE`: viewer, submitter, operator, auditor, admin; may be repeated, or joined by commas"},
			&cli.StringFlag{Name: "tenant", Usage: "`T` whose jobs it may see and submit"},
			&cli.StringFlag{Name: "residency", Usage: "`TAG` that narrows every job submitted with it"},
			&cli.BoolFlag{Name: "allow-any", Usage: "it may submit jobs with ANY"},
			&cli.DurationFlag{Name: "ttl", Usage: "`TIME` it lives; default 24h"},
		}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			r, err := p.tokenRequest(c)
			if err != nil {
				return err
			}
			client, _, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			token, err := client.CreateToken(c.Context, r)
			if err != nil {
				return err
			}
			return p.show(token, func(w io.Writer) {
				fmt.Fprintln(w, token.Secret)
				fmt.Fprintf(p.err, "id %s, until %s; it is not shown again\n", clean(token.ID), nonEmpty(stamp(token.Expires), "revoked"))
			})
		},
	}
}

func (p *program) tokenRequest(c *cli.Context) (r api.TokenRequest, err error) {
	for _, list := range c.StringSlice("role") {
		for _, name := range strings.Split(list, ",") {
			if !slices.Contains(roleNames, name) {
				return r, usage("write one of: "+strings.Join(roleNames, ", "), "there is no role %s", quoteWord(name))
			}
			r.Roles = append(r.Roles, state.Role(name))
		}
	}
	if len(r.Roles) == 0 {
		return r, usage("write --role with one of: "+strings.Join(roleNames, ", "), "a token needs a role")
	}
	ttl := c.Duration("ttl")
	if c.IsSet("ttl") && ttl < time.Second {
		return r, usage("write a time of a second or more, as in 24h", "--ttl cannot be %s", ttl)
	}
	r.Tenant, r.AllowAny, r.TTL = placement.TenantID(c.String("tenant")), c.Bool("allow-any"), placement.Duration(ttl)
	if c.IsSet("residency") {
		r.Residency, err = p.wireTag(c.String("residency"))
	}
	return r, err
}

func (p *program) tokenList() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list tokens, without their secrets", UsageText: "sovmesh token list", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			return listing(p, c, api.ListOptions{}, (*api.Client).Tokens, func(w io.Writer, tokens []state.Token) {
				t := p.table("ID", "ROLES", "TENANT", "RESIDENCY", "ANY", "EXPIRES", "STATE")
				for _, k := range tokens {
					roles := make([]string, 0, len(k.Roles))
					for _, r := range k.Roles {
						roles = append(roles, string(r))
					}
					t.add(k.ID, strings.Join(roles, ","), string(k.Tenant), k.Residency, yesNo(k.AllowAny), nonEmpty(stamp(k.Expires), "never"), p.tokenState(k))
				}
				t.write(w)
			})
		},
	}
}

func (p *program) tokenState(k state.Token) string {
	switch {
	case k.Revoked:
		return "revoked"
	case !k.Expires.IsZero() && p.now().After(k.Expires):
		return "expired"
	}
	return "good"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (p *program) tokenRevoke() *cli.Command {
	return &cli.Command{
		Name: "revoke", Usage: "end a token at once", ArgsUsage: "ID", UsageText: "sovmesh token revoke t-4f2a",
		Flags: append([]cli.Flag{yesFlag()}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			client, me, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			if err := p.confirm(c.Context, c, fmt.Sprintf("revoke token %s of region %s?", args[0], me.Region)); err != nil {
				return err
			}
			if err := client.RevokeToken(c.Context, args[0]); err != nil {
				return err
			}
			return p.show(removedDocument{args[0]}, func(w io.Writer) { fmt.Fprintf(w, "token %s is revoked\n", clean(args[0])) })
		},
	}
}
