package residency

import (
	"slices"
	"strings"
)

func (l *loader) country(r record) error {
	code, zone := r.get("code"), r.get("gdpr_zone")
	if !countryShape(code) || code != upper(code) {
		return r.fault("%s is not two capital letters", quote(code))
	}
	if _, twice := l.p.countries[code]; twice {
		return r.fault("%s stands twice", code)
	}
	if zone != "yes" && zone != "no" && zone != "check" {
		return r.fault("gdpr_zone is %s, not yes, no or check", quote(zone))
	}
	l.p.countries[code] = country{name: r.get("name"), zoneCheck: zone == "check", territoryUS: r.get("special_status") == "territory of US"}
	return nil
}

func (l *loader) group(r record) error {
	name, code := r.get("group"), r.get("code")
	if !nameShape(name) || name != upper(name) {
		return r.fault("the group %s is not a name in capitals", quote(name))
	}
	if name == "ANY" || l.isCountry(name) {
		return r.fault("the group %s has the name of a place", name)
	}
	if !l.isCountry(code) {
		return r.fault("the country %s is not in countries.csv", quote(code))
	}
	s, err := r.span("from", "to")
	if err != nil {
		return err
	}
	if l.p.groups[name] == nil {
		l.p.groups[name] = map[string][]span{}
	}
	l.p.groups[name][code] = append(l.p.groups[name][code], s)
	return nil
}

func (l *loader) alias(r record) error {
	input := r.get("input")
	a := alias{r.get("canonical"), r.get("action"), r.get("reason")}
	if input == "" || input != upper(input) || strings.Trim(input, upperAlnum+"-") != "" {
		return r.fault("the input %s is not a word in capitals", quote(input))
	}
	if _, twice := l.p.aliases[input]; twice {
		return r.fault("%s stands twice", input)
	}
	switch a.action {
	case "accept-warn":
		// UK and EL alone: the places of sites are read by the same two.
		if canonicalCountry(input) != a.canonical || input == a.canonical {
			return r.fault("only UK (GB) and EL (GR) may be accepted, not %s", input)
		}
	case "group":
		if !bareGroup(a.canonical) || l.p.groups[a.canonical] == nil {
			return r.fault("%s is not a group that is written bare", quote(a.canonical))
		}
	case "reject-suggest":
		if a.canonical == "" {
			return r.fault("reject-suggest without a suggestion")
		}
	case "reject":
	default:
		return r.fault("the action %s is not accept-warn, group, reject-suggest or reject", quote(a.action))
	}
	l.p.aliases[input] = a
	return nil
}

func (l *loader) subdivision(r record) error {
	code, place, list := r.get("subdivision"), r.get("country"), r.get("list")
	if !subdivisionShape(code) || code != upper(code) {
		return r.fault("%s is not a subdivision such as CA-QC", quote(code))
	}
	if _, twice := l.p.subdivisions[code]; twice {
		return r.fault("%s stands twice", code)
	}
	if !l.isCountry(code[:2]) || !l.isCountry(place) {
		return r.fault("%s of %s: a country that countries.csv does not have", code, quote(place))
	}
	switch list {
	case "complete":
		l.p.complete[code[:2]] = true
	case "partial":
	default:
		return r.fault("list is %s, not complete or partial", quote(list))
	}
	l.p.subdivisions[code] = place
	return nil
}

func (l *loader) transfer(r record) error {
	exporter, importer, mechanism, claim := r.get("exporter"), r.get("importer"), r.get("mechanism"), r.get("claim")
	if !l.isCountry(exporter) && l.p.groups[exporter] == nil && !(subdivisionShape(exporter) && l.isCountry(exporter[:2])) {
		return r.fault("the exporter %s is neither country, subdivision nor group", quote(exporter))
	}
	// Three letters and more may name an organisation (EPO): no site matches it.
	if importer != "*" && !l.isCountry(importer) && l.p.groups[importer] == nil && (!nameShape(importer) || len(importer) < 3) {
		return r.fault("the importer %s is neither country, group nor organisation", quote(importer))
	}
	if mechanism == "" {
		return r.fault("no mechanism")
	}
	if mechanism == mechanismAdequacy && importer == "*" || mechanism == mechanismNegativeList && importer != "*" {
		return r.fault("%s with importer %s", mechanism, quote(importer))
	}
	if claim != lower(claim) || claim != "" && !nameShape(claim) {
		return r.fault("the claim %s is not a name in lower case", quote(claim))
	}
	s, err := r.span("effective_from", "effective_to")
	if err != nil {
		return err
	}
	l.p.transfers[exporter] = append(l.p.transfers[exporter], transfer{s, importer, mechanism, claim})
	return nil
}

func (l *loader) law(r record) error {
	id, home, kind, reach := r.get("id"), r.get("home"), r.get("kind"), r.get("reaches_foreign_subsidiaries")
	if !nameShape(id) || id != upper(id) {
		return r.fault("the id %s is not a name in capitals", quote(id))
	}
	if !l.isCountry(home) && l.p.groups[home] == nil {
		return r.fault("the home %s is neither country nor group", quote(home))
	}
	if kind != "exposure" && kind != "shield" {
		return r.fault("the kind %s is not exposure or shield", quote(kind))
	}
	if !slices.Contains([]string{"yes", "partly", "no", "n/a"}, reach) {
		return r.fault("reaches_foreign_subsidiaries is %s, not yes, partly, no or n/a", quote(reach))
	}
	s, err := r.span("from", "to")
	if err != nil {
		return err
	}
	if kind == "exposure" && !slices.Contains(l.p.lawIDs, id) {
		l.p.lawIDs = append(l.p.lawIDs, id)
	}
	l.p.laws[id] = append(l.p.laws[id], law{span: s, home: home, shield: kind == "shield", partly: reach == "partly"})
	return nil
}

func (l *loader) level(r record) error {
	framework, level := r.get("framework"), r.get("level")
	for _, w := range []string{framework, level} {
		if !nameShape(w) || w != upper(w) {
			return r.fault("%s is not a name in capitals", quote(w))
		}
	}
	if slices.Contains(l.p.levels[framework], level) {
		return r.fault("%s:%s stands twice", framework, level)
	}
	l.p.levels[framework] = append(l.p.levels[framework], level)
	return nil
}

func (l *loader) isCountry(code string) bool {
	_, ok := l.p.countries[code]
	return ok
}
