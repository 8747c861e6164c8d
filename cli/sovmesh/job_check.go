package main

import (
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/urfave/cli/v2"
)

func (p *program) jobCheck() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "would it be placed, where, why not: nothing is submitted", ArgsUsage: "FILE",
		Description: "FILE is a job in YAML or JSON; - reads standard input. Only what the job asks for\nis sent, never its command or environment. Exit 0 if it would be placed, 10 no\ncapacity now, 11 no hardware here could ever hold it or it alone exceeds\nits tenant's limit, 20 not lawful, 30 unknown.",
		UsageText:   "sovmesh job check job.yaml",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "residency", Usage: "`TAG` used in the place of the file's own residency"},
		}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "FILE")
			if err != nil {
				return err
			}
			job, err := p.readJob(c, args[0])
			if err != nil {
				return err
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			report, err := client.Check(c.Context, job)
			if err != nil {
				return err
			}
			for _, w := range report.Warnings {
				p.warn(w)
			}
			if err := p.show(report, func(w io.Writer) { p.writeCheck(w, report) }); err != nil {
				return err
			}
			return checkOutcome(report)
		},
	}
}

func (p *program) writeCheck(w io.Writer, r *api.CheckReport) {
	place := string(r.Region)
	if r.Node != "" {
		place += "/" + string(r.Node)
	}
	p.facts(w, "answer", r.Answer, "place", place, "reason", r.Reason, "summary", summaryOf(r.Local), "residency", r.Residency, "law pack", r.LawPack, "as of", r.AsOf)
	p.writeRegionChecks(w, r.Regions)
	if r.Local != nil {
		p.writeFilters(w, r.Local)
	}
}

func summaryOf(e *api.Explanation) string {
	if e == nil {
		return ""
	}
	return e.Summary
}

func (p *program) writeRegionChecks(w io.Writer, regions []api.RegionCheck) {
	if len(regions) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := p.table("REGION", "VERDICT", "RULE", "ROOM", "LINK", "REASON")
	for _, r := range regions {
		t.add(string(r.Region), r.Verdict, r.Rule, r.Room, r.Link, r.Reason)
	}
	t.write(w)
}

// writeFilters shows how many nodes fail which filter first, and what single
// change would let the job in.
func (p *program) writeFilters(w io.Writer, e *api.Explanation) {
	fmt.Fprintf(w, "\nin this region %d of %d nodes would take it\n", e.Fit, e.Nodes)
	if len(e.Failed) > 0 {
		t := p.table("FAILS FIRST", "NODES", "DETAIL")
		for _, f := range e.Failed {
			t.add(f.Filter, fmt.Sprint(f.Nodes), f.Detail)
		}
		t.write(w)
	}
	for _, q := range e.Quota {
		fmt.Fprintln(w, "quota of your tenant: "+quotaText(q))
	}
	for _, a := range e.Answers {
		fmt.Fprintf(w, "region %s had no place: %s\n", a.Region, clean(a.Reason))
	}
	for _, r := range e.Relax {
		fmt.Fprintf(w, "what would help: %s\n", clean(r))
	}
}

// quotaText is what is used of a quota, and how much of it there is.
func quotaText(q api.QuotaLine) string {
	text := fmt.Sprintf("%d %s", q.Used, q.Name)
	if q.Limit > 0 {
		text = fmt.Sprintf("%d of %d %s", q.Used, q.Limit, q.Name)
	}
	if q.Guarantee > 0 {
		text += fmt.Sprintf(", %d guaranteed", q.Guarantee)
	}
	return clean(text)
}

// checkExit is the exit code of a dry run's answer.
func checkExit(answer string) int {
	switch answer {
	case api.CheckPlaceable:
		return 0
	case api.CheckNoCapacity:
		return api.ExitNoCapacity
	case api.CheckNoHardware, api.CheckOverLimit:
		return api.ExitNoHardware
	case api.CheckUnlawful:
		return api.ExitNotLawful
	case api.CheckUnknown:
		return api.ExitUnknown
	}
	return api.ExitFailed // an answer of a newer node
}

// checkOutcome is the exit code of a dry run, with its reason and advice.
func checkOutcome(r *api.CheckReport) error {
	exit := checkExit(r.Answer)
	if exit == 0 {
		return nil
	}
	return &outcome{exit, nonEmpty(r.Reason, r.Answer), r.Hint}
}
