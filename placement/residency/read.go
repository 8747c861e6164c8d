package residency

import (
	"fmt"
	"strings"
)

// Bounds of a tag, in the short form and of every list of the long one.
const (
	maxTagBytes = 1024
	maxTagItems = 64
)

// Parse reads the short form. It gives up at the first fault in the order that
// the specification fixes: size, emptiness, foreign bytes, number of items,
// then item by item from the left. Its error is an [*Error] with a tag.* code
// and the column at fault.
func Parse(short string, p *Pack) (Tag, []Warning, error) {
	if err := readable(short); err != nil {
		return Tag{}, nil, err
	}
	parts := strings.Split(short, ",")
	if len(parts) > maxTagItems {
		return Tag{}, nil, tooLong(fmt.Sprintf("%d items; the most is %d", len(parts), maxTagItems))
	}
	r := &reader{p: p}
	var allow, deny []item
	column := 1
	for _, part := range parts {
		it, denied, err := r.item(part, column)
		if err != nil {
			return Tag{}, nil, err
		}
		if denied {
			deny = append(deny, it)
		} else {
			allow = append(allow, it)
		}
		column += len(part) + 1
	}
	if len(allow) == 0 {
		return Tag{}, nil, &Error{Code: "tag.no-allow", Message: "the tag only denies: at least one item must stand without !", Help: "write ANY," + newTag(nil, deny).canonical, Column: 1}
	}
	return Tag{newTag(allow, deny)}, r.warnings, nil
}

// readable checks what concerns the text as a whole.
func readable(s string) error {
	if len(s) > maxTagBytes {
		return tooLong(fmt.Sprintf("%d bytes; the most is %d", len(s), maxTagBytes))
	}
	if trim(s) == "" {
		return &Error{Code: "tag.empty", Message: "the tag is empty", Help: "matches nothing; use ANY if you mean anywhere"}
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !alnum(c) && !blank(c) && strings.IndexByte("-:()!,", c) < 0 {
			help := "write places such as FR, CA-QC, EU, group:NAME, adequate(EU), region:NAME, separated by commas"
			if c == '*' {
				help = "no wildcards; ANY"
			}
			return &Error{Code: "tag.syntax", Message: fmt.Sprintf("%q cannot stand in a tag; expected letters, digits, - : ( ) ! and commas", s[i:i+1]), Help: help, Column: i + 1}
		}
	}
	return nil
}

func tooLong(what string) *Error {
	return &Error{Code: "tag.too-long", Message: "the tag is too long: " + what, Help: "name a group"}
}

// reader reads places and gathers warnings. line is set while a long form is
// read.
type reader struct {
	p        *Pack
	line     int
	warnings []Warning
}

func (r *reader) warn(code string, column int, format string, args ...any) {
	r.warnings = append(r.warnings, Warning{Code: code, Message: fmt.Sprintf(format, args...), Line: r.line, Column: column})
}

func (r *reader) syntax(column int, expected, help string) error {
	return &Error{Code: "tag.syntax", Message: expected, Help: help, Line: r.line, Column: column}
}

// trimmed cuts blanks and moves the column to the first byte that is left.
func trimmed(s string, column int) (string, int) {
	left := strings.TrimLeft(s, " \t")
	return trim(left), column + len(s) - len(left)
}

// item reads one part between commas.
func (r *reader) item(part string, column int) (it item, denied bool, err error) {
	s, column := trimmed(part, column)
	if s == "" {
		return item{}, false, r.syntax(column, "expected a place, found nothing between commas", "remove the comma, or name a place")
	}
	if s[0] == '!' {
		denied = true
		if s, column = trimmed(s[1:], column+1); s == "" {
			return item{}, false, r.syntax(column, "expected a place after !", "write !HU to leave Hungary out")
		}
	}
	it, err = r.place(s, column)
	if err == nil && denied && it.kind == kindAny {
		return item{}, false, r.syntax(column, "!ANY would deny everything", "remove it; a tag denies what it does not name")
	}
	if err == nil && it.kind == kindAny {
		r.warn("tag.any", column, "ANY allows every place of the world; it needs the permission residency.any")
	}
	return it, denied, err
}

// place reads a place without "!"; s has no blanks at its ends and is not empty.
func (r *reader) place(s string, column int) (item, error) {
	if i := strings.IndexByte(s, '!'); i >= 0 {
		return item{}, r.syntax(column+i, "expected one ! at most, at the start of an item", "separate items with commas: EU,!HU")
	}
	if strings.ContainsAny(s, "()") {
		return r.adequate(s, column)
	}
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return item{}, r.syntax(column+i, "expected a comma, found a blank inside an item", "separate items with commas")
	}
	if strings.Contains(s, ":") {
		return r.named(s, column)
	}
	return r.word(s, column)
}

// named reads group:NAME, region:NAME and site:NAME.
func (r *reader) named(s string, column int) (item, error) {
	prefix, name, _ := strings.Cut(s, ":")
	prefix = lower(prefix)
	if prefix != "group" && prefix != "region" && prefix != "site" {
		return item{}, r.syntax(column, "expected group:, region: or site: before a name, found "+quote(prefix+":"), "write group:NAME, region:NAME or site:NAME")
	}
	if !nameShape(name) {
		return item{}, r.syntax(column+len(prefix)+1, "expected a name of 1 to 63 letters, digits and hyphens, no hyphen at either end", "write for example region:fra-1")
	}
	switch prefix {
	case "region":
		return item{kindRegion, lower(name), "region:" + lower(name)}, nil
	case "site":
		return item{kindSite, lower(name), "site:" + lower(name)}, nil
	}
	group := upper(name)
	if _, ok := r.p.groups[group]; !ok {
		return item{}, r.unknown(name, column, "no group "+quote(group)+" in the law pack", r.groupHelp(group))
	}
	if group == "FIVE-EYES" {
		r.warn("tag.informal", column, "group:FIVE-EYES is informal: it has no legal definition")
	}
	return groupItem(group), nil
}

func (r *reader) groupHelp(group string) string {
	names := make([]string, 0, len(r.p.groups))
	for _, g := range sortedGroups(r.p) {
		names = append(names, groupText(g))
	}
	if s := nearest(group, sortedGroups(r.p)); s != "" {
		return "did you mean " + groupText(s) + "? Known groups: " + strings.Join(names, " ")
	}
	return "known groups: " + strings.Join(names, " ")
}

func (r *reader) unknown(word string, column int, message, help string) error {
	if help == "" {
		help = "name a country (ISO 3166-1: FR), a subdivision (CA-QC), EU, EEA, EFTA, GDPR-ZONE, group:NAME, adequate(EU), region:NAME or site:NAME"
		if s := Suggest(word, r.p); s != "" {
			help = "did you mean " + s + "?"
		}
	}
	return &Error{Code: "tag.unknown-place", Message: message, Help: help, Line: r.line, Column: column}
}

// word looks a plain word up; the first hit wins, also where it refuses.
func (r *reader) word(s string, column int) (item, error) {
	w := upper(s)
	if w == "ANY" {
		return item{kindAny, "ANY", "ANY"}, nil
	}
	if _, ok := r.p.groups[w]; ok && bareGroup(w) {
		return groupItem(w), nil
	}
	if a, ok := r.p.aliases[w]; ok && a.action != "group" {
		return r.alias(s, w, a, column)
	}
	if _, ok := r.p.groups[w]; ok {
		return item{}, r.unknown(s, column, quote(s)+" is a group, and groups other than EU, EEA, EFTA, GDPR-ZONE are written with a prefix", "write group:"+w)
	}
	if subdivisionShape(w) {
		return r.subdivision(s, w, column)
	}
	if _, ok := r.p.countries[w]; ok {
		return countryItem(w), nil
	}
	return item{}, r.unknown(s, column, quote(s)+" is not a place that this law pack knows", "")
}

func (r *reader) alias(s, w string, a alias, column int) (item, error) {
	if a.action == "accept-warn" {
		r.warn("tag.alias", column, "%s is read as %s: %s", w, a.canonical, a.reason)
		return countryItem(a.canonical), nil
	}
	why, instead := a.reason, a.canonical
	if a.action != "reject-suggest" {
		var several bool // places to choose from
		if why, instead, several = strings.Cut(a.reason, "Suggest "); !several {
			return item{}, r.unknown(s, column, quote(s)+" is not a place that a tag can name", a.reason+"; name a country, EU, EEA or a group of countries in its place")
		}
		why = strings.TrimRight(why, ". ")
		if i := strings.LastIndex(why, " ("); i > 0 && strings.HasSuffix(why, ")") {
			why = why[:i] // where the table has it from
		}
	}
	return item{}, r.unknown(s, column, quote(s)+" is not a place that a tag can name: "+why, "did you mean "+instead+"?")
}

func (r *reader) subdivision(s, w string, column int) (item, error) {
	code := w
	if c := canonicalCountry(w[:2]); c != w[:2] {
		code = c + w[2:]
	}
	prefix := code[:2]
	if _, ok := r.p.countries[prefix]; !ok {
		return item{}, r.unknown(s, column, quote(s)+" is a subdivision of no country that this law pack knows", "")
	}
	if prefix != w[:2] {
		r.warn("tag.alias", column, "%s is read as %s", w, code)
	}
	switch home, listed := r.p.subdivisions[code]; {
	case listed && home != prefix:
		r.warn("tag.moved", column, "%s is a country of its own: read as %s", code, home)
		return countryItem(home), nil
	case !listed && r.p.complete[prefix]:
		return item{}, r.unknown(code, column, quote(s)+" is not a subdivision of "+prefix, "")
	case !listed:
		r.warn("tag.unlisted", column, "%s: the law pack does not list the subdivisions of %s; only its form was checked", code, prefix)
	}
	return subdivisionItem(code), nil
}

// adequate reads adequate(X), the only shape in which brackets may stand.
func (r *reader) adequate(s string, column int) (item, error) {
	open := strings.IndexByte(s, '(')
	if open < 0 || lower(s[:open]) != "adequate" || !strings.HasSuffix(s, ")") {
		return item{}, r.syntax(column+max(open, 0), "expected adequate(X): brackets stand nowhere else, and no blank before them", "write adequate(EU)")
	}
	x, at := trimmed(s[open+1:len(s)-1], column+open+1)
	if x == "" || strings.ContainsAny(x, "() \t") {
		return item{}, r.syntax(at, "expected one country or group inside adequate( )", "write adequate(EU)")
	}
	if _, group := r.p.groups[upper(x)]; upper(x) == "ANY" || subdivisionShape(x) && !group {
		return item{}, r.syntax(at, "expected a country or a group inside adequate( ), not "+quote(x), "write adequate(EU): whose decisions, not for whom")
	}
	if prefix, _, ok := strings.Cut(x, ":"); ok && lower(prefix) != "group" {
		return item{}, r.syntax(at, "expected a country or a group inside adequate( ), not "+quote(x), "write adequate(EU)")
	}
	it, err := r.place(x, at)
	if err != nil {
		return item{}, err
	}
	known := it.kind == kindGroup && zoneGroup(it.code) ||
		it.kind == kindCountry && (r.p.decides(it.code) || r.p.everInZone(it.code))
	if !known {
		return item{}, r.noExporter(x, at)
	}
	return adequateItem(it), nil
}

func (r *reader) noExporter(word string, column int) error {
	return &Error{
		Code:    "tag.unknown-exporter",
		Message: quote(word) + " makes no adequacy decisions that this law pack knows",
		Help:    "who decides: " + strings.Join(exporters(r.p), ", ") + ", or a country that is or was in one of the first three",
		Line:    r.line, Column: column,
	}
}
