package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/urfave/cli/v2"
)

// checkDocument is what residency check answers with --json.
type checkDocument struct {
	Tag       string         `json:"tag"` // as given
	Canonical string         `json:"canonical"`
	Wire      string         `json:"wire"`
	LawPack   string         `json:"law_pack"`
	AsOf      residency.Date `json:"as_of"`
	Warnings  []string       `json:"warnings"`
	Sites     []siteVerdict  `json:"sites"`
}

type siteVerdict struct {
	Region  string            `json:"region"`
	Site    string            `json:"site,omitempty"`
	Verdict residency.Verdict `json:"verdict"`
	Rule    string            `json:"rule"`
	Reason  string            `json:"reason"`
}

func (p *program) residencyCheck() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "which regions satisfy a tag, and why each other does not", ArgsUsage: "TAG",
		Description: tagText + `

With --sites it works offline, for the sites in FILE; else it asks the mesh for
its regions and their law pack. Exit 0 if a site is permitted, 20 if all are
refused, 30 if none is permitted and one is unknown, 2 for a bad tag or file.`,
		UsageText: "sovmesh residency check 'EEA,!HU' --sites sites.json\nsovmesh residency check @tag.yaml --data personal --as-of 2027-05-13",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "sites", Usage: "`FILE` with a JSON list of sites; nothing is asked over the network"},
			&cli.StringFlag{Name: "as-of", Usage: "`DATE` (YYYY-MM-DD, UTC) whose law decides; default today"},
			&cli.StringFlag{Name: "exporter", Usage: "`PLACE` whose transfer law applies, where the tag leaves it open; default EU"},
			&cli.StringFlag{Name: "data", Usage: "`KIND` where the tag leaves it open: none, personal, special, confidential"},
		}, connectionFlags()...),
		Action: p.runResidencyCheck,
	}
}

// known is what a tag is judged on: the same crossings as a submit's.
type known struct {
	law   placement.Law
	from  *placement.Region // home; nil for a file of sites, which knows no borders
	sites []spot
	// silent are the regions out of contact.
	silent map[placement.RegionID]bool
}

// spot is a region, or one site of it.
type spot struct {
	region *placement.Region
	site   string
}

func (p *program) runResidencyCheck(c *cli.Context) error {
	args, err := arguments(c, "TAG")
	if err != nil {
		return err
	}
	on, err := p.asOf(c)
	if err != nil {
		return err
	}
	k, err := p.knownSites(c)
	if err != nil {
		// A bad tag is bad whatever the sites are, and the nearer fault.
		if _, _, bad := readTag(args[0], residency.Embedded(), on); bad != nil {
			return bad
		}
		return err
	}
	k.law.On = on
	tag, warnings, err := readTag(args[0], k.law.Pack, on)
	if err != nil {
		return err
	}
	options, more, err := residency.OptionsFor(tag, residency.Options{On: on, Exporter: c.String("exporter"), Data: c.String("data")}, k.law.Pack)
	if err != nil {
		return err
	}
	doc := k.judge(args[0], tag, options)
	doc.Warnings = append(append(append(doc.Warnings, warnings...), texts(more)...), unknownNames(tag, k.sites)...)
	return p.answerCheck(doc)
}

func (p *program) knownSites(c *cli.Context) (known, error) {
	if !c.IsSet("sites") {
		return p.askSites(c)
	}
	sites, err := readSites(c.String("sites"))
	k := known{law: placement.Law{Pack: residency.Embedded()}}
	for _, s := range sites {
		k.sites = append(k.sites, spot{&placement.Region{ID: placement.RegionID(s.Region), Facts: placement.FactsOf(s)}, s.Site})
	}
	return k, err
}

func readSites(path string) ([]residency.Site, error) {
	data, err := readBounded(path, maxSitesFile)
	if err != nil {
		return nil, err
	}
	sites, err := residency.ParseSites(data)
	var bad *residency.Error
	if errors.As(err, &bad) {
		named := *bad
		named.Message = path + ": " + bad.Message
		return nil, &named
	}
	return sites, err
}

// judge evaluates the sites in their order. A site that is out of contact is
// not permitted, only unknown; what refuses it holds whether it answers or not.
func (k known) judge(given string, tag residency.Tag, o residency.Options) checkDocument {
	doc := checkDocument{
		Tag: given, Canonical: tag.Canonical(), Wire: tag.Wire(), LawPack: k.law.Pack.Hash(), AsOf: o.On,
		Warnings: []string{}, Sites: make([]siteVerdict, 0, len(k.sites)),
	}
	policy := residency.NewPolicy(residency.Layer{Origin: residency.OriginJob, Tag: tag})
	for _, s := range k.sites {
		d := placement.Crossing{Policy: policy, From: k.from, To: s.region, Site: s.site, Law: k.law, Options: o}.Judge()
		v := siteVerdict{Region: string(s.region.ID), Site: s.site, Verdict: d.Verdict, Rule: d.Rule, Reason: d.Reason}
		if k.silent[s.region.ID] && d.Verdict == residency.Permitted {
			v.Verdict, v.Rule, v.Reason = residency.Unknown, api.CodePeerUnknown, "lawful by its pinned facts, but there is no contact with the region"
		}
		doc.Sites = append(doc.Sites, v)
	}
	return doc
}

func (p *program) answerCheck(doc checkDocument) error {
	for _, w := range doc.Warnings {
		p.warn(w)
	}
	err := p.show(doc, func(w io.Writer) {
		p.facts(w, "tag", doc.Canonical, "law pack", doc.LawPack, "as of", doc.AsOf.String())
		fmt.Fprintln(w)
		t := p.table("REGION", "SITE", "VERDICT", "RULE", "REASON")
		for _, s := range doc.Sites {
			t.add(s.Region, s.Site, string(s.Verdict), s.Rule, s.Reason)
		}
		t.write(w)
	})
	if err != nil {
		return err
	}
	return doc.outcome()
}

// outcome is the exit code of the verdicts.
func (d checkDocument) outcome() error {
	unknown := 0
	for _, s := range d.Sites {
		switch s.Verdict {
		case residency.Permitted:
			return nil
		case residency.Unknown:
			unknown++
		}
	}
	if unknown > 0 {
		return &outcome{api.ExitUnknown, fmt.Sprintf("no site is known to satisfy %s; %d of %d are unknown, and unknown is not permitted", d.Canonical, unknown, len(d.Sites)), "have the missing claim stated, or restore the contact; the reasons say which"}
	}
	return &outcome{api.ExitNotLawful, fmt.Sprintf("no site satisfies %s", d.Canonical), "widen the tag, or see what it means: sovmesh residency explain '" + d.Canonical + "'"}
}

// askSites asks the mesh for its regions and for the law pack it decides by.
func (p *program) askSites(c *cli.Context) (known, error) {
	client, err := p.client(c)
	if err != nil {
		return known{}, err
	}
	defer client.Close()
	atlas, err := client.Atlas(c.Context)
	if err != nil {
		return known{}, err
	}
	k := known{law: atlas.Law, from: atlas.Home, silent: atlas.Silent}
	for _, r := range atlas.Regions {
		k.sites = append(k.sites, spot{region: r})
	}
	return k, nil
}
