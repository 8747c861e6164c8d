package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) jobPause() *cli.Command {
	return p.holdCommand("pause", "hold a job's task still", "It keeps its memory and its place, and counts as running.", (*api.Client).PauseJob)
}

func (p *program) jobResume() *cli.Command {
	return p.holdCommand("resume", "let a paused task go on", "", (*api.Client).ResumeJob)
}

func (p *program) holdCommand(name, what, text string, do func(*api.Client, context.Context, placement.JobID) (*api.HoldAnswer, error)) *cli.Command {
	return &cli.Command{
		Name: name, Usage: what, ArgsUsage: "ID", Description: jobIDText + "\n" + text,
		UsageText: "sovmesh job " + name + " fra-1.01jd",
		Flags:     connectionFlags(),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			client, _, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			a, err := do(client, c.Context, placement.JobID(args[0]))
			if err != nil {
				return err
			}
			return p.show(a, func(w io.Writer) {
				p.facts(w, "job", string(a.Job), "task", string(a.Task), "now", word(a.Paused, "paused", "running"))
			})
		},
	}
}

func word(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

func (p *program) jobIsolation() *cli.Command {
	return &cli.Command{
		Name: "isolation", Usage: "what holds a job's task in, in words", ArgsUsage: "ID",
		Description: jobIDText + `
What is enforced, and what is not, as the machine that runs the task has it now;
what the task tried to reach and was refused; and each time somebody reached in.`,
		UsageText: "sovmesh job isolation fra-1.01jd",
		Flags:     connectionFlags(),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			iso, err := client.Isolation(c.Context, placement.JobID(args[0]))
			if err != nil {
				return err
			}
			return p.show(iso, func(w io.Writer) { p.writeIsolation(w, iso) })
		},
	}
}

func (p *program) writeIsolation(w io.Writer, iso *api.Isolation) {
	p.facts(w, "job", string(iso.Job), "task", string(iso.Task), "kind", string(iso.Kind), "node", string(iso.Node))
	fmt.Fprintln(w)
	t := p.table("BOUNDARY", "ENFORCED", "HOW")
	for _, b := range iso.Boundaries {
		t.add(b.What, word(b.Holds, "yes", "no"), b.How)
	}
	t.write(w)
	if len(iso.Denied) > 0 {
		fmt.Fprintln(w)
		t := p.table("REFUSED DESTINATION", "PACKETS", "LAST")
		for _, d := range iso.Denied {
			t.add(d.Destination, strconv.FormatUint(d.Packets, 10), stamp(d.Last))
		}
		t.write(w)
	}
	p.writeNotes(w, "REACHED INTO", iso.Access)
}

// writeNotes shows what the ledger has of a task.
func (p *program) writeNotes(w io.Writer, title string, notes []placement.TaskNote) {
	if len(notes) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := p.table(title, "WHAT", "AT", "DETAIL")
	for _, n := range notes {
		t.add(n.Subject, string(n.What), stamp(n.At), n.Text)
	}
	t.write(w)
}

func (p *program) jobDrift() *cli.Command {
	return &cli.Command{
		Name: "drift", Usage: "how a job's task differs from what was declared", ArgsUsage: "ID",
		Description: jobIDText + `
It is looked at now, and what the ledger has of it stands below. Exit 1 if
something differs.`,
		UsageText: "sovmesh job drift fra-1.01jd --json",
		Flags:     connectionFlags(),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			d, err := client.Drift(c.Context, placement.JobID(args[0]))
			if err != nil {
				return err
			}
			if err := p.show(d, func(w io.Writer) { p.writeDrift(w, d) }); err != nil {
				return err
			}
			if len(d.Findings) > 0 {
				return &outcome{exit: 1}
			}
			return nil
		},
	}
}

func (p *program) writeDrift(w io.Writer, d *api.DriftReport) {
	p.facts(w, "job", string(d.Job), "task", string(d.Task), "on drift", string(d.Mode))
	fmt.Fprintln(w)
	if len(d.Findings) == 0 {
		fmt.Fprintln(w, "It runs as it was declared.")
	} else {
		t := p.table("DIFFERS", "COUNT", "HOW")
		for _, f := range d.Findings {
			t.add(f.Subject, strconv.Itoa(f.Count), f.Text)
		}
		t.write(w)
	}
	p.writeNotes(w, "NOTED", d.Noted)
}
