package main

import "github.com/urfave/cli/v2"

func (p *program) residencyCommands() *cli.Command {
	return group("residency", "what a tag means and which regions satisfy it", p.residencyCheck(), p.residencyExplain())
}

const tagText = `TAG is the short form ('EEA,!HU'), or @FILE with the long form in YAML or JSON.
Places: countries (DE), subdivisions (CA-QC), EU, EEA, EFTA, GDPR-ZONE, group:NAME,
adequate(EU), region:NAME, site:NAME, ANY. '!' removes a place, and wins.
EU is territory: RE, GP and others are in it. FR alone does not include RE: write
FR,RE or group:FR-ALL.`
