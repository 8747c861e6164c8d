package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) tenantCommands() *cli.Command {
	return group("tenant", "who owns jobs in the region", p.tenantSet(), p.tenantList())
}

func (p *program) tenantSet() *cli.Command {
	return &cli.Command{
		Name: "set", Usage: "create or change a tenant", ArgsUsage: "T",
		Description: "The tag narrows every job of the tenant, whatever the job says; an empty one\nremoves it. A quota of 0 is no bound. What is not given stays as it is. T may be a\ntenant of another region, REGION/T, or all of that region's together, 'REGION/*'.",
		UsageText:   "sovmesh tenant set acme --residency EEA --quota gpus=16,jobs=1000",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "residency", Usage: "`TAG` that narrows every job"},
			&cli.StringSliceFlag{Name: "quota", Usage: "`NAME=N`: gpus, jobs or pending; may be repeated, or joined by commas"},
		}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "T")
			if err != nil {
				return err
			}
			if t := placement.TenantID(args[0]); !t.Valid() && t != placement.EveryTenant(t.Region()) {
				return usage("use 1 to 63 lower-case letters, digits and hyphens; for tenants of another region REGION/T, or REGION/* for all of them", "no tenant can be called %s", quoteWord(args[0]))
			}
			change, err := p.tenantChange(c)
			if err != nil {
				return err
			}
			client, _, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			tenant, err := findTenant(c.Context, client, placement.TenantID(args[0]))
			if err != nil {
				return err
			}
			change(&tenant)
			out, err := client.SetTenant(c.Context, tenant)
			if err != nil {
				return err
			}
			return p.show(out, func(w io.Writer) { p.writeTenants(w, []state.Tenant{*out}) })
		},
	}
}

// tenantChange reads the flags before anything is asked.
func (p *program) tenantChange(c *cli.Context) (func(*state.Tenant), error) {
	var changes []func(*state.Tenant)
	if c.IsSet("residency") {
		wire := ""
		if given := c.String("residency"); given != "" {
			var err error
			if wire, err = p.wireTag(given); err != nil {
				return nil, err
			}
		}
		changes = append(changes, func(t *state.Tenant) { t.Residency = wire })
	}
	for _, list := range c.StringSlice("quota") {
		for _, pair := range strings.Split(list, ",") {
			name, value, _ := strings.Cut(pair, "=")
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 || name != "gpus" && name != "jobs" && name != "pending" {
				return nil, usage("write gpus=16, jobs=1000 or pending=100; 0 is no bound", "--quota cannot be %s", quoteWord(pair))
			}
			changes = append(changes, func(t *state.Tenant) {
				*map[string]*int{"gpus": &t.Quota.GPUs, "jobs": &t.Quota.Jobs, "pending": &t.Quota.Pending}[name] = n
			})
		}
	}
	return func(t *state.Tenant) {
		for _, change := range changes {
			change(t)
		}
	}, nil
}

// findTenant is the tenant as it stands, or a new one.
func findTenant(ctx context.Context, client *api.Client, id placement.TenantID) (state.Tenant, error) {
	all, err := collect(ctx, client.Tenants, api.ListOptions{})
	if err != nil {
		return state.Tenant{}, err
	}
	for _, t := range all {
		if t.ID == id {
			return t, nil
		}
	}
	return state.Tenant{ID: id}, nil
}

func (p *program) tenantList() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list tenants", UsageText: "sovmesh tenant list", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			return listing(p, c, api.ListOptions{}, (*api.Client).Tenants, p.writeTenants)
		},
	}
}

func (p *program) writeTenants(w io.Writer, tenants []state.Tenant) {
	bound := func(n int) string {
		if n == 0 {
			return "no bound"
		}
		return fmt.Sprint(n)
	}
	t := p.table("TENANT", "GPUS", "JOBS", "PENDING", "RESIDENCY")
	for _, k := range tenants {
		t.add(string(k.ID), bound(k.Quota.GPUs), bound(k.Quota.Jobs), bound(k.Quota.Pending), k.Residency)
	}
	t.write(w)
}
