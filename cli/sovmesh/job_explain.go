package main

import (
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/urfave/cli/v2"
)

func (p *program) jobExplain() *cli.Command {
	return &cli.Command{
		Name: "explain", Usage: "why a job is where it is, or why it waits", ArgsUsage: "ID", Description: jobIDText,
		UsageText: "sovmesh job explain fra-1.01jd", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			return showing(p, c, "ID", (*api.Client).Explain, p.writeExplained)
		},
	}
}

func (p *program) writeExplained(w io.Writer, e *api.Explanation) {
	p.facts(w, "job", string(e.Job), "status", string(e.Status), "main reason", e.Reason, "what to do", e.Hint, "summary", e.Summary)
	p.writeRegionChecks(w, e.Regions)
	if e.Nodes > 0 {
		p.writeFilters(w, e)
	}
	if len(e.Tasks) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := p.table("TASK", "NODE", "STATUS", "RULE", "LAW PACK", "AS OF", "WHY")
	for _, k := range e.Tasks {
		t.add(string(k.ID), string(k.Node), string(k.Status), k.Why.Rule, shortHash(k.Why.LawPack), k.Why.On, nonEmpty(k.Why.Reason, k.Reason))
	}
	t.write(w)
}

// shortHash is enough of a hash to recognise it.
func shortHash(h string) string {
	const keep = len("sha256:") + 12
	if len(h) > keep {
		return h[:keep]
	}
	return h
}
