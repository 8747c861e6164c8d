package residency

import "strings"

// situation is one site on one day under one pack: what items are asked about.
type situation struct {
	p    *Pack
	on   Date
	site *Site
	at   place
	name string // region, folded
	room string // site name, folded
}

func newSituation(p *Pack, on Date, site *Site) situation {
	return situation{p: p, on: on, site: site, at: p.place(site), name: lower(site.Region), room: lower(site.Site)}
}

// item answers whether the site is in the place that an item names.
func (s *situation) item(it *item) answer {
	switch it.kind {
	case kindAny:
		return answerYes
	case kindRegion:
		return nameAnswer(s.name, it.code)
	case kindSite:
		return nameAnswer(s.room, it.code)
	case kindSubdivision:
		return s.subdivision(it.code)
	case kindAdequate:
		return s.adequate(it.code, it.text)
	}
	return s.p.country(s.at.country, it, s.on)
}

func nameAnswer(have, want string) answer {
	switch have {
	case "":
		return dontKnow(causeClaim, whySiteName, "", "")
	case want:
		return answerYes
	}
	return answer{}
}

// country answers for a country or group item; code "" is a country not known.
func (p *Pack) country(code string, it *item, on Date) answer {
	if code == "" {
		return dontKnow(causeClaim, whyPlace, "", "")
	}
	if it.kind == kindGroup {
		return p.member(it.code, code, on)
	}
	return answer{v: truthOf(code == it.code)}
}

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// member answers whether a known country belongs to a group on a day.
func (p *Pack) member(group, code string, on Date) answer {
	members, ok := p.groups[group]
	switch {
	case !ok:
		// A tag may be older than the pack it is evaluated under.
		return dontKnow(causeLaw, whyNoGroup, group, "")
	case holds(members[code], on):
		return answerYes
	case group == groupZone && p.countries[code].zoneCheck:
		return dontKnow(causeLaw, whyCheck, code, group)
	}
	return answer{}
}

func (s *situation) subdivision(code string) answer {
	switch {
	case s.at.country == "":
		return dontKnow(causeClaim, whyPlace, "", "")
	case s.at.country != code[:2]:
		return answer{}
	case s.at.subdivision == "":
		return dontKnow(causeClaim, whySubdivision, s.at.country, "")
	}
	return answer{v: truthOf(s.at.subdivision == code)}
}

// exporterRows gives the rows that speak for an exporter: its own, and those
// of the EU when it is in that area on the day.
func (p *Pack) exporterRows(exporter string, on Date) (own, eu []transfer) {
	own = p.transfers[exporter]
	if exporter != groupEU && (zoneGroup(exporter) || p.inZone(exporter, on)) {
		eu = p.transfers[groupEU]
	}
	return own, eu
}

// decisions lists the rows of adequacy in force that speak for an exporter.
func (p *Pack) decisions(exporter string, on Date) []transfer {
	own, eu := p.exporterRows(exporter, on)
	var out []transfer
	for _, rows := range [][]transfer{own, eu} {
		for _, t := range rows {
			if t.mechanism == mechanismAdequacy && t.holds(on) {
				out = append(out, t)
			}
		}
	}
	return out
}

// covers answers whether a decision's importer holds a known country.
func (p *Pack) covers(t transfer, code string, on Date) answer {
	if t.importer == code {
		return answerYes
	}
	if _, ok := p.groups[t.importer]; ok {
		return p.member(t.importer, code, on)
	}
	return answer{}
}

// adequate answers whether a decision by the exporter permits this site. text
// is how the question was put, for the words.
func (s *situation) adequate(exporter, text string) answer {
	code := s.at.country
	if code == "" {
		return dontKnow(causeClaim, whyPlace, "", "")
	}
	result := deny(whyNotAdequate, code, exporter)
	own, eu := s.p.exporterRows(exporter, s.on)
	for _, rows := range [...][]transfer{own, eu} {
		for i := range rows {
			t := &rows[i]
			if t.mechanism != mechanismAdequacy || !t.holds(s.on) {
				continue
			}
			one := s.p.covers(*t, code, s.on)
			if one.v != no && t.claim != "" {
				one = and(one, s.claim(t.claim, text))
			}
			if result.v == no && one.v == no && one.why != whyNothing {
				result = one // a stated none explains more than "no decision"
			}
			if result = or(result, one); result.v == yes {
				return result
			}
		}
	}
	return result
}

// claim answers whether the site states that a claim is active. need says what
// asks for it.
func (s *situation) claim(name, need string) answer {
	value := s.site.Claims[name]
	switch {
	case value == "active":
		return answerYes
	case value == "none":
		return deny(whyClaimNone, name, need)
	case strings.HasPrefix(value, "active until "):
		if end, err := ParseDate(value[len("active until "):]); err == nil && s.on < end {
			return answerYes
		}
	}
	return dontKnow(causeClaim, whyClaim, name, need)
}

// anyOf is the OR over items in canonical order; which one was true is the
// index, -1 when none was.
func (s *situation) anyOf(items []item) (answer, int) {
	result := answer{}
	for i := range items {
		one := s.item(&items[i])
		if one.v == yes {
			return one, i
		}
		if result.v == no && one.v == no && result.why == whyNothing {
			result = one // the first false answer that has words
		}
		result = or(result, one)
	}
	return result, -1
}

// words shows a list of items in a sentence.
func words(items []item) string {
	const most = 12
	if len(items) > most {
		return strings.Join(texts(items[:most]), ",") + ",..."
	}
	return strings.Join(texts(items), ",")
}

// whereWords names a place in a sentence.
func (s *situation) whereWords() string {
	switch {
	case s.at.subdivision != "":
		return s.at.subdivision
	case s.at.country != "":
		return s.at.country
	}
	return "the site"
}
