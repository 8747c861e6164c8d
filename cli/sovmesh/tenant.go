package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
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
		Description: "The tag narrows every job of the tenant, whatever the job says; an empty one\nremoves it. A quota of 0 is no bound. What is not given stays as it is. T may be a\ntenant of another region, REGION/T, or all of that region's together, 'REGION/*'.\n\n--quota bounds what is submitted: beyond it a submit is refused. --limit bounds what\nruns, by class of hardware: gpus, cpu (whole cores), or a word of a model (H100);\nbeyond it a job waits. What --guarantee names is the tenant's whatever others run:\nwhat they hold beyond their own may be taken back for it. --weight divides what a\ntenant holds beyond its guarantee when the queue is ordered. The quota preempts is how many\ntasks of others may be ended within an hour for its jobs: 1000 unless set, and 4000\nin a region.",
		UsageText:   "sovmesh tenant set acme --residency EEA --quota gpus=16,jobs=1000\nsovmesh tenant set acme --guarantee gpus=8,H100=4 --limit gpus=16,cpu=256 --weight 2",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "residency", Usage: "`TAG` that narrows every job"},
			&cli.StringSliceFlag{Name: "quota", Usage: "`NAME=N`: gpus, jobs, pending or preempts; may be repeated, or joined by commas"},
			&cli.StringSliceFlag{Name: "guarantee", Usage: "`CLASS=N` that is the tenant's: gpus, cpu, or a word of a model; 0 ends it"},
			&cli.StringSliceFlag{Name: "limit", Usage: "`CLASS=N` that it may hold at most; 0 ends it"},
			&cli.IntFlag{Name: "weight", Usage: "`N` from 1 to 1000: how much it may hold beside others"},
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
			if err != nil || n < 0 || name != "gpus" && name != "jobs" && name != "pending" && name != "preempts" {
				return nil, usage("write gpus=16, jobs=1000, pending=100 or preempts=100; 0 is no bound, of preempts the usual", "--quota cannot be %s", quoteWord(pair))
			}
			changes = append(changes, func(t *state.Tenant) {
				*map[string]*int{"gpus": &t.Quota.GPUs, "jobs": &t.Quota.Jobs, "pending": &t.Quota.Pending, "preempts": &t.Quota.Preempts}[name] = n
			})
		}
	}
	for flag, of := range map[string]func(*state.Quota) *map[string]int{
		"guarantee": func(q *state.Quota) *map[string]int { return &q.Guarantee },
		"limit":     func(q *state.Quota) *map[string]int { return &q.Limit },
	} {
		for _, list := range c.StringSlice(flag) {
			for _, pair := range strings.Split(list, ",") {
				class, value, _ := strings.Cut(pair, "=")
				n, err := strconv.Atoi(value)
				if err != nil || n < 0 || class == "" {
					return nil, usage("write gpus=8, cpu=64 or H100=4; 0 ends it", "--%s cannot be %s", flag, quoteWord(pair))
				}
				changes = append(changes, func(t *state.Tenant) { setClass(of(&t.Quota), class, n) })
			}
		}
	}
	if c.IsSet("weight") {
		n := c.Int("weight")
		if n < 1 || n > 1000 {
			return nil, usage("write a number from 1 to 1000", "--weight cannot be %d", n)
		}
		changes = append(changes, func(t *state.Tenant) { t.Quota.Weight = n })
	}
	return func(t *state.Tenant) {
		for _, change := range changes {
			change(t)
		}
	}, nil
}

// setClass changes one class in a copy; 0 takes it out.
func setClass(of *map[string]int, class string, n int) {
	next := maps.Clone(*of)
	if next == nil {
		next = map[string]int{}
	}
	if next[class] = n; n == 0 {
		delete(next, class)
	}
	*of = next
}

// classesText is "H100=4,gpus=8".
func classesText(of map[string]int) string {
	var words []string
	for _, class := range slices.Sorted(maps.Keys(of)) {
		words = append(words, fmt.Sprintf("%s=%d", class, of[class]))
	}
	return strings.Join(words, ",")
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
	t := p.table("TENANT", "GPUS", "JOBS", "PENDING", "GUARANTEE", "LIMIT", "WEIGHT", "RESIDENCY")
	for _, k := range tenants {
		t.add(string(k.ID), bound(k.Quota.GPUs), bound(k.Quota.Jobs), bound(k.Quota.Pending),
			classesText(k.Quota.Guarantee), classesText(k.Quota.Limit), fmt.Sprint(max(1, k.Quota.Weight)), k.Residency)
	}
	t.write(w)
}
