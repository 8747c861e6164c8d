package residency

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

func TestPolicyCanonicalAndHash(t *testing.T) {
	p := NewPolicy(
		Layer{OriginTenant, mustRead(t, "eea")},
		Layer{OriginJob, mustRead(t, "DE")},
		Layer{OriginImport, mustRead(t, "EEA")},
		Layer{OriginJob, mustRead(t, "de")},
	)
	if p.Canonical() != "DE & EEA" {
		t.Errorf("Canonical() = %q", p.Canonical())
	}
	if n := len(p.Layers()); n != 3 {
		t.Errorf("%d layers; one tag of two origins is two layers, one of one origin is one: want 3", n)
	}
	sum := sha256.Sum256([]byte("DE & EEA"))
	if p.Hash() != hex.EncodeToString(sum[:]) {
		t.Errorf("Hash() = %s", p.Hash())
	}
	if (Policy{}).Canonical() != "" || !(Policy{}).IsZero() || p.UsesAny() {
		t.Error("the zero policy is not empty, or p uses ANY")
	}
}

func TestConflict(t *testing.T) {
	for _, tt := range []struct {
		tags  []string
		empty bool
	}{
		{[]string{"FR", "DE"}, true},
		{[]string{"EU", "NO"}, true},
		{[]string{"EU", "EEA"}, false},
		{[]string{"EU,!EU"}, true},
		{[]string{"EU", "ANY,!EU"}, true},
		{[]string{"CA-QC", "CA-ON"}, true},
		{[]string{"CA-QC", "CA"}, false},
		{[]string{"CA-QC", "CA,!CA-QC"}, true},
		{[]string{"CA", "ANY,!CA-QC"}, false},
		{[]string{"region:a", "region:b"}, true},
		{[]string{"region:a", "EU"}, false},
		{[]string{"region:a", "site:b"}, false},
		{[]string{"region:a", "ANY,!region:a"}, true},
		{[]string{"EU", "ANY,!region:a"}, false},
		{[]string{"US", "adequate(EU)"}, false}, // a claim may permit it
		{[]string{"SG", "adequate(EU)"}, true},
		{[]string{"SJ", "GDPR-ZONE"}, false}, // open, not impossible
		{[]string{"FR,DE", "DE,IT", "FR,IT"}, true},
	} {
		a, b, empty := Conflict(policy(t, tt.tags...), Embedded(), day(today))
		if empty != tt.empty {
			t.Errorf("%v: empty %v (%s, %s), want %v", tt.tags, empty, a.Tag, b.Tag, tt.empty)
		}
	}
	if _, _, empty := Conflict(Policy{}, Embedded(), day(today)); empty {
		t.Error("no layers cannot clash: the refusal has its own rule")
	}
}

func TestTransit(t *testing.T) {
	for _, tt := range []struct {
		name, tag, where string
		sealed           bool
		rule             string
	}{
		{"the default path is the tag", "EEA", "NO", false, ""},
		{"and nothing more", "EEA", "CH", false, "tag.allow"},
		{"unknown is no path", "EEA", "", false, "claim.unknown"},
		{"via names more", `{"residency":"DE","transit":{"via":["DE","CH"]}}`, "CH", false, ""},
		{"via is every hop", `{"residency":{"allow":["EEA"]},"transit":{"via":["FR"]}}`, "NO", false, "transit.via"},
		{"an empty via is no hop", `{"residency":"EEA","transit":{"via":[]}}`, "FR", false, "transit.via"},
		{"deny wins over via", `{"residency":{"allow":["EEA"],"deny":["HU"]},"transit":{"via":["EEA"]}}`, "HU", false, "tag.deny"},
		{"direct", `{"residency":"EEA","transit":{"direct":true}}`, "FR", false, "transit.direct"},
		{"direct, sealed", `{"residency":"EEA","transit":{"direct":true,"sealed":true}}`, "FR", true, "transit.direct"},
		{"sealed ciphertext passes", `{"residency":"EEA","transit":{"sealed":true}}`, "US", true, ""},
		{"sealed plaintext does not", `{"residency":"EEA","transit":{"sealed":true}}`, "US", false, "tag.allow"},
		{"ciphertext needs the tag's word", "EEA", "US", true, "tag.allow"},
		{"ciphertext, denied place", `{"residency":"ANY,!US","transit":{"sealed":true}}`, "US", true, "tag.deny"},
		{"ciphertext, unknown place", `{"residency":"EEA,!HU","transit":{"sealed":true}}`, "", true, "claim.unknown"},
		{"a relay reads the payload", `{"residency":"FR","control":{"operator":{"parent":["EEA"]}}}`, "FR", false, "claim.unknown"},
	} {
		err := CheckTransit(policy(t, tt.tag), at(tt.where), Embedded(), Options{On: day(today), Sealed: tt.sealed})
		got := ""
		if r, ok := err.(*Refusal); ok {
			if got = r.Rule; r.Hint() == "" || r.Reason == "" {
				t.Errorf("%s: no hint or no reason", tt.name)
			}
		}
		if got != tt.rule {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.rule)
		}
	}
}

func TestExplain(t *testing.T) {
	e := Explain(mustRead(t, "EU,adequate(EU),GDPR-ZONE,CA-QC,region:r,!HU"), Embedded(), day(today))
	for _, tt := range []struct {
		list []string
		in   string
		want bool
	}{
		{e.Countries, "RE", true}, {e.Countries, "CH", true}, {e.Countries, "HU", false}, {e.Countries, "US", false},
		{e.Conditional, "US", true}, {e.Conditional, "CA", true}, {e.Conditional, "FR", false},
		{e.Undecided, "SJ", true}, {e.Subdivisions, "CA-QC", true}, {e.Regions, "r", true},
	} {
		if slices.Contains(tt.list, tt.in) != tt.want {
			t.Errorf("%s in %v is %v, want %v", tt.in, tt.list, !tt.want, tt.want)
		}
	}
	if e.Pack != Embedded().Hash() || e.On != day(today) || len(e.NotCovered) == 0 || len(e.Warnings) == 0 {
		t.Errorf("%+v", e)
	}
	fr := Explain(mustRead(t, "FR"), Embedded(), day(today))
	if !strings.Contains(strings.Join(fr.NotCovered, " "), "group:FR-ALL") {
		t.Errorf("FR alone does not say that RE is another place: %v", fr.NotCovered)
	}
	long := Explain(mustRead(t, full), Embedded(), day(today))
	if words := strings.Join(long.Words, " "); !strings.Contains(words, "US-FISA-702") || !strings.Contains(words, "Ciphertext") {
		t.Errorf("the long form is not put into words: %s", words)
	}
}

func TestSuggest(t *testing.T) {
	for word, want := range map[string]string{
		"Germany": "DE", "frnace": "FR", "USA": "US", "QC": "CA-QC", "fr-all": "group:FR-ALL", "GDPR-ZNOE": "GDPR-ZONE", "CA-QCC": "CA-QC",
		"Germny": "DE", "Nehterlnads": "NL", "Swizterland": "CH", "Portgual": "PT",
		// No slip of anything: a wrong suggestion is worse than none.
		"Narnia": "", "Bavaria": "", "Atlantis": "", "Mordor": "",
		"qwertyuiopasdf": "", strings.Repeat("a", 100): "",
	} {
		if got := Suggest(word, Embedded()); got != want {
			t.Errorf("Suggest(%s) = %q, want %q", word, got, want)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, text := range []string{"EU", "EEA,adequate(EU),!US", `{"residency":{"allow":["EEA","CH"],"deny":["HU"],"data":"personal"},"control":{"operator":{"home":["EEA"]},"exposed_to":{"deny":["US-CLOUD-ACT"]}}}`} {
		p, s, o := policy(b, text), siteNamed(b, "fra-1"), Options{On: day(today)}
		b.Run(text[:min(len(text), 24)], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := Check(p, s, Embedded(), o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
