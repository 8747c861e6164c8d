package residency

import (
	"strings"
	"testing"
)

func TestCanonicalForms(t *testing.T) {
	for in, want := range map[string]string{
		" fr , UK,eu,!hu,FR":                    "EU,FR,GB,!HU",
		"site:B,adequate(uk),CA-qc":             "CA-QC,adequate(GB),site:b",
		"EU,FR":                                 "EU,FR",
		"EU,!EU":                                "EU,!EU",
		"any,! us":                              "ANY,!US",
		"!\tus\t,\tANY":                         "ANY,!US",
		"el,EL-i":                               "GR,GR-I",
		"uk-eng":                                "GB-ENG",
		"FR-974,!us-pr":                         "RE,!PR",
		"group:eu,EU":                           "EU",
		"Group:fr-all,REGION:Fra-1":             "group:FR-ALL,region:fra-1",
		"ADEQUATE( gdpr-zone )":                 "adequate(GDPR-ZONE)",
		"adequate(group:eu)":                    "adequate(EU)",
		"adequate(RE)":                          "adequate(RE)",
		"adequate(BL)":                          "adequate(BL)",
		"gdpr-zone,efta,eea":                    "EEA,EFTA,GDPR-ZONE",
		"group:five-eyes":                       "group:FIVE-EYES",
		"region:" + strings.Repeat("A", 63):     "region:" + strings.Repeat("a", 63),
		"site:z,site:a,region:z,IT,!site:q,!DE": "IT,region:z,site:a,site:z,!DE,!site:q",
	} {
		tag, _, err := Parse(in, Embedded())
		if err != nil || tag.Canonical() != want {
			t.Errorf("Parse(%q) = %q, %v; want %q", in, tag.Canonical(), err, want)
			continue
		}
		again, _, err := Parse(want, Embedded())
		if err != nil || again.Canonical() != want || again.Wire() != want {
			t.Errorf("Parse(%q), a canonical form, = %q, %v", want, again.Canonical(), err)
		}
	}
}

// The order of faults is part of the specification: each row has two faults
// wherever two can meet, and the earlier one must be reported.
func TestFaultsInTheirOrder(t *testing.T) {
	many := strings.Repeat("FR,", 64)
	for _, tt := range []struct{ in, code, hint string }{
		{strings.Repeat(" ", 1025), "tag.too-long", "name a group"},
		{strings.Repeat("*", 1025), "tag.too-long", "name a group"},
		{"", "tag.empty", "matches nothing; use ANY if you mean anywhere"},
		{" \t ", "tag.empty", "use ANY"},
		{"\n", "tag.syntax", ""},
		{"XX,*", "tag.syntax", "no wildcards; ANY"},
		{"FR\nDE", "tag.syntax", ""},
		{"Ελ", "tag.syntax", ""},
		{"K\u212a", "tag.syntax", ""},
		{many + "*", "tag.syntax", "no wildcards"},
		{many + "XX", "tag.too-long", "name a group"},
		{"FR,,XX", "tag.syntax", "comma"},
		{"FR,", "tag.syntax", "comma"},
		{",", "tag.syntax", ""},
		{"XX,FR DE", "tag.unknown-place", ""},
		{"FR DE,XX", "tag.syntax", "separate items with commas"},
		{"EU !HU", "tag.syntax", "commas"},
		{"!", "tag.syntax", ""},
		{"! ", "tag.syntax", ""},
		{"!!FR", "tag.syntax", ""},
		{"FR!", "tag.syntax", ""},
		{"FR,!ANY", "tag.syntax", ""},
		{"FR,! any", "tag.syntax", ""},
		{"FR(", "tag.syntax", ""},
		{"foo(EU)", "tag.syntax", ""},
		{"adequate (EU)", "tag.syntax", ""},
		{"adequate()", "tag.syntax", ""},
		{"adequate( )", "tag.syntax", ""},
		{"adequate(EU", "tag.syntax", ""},
		{"adequate(EU,FR)", "tag.syntax", ""},
		{"adequate(EU FR)", "tag.syntax", ""},
		{"adequate(EU)x", "tag.syntax", ""},
		{"adequate((EU))", "tag.syntax", ""},
		{"adequate(!EU)", "tag.syntax", ""},
		{"adequate(any)", "tag.syntax", ""},
		{"adequate(CA-QC)", "tag.syntax", ""},
		{"adequate(XX-QC)", "tag.syntax", ""},
		{"adequate(region:a)", "tag.syntax", ""},
		{"adequate(group:)", "tag.syntax", ""},
		{"adequate(FR-ALL)", "tag.unknown-place", "group:FR-ALL"},
		{"adequate(Europe)", "tag.unknown-place", ""},
		{"adequate(group:nope)", "tag.unknown-place", ""},
		{"adequate(EFTA)", "tag.unknown-exporter", "EU, EEA, GDPR-ZONE"},
		{"adequate(group:fr-all)", "tag.unknown-exporter", ""},
		{"adequate(CN)", "tag.unknown-exporter", "GB"},
		{"adequate(US)", "tag.unknown-exporter", ""},
		{"adequate(GL)", "tag.unknown-exporter", ""},
		{"zone:EU", "tag.syntax", "group:NAME"},
		{":EU", "tag.syntax", ""},
		{"region:", "tag.syntax", ""},
		{"region:-a", "tag.syntax", ""},
		{"region:a-", "tag.syntax", ""},
		{"region:a:b", "tag.syntax", ""},
		{"region :a", "tag.syntax", "commas"},
		{"region: a", "tag.syntax", "commas"},
		{"site:" + strings.Repeat("a", 64), "tag.syntax", ""},
		{"group:nope", "tag.unknown-place", "group:FR-ALL"},
		{"group:europe", "tag.unknown-place", ""},
		{"Europe", "tag.unknown-place", "did you mean EU, EEA, or EEA,CH,GB?"},
		{"QC", "tag.unknown-place", "CA-QC"},
		{"adequate", "tag.unknown-place", "adequate(EU)"},
		{"USA", "tag.unknown-place", "US"},
		{"XK", "tag.unknown-place", "user-assigned"},
		{"FR-ALL", "tag.unknown-place", "group:FR-ALL"},
		{"five-eyes", "tag.unknown-place", "group:FIVE-EYES"},
		{"CA-XX", "tag.unknown-place", "CA-"},
		{"US-ZZZ", "tag.unknown-place", ""},
		{"XX-1", "tag.unknown-place", ""},
		{"FR-ABCD", "tag.unknown-place", ""},
		{"Germany", "tag.unknown-place", "DE"},
		{"12", "tag.unknown-place", ""},
		{"-", "tag.unknown-place", ""},
		{"!US", "tag.no-allow", "write ANY,!US"},
		{"!XX", "tag.unknown-place", ""},
	} {
		_, _, err := Parse(tt.in, Embedded())
		if code(err) != tt.code {
			t.Errorf("Parse(%.40q): %v (%s), want %s", tt.in, err, code(err), tt.code)
			continue
		}
		if e := err.(*Error); !strings.Contains(e.Hint(), tt.hint) || e.Hint() == "" {
			t.Errorf("Parse(%.40q): hint %q, want %q in it", tt.in, e.Hint(), tt.hint)
		}
	}
}

func TestColumns(t *testing.T) {
	for in, column := range map[string]int{
		"FR,D*": 5, "FR, XX": 5, "FR,DE BE": 6, "FR, !  XX": 8, "FR,adequate( CN )": 14, "EU,,FR": 4, "FR,a!": 5,
	} {
		_, _, err := Parse(in, Embedded())
		if e, ok := err.(*Error); !ok || e.Column != column {
			t.Errorf("Parse(%q): %+v, want column %d", in, err, column)
		}
	}
}

func TestLimitsAreExact(t *testing.T) {
	if _, _, err := Parse(strings.Repeat("FR,", 63)+"FR", Embedded()); err != nil {
		t.Errorf("64 items: %v", err)
	}
	if _, _, err := Parse("FR"+strings.Repeat(" ", 1022), Embedded()); err != nil {
		t.Errorf("1024 bytes: %v", err)
	}
}

func TestWarnings(t *testing.T) {
	for in, want := range map[string]string{
		"UK": "tag.alias", "FR-974": "tag.moved", "ANY": "tag.any", "FR-75": "tag.unlisted", "group:five-eyes": "tag.informal",
		"adequate(UK)": "tag.alias", "CA-QC": "", "EU,!HU": "", "group:EU": "",
	} {
		_, w, err := Parse(in, Embedded())
		got := ""
		for _, one := range w {
			got += one.Code
		}
		if err != nil || got != want {
			t.Errorf("Parse(%q): warnings %v, %v; want %q", in, w, err, want)
		}
	}
	_, w, err := Parse("EL-I", Embedded())
	if err != nil || len(w) != 2 {
		t.Errorf("EL-I: %v, %v; want one warning for EL, one for the unlisted code", w, err)
	}
}

func TestNamesAndAny(t *testing.T) {
	tag := mustRead(t, `{"residency":{"allow":["region:b","site:s","EU"],"deny":["region:a"],"scope":{"rest":["region:c"]}},"transit":{"via":["site:v"]}}`)
	regions, sites := tag.Names()
	if strings.Join(regions, " ") != "a b c" || strings.Join(sites, " ") != "s v" {
		t.Errorf("Names() = %v, %v", regions, sites)
	}
	if tag.UsesAny() || !mustRead(t, "ANY,!US").UsesAny() {
		t.Error("UsesAny is wrong")
	}
}
