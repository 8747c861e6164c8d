package residency

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// genPlace draws a place in canonical or careless spelling.
func genPlace() *rapid.Generator[string] {
	p := Embedded()
	words := []string{"EU", "EEA", "EFTA", "GDPR-ZONE", "group:FR-ALL", "group:FIVE-EYES", "adequate(EU)", "adequate(GB)", "adequate(FR)", "adequate( ch )",
		"UK", "EL", "FR-974", "CA-QC", "CA-ON", "US-PR", "region:a", "region:b", "site:x", "ANY", "fr", "gl", "Sj"}
	return rapid.Custom(func(t *rapid.T) string {
		if rapid.Bool().Draw(t, "country") {
			return rapid.SampledFrom(p.codes).Draw(t, "code")
		}
		return rapid.SampledFrom(words).Draw(t, "word")
	})
}

func genShort() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		items := rapid.SliceOfN(genPlace(), 1, 5).Draw(t, "allow")
		for _, d := range rapid.SliceOfN(genPlace(), 0, 3).Draw(t, "deny") {
			if d != "ANY" {
				items = append(items, "! "+d)
			}
		}
		return strings.Join(rapid.Permutation(items).Draw(t, "order"), rapid.SampledFrom([]string{",", " , ", "\t,"}).Draw(t, "blanks"))
	})
}

func genTag() *rapid.Generator[Tag] {
	return rapid.Custom(func(t *rapid.T) Tag {
		tag, _, err := Parse(genShort().Draw(t, "tag"), Embedded())
		if err != nil {
			t.Fatalf("a tag of the grammar is refused: %v", err)
		}
		return tag
	})
}

func genPolicy() *rapid.Generator[Policy] {
	return rapid.Custom(func(t *rapid.T) Policy {
		var layers []Layer
		for _, tag := range rapid.SliceOfN(genTag(), 1, 3).Draw(t, "tags") {
			layers = append(layers, Layer{rapid.SampledFrom([]Origin{OriginJob, OriginTenant, OriginExport, OriginDataset, OriginImport}).Draw(t, "origin"), tag})
		}
		return NewPolicy(layers...)
	})
}

func genSite() *rapid.Generator[Site] {
	codes := append([]string{"", "XX", "UK"}, Embedded().codes...)
	return rapid.Custom(func(t *rapid.T) Site {
		code := rapid.SampledFrom(codes)
		claim := rapid.SampledFrom([]string{"", "active", "none", "active until 2027-01-01", "active until 2020-01-01", "?"})
		return Site{
			Region:      rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "region"),
			Site:        rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "site"),
			Country:     code.Draw(t, "country"),
			Subdivision: rapid.SampledFrom([]string{"", "", "CA-QC", "CA-ON", "FR-974", "US-PR", "CA-ZZ"}).Draw(t, "subdivision"),
			Operator:    Operator{code.Draw(t, "home"), rapid.SampledFrom(append([]string{"none"}, codes...)).Draw(t, "parent")},
			Claims:      map[string]string{"dpf": claim.Draw(t, "dpf"), "dpf-uk": claim.Draw(t, "dpf-uk"), "pipeda": claim.Draw(t, "pipeda")},
		}
	})
}

func genOptions() *rapid.Generator[Options] {
	return rapid.Custom(func(t *rapid.T) Options {
		return Options{
			On:       day("2015-01-01") + Date(rapid.IntRange(0, 6000).Draw(t, "on")),
			Data:     rapid.SampledFrom([]string{"", "none", "personal", "special"}).Draw(t, "data"),
			Exporter: rapid.SampledFrom([]string{"", "EU", "GB", "IN", "CN", "SG", "CA-QC"}).Draw(t, "exporter"),
		}
	})
}

func TestMeetIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := genPolicy().Draw(t, "a"), genPolicy().Draw(t, "b"), genPolicy().Draw(t, "c")
		same := func(x, y Policy, law string) {
			if x.Canonical() != y.Canonical() || x.Hash() != y.Hash() || !slices.EqualFunc(x.layers, y.layers, func(l, m Layer) bool { return l.compare(m) == 0 }) {
				t.Fatalf("Meet is not %s: %s and %s", law, x.Canonical(), y.Canonical())
			}
		}
		same(a.Meet(b), b.Meet(a), "commutative")
		same(a.Meet(b.Meet(c)), a.Meet(b).Meet(c), "associative")
		same(a.Meet(a), a, "idempotent")
	})
}

func TestMeetOnlyNarrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genPolicy().Draw(t, "a"), genPolicy().Draw(t, "b")
		site, o := genSite().Draw(t, "site"), genOptions().Draw(t, "options")
		p := Embedded()
		both := Check(a, site, p, o) == nil && Check(b, site, p, o) == nil
		if met := Check(a.Meet(b), site, p, o) == nil; met != both {
			t.Fatalf("%s & %s at %+v: each %v, together %v", a.Canonical(), b.Canonical(), site, both, met)
		}
		if CheckTransit(a.Meet(b), site, p, o) == nil && CheckTransit(a, site, p, o) != nil {
			t.Fatalf("%s & %s at %+v: the path became wider", a.Canonical(), b.Canonical(), site)
		}
	})
}

func TestDenyWins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tag, site, o := genTag().Draw(t, "tag"), genSite().Draw(t, "site"), genOptions().Draw(t, "options")
		p := Embedded()
		word := genPlace().Filter(func(s string) bool { return s != "ANY" }).Draw(t, "denied")
		denied, _, err := Parse(tag.Canonical()+",!"+word, p)
		if err != nil {
			t.Fatal(err)
		}
		alone, _, err := Parse(word, p)
		if err != nil {
			t.Fatal(err)
		}
		o.Data = ""
		inside := Evaluate(NewPolicy(Layer{OriginJob, alone}), site, p, o)
		got := Evaluate(NewPolicy(Layer{OriginJob, denied}), site, p, o)
		if inside.Verdict != Refused && got.Verdict == Permitted {
			t.Fatalf("%s permits %+v, of which %s is %s", denied.Canonical(), site, word, inside.Verdict)
		}
		if inside.Verdict == Permitted && (got.Verdict != Refused || got.Rule != "tag.deny") {
			t.Fatalf("%s at %+v: %s %s, want tag.deny", denied.Canonical(), site, got.Verdict, got.Rule)
		}
	})
}

func TestCanonicalFormRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, site, o := genShort().Draw(t, "tag"), genSite().Draw(t, "site"), genOptions().Draw(t, "options")
		p := Embedded()
		tag, _, err := Parse(text, p)
		if err != nil {
			t.Fatal(err)
		}
		again, warnings, err := Parse(tag.Canonical(), p)
		if err != nil || again.Canonical() != tag.Canonical() {
			t.Fatalf("%q -> %q -> %q, %v", text, tag.Canonical(), again.Canonical(), err)
		}
		for _, w := range warnings {
			if w.Code == "tag.alias" || w.Code == "tag.moved" {
				t.Fatalf("%q still holds a word that is read as another: %v", tag.Canonical(), w)
			}
		}
		one, two := NewPolicy(Layer{OriginJob, tag}), NewPolicy(Layer{OriginJob, again})
		if Evaluate(one, site, p, o) != Evaluate(two, site, p, o) {
			t.Fatalf("%q and its canonical form differ at %+v", text, site)
		}
	})
}

// A site that says less is never permitted more.
func TestUnknownNeverPermits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy, site, o := genPolicy().Draw(t, "policy"), genSite().Draw(t, "site"), genOptions().Draw(t, "options")
		p := Embedded()
		less := site
		switch rapid.IntRange(0, 3).Draw(t, "forget") {
		case 0:
			less.Country, less.Subdivision = "", ""
		case 1:
			less.Claims = nil
		case 2:
			less.Site = ""
		case 3:
			less.Country = "XX"
		}
		before, after := Evaluate(policy, site, p, o), Evaluate(policy, less, p, o)
		if after.Verdict == Permitted && before.Verdict != Permitted {
			t.Fatalf("%s: %+v is %s, but saying less, %+v, is permitted", policy.Canonical(), site, before.Verdict, less)
		}
		if after.Verdict == Unknown && Check(policy, less, p, o) == nil {
			t.Fatal("Check permits what Evaluate does not know")
		}
	})
}

// What Conflict calls impossible is permitted nowhere.
func TestConflictIsCertain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy, site, o := genPolicy().Draw(t, "policy"), genSite().Draw(t, "site"), genOptions().Draw(t, "options")
		a, b, empty := Conflict(policy, Embedded(), o.On)
		if empty && (Check(policy, site, Embedded(), o) == nil || a.Tag.IsZero() || b.Tag.IsZero()) {
			t.Fatalf("%s is said to be empty by %s and %s, and permits %+v", policy.Canonical(), a.Tag, b.Tag, site)
		}
	})
}

func TestWireRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tag := genTag().Draw(t, "tag")
		v := Value{Kind: Map, Fields: []Field{{Name: "residency", Value: Value{Kind: String, Text: tag.Canonical()}}}}
		if rapid.Bool().Draw(t, "confidential") {
			v.Fields = append(v.Fields, Field{Name: "confidential", Value: Value{Kind: Bool, Text: "true"}})
		}
		long, _, err := ParseLong(v, Embedded(), day(today))
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseWire(long.Wire(), Embedded(), day(today))
		if err != nil || again.Wire() != long.Wire() || again.Canonical() != tag.Canonical() {
			t.Fatalf("%s -> %s, %v", long.Wire(), again.Wire(), err)
		}
	})
}
