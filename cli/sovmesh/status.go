package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

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
	p.writeLedger(w, s)
	if s.Refused != "" {
		p.facts(w, "inventory", "REFUSED, the region goes by an older report of "+string(s.Node)+": "+s.Refused+"; its log says what to do")
	}
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

// unsignedLong is how long leaves may wait for a signature: the leader signs once a
// second.
const unsignedLong = time.Minute

// writeLedger says what is wrong with the evidence; nothing if all is well.
func (p *program) writeLedger(w io.Writer, s *api.Status) {
	if l := s.Ledger; l != nil {
		p.facts(w, "ledger", fmt.Sprintf("%d of %d leaves are missing on this node, %d of %d voters have all", l.Missing, l.Size, l.Whole, l.Voters))
	}
	if s.Signing == nil {
		return
	}
	switch {
	case s.Signing.Problem != "":
		p.facts(w, "signing", fmt.Sprintf("HALTED, %d leaves are not signed: %s", s.Signing.Unsigned, s.Signing.Problem))
	case s.Signing.Unsigned > 0 && !s.Signing.At.IsZero() && p.now().Sub(s.Signing.At) > unsignedLong:
		p.facts(w, "signing", fmt.Sprintf("HALTED, %d leaves are not signed, the last was %s ago: ask the leader, %s", s.Signing.Unsigned, p.since(s.Signing.At), nonEmpty(string(s.Leader), "unknown")))
	}
	for _, witness := range s.Signing.Witnesses {
		if witness.Problem != "" {
			p.facts(w, "witness", witness.Name+": "+witness.Problem)
		} else if witness.SetBack > 0 {
			p.facts(w, "witness", fmt.Sprintf("%s: set back %d times, shown the way again", witness.Name, witness.SetBack))
		}
	}
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
