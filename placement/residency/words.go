package residency

import (
	"maps"
	"slices"
	"strings"
)

const upperAlnum = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

// upper and lower fold ASCII only: the grammar knows no other letters, and a
// Unicode fold would let the Kelvin sign pass for a K.
func upper(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'a' <= c && c <= 'z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'a' <= b[i] && b[i] <= 'z' {
					b[i] -= 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

func lower(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

func alpha(c byte) bool { return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' }
func alnum(c byte) bool { return alpha(c) || '0' <= c && c <= '9' }
func blank(c byte) bool { return c == ' ' || c == '\t' }

// trim removes OWS: blanks and tabs, nothing else.
func trim(s string) string { return strings.Trim(s, " \t") }

// nameShape is the grammar's `name`.
func nameShape(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !alnum(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}

func countryShape(s string) bool { return len(s) == 2 && alpha(s[0]) && alpha(s[1]) }

// subdivisionShape is the grammar's `subdiv`.
func subdivisionShape(s string) bool {
	if len(s) < 4 || len(s) > 6 || !countryShape(s[:2]) || s[2] != '-' {
		return false
	}
	for i := 3; i < len(s); i++ {
		if !alnum(s[i]) {
			return false
		}
	}
	return true
}

// canonicalCountry reads the two codes that are accepted beside ISO 3166-1.
func canonicalCountry(code string) string {
	switch code {
	case "UK":
		return "GB"
	case "EL":
		return "GR"
	}
	return code
}

// Suggest gives the place nearest to a word: what the alias table says, a
// country whose name it is, or the code, group or name with the fewest edits.
// It is empty when nothing is near.
func Suggest(word string, p *Pack) string {
	w := upper(trim(word))
	if len(w) > 64 {
		return ""
	}
	if a, ok := p.aliases[w]; ok {
		return a.canonical
	}
	if _, ok := p.groups[w]; ok {
		return groupText(w)
	}
	// A slip is a letter or two: one more, and any short word is near some country.
	best, least := "", max(1, len(w)/4)
	consider := func(name, place string) {
		if d := distance(w, upper(name), least); d < least || d == least && best == "" {
			best, least = place, d
		}
	}
	for _, code := range p.codes {
		consider(p.countries[code].name, code)
	}
	for _, g := range sortedGroups(p) {
		consider(g, groupText(g))
	}
	if best != "" && len(w) > 2 {
		return best
	}
	for _, code := range p.codes {
		consider(code, code)
	}
	if len(w) > 3 && subdivisionShape(w) {
		for _, code := range sortedSubdivisions(p, canonicalCountry(w[:2])) {
			consider(code, code)
		}
	}
	return best
}

// distance is the number of slips between a and b (a letter left out, put in,
// mistaken, or two neighbours swapped), or most+1 as soon as it is certain to
// be larger.
func distance(a, b string, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return most + 1
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := last[j-1]
			if a[i-1] != b[j-1] {
				cost++
			}
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cost = min(cost, before[j-2]+1)
			}
			row[j] = min(cost, last[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

// nearest picks the word of a short list that a misspelt one most likely means.
func nearest(word string, from []string) string {
	best, least := "", 1+len(word)/2
	for _, f := range from {
		if d := distance(lower(word), lower(f), least); d <= least && (best == "" || d < least) {
			best, least = f, d
		}
	}
	return best
}

func sortedGroups(p *Pack) []string { return slices.Sorted(maps.Keys(p.groups)) }

func sortedSubdivisions(p *Pack, prefix string) []string {
	var out []string
	for code := range p.subdivisions {
		if code[:2] == prefix {
			out = append(out, code)
		}
	}
	slices.Sort(out)
	return out
}

// exporters lists who decides on adequacy, the three groups first.
func exporters(p *Pack) []string {
	out := []string{groupEU, groupEEA, groupZone}
	for _, x := range slices.Sorted(maps.Keys(p.transfers)) {
		if countryShape(x) && !zoneGroup(x) && p.decides(x) {
			out = append(out, x)
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
