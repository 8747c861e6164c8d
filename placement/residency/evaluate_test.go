package residency

import (
	"errors"
	"strings"
	"testing"
)

// at builds a site from "FR", "FR/FR-974", "/CA-QC".
func at(where string) Site {
	country, sub, _ := strings.Cut(where, "/")
	return Site{Region: "r", Country: country, Subdivision: sub}
}

// Items and places: the table of the specification, cell by cell.
func TestItemsAndPlaces(t *testing.T) {
	for _, tt := range []struct{ tag, where, rule, on string }{
		{"ANY", "", "tag.allow", ""},
		{"FR", "FR", "tag.allow", ""},
		{"FR", "fr", "tag.allow", ""},
		{"FR", "DE", "!tag.allow", ""},
		{"FR", "", "claim.unknown", ""},
		{"FR", "XK", "claim.unknown", ""},
		{"FR", "ZZ", "claim.unknown", ""},
		{"GB", "UK", "tag.allow", ""},
		{"GR", "EL", "tag.allow", ""},
		{"GR", "/EL-I", "tag.allow", ""},
		{"GR-I", "GR/EL-I", "tag.allow", ""},
		{"FR", "FR/FR-974", "!tag.allow", ""},
		{"RE", "FR/FR-974", "tag.allow", ""},
		{"RE", "/FR-974", "tag.allow", ""},
		{"RE", "RE/FR-974", "tag.allow", ""},
		{"RE", "DE/FR-974", "claim.unknown", ""},
		{"RE", "FR", "!tag.allow", ""},
		{"CA-QC", "CA/CA-QC", "tag.allow", ""},
		{"CA-QC", "/CA-QC", "tag.allow", ""},
		{"CA-QC", "CA/CA-ON", "!tag.allow", ""},
		{"CA-QC", "CA", "claim.unknown", ""},
		{"CA-QC", "CA/CA-ZZ", "claim.unknown", ""},
		{"CA", "CA/CA-ZZ", "tag.allow", ""},
		{"CA-QC", "US", "!tag.allow", ""},
		{"CA-QC", "", "claim.unknown", ""},
		{"CA", "US/CA-QC", "claim.unknown", ""},
		{"US", "US/CA-QC", "claim.unknown", ""},
		{"FR-75", "FR/FR-75", "tag.allow", ""},
		{"EU", "RE", "tag.allow", ""},
		{"EU", "NO", "!tag.allow", ""},
		{"EU", "", "claim.unknown", ""},
		{"EU", "GB", "tag.allow", "2020-01-31"},
		{"EU", "GB", "!tag.allow", "2020-02-01"},
		{"EU", "HR", "!tag.allow", "2013-06-30"},
		{"EU", "HR", "tag.allow", "2013-07-01"},
		{"EEA", "SJ", "!tag.allow", ""},
		{"GDPR-ZONE", "SJ", "law.unknown", ""},
		{"GDPR-ZONE", "", "claim.unknown", ""},
		{"GDPR-ZONE", "US", "!tag.allow", ""},
		{"ANY,!GDPR-ZONE", "GL", "law.unknown", ""},
		{"ANY,!US", "", "claim.unknown", ""},
		{"ANY,!US", "US", "!tag.deny", ""},
		{"EU,!EU", "FR", "!tag.deny", ""},
		{"FR,CA-QC", "CA", "claim.unknown", ""},
		{"group:FR-ALL", "MQ", "tag.allow", ""},
		{"adequate(EU)", "FR", "!tag.allow", ""}, // never the exporter's own area
		{"adequate(GB)", "FR", "tag.allow", ""},  // EEA is an importer of GB
		{"adequate(GB)", "CH", "tag.allow", "2020-12-31"},
		{"adequate(GB)", "GI", "!tag.allow", "2020-12-31"}, // EU law knows no decision for GI
		{"adequate(GB)", "GI", "tag.allow", "2021-01-01"},
		{"adequate(GB)", "BR", "!tag.allow", ""},
		{"adequate(FR)", "BR", "tag.allow", ""}, // EU decisions speak for FR
		{"adequate(EU)", "GB", "tag.allow", "2031-12-26"},
		{"adequate(EU)", "GB", "!tag.allow", "2031-12-27"},
		{"adequate(EU)", "", "claim.unknown", ""},
		{"adequate(EU)", "SG", "!tag.allow", ""},
		{"adequate(EU)", "JP", "claim.unknown", ""},
		{"region:r", "", "tag.allow", ""},
		{"region:R", "US", "tag.allow", ""},
		{"region:q", "FR", "!tag.allow", ""},
		{"site:s", "FR", "claim.unknown", ""},
		{"FR,site:s", "FR", "tag.allow", ""},
	} {
		on := day(today)
		if tt.on != "" {
			on = day(tt.on)
		}
		d := Evaluate(policy(t, tt.tag), at(tt.where), Embedded(), Options{On: on})
		rule := d.Rule
		if d.Verdict == Refused {
			rule = "!" + rule
		}
		if rule != tt.rule || d.Reason == "" {
			t.Errorf("%s at %q on %s: %s (%s), want %s", tt.tag, tt.where, on, rule, d.Reason, tt.rule)
		}
	}
}

func TestClaimsOfDecisions(t *testing.T) {
	for _, tt := range []struct{ exporter, country, claim, value, on, rule string }{
		{"EU", "US", "dpf", "active", today, "tag.allow"},
		{"EU", "US", "dpf", "none", today, "!tag.allow"},
		{"EU", "US", "dpf", "Active", today, "claim.unknown"},
		{"EU", "US", "dpf", "", today, "claim.unknown"},
		{"EU", "US", "dpf", "active until 2026-11-22", today, "tag.allow"},
		{"EU", "US", "dpf", "active until 2026-11-21", today, "claim.unknown"},
		{"EU", "US", "dpf", "active until 2026-02-30", today, "claim.unknown"},
		{"EU", "US", "dpf", "active until ", today, "claim.unknown"},
		{"EU", "US", "dpf-uk", "active", today, "claim.unknown"}, // another decision's claim
		{"GB", "US", "dpf-uk", "active", today, "tag.allow"},
		{"EU", "US", "privacy-shield", "active", "2020-07-15", "tag.allow"},
		{"EU", "US", "privacy-shield", "active", "2020-07-16", "!tag.allow"}, // annulled, and DPF not yet there
		{"CH", "CA", "ca-provincial", "active", today, "tag.allow"},
		{"CH", "CA", "pipeda", "none", today, "claim.unknown"}, // the other decision is still open
	} {
		s := at(tt.country)
		s.Claims = map[string]string{tt.claim: tt.value}
		d := Evaluate(policy(t, "adequate("+tt.exporter+")"), s, Embedded(), Options{On: day(tt.on)})
		rule := d.Rule
		if d.Verdict == Refused {
			rule = "!" + rule
		}
		if rule != tt.rule {
			t.Errorf("adequate(%s) at %s with %s=%q on %s: %s (%s), want %s", tt.exporter, tt.country, tt.claim, tt.value, tt.on, rule, d.Reason, tt.rule)
		}
	}
	both := at("CA")
	both.Claims = map[string]string{"pipeda": "none", "ca-provincial": "none"}
	if d := Evaluate(policy(t, "adequate(CH)"), both, Embedded(), Options{On: day(today)}); d.Verdict != Refused {
		t.Errorf("both claims stated none: %s", d.Verdict)
	}
}

func TestTransferBasis(t *testing.T) {
	any := func(fields string) string { return `{"residency":{"allow":["ANY"]` + fields + `}}` }
	for _, tt := range []struct {
		name, tag, where string
		o                Options
		claims           map[string]string
		rule             string
	}{
		{"no data, no test", any(""), "SG", Options{}, nil, "tag.allow"},
		{"data none, no test", any(`,"data":"none"`), "SG", Options{}, nil, "tag.allow"},
		{"confidential, no test", any(`,"data":"confidential"`), "SG", Options{}, nil, "tag.allow"},
		{"special is tested", any(`,"data":"special"`), "SG", Options{}, nil, "!law.adequacy"},
		{"the tag's word wins", any(`,"data":"none"`), "SG", Options{Data: "personal"}, nil, "tag.allow"},
		{"the three groups are one area", any(`,"exporter":"EU"`), "NO", Options{Data: "personal"}, nil, "tag.allow"},
		{"also of a member", any(`,"exporter":"FR"`), "NO", Options{Data: "personal"}, nil, "tag.allow"},
		{"default exporter is EU", any(""), "NO", Options{Data: "personal"}, nil, "tag.allow"},
		{"option sets the exporter", any(""), "NO", Options{Data: "personal", Exporter: "CN"}, nil, "!law.adequacy"},
		{"place not known", any(""), "", Options{Data: "personal"}, nil, "claim.unknown"},
		{"check is not surely inside", any(""), "GL", Options{Data: "personal"}, nil, "law.unknown"},
		{"check, and no mechanism", any(`,"mechanisms":["none"]`), "GL", Options{Data: "personal"}, nil, "law.unknown"},
		{"check, but an instrument", any(`,"mechanisms":["instrument:scc-7"]`), "GL", Options{Data: "personal"}, map[string]string{"instrument:scc-7": "active"}, "tag.allow"},
		{"outside none is false", any(`,"mechanisms":["none"]`), "CH", Options{Data: "personal"}, nil, "!law.adequacy"},
		{"empty list is none", any(`,"mechanisms":[]`), "CH", Options{Data: "personal"}, nil, "!law.adequacy"},
		{"inside, none does not matter", any(`,"mechanisms":["none"]`), "FR", Options{Data: "personal"}, nil, "tag.allow"},
		{"exporter without rows", any(`,"exporter":"SG"`), "FR", Options{Data: "personal"}, nil, "law.unknown"},
		{"exporter without rows, none", any(`,"exporter":"SG","mechanisms":["none"]`), "FR", Options{Data: "personal"}, nil, "!law.adequacy"},
		{"exporter without rows, at home", any(`,"exporter":"SG"`), "SG", Options{Data: "personal"}, nil, "tag.allow"},
		{"rows of another mechanism", any(`,"exporter":"AE"`), "FR", Options{Data: "personal"}, nil, "!law.adequacy"},
		{"rows not yet in force", any(`,"exporter":"IN"`), "FR", Options{Data: "personal"}, nil, "law.unknown"},
		{"negative list", any(`,"exporter":"IN"`), "FR", Options{Data: "personal", On: day("2027-05-13")}, nil, "tag.allow"},
		{"negative list, but none", any(`,"exporter":"IN","mechanisms":["none"]`), "FR", Options{Data: "personal", On: day("2027-05-13")}, nil, "!law.adequacy"},
		{"subdivision exporter inside", any(`,"exporter":"CA-QC"`), "CA/CA-QC", Options{Data: "personal"}, nil, "tag.allow"},
		{"subdivision exporter outside", any(`,"exporter":"CA-QC"`), "CA/CA-ON", Options{Data: "personal"}, nil, "!law.adequacy"},
		{"subdivision not known", any(`,"exporter":"CA-QC"`), "CA", Options{Data: "personal"}, nil, "claim.unknown"},
		{"subdivision, instrument", any(`,"exporter":"CA-QC","mechanisms":["instrument:pia"]`), "CA", Options{Data: "personal"}, map[string]string{"instrument:pia": "active"}, "tag.allow"},
		{"adequacy", any(""), "CH", Options{Data: "personal"}, nil, "tag.allow"},
		{"adequacy left out", any(`,"mechanisms":["instrument:scc-7"]`), "CH", Options{Data: "personal"}, nil, "claim.unknown"},
		{"instrument none", any(`,"mechanisms":["instrument:scc-7"]`), "CH", Options{Data: "personal"}, map[string]string{"instrument:scc-7": "none"}, "!law.adequacy"},
		{"or over mechanisms", any(`,"mechanisms":["instrument:scc-7","adequacy"]`), "CH", Options{Data: "personal"}, nil, "tag.allow"},
		{"GB is inside until 2020", any(""), "GB", Options{Data: "personal", On: day("2020-12-31")}, nil, "tag.allow"},
		{"GB gap of 2021", any(""), "GB", Options{Data: "personal", On: day("2021-01-01")}, nil, "!law.adequacy"},
		{"deny comes before the basis", `{"residency":{"allow":["ANY"],"deny":["SG"],"data":"personal"}}`, "SG", Options{}, nil, "!tag.deny"},
	} {
		if tt.o.On == 0 {
			tt.o.On = day(today)
		}
		s := at(tt.where)
		s.Claims = tt.claims
		d := Evaluate(policy(t, tt.tag), s, Embedded(), tt.o)
		rule := d.Rule
		if d.Verdict == Refused {
			rule = "!" + rule
		}
		if rule != tt.rule || d.Reason == "" {
			t.Errorf("%s: %s (%s), want %s", tt.name, rule, d.Reason, tt.rule)
		}
	}
}

func TestOperatorAndExposure(t *testing.T) {
	control := func(c string) string { return `{"residency":"ANY","control":` + c + `}` }
	eea := control(`{"operator":{"home":["EEA"],"parent":["EEA"]}}`)
	cloud := control(`{"exposed_to":{"deny":["US-CLOUD-ACT"]}}`)
	for _, tt := range []struct{ name, tag, country, home, parent, on, rule string }{
		{"both inside", eea, "FR", "FR", "NO", today, "tag.allow"},
		{"no parent reads as home", eea, "FR", "FR", "none", today, "tag.allow"},
		{"foreign parent", eea, "FR", "FR", "US", today, "!control.operator"},
		{"foreign home", eea, "FR", "US", "FR", today, "!control.operator"},
		{"parent not said", eea, "FR", "FR", "", today, "claim.unknown"},
		{"home not said", eea, "FR", "", "FR", today, "claim.unknown"},
		{"home not said, no parent", eea, "FR", "", "none", today, "claim.unknown"},
		{"a false parent beats an unknown home", eea, "FR", "", "US", today, "!control.operator"},
		{"unlisted home", eea, "FR", "XK", "FR", today, "claim.unknown"},
		{"UK is GB", control(`{"operator":{"home":["GB"]}}`), "FR", "uk", "", today, "tag.allow"},
		{"check is unknown", control(`{"operator":{"home":["GDPR-ZONE"]}}`), "FR", "GL", "", today, "law.unknown"},
		{"membership on the day", eea, "FR", "GB", "none", "2020-01-31", "tag.allow"},
		{"membership after the day", eea, "FR", "GB", "none", "2020-02-01", "!control.operator"},

		{"nobody in reach", cloud, "FR", "FR", "none", today, "tag.allow"},
		{"through the parent", cloud, "FR", "FR", "US", today, "!control.exposed"},
		{"through the place", cloud, "US", "FR", "FR", today, "!control.exposed"},
		{"through a territory", cloud, "PR", "FR", "FR", today, "!control.exposed"},
		{"home in a territory", cloud, "FR", "GU", "none", today, "!control.exposed"},
		{"parent not said", cloud, "FR", "FR", "", today, "claim.unknown"},
		{"home not said", cloud, "FR", "", "FR", today, "claim.unknown"},
		{"place not said", cloud, "", "FR", "FR", today, "claim.unknown"},
		{"one true wins", cloud, "", "", "US", today, "!control.exposed"},
		{"before the law", cloud, "US", "US", "US", "2018-03-22", "tag.allow"},
		{"before the law nothing needs to be known", cloud, "", "", "", "2018-03-22", "tag.allow"},
		{"on its first day", cloud, "US", "US", "US", "2018-03-23", "!control.exposed"},
		{"partly, through the parent alone", control(`{"exposed_to":{"deny":["CN-NIL"]}}`), "FR", "FR", "CN", today, "law.unknown"},
		{"partly, home", control(`{"exposed_to":{"deny":["CN-NIL"]}}`), "FR", "CN", "none", today, "!control.exposed"},
		{"partly, place", control(`{"exposed_to":{"deny":["CN-NIL"]}}`), "CN", "FR", "CN", today, "!control.exposed"},
		{"members of a group", control(`{"exposed_to":{"deny":["EU-E-EVIDENCE"]}}`), "CH", "RE", "none", today, "!control.exposed"},
		{"not yet in force", control(`{"exposed_to":{"deny":["EU-E-EVIDENCE"]}}`), "FR", "FR", "none", "2026-08-17", "tag.allow"},
		{"first unknown law as listed", control(`{"exposed_to":{"deny":["CN-NIL","US-CLOUD-ACT"]}}`), "FR", "FR", "CN", today, "law.unknown"},
		{"a later law refuses all the same", control(`{"exposed_to":{"deny":["CN-NIL","GB-IPA"]}}`), "GB", "FR", "CN", today, "!control.exposed"},
	} {
		s := at(tt.country)
		s.Operator = Operator{tt.home, tt.parent}
		d := Evaluate(policy(t, tt.tag), s, Embedded(), Options{On: day(tt.on)})
		rule := d.Rule
		if d.Verdict == Refused {
			rule = "!" + rule
		}
		if rule != tt.rule || d.Reason == "" {
			t.Errorf("%s: %s (%s), want %s", tt.name, rule, d.Reason, tt.rule)
		}
	}
}

func TestVerdictOrder(t *testing.T) {
	weak := `{"residency":"FR","control":{"operator":{"home":["FR"]}},"assurance":{"location":"attested"}}`
	s := at("FR")
	if d := Evaluate(policy(t, weak), s, Embedded(), Options{On: day(today)}); d.Rule != "claim.unknown" {
		t.Errorf("the first unknown is the operator: %s", d.Rule)
	}
	s.Country = "DE"
	if d := Evaluate(policy(t, weak), s, Embedded(), Options{On: day(today)}); d.Verdict != Refused || d.Rule != "tag.allow" {
		t.Errorf("a weak claim still refuses: %s %s", d.Verdict, d.Rule)
	}
	// An unknown deny does not hide a failed allow.
	if d := Evaluate(policy(t, "FR,!CA-QC"), at("CA"), Embedded(), Options{On: day(today)}); d.Rule != "tag.allow" {
		t.Errorf("failed allow beats unknown deny: %s", d.Rule)
	}
	site := at("FR")
	for _, tt := range []struct{ name, want string }{
		{"location", "claim.weak"}, {"operator", "claim.weak"},
	} {
		tag := `{"residency":"FR","assurance":{"` + tt.name + `":"declared"}}`
		if d := Evaluate(policy(t, tag), site, Embedded(), Options{On: day(today)}); d.Rule != tt.want {
			t.Errorf("%s asked, none given: %s", tt.name, d.Rule)
		}
		site.Assurance = Assurance{Location: "Probed", Operator: "hearsay"}
		if d := Evaluate(policy(t, tag), site, Embedded(), Options{On: day(today)}); d.Rule != tt.want {
			t.Errorf("%s asked, unlisted given: %s", tt.name, d.Rule)
		}
	}
}

func TestLayersDecideInTheirOrder(t *testing.T) {
	layer := func(o Origin, text string) Layer { return Layer{o, mustRead(t, text)} }
	o := Options{On: day(today)}
	for _, tt := range []struct {
		name   string
		layers []Layer
		where  string
		v      Verdict
		origin Origin
	}{
		{"all permit", []Layer{layer(OriginTenant, "EEA"), layer(OriginJob, "EU")}, "FR", Permitted, OriginJob},
		{"the job first", []Layer{layer(OriginImport, "DE"), layer(OriginExport, "DE"), layer(OriginJob, "DE")}, "FR", Refused, OriginJob},
		{"tenant before export", []Layer{layer(OriginExport, "DE"), layer(OriginTenant, "DE"), layer(OriginJob, "FR")}, "FR", Refused, OriginTenant},
		{"refusal before unknown", []Layer{layer(OriginJob, "CA-QC"), layer(OriginImport, "DE")}, "CA", Refused, OriginImport},
		{"unknown before permission", []Layer{layer(OriginJob, "CA"), layer(OriginDataset, "CA-QC")}, "CA", Unknown, OriginDataset},
		{"a layer that says nothing", []Layer{layer(OriginJob, "FR"), {OriginTenant, Tag{}}}, "FR", Refused, OriginTenant},
	} {
		d := Evaluate(NewPolicy(tt.layers...), at(tt.where), Embedded(), o)
		if d.Verdict != tt.v || d.Layer != tt.origin {
			t.Errorf("%s: %s by %s, want %s by %s", tt.name, d.Verdict, d.Layer, tt.v, tt.origin)
		}
	}
}

func TestNoTagPermitsNothing(t *testing.T) {
	err := Check(Policy{}, at("FR"), Embedded(), Options{On: day(today)})
	var r *Refusal
	if !errors.As(err, &r) || r.Unknown() || r.Rule != "tag.empty" || r.Hint() == "" {
		t.Errorf("Check of no policy: %v", err)
	}
	if err := CheckTransit(Policy{}, at("FR"), Embedded(), Options{}); err == nil {
		t.Error("no policy permits transit")
	}
}

func TestRefusalSaysEverything(t *testing.T) {
	err := Check(policy(t, "EEA,!HU"), Site{Region: "bud-1", Country: "HU"}, Embedded(), Options{On: day(today)})
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatalf("not a *Refusal: %v", err)
	}
	for _, part := range []string{"bud-1", "HU is denied by !HU", "tag.deny", Embedded().Hash()} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
	if !strings.Contains(r.Hint(), "EEA,!HU") || r.On.String() != today || r.Region != "bud-1" {
		t.Errorf("refusal %+v, hint %q", r, r.Hint())
	}
	err = Check(policy(t, "CA-QC"), at("CA"), Embedded(), Options{On: day(today)})
	if r, ok := err.(*Refusal); !ok || !r.Unknown() || !strings.Contains(r.Error(), "not known") {
		t.Errorf("unknown: %v", err)
	}
}
