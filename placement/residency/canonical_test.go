package residency

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func dayOfTests() Date { return DateOf(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)) }

// What a ledger recorded can be read back, means the same, and has one form.
func TestCanonicalPoliciesAreReadBack(t *testing.T) {
	pack, on := Embedded(), dayOfTests()
	rapid.Check(t, func(t *rapid.T) {
		var layers []Layer
		for _, short := range rapid.SliceOfN(genShort(), 1, 4).Draw(t, "layers") {
			tag, _, err := Parse(short, pack)
			if err != nil {
				t.Skip(err)
			}
			layers = append(layers, Layer{Origin: OriginJob, Tag: tag})
		}
		p := NewPolicy(layers...)
		back, err := ParseCanonical(p.Canonical(), pack, on)
		if err != nil {
			t.Fatal(err)
		}
		site := Site{Region: "r", Country: rapid.SampledFrom(pack.codes).Draw(t, "country"), Operator: Operator{Home: "DE", Parent: "none"}, Assurance: Assurance{Location: "documented", Operator: "documented", AsOf: "2026-10-01"}}
		a, b := Evaluate(p, site, pack, Options{On: on}), Evaluate(back, site, pack, Options{On: on})
		if a.Verdict != b.Verdict {
			t.Fatalf("%q: %+v, read back %+v", p.Canonical(), a, b)
		}
	})
}

func TestOtherFormsAreNotCanonical(t *testing.T) {
	for _, s := range []string{"", "EU & ", "EU & DE", "eu", "EU & EU", "EU,DE", " EU"} {
		if _, err := ParseCanonical(s, Embedded(), dayOfTests()); err == nil {
			t.Errorf("%q was read as a canonical form", s)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	f.Add("DE & EU,!HU")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseCanonical(s, Embedded(), dayOfTests())
		if err == nil && p.Canonical() != s {
			t.Fatalf("%q has another form %q", s, p.Canonical())
		}
	})
}
