package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/urfave/cli/v2"
)

// statusDocument is a region at a glance, and who asks.
type statusDocument struct {
	*api.Status
	You *api.Whoami `json:"you"`
}

func (p *program) statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "the region at a glance", UsageText: "sovmesh status --context ber-1", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			me, err := client.Whoami(c.Context)
			if err != nil {
				return err
			}
			s, err := client.Status(c.Context)
			if err != nil {
				return err
			}
			return p.show(statusDocument{s, me}, func(w io.Writer) { p.writeStatus(w, s, me) })
		},
	}
}

func (p *program) writeStatus(w io.Writer, s *api.Status, me *api.Whoami) {
	p.facts(w, "you", whoText(me), "region", string(s.Region)+" ("+s.Mesh+")", "answered by", string(s.Node)+", version "+s.Version,
		"leader", nonEmpty(string(s.Leader), "unknown"), "law pack", s.LawPack,
		"nodes", counts(s.Nodes)+fmt.Sprintf(" · %d voters", s.Voters), "jobs", nonEmpty(counts(s.Jobs), "none"),
		"gpus", fmt.Sprintf("%d, %d free%s", s.GPUs, s.GPUFree, simulatedText(s.GPUSimulated, s.GPUs)))
	if len(s.Regions) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := p.table("REGION", "STATE", "LINK", "SINCE")
	for _, r := range s.Regions {
		t.add(string(r.Region), string(r.State), r.Link, p.since(r.Since))
	}
	t.write(w)
}

// simulatedText says which part of the devices is pretended.
func simulatedText(simulated, all int) string {
	switch simulated {
	case 0:
		return ""
	case all:
		return " (simulated)"
	}
	return fmt.Sprintf(" (%d simulated)", simulated)
}

// counts writes "3 ready · 1 draining", sorted by name.
func counts[K ~string](m map[K]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] > 0 {
			out = append(out, fmt.Sprintf("%d %s", m[k], k))
		}
	}
	return strings.Join(out, " · ")
}
