package placement

import (
	"bytes"
	"errors"
	"testing"

	"github.com/sovmesh/sovmesh/placement/residency"
)

func at(t testing.TB, id, country string, change ...func(*Region)) *Region {
	t.Helper()
	r := &Region{ID: RegionID(id), LawPack: residency.Embedded().Hash(), Facts: RegionFacts{Country: country, Operator: Operator{Home: country, Parent: "none"}}}
	for _, c := range change {
		c(r)
	}
	return r
}

func law(t testing.TB) Law {
	t.Helper()
	on, err := residency.ParseDate("2026-11-21")
	if err != nil {
		t.Fatal(err)
	}
	return Law{Pack: residency.Embedded(), On: on}
}

func exports(tag string) func(*Region) { return func(r *Region) { r.Export = tag } }
func imports(tag string) func(*Region) { return func(r *Region) { r.Import = tag } }
func packed(hash string) func(*Region) { return func(r *Region) { r.LawPack = hash } }

func own(tag string) []Layer { return []Layer{{residency.OriginJob, tag}} }

const (
	direct = "json:eyJyZXNpZGVuY3kiOnsiYWxsb3ciOlsiRVUiXX0sInRyYW5zaXQiOnsiZGlyZWN0Ijp0cnVlfX0" // EU, transit.direct
	weak   = "json:eyJhc3N1cmFuY2UiOnsibG9jYXRpb24iOiJhdHRlc3RlZCJ9LCJyZXNpZGVuY3kiOnsiYWxsb3ciOlsiRVUiXX19"
	logsFR = "json:eyJyZXNpZGVuY3kiOnsiYWxsb3ciOlsiRVUiXSwic2NvcGUiOnsibG9ncyI6WyJGUiJdfX19"
	viaFR  = "json:eyJyZXNpZGVuY3kiOnsiYWxsb3ciOlsiREUiXX0sInRyYW5zaXQiOnsidmlhIjpbIkZSIl19fQ" // DE, via FR
)

func TestCrossing(t *testing.T) {
	fr, de, us := at(t, "fra-1", "FR"), at(t, "ber-1", "DE"), at(t, "iad-1", "US")
	tests := []struct {
		name  string
		x     Crossing
		code  string // empty: permitted
		layer residency.Origin
	}{
		{"inside", Crossing{Layers: own("EU"), From: fr, To: de}, "", ""},
		{"outside", Crossing{Layers: own("EU"), From: fr, To: us}, "residency.refused", residency.OriginJob},
		{"no tag permits nothing", Crossing{From: fr, To: de}, "residency.refused", ""},
		{"rules of a border are no tag", Crossing{From: at(t, "fra-1", "FR", exports("ANY")), To: de}, "residency.refused", ""},
		{"export", Crossing{Layers: own("EU"), From: at(t, "fra-1", "FR", exports("FR")), To: de}, "residency.refused", residency.OriginExport},
		{"import", Crossing{Layers: own("EU"), From: fr, To: at(t, "ber-1", "DE", imports("FR"))}, "residency.refused", residency.OriginImport},
		{"no border, no rules", Crossing{Layers: own("EU"), From: de, To: at(t, "ber-1", "DE", imports("FR"), exports("FR"))}, "", ""},
		{"each layer keeps its origin", Crossing{Layers: append(own("EU"), Layer{residency.OriginToken, "FR"}), To: de}, "residency.refused", residency.OriginToken},
		{"read and wire layers meet", Crossing{Layers: own("EU"), Policy: read(t, residency.OriginTenant, "FR"), To: de}, "residency.refused", residency.OriginTenant},
		{"too weak a claim is not known", Crossing{Layers: own(weak), To: de}, "claim.weak", residency.OriginJob},
		{"a layer nobody can read", Crossing{Layers: own("ATLANTIS"), To: de}, "law.unknown", ""},
		{"a refusal before an unknown", Crossing{Layers: append(own(weak), Layer{residency.OriginTenant, "FR"}), To: de}, "residency.refused", residency.OriginTenant},
		{"a pack not held", Crossing{Layers: own("EU"), From: fr, To: at(t, "ber-1", "DE", packed("newer"))}, residency.RuleNotHeld, ""},
		{"a pack not said", Crossing{Layers: own("EU"), From: at(t, "fra-1", "FR", packed("")), To: de}, residency.RuleNotHeld, ""},
		{"a pack not held changes no refusal", Crossing{Layers: own("EU"), From: fr, To: at(t, "iad-1", "US", packed("newer"))}, "residency.refused", residency.OriginJob},
		{"what has arrived is placed by the law here", Crossing{Layers: own("EU"), From: at(t, "fra-1", "FR", packed("newer")), To: de, Arrived: true}, "", ""},
		{"and by the import rule here", Crossing{Layers: own("EU"), From: fr, To: at(t, "ber-1", "DE", imports("FR")), Arrived: true}, "residency.refused", residency.OriginImport},
		{"home is no relay of it", Crossing{Layers: own("DE"), From: us, To: de, Via: us}, "residency.refused", residency.OriginJob},
		{"no relay at all", Crossing{Layers: own(direct), From: fr, To: de, Via: fr}, "residency.refused", residency.OriginJob},
		{"nor for an answer", Crossing{Layers: own(direct), From: de, To: fr, Use: UseAnswer}, "residency.refused", residency.OriginJob},
		{"an answer to a place outside", Crossing{Layers: own("EU"), From: de, To: us, Use: UseAnswer}, "residency.refused", residency.OriginJob},
		{"output under the export rule", Crossing{Layers: own("EU"), From: at(t, "ber-1", "DE", exports("DE")), To: fr, Use: UseLogs}, "residency.refused", residency.OriginExport},
		{"output inside its scope", Crossing{Layers: own(logsFR), From: de, To: fr, Use: UseLogs}, "", ""},
		{"output outside its scope", Crossing{Layers: own(logsFR), From: fr, To: de, Use: UseLogs}, "residency.refused", residency.OriginJob},
		{"on the path", Crossing{Layers: own(viaFR), To: fr, Use: UseEnter}, "", ""},
		{"on the path is not to run there", Crossing{Layers: own(viaFR), To: fr}, "residency.refused", residency.OriginJob},
		{"the region leaves it open", Crossing{Layers: own("site:b"), To: de}, "claim.unknown", residency.OriginJob},
		{"a site settles it", Crossing{Layers: own("site:b"), To: de, Sites: func() []string { return []string{"a", "b"} }}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.x.Law = law(t)
			r := tt.x.Judge()
			if r.Code() != tt.code || tt.code != "" && r.Layer != tt.layer || (r.Err() == nil) != (tt.code == "") {
				t.Errorf("%q by the %s (%s), want %q by the %s", r.Code(), r.Layer, r.Reason, tt.code, tt.layer)
			}
			var refusal *residency.Refusal
			if tt.code != "" && (!errors.As(r.Err(), &refusal) || refusal.Hint() == "" || refusal.Reason == "") {
				t.Errorf("it does not explain itself: %v", r.Err())
			}
		})
	}
}

func read(t testing.TB, origin residency.Origin, tag string) residency.Policy {
	t.Helper()
	p, err := ReadLayers([]Layer{{origin, tag}}, residency.Embedded(), law(t).On)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A pack under which Germany has left the Union is held by one of the regions.
func TestBothPacksMustPermit(t *testing.T) {
	tables := residency.Embedded().Tables()
	for name, table := range tables {
		tables[name] = bytes.Replace(table, []byte("\nEU,DE,1958-01-01,,"), []byte("\nEU,DE,1958-01-01,2020-01-01,"), 1)
	}
	other, err := residency.LoadPack(tables)
	if err != nil {
		t.Fatal(err)
	}
	l := law(t)
	l.Held = func(hash string) *residency.Pack {
		if hash == other.Hash() {
			return other
		}
		return nil
	}
	fr := at(t, "fra-1", "FR")
	for _, use := range []Use{UseRun, UseEnter, UseAnswer, UseLogs} {
		for _, x := range []Crossing{
			{Layers: own("EU"), From: fr, To: at(t, "ber-1", "DE", packed(other.Hash())), Use: use, Law: l},
			{Layers: own("EU"), From: at(t, "fra-1", "FR", packed(other.Hash())), To: at(t, "ber-1", "DE"), Use: use, Law: l},
		} {
			r := x.Judge()
			if r.Verdict != residency.Refused || r.Pack != other.Hash() || len(r.Findings) != 2 {
				t.Errorf("use %d: %+v", use, r.Findings)
			}
		}
	}
}

// A ledger records what was said of the destination, so that it can be judged
// again: nothing else may stand among the findings.
func TestOnlyTheDestinationIsRecorded(t *testing.T) {
	fr, de := at(t, "fra-1", "FR"), at(t, "ber-1", "DE")
	for _, tt := range []struct {
		x    Crossing
		want int
	}{
		{Crossing{Layers: own("DE,FR"), From: fr, To: de, Via: fr}, 1},
		{Crossing{Layers: own("DE"), From: fr, To: de, Via: fr}, 1},
		{Crossing{Layers: own("EU"), From: fr, To: at(t, "ber-1", "DE", packed("newer"))}, 1},
		{Crossing{Layers: own("ATLANTIS"), To: de}, 0},
	} {
		tt.x.Law = law(t)
		r := tt.x.Judge()
		if len(r.Findings) != tt.want || tt.want == 1 && (!(r.Findings[0].Verdict == residency.Permitted) || r.Findings[0].Site.Region != "ber-1") {
			t.Errorf("%v: %+v", tt.x.Layers, r.Findings)
		}
	}
}

func TestAcrossWritesIntoNobodysLayers(t *testing.T) {
	layers := make([]Layer, 1, 4)
	layers[0] = own("EU")[0]
	a := Across(layers, at(t, "fra-1", "FR", exports("FR")), at(t, "ber-1", "DE"))
	b := Across(layers, at(t, "ber-1", "DE", exports("DE")), at(t, "fra-1", "FR", imports("EEA")))
	if len(a) != 2 || a[1].Tag != "FR" || len(b) != 3 || b[1].Tag != "DE" || b[2].Origin != residency.OriginImport {
		t.Errorf("%v %v", a, b)
	}
	if again := Across(a, at(t, "fra-1", "FR", exports("FR")), at(t, "ber-1", "DE")); len(again) != 2 {
		t.Errorf("the same rule stands there twice: %v", again)
	}
}

func BenchmarkCrossing(b *testing.B) {
	x := Crossing{Layers: own("EEA,!HU"), From: at(b, "fra-1", "FR", exports("EU")), To: at(b, "ber-1", "DE"), Law: law(b)}
	p, err := ReadLayers(Across(x.Layers, x.From, x.To), x.Law.Pack, x.Law.On)
	if err != nil {
		b.Fatal(err)
	}
	x.Law.Read = func([]Layer) (residency.Policy, error) { return p, nil }
	b.ReportAllocs()
	for b.Loop() {
		if r := x.Judge(); !r.Permitted() {
			b.Fatal(r.Reason)
		}
	}
}
