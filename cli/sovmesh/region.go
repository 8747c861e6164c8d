package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
	"github.com/urfave/cli/v2"
)

func (p *program) regionCommands() *cli.Command {
	return group("region", "found a region, federate it with others", p.regionList(), p.regionShow(), p.regionInit(), p.regionInvite(),
		p.regionJoin(), p.regionApprove(), p.regionLeave(), p.regionPolicy(), p.regionRecover())
}

func (p *program) writeRegion(w io.Writer, r *api.RegionStatus) {
	f := r.Facts
	var claims []string
	for _, k := range sortedKeys(f.Claims) {
		claims = append(claims, k+"="+f.Claims[k])
	}
	p.facts(w, "region", string(r.ID), "mesh", r.Mesh, "state", string(r.State), "link", r.Link+prefixed(" since ", stamp(r.Since)),
		"country", strings.TrimSpace(f.Country+" "+f.Subdivision), "operator", operatorText(f.Operator), "claims", strings.Join(claims, ", "),
		"assurance", assuranceText(f.Assurance), "fingerprint", r.Fingerprint, "law pack", r.LawPack, "export rule", r.Export, "import rule", r.Import,
		"log key", r.LogKey, "witness key", r.WitnessKey, "outside witnesses", witnessText(r.Witnesses), "approved", stamp(r.ApprovedAt), "front doors", doorText(r.FrontDoors))
}

func operatorText(o placement.Operator) string {
	if o == (placement.Operator{}) {
		return "not said"
	}
	return strings.TrimSpace(fmt.Sprintf("%s (home %s, parent %s)", o.Name, nonEmpty(o.Home, "not said"), nonEmpty(o.Parent, "not said")))
}

func assuranceText(a placement.Assurance) string {
	if a == (placement.Assurance{}) {
		return "not said"
	}
	return fmt.Sprintf("location %s, operator %s%s", nonEmpty(a.Location, "not said"), nonEmpty(a.Operator, "not said"), prefixed(", as of ", a.AsOf))
}

func doorText(doors []placement.FrontDoor) string {
	var out []string
	for _, d := range doors {
		out = append(out, d.API)
	}
	return strings.Join(out, " ")
}

// fingerprintFlag reads what two operators compared. It is required: nothing
// is joined or approved without.
func fingerprintFlag(c *cli.Context, whose string) (string, error) {
	fp := c.String("confirm-fingerprint")
	switch {
	case fp == "":
		return "", usage("ask the other operator for it by another channel (telephone, in person), then give --confirm-fingerprint FP", "the fingerprint of %s was not confirmed", whose)
	case !identity.ValidFingerprint(fp):
		return "", usage("type all of it, as region show prints it there", "%s is no whole fingerprint", quoteWord(fp))
	}
	return fp, nil
}

func regionName(name string) error {
	if placement.ValidName(name) {
		return nil
	}
	return usage("use 1 to 63 lower-case letters, digits and hyphens", "no region can be called %s", quoteWord(name))
}
