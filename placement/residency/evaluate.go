package residency

import (
	"slices"
	"strconv"
	"strings"
)

// Options are what a decision needs beside policy, site and pack. Exporter and
// Data fill what a tag leaves open and never override it.
type Options struct {
	On       Date   // the UTC day of the decision
	Exporter string // whose transfer law applies; "" means EU
	Data     string // none, personal, special or confidential; "": the tag alone decides
	Sealed   bool   // of [CheckTransit]: the payload is ciphertext for those who execute it
}

// Tests of the exact evaluation, in their order. Transit puts its own first.
const (
	ruleDeny      = "tag.deny"
	ruleAllow     = "tag.allow"
	ruleAdequacy  = "law.adequacy"
	ruleOperator  = "control.operator"
	ruleExposed   = "control.exposed"
	ruleAssurance = "assurance.framework"
	ruleEmpty     = "tag.empty" // no tag anywhere
)

// outcome is the verdict of one tag.
type outcome struct {
	v    truth
	rule string
	answer
}

// add takes in the next test: the first failure decides, else the first unknown.
// It reports whether the verdict can no longer change.
func (o *outcome) add(rule string, a answer) bool {
	switch {
	case a.v == no:
		*o = outcome{no, rule, a}
		return true
	case a.v == unknown && o.v == yes:
		*o = outcome{unknown, a.cause, a}
	}
	return false
}

// judge runs the six tests of a tag on a situation.
func (s *situation) judge(b *body, o Options) outcome {
	out := outcome{v: yes, rule: ruleAllow}
	_ = out.add(ruleDeny, s.notDenied(b)) ||
		out.add(ruleAllow, s.allowed(b.allow)) ||
		s.judgeRest(&out, b, o)
	return out
}

// judgeRest runs the tests that follow the place.
func (s *situation) judgeRest(out *outcome, b *body, o Options) bool {
	return out.add(ruleAdequacy, s.transferBasis(&b.long, o)) ||
		out.add(ruleOperator, s.operator(b)) ||
		out.add(ruleExposed, s.exposed(b.long.ExposedTo)) ||
		out.add(ruleAssurance, s.assurance(&b.long.Assurance))
}

func (s *situation) notDenied(b *body) answer {
	a, hit := s.anyOf(b.deny)
	switch a.v {
	case yes:
		return deny(whyDeny, s.whereWords(), b.deny[hit].text)
	case no:
		return answerYes
	}
	return a
}

func (s *situation) allowed(items []item) answer {
	a, _ := s.anyOf(items)
	if a.v == no && (a.why == whyNothing || len(items) > 1) {
		return answer{v: no, why: whyAllow, a: s.whereWords(), items: items}
	}
	return a
}

// transferBasis is test 3: may personal data go to this site at all?
func (s *situation) transferBasis(l *Long, o Options) answer {
	data := l.Data
	if data == "" {
		data = o.Data
	}
	if data == "" || data == "none" || data == "confidential" {
		return answerYes
	}
	if s.at.country == "" {
		return dontKnow(causeClaim, whyPlace, "", "")
	}
	exporter := l.Exporter
	if exporter == "" {
		exporter = canonicalCountry(upper(o.Exporter))
	}
	if exporter == "" {
		exporter = groupEU
	}
	inside := s.inArea(exporter)
	if inside.v == yes {
		return inside
	}
	outside := s.outsideBasis(exporter, l.Mechanisms)
	if outside.v != yes && inside.v == unknown {
		return inside
	}
	return outside
}

// inArea answers whether the site lies in the exporter's own area, within
// which nothing is transferred.
func (s *situation) inArea(exporter string) answer {
	if zoneGroup(exporter) || s.p.inZone(exporter, s.on) {
		a := s.p.member(groupEU, s.at.country, s.on)
		a = or(a, s.p.member(groupEEA, s.at.country, s.on))
		return or(a, s.p.member(groupZone, s.at.country, s.on))
	}
	if subdivisionShape(exporter) {
		return s.subdivision(exporter)
	}
	return answer{v: truthOf(s.at.country == exporter)}
}

// outsideBasis looks for what permits a transfer out of the exporter's area.
func (s *situation) outsideBasis(exporter string, mechanisms []string) answer {
	if slices.Contains(mechanisms, mechanismNone) {
		return deny(whyNoMechanism, s.whereWords(), exporter)
	}
	inForce := false
	own, eu := s.p.exporterRows(exporter, s.on)
	for _, rows := range [...][]transfer{own, eu} {
		for i := range rows {
			if !rows[i].holds(s.on) {
				continue
			}
			if inForce = true; rows[i].mechanism == mechanismNegativeList {
				return answerYes
			}
		}
	}
	if !inForce {
		return dontKnow(causeLaw, whyExporter, exporter, "")
	}
	if mechanisms == nil {
		return s.adequate(exporter, mechanismAdequacy)
	}
	result := deny(whyOutside, s.whereWords(), exporter)
	for _, m := range mechanisms {
		if m == mechanismAdequacy {
			result = or(result, s.adequate(exporter, mechanismAdequacy))
		} else {
			result = or(result, s.claim(m, "the transfer"))
		}
	}
	return result
}

// operator is test 4: home, then parent, each in its set.
func (s *situation) operator(b *body) answer {
	result := answerYes
	if b.home != nil {
		result = s.operatorIn(s.home(), "home", b.home)
	}
	if b.parent != nil {
		result = and(result, s.operatorIn(s.parent(), "parent", b.parent))
	}
	return result
}

func (s *situation) home() string {
	return s.p.listed(canonicalCountry(upper(s.site.Operator.Home)))
}

// parent is the country of the ultimate parent; an operator without one is its
// own.
func (s *situation) parent() string {
	if lower(s.site.Operator.Parent) == parentNone {
		return s.home()
	}
	return s.p.listed(canonicalCountry(upper(s.site.Operator.Parent)))
}

func (s *situation) operatorIn(code, side string, items []item) answer {
	if code == "" {
		return operatorUnknown(side)
	}
	result := answer{}
	for i := range items {
		if result = or(result, s.p.country(code, &items[i], s.on)); result.v == yes {
			return result
		}
	}
	if result.v == no {
		return answer{v: no, why: whyOperator, a: side + " " + code, items: items}
	}
	return result
}

func operatorUnknown(side string) answer {
	if side == "home" {
		return dontKnow(causeClaim, whyHomeUnknown, "", "")
	}
	return dontKnow(causeClaim, whyParentUnknown, "", "")
}

// exposed is test 5: no law of the list may reach the operator.
func (s *situation) exposed(ids []string) answer {
	result := answerYes
	for _, id := range ids {
		result = and(result, s.notReached(id))
	}
	return result
}

// notReached answers for one law, over all of its rows in force.
func (s *situation) notReached(id string) answer {
	rows, ok := s.p.laws[id]
	if !ok {
		return dontKnow(causeLaw, whyNoLaw, id, "")
	}
	reached := answer{}
	for i := range rows {
		if rows[i].holds(s.on) {
			reached = or(reached, s.reached(id, &rows[i]))
		}
	}
	switch reached.v {
	case yes:
		return deny(whyExposed, reached.a, reached.b)
	case no:
		return answerYes
	}
	return reached
}

// reached is the OR of home, parent and own country.
func (s *situation) reached(id string, l *law) answer {
	result := s.under(l, s.home(), operatorUnknown("home"), id, "home")
	parent := s.under(l, s.parent(), operatorUnknown("parent"), id, "parent")
	if parent.v == yes && l.partly {
		parent = dontKnow(causeLaw, whyPartly, id, "")
	}
	result = or(result, parent)
	return or(result, s.under(l, s.at.country, dontKnow(causeClaim, whyPlace, "", ""), id, "place"))
}

// under answers whether a country lies in the home of a law.
func (s *situation) under(l *law, code string, missing answer, id, side string) answer {
	if code == "" {
		return missing
	}
	in := answer{v: truthOf(code == l.home || l.home == "US" && s.p.countries[code].territoryUS)}
	if _, group := s.p.groups[l.home]; group {
		in = s.p.member(l.home, code, s.on)
	}
	if in.v == yes {
		in.a, in.b = id, side+" "+code
	}
	return in
}

// assurance is test 6: location, operator, framework, age.
func (s *situation) assurance(want *MinAssurance) answer {
	result := answerYes
	have := &s.site.Assurance
	if want.Location != "" && rank(have.Location) < rank(want.Location) {
		result = dontKnow(causeWeak, whyLocation, want.Location, "")
	}
	if want.Operator != "" && rank(have.Operator) < rank(want.Operator) {
		result = and(result, dontKnow(causeWeak, whyOperatorLevel, want.Operator, ""))
	}
	for _, f := range want.Framework {
		result = and(result, s.framework(f))
	}
	if want.HasMaxAge && !s.fresh(have.AsOf, want.MaxAge) {
		result = and(result, dontKnow(causeWeak, whyAge, strconv.Itoa(want.MaxAge), ""))
	}
	return result
}

// rank is the place of a level among [AssuranceLevels]; -1 when it is none.
func rank(level string) int {
	switch level {
	case "declared":
		return 0
	case "documented":
		return 1
	case "probed":
		return 2
	case "audited":
		return 3
	case "attested":
		return 4
	}
	return -1
}

func (s *situation) fresh(asOf string, days int) bool {
	d, err := ParseDate(asOf)
	return err == nil && d <= s.on && int64(s.on)-int64(d) <= int64(days)
}

// framework answers for one "CSF:SEAL-2": that level, or a later row.
func (s *situation) framework(want string) answer {
	framework, level, _ := strings.Cut(want, ":")
	levels := s.p.levels[framework]
	asked := slices.Index(levels, level)
	if asked < 0 {
		return dontKnow(causeLaw, whyNoLaw, want, "")
	}
	has := slices.Index(levels, upper(s.site.Claims[lower(framework)]))
	switch {
	case has < 0:
		return dontKnow(causeClaim, whyLevel, framework, "")
	case has < asked:
		return deny(whyLevelLow, framework+":"+levels[has], want)
	}
	return answerYes
}
