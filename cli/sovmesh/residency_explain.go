package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/urfave/cli/v2"
)

// explainDocument is what residency explain answers with --json.
type explainDocument struct {
	Tag string `json:"tag"` // as given
	residency.Explanation
}

func (p *program) residencyExplain() *cli.Command {
	return &cli.Command{
		Name: "explain", Usage: "what a tag means in words, and what it does not cover", ArgsUsage: "TAG",
		Description: tagText + "\n\nIt works offline, with the law pack that this program was built with.",
		UsageText:   "sovmesh residency explain 'EEA,adequate(EU),!US'",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "as-of", Usage: "`DATE` (YYYY-MM-DD, UTC) whose law is read; default today"},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "TAG")
			if err != nil {
				return err
			}
			on, err := p.asOf(c)
			if err != nil {
				return err
			}
			tag, warnings, err := readTag(args[0], residency.Embedded(), on)
			if err != nil {
				return err
			}
			doc := explainDocument{Tag: args[0], Explanation: residency.Explain(tag, residency.Embedded(), on)}
			for _, w := range warnings {
				p.warn(w)
				doc.Warnings = append(doc.Warnings, w)
			}
			return p.show(doc, func(w io.Writer) { p.writeExplanation(w, doc) })
		},
	}
}

func (p *program) writeExplanation(w io.Writer, d explainDocument) {
	p.facts(w, "tag", d.Canonical, "law pack", d.Pack, "as of", d.On.String(),
		"countries", strings.Join(d.Countries, " "),
		"if claimed", strings.Join(d.Conditional, " "),
		"undecided", strings.Join(d.Undecided, " "),
		"subdivisions", strings.Join(d.Subdivisions, " "),
		"regions", strings.Join(d.Regions, " "),
		"sites", strings.Join(d.Sites, " "))
	for _, part := range []struct {
		title string
		lines []string
	}{{"in words:", d.Words}, {"not covered:", d.NotCovered}} {
		if len(part.lines) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s\n", part.title)
		for _, l := range part.lines {
			for i, s := range wrap(clean(l), max(p.width-4, 0)) {
				fmt.Fprintf(w, "%s%s\n", [2]string{"  - ", "    "}[min(i, 1)], s)
			}
		}
	}
}
