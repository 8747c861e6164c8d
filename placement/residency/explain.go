package residency

import (
	"fmt"
	"slices"
	"strings"
)

// Explanation is what a tag means, for people and programs.
type Explanation struct {
	Canonical    string   `json:"canonical"`
	Wire         string   `json:"wire"`
	Pack         string   `json:"law_pack"`
	On           Date     `json:"as_of"`
	Countries    []string `json:"countries"`   // every site there is inside
	Conditional  []string `json:"conditional"` // inside when the site states what is asked
	Undecided    []string `json:"undecided"`   // the law pack leaves it open: nothing is placed there
	Subdivisions []string `json:"subdivisions"`
	Regions      []string `json:"regions"`
	Sites        []string `json:"sites"`
	Words        []string `json:"words"`
	NotCovered   []string `json:"not_covered"`
	Warnings     []string `json:"warnings"`
}

// Explain says what a tag means on a day: the set it expands to, each part of
// it in words, and what it does not cover.
func Explain(t Tag, p *Pack, on Date) Explanation {
	e := Explanation{Canonical: t.Canonical(), Wire: t.Wire(), Pack: p.hash, On: on,
		Countries: []string{}, Conditional: []string{}, Undecided: []string{}, Subdivisions: []string{}, Words: []string{}, NotCovered: []string{}, Warnings: []string{}}
	if t.b == nil {
		e.Words = append(e.Words, "No tag: nothing is permitted.")
		return e
	}
	e.Regions, e.Sites = t.Names()
	e.expand(t.b, p, on)
	for _, it := range t.b.allow {
		e.Words = append(e.Words, "Allows "+it.words(p, on)+".")
		if it.kind == kindSubdivision {
			e.Subdivisions = append(e.Subdivisions, it.code)
		}
	}
	for _, it := range t.b.deny {
		e.Words = append(e.Words, "Never "+it.words(p, on)+"; deny wins.")
	}
	e.longWords(t.Long())
	e.limits(t, p)
	return e
}

// expand sorts the countries of the world by what the tag says of a site there
// that states nothing else.
func (e *Explanation) expand(b *body, p *Pack, on Date) {
	for _, code := range p.codes {
		s := newSituation(p, on, &Site{Country: code})
		out := outcome{v: yes}
		_ = out.add(ruleDeny, s.notDenied(b)) || out.add(ruleAllow, s.allowed(b.allow))
		switch {
		case out.v == yes:
			e.Countries = append(e.Countries, code)
		case out.v == unknown && out.cause == causeLaw:
			e.Undecided = append(e.Undecided, code)
		case out.v == unknown && out.why != whySiteName:
			e.Conditional = append(e.Conditional, code)
		}
	}
}

// words describes an item.
func (it item) words(p *Pack, on Date) string {
	switch it.kind {
	case kindAny:
		return "every place of the world (ANY; needs the permission residency.any)"
	case kindCountry:
		return fmt.Sprintf("%s (%s)", it.code, p.CountryName(it.code))
	case kindSubdivision:
		return fmt.Sprintf("%s, a part of %s: the rest of the country is another place", it.code, p.CountryName(it.code[:2]))
	case kindGroup:
		return fmt.Sprintf("%s, on %s the territory of %s", it.text, on, strings.Join(p.Members(it.code, on), " "))
	case kindAdequate:
		var rows []string
		for _, t := range p.decisions(it.code, on) {
			row := t.importer
			if t.claim != "" {
				row += " (claim " + t.claim + ")"
			}
			rows = append(rows, row)
		}
		slices.Sort(rows)
		return fmt.Sprintf("%s, places that a decision in force on %s covers: %s", it.text, on, strings.Join(slices.Compact(rows), ", "))
	case kindRegion:
		return "the region named " + it.code
	}
	return "sites named " + it.code
}

// longWords describes what only the long form says.
func (e *Explanation) longWords(l *Long) {
	say := func(on bool, format string, args ...any) {
		if on {
			e.Words = append(e.Words, fmt.Sprintf(format, args...))
		}
	}
	say(l.Data != "", "The data is %s.", l.Data)
	say(l.Exporter != "", "Transfers are judged under the law of %s.", l.Exporter)
	say(l.Mechanisms != nil, "A transfer may rest on: %s.", strings.Join(l.Mechanisms, ", "))
	for _, name := range scopeNames() {
		list := *l.Scope.list(name)
		say(list != nil, "%s is narrowed to %s.", name, strings.Join(list, ","))
	}
	say(l.Home != nil, "The operator must be at home in %s.", strings.Join(l.Home, ","))
	say(l.Parent != nil, "The operator's ultimate parent must be in %s.", strings.Join(l.Parent, ","))
	say(l.ExposedTo != nil, "The operator must be out of reach of %s.", strings.Join(l.ExposedTo, ", "))
	say(l.Keys.Holder != "", "Keys are held by the %s.", l.Keys.Holder)
	say(l.Transit.Via != nil, "Payload passes only through %s.", strings.Join(l.Transit.Via, ","))
	say(l.Transit.Direct, "Payload passes no relay.")
	say(l.Transit.Sealed, "Ciphertext may pass relays outside.")
	say(l.Assurance.Location != "", "The location must be %s or better.", l.Assurance.Location)
	say(l.Assurance.Operator != "", "The operator must be %s or better.", l.Assurance.Operator)
	say(l.Assurance.HasMaxAge, "Assurance may be %d days old.", l.Assurance.MaxAge)
	say(l.Assurance.Framework != nil, "The site must hold %s or better.", strings.Join(l.Assurance.Framework, ", "))
	say(l.Confidential, "Attested hardware only.")
	say(len(l.Prefer) > 0, "Among lawful places, first %s.", strings.Join(l.Prefer, ", then "))
}

// limits says what the tag does not do, where people expect it to.
func (e *Explanation) limits(t Tag, p *Pack) {
	l := t.Long()
	if slices.Contains(l.Allow, "FR") && !slices.Contains(l.Allow, groupEU) && !slices.Contains(l.Allow, groupEEA) {
		e.NotCovered = append(e.NotCovered, "FR alone leaves out RE, GP, MQ, GF, YT and MF; write group:FR-ALL for them")
	}
	if slices.Contains(l.Allow, groupEU) {
		e.NotCovered = append(e.NotCovered, "EU leaves out NO, IS and LI; EEA has them and is the usual choice for personal data")
	}
	if l.Home == nil && l.Parent == nil && l.ExposedTo == nil {
		e.NotCovered = append(e.NotCovered, "who operates the site, and which foreign law reaches the operator; see control in the long form")
	}
	if l.Assurance.Location == "" {
		e.NotCovered = append(e.NotCovered, "how well the location is known: a site's own word is taken; see assurance in the long form")
	}
	if l.Data == "" {
		e.NotCovered = append(e.NotCovered, "a basis for transfers of personal data: it is asked for only when data is personal or special")
	}
	if t.UsesAny() {
		e.Warnings = append(e.Warnings, "ANY needs the permission residency.any")
	}
	if len(e.Undecided) > 0 {
		e.Warnings = append(e.Warnings, "the law pack leaves open "+strings.Join(e.Undecided, ", ")+"; nothing is placed there")
	}
	e.NotCovered = append(e.NotCovered, "legal advice: the tables are engineering input, see the law pack "+p.hash)
}
