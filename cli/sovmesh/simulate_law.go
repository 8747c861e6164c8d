package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/placement/simulate"
	"github.com/urfave/cli/v2"
)

// simulateLaw is a drill: every job of the region under another law.
func (p *program) simulateLaw(c *cli.Context, w *simulate.World) error {
	pack, on := w.Pack(), residency.DateOf(p.now())
	if text := c.String("at"); text != "" {
		day, err := residency.ParseDate(text)
		if err != nil {
			return err
		}
		on = day
	}
	if path := c.String("law-pack"); path != "" {
		tables, err := readTables(path)
		if err != nil {
			return err
		}
		if pack, err = residency.LoadPack(tables); err != nil {
			return err
		}
	}
	d := w.Drill(pack, on, p.now())
	if err := p.show(d, func(to io.Writer) { p.writeDrill(to, d) }); err != nil {
		return err
	}
	if exit := d.ExitCode(); exit != 0 {
		return &outcome{exit, "under that law: " + d.Words(), "nothing was changed; a tag is widened by the owner of the data alone, a place is added by federating with another region"}
	}
	return nil
}

func (p *program) writeDrill(w io.Writer, d *simulate.Drill) {
	p.facts(w, "region", string(d.Region), "law pack", d.NewPack, "in force", d.LawPack, "on", d.At, "jobs", d.Words())
	if len(d.Jobs) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := p.table("JOB", "NAME", "TENANT", "RESIDENCY", "FATE", "AT", "TO", "RULE", "REASON")
	for _, f := range d.Jobs {
		at, to := string(f.At), string(f.To)
		if f.In != "" {
			at = string(f.In)
		}
		if len(f.Regions) > 0 {
			names := make([]string, len(f.Regions))
			for i, r := range f.Regions {
				names[i] = string(r)
			}
			to = strings.Join(names, ", ")
		}
		t.add(string(f.Job), f.Name, string(f.Tenant), f.Residency, string(f.Fate), at, to, f.Rule, f.Reason)
	}
	t.write(w)
}
