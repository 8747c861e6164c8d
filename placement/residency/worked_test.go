package residency

import (
	"strings"
	"testing"
)

// placeable lists the sites of the sample mesh that a tag permits.
func placeable(t *testing.T, text string, o Options) (permitted string, unknown map[string]string) {
	t.Helper()
	unknown = map[string]string{}
	var names []string
	for _, s := range mesh() {
		switch d := Evaluate(policy(t, text), s, Embedded(), o); d.Verdict {
		case Permitted:
			names = append(names, s.Region)
		case Unknown:
			unknown[s.Region] = d.Rule
		}
	}
	return strings.Join(names, " "), unknown
}

// The worked examples of the specification, by their numbers.
func TestWorkedExamples(t *testing.T) {
	const (
		eu  = "fra-1 fra-2 reu-1"
		eea = "fra-1 fra-2 osl-1 reu-1"
		all = "fra-1 fra-2 osl-1 reu-1 zrh-1 lon-1 gru-1 mtl-1 iad-1 iad-2 bom-1 sha-1 hkg-1 led-1"
	)
	for _, tt := range []struct {
		name, tag string
		o         Options
		permitted string
		unknown   string // regions, joined
	}{
		{"1 EU only", "EU", Options{}, eu, ""},
		{"2 EEA", "EEA", Options{}, eea, ""},
		{"4 EU plus adequate", "EU,adequate(EU)", Options{Data: "personal"}, "fra-1 fra-2 reu-1 zrh-1 lon-1 gru-1 iad-1", "mtl-1"},
		{"4 with EEA", "EEA,adequate(EU)", Options{Data: "personal"}, "fra-1 fra-2 osl-1 reu-1 zrh-1 lon-1 gru-1 iad-1", "mtl-1"},
		{"5 without the US", "EEA,adequate(EU),!US", Options{}, "fra-1 fra-2 osl-1 reu-1 zrh-1 lon-1 gru-1", "mtl-1"},
		{"6 no CLOUD Act", `{"residency":"EEA","control":{"exposed_to":{"deny":["US-CLOUD-ACT"]}}}`, Options{}, "fra-1 osl-1 reu-1", ""},
		{"7 Germany through France", `{"residency":"DE","transit":{"via":["DE","FR"]}}`, Options{}, "fra-2", ""},
		{"8 Quebec only", "CA-QC", Options{}, "mtl-1", ""},
		{"10 Chinese HR records", `{"residency":{"allow":["CN"],"data":"personal","exporter":"CN"}}`, Options{}, "sha-1", ""},
		{"11 Indian app", `{"residency":{"allow":["ANY"],"exporter":"IN"}}`, Options{}, all, ""},
		{"11 with personal data", `{"residency":{"allow":["ANY"],"exporter":"IN"}}`, Options{Data: "personal"}, "bom-1", strings.Replace(all, " bom-1", "", 1)},
		{"12 Russian sign-ups", `{"residency":{"allow":["RU"],"data":"personal","exporter":"RU","scope":{"rest":["RU"]}}}`, Options{}, "led-1", ""},
		{"13 trained model", `{"residency":{"allow":["EEA"],"data":"confidential"},"control":{"keys":{"holder":"tenant"}}}`, Options{}, eea, ""},
		{"17 uk", "uk", Options{}, "lon-1", ""},
	} {
		tt.o.On = day(today)
		got, unknown := placeable(t, tt.tag, tt.o)
		if got != tt.permitted {
			t.Errorf("%s: permitted %s; want %s", tt.name, got, tt.permitted)
		}
		want := strings.Fields(tt.unknown)
		if len(unknown) != len(want) {
			t.Errorf("%s: unknown %v; want %v", tt.name, unknown, want)
		}
		for _, r := range want {
			if unknown[r] == "" {
				t.Errorf("%s: %s is not unknown", tt.name, r)
			}
		}
	}
}

func TestWorkedRefusals(t *testing.T) {
	for _, tt := range []struct{ name, tag, code string }{
		{"3 Europe", "Europe", "tag.unknown-place"},
		{"15 backup abroad", `{"residency":{"allow":["DE"],"scope":{"backup":["DE","FR"]}}}`, "tag.scope"},
		{"16 empty list", `{"residency":[]}`, "tag.empty"},
		{"16 empty string", "", "tag.empty"},
	} {
		if _, _, err := read(tt.tag, day(today)); code(err) != tt.code {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.code)
		}
	}
}

func TestWorkedRulesOfRefusal(t *testing.T) {
	o := Options{On: day(today), Data: "personal"}
	for _, tt := range []struct{ tag, region, rule string }{
		{"EU,adequate(EU)", "iad-2", "tag.allow"},
		{"EU,adequate(EU)", "osl-1", "tag.allow"},
		{"EU,adequate(EU)", "mtl-1", "claim.unknown"},
		{"EEA,adequate(EU),!US", "iad-1", "tag.deny"},
		{`{"residency":"EEA","control":{"exposed_to":{"deny":["US-CLOUD-ACT"]}}}`, "fra-2", "control.exposed"},
		{`{"residency":{"allow":["ANY"],"exporter":"IN"}}`, "iad-1", "law.unknown"},
		{`{"residency":{"allow":["CN"],"exporter":"CN"}}`, "hkg-1", "tag.allow"},
		{`{"residency":{"allow":["ANY"],"exporter":"CN"}}`, "hkg-1", "law.adequacy"},
		{"ANY", "iad-2", "law.adequacy"},
		{"ANY", "sha-1", "law.adequacy"},
	} {
		d := Evaluate(policy(t, tt.tag), siteNamed(t, tt.region), Embedded(), o)
		if d.Rule != tt.rule || d.Reason == "" {
			t.Errorf("%s at %s: %s (%s), want %s", tt.tag, tt.region, d.Rule, d.Reason, tt.rule)
		}
	}
}

// Example 9: both claims are needed, and an expired one is weak.
func TestWorkedSeal(t *testing.T) {
	tag := `{"residency":"EU","assurance":{"location":"attested","framework":["CSF:SEAL-2"],"max_age":"90d"}}`
	base := siteNamed(t, "fra-1")
	for _, tt := range []struct {
		name, location, csf, asOf, rule string
	}{
		{"both", "attested", "SEAL-2", "2026-10-01", "tag.allow"},
		{"higher", "attested", "SEAL-4", "2026-10-01", "tag.allow"},
		{"lower", "attested", "SEAL-1", "2026-10-01", "assurance.framework"},
		{"no level", "attested", "", "2026-10-01", "claim.unknown"},
		{"unlisted level", "attested", "SEAL-9", "2026-10-01", "claim.unknown"},
		{"location too weak", "audited", "SEAL-2", "2026-10-01", "claim.weak"},
		{"weak comes before unknown", "audited", "", "2026-10-01", "claim.weak"},
		{"lower refuses whatever is weak", "", "SEAL-0", "", "assurance.framework"},
		{"ninety days", "attested", "SEAL-2", "2026-08-23", "tag.allow"},
		{"expired", "attested", "SEAL-2", "2026-08-22", "claim.weak"},
		{"from the future", "attested", "SEAL-2", "2026-11-22", "claim.weak"},
		{"undated", "attested", "SEAL-2", "", "claim.weak"},
		{"no day", "attested", "SEAL-2", "2026-02-30", "claim.weak"},
	} {
		s := base
		s.Assurance = Assurance{Location: tt.location, Operator: "declared", AsOf: tt.asOf}
		s.Claims = map[string]string{"csf": tt.csf}
		if d := Evaluate(policy(t, tag), s, Embedded(), Options{On: day(today)}); d.Rule != tt.rule {
			t.Errorf("%s: %s (%s), want %s", tt.name, d.Rule, d.Reason, tt.rule)
		}
	}
}

// Example 14 and the edge case of an empty intersection.
func TestWorkedHeaderNarrows(t *testing.T) {
	deployment := NewPolicy(Layer{OriginTenant, mustRead(t, "EEA")})
	header := func(tag string) Policy { return deployment.Meet(NewPolicy(Layer{OriginJob, mustRead(t, tag)})) }
	o := Options{On: day(today)}
	var got []string
	for _, s := range mesh() {
		if Check(header("DE"), s, Embedded(), o) == nil {
			got = append(got, s.Region)
		}
		if Check(header("US"), s, Embedded(), o) == nil {
			t.Errorf("US within EEA permits %s", s.Region)
		}
	}
	if strings.Join(got, " ") != "fra-2" {
		t.Errorf("DE within EEA permits %v, want fra-2", got)
	}
	a, b, empty := Conflict(header("US"), Embedded(), o.On)
	if !empty || a.Origin != OriginJob || b.Origin != OriginTenant {
		t.Errorf("Conflict = %v %v %v, want the job and the tenant", a, b, empty)
	}
	if _, _, empty := Conflict(header("DE"), Embedded(), o.On); empty {
		t.Error("DE and EEA are said to exclude each other")
	}
}

// Example 7: the shortest path is refused when it leaves the tag.
func TestWorkedTransit(t *testing.T) {
	p := policy(t, `{"residency":"DE","transit":{"via":["DE","FR"]}}`)
	for region, rule := range map[string]string{"fra-1": "", "fra-2": "", "zrh-1": "transit.via"} {
		err := CheckTransit(p, siteNamed(t, region), Embedded(), Options{On: day(today)})
		r, _ := err.(*Refusal)
		if (rule == "") != (err == nil) || r != nil && r.Rule != rule {
			t.Errorf("relay %s: %v, want %q", region, err, rule)
		}
	}
}
