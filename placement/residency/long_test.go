package residency

import (
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
	"time"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// full says everything that the long form can say, in no canonical order.
const full = `{
 "on_change": {"partition": {"action": "finish", "max": "1d"}, "law": {"grace": "72h", "action": "checkpoint-stop"}, "claim": {"action": "drain", "grace": "90m"}},
 "residency": {"deny": ["hu"], "allow": ["ch", "EEA", "eea"], "prefer": ["FR", "DE", "FR"], "data": "personal", "exporter": "uk",
   "mechanisms": ["instrument:SCC-7", "adequacy"],
   "scope": {"compute": ["EEA", "CH"], "rest": ["FR"], "backup": ["FR", "DE"], "logs": [], "metadata": ["region:fra-1"], "admin": ["FR-75"]}},
 "control": {"operator": {"home": ["EEA"], "parent": ["group:eea", "CH"]}, "exposed_to": {"deny": ["us-fisa-702", "US-CLOUD-ACT", "US-FISA-702"]}, "keys": {"holder": "tenant", "where": ["EEA"]}},
 "transit": {"via": ["EEA"], "direct": false, "sealed": true},
 "confidential": true,
 "assurance": {"location": "attested", "operator": "documented", "max_age": "090d", "framework": ["csf:seal-2"]}
}`

const fullCanonical = `{"assurance":{"framework":["CSF:SEAL-2"],"location":"attested","max_age":"90d","operator":"documented"},"confidential":true,` +
	`"control":{"exposed_to":{"deny":["US-FISA-702","US-CLOUD-ACT"]},"keys":{"holder":"tenant","where":["EEA"]},"operator":{"home":["EEA"],"parent":["CH","EEA"]}},` +
	`"on_change":{"claim":{"action":"drain","grace":"90m"},"law":{"action":"checkpoint-stop","grace":"72h"},"partition":{"action":"finish","max":"24h"}},` +
	`"residency":{"allow":["CH","EEA"],"data":"personal","deny":["HU"],"exporter":"GB","mechanisms":["adequacy","instrument:scc-7"],"prefer":["FR","DE"],` +
	`"scope":{"admin":["FR-75"],"backup":["DE","FR"],"compute":["CH","EEA"],"logs":[],"metadata":["region:fra-1"],"rest":["FR"]}},` +
	`"transit":{"sealed":true,"via":["EEA"]}}`

func TestLongFormAndItsWire(t *testing.T) {
	tag, warnings, err := read(full, day(today))
	if err != nil {
		t.Fatal(err)
	}
	if tag.Canonical() != "CH,EEA,!HU" {
		t.Errorf("Canonical() = %s", tag.Canonical())
	}
	if want := "json:" + b64(fullCanonical); tag.Wire() != want {
		got, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(tag.Wire(), "json:"))
		t.Errorf("canonical long form\n%s\nwant\n%s", got, fullCanonical)
	}
	if len(warnings) != 2 || warnings[0].Code != "tag.alias" || warnings[1].Code != "tag.unlisted" || warnings[0].Line == 0 {
		t.Errorf("warnings %v", warnings)
	}
	again, err := ParseWire(tag.Wire(), Embedded(), day(today))
	if err != nil || again.Wire() != tag.Wire() || !reflect.DeepEqual(again.Long(), tag.Long()) {
		t.Errorf("ParseWire gives %v, %+v; want %+v", err, again.Long(), tag.Long())
	}
	l := tag.Long()
	if l.OnChange.Partition.Max != 24*time.Hour || l.Assurance.MaxAge != 90 || !l.Assurance.HasMaxAge || !l.Confidential || !l.Transit.Sealed {
		t.Errorf("Long() = %+v", l)
	}
}

// A long form that says no more than a short one is the short one.
func TestLongFormsThatAreShort(t *testing.T) {
	for in, want := range map[string]string{
		`{"residency":"eu,!hu"}`: "EU,!HU",
		`{"residency":{"allow":["FR"],"deny":[],"prefer":[],"mechanisms":["adequacy"],"scope":{}},"transit":{"direct":false,"sealed":false},"confidential":false,"control":{"exposed_to":{"deny":[]}},"on_change":{},"assurance":{"framework":[]}}`: "FR",
		`{"residency":{"allow":[" fr "]}}`: "FR",
	} {
		if tag := mustRead(t, in); tag.Wire() != want || tag.Canonical() != want {
			t.Errorf("%s: wire %s, want %s", in, tag.Wire(), want)
		}
	}
	for _, in := range []string{`{"residency":"FR","confidential":true}`, `{"residency":{"allow":["FR"],"mechanisms":[]}}`, `{"residency":"FR","transit":{"via":[]}}`} {
		if tag := mustRead(t, in); !strings.HasPrefix(tag.Wire(), "json:") || tag.Canonical() != "FR" {
			t.Errorf("%s: wire %s", in, tag.Wire())
		}
	}
}

func TestLongFormFaults(t *testing.T) {
	scope := func(allow, list string) string {
		return `{"residency":{"allow":` + allow + `,"scope":{"rest":` + list + `}}}`
	}
	big := `["` + strings.Repeat(`FR","`, 64) + `FR"]`
	for _, tt := range []struct{ in, code string }{
		{`{}`, "tag.empty"},
		{`{"residency":null}`, "tag.empty"},
		{`{"residency":""}`, "tag.empty"},
		{`{"residency":[]}`, "tag.empty"},
		{`{"residency":{}}`, "tag.empty"},
		{`{"residency":{"allow":[]}}`, "tag.empty"},
		{`{"residency":{"deny":["US"]}}`, "tag.empty"},
		{`{"residency":["EU"]}`, "tag.field"},
		{`{"residency":12}`, "tag.field"},
		{`{"residency":true}`, "tag.field"},
		{`{"residency":"EU","residency":"EU"}`, "tag.field"},
		{`{"residency":{"allow":["EU"],"allow":["EU"]}}`, "tag.field"},
		{`{"residence":"EU"}`, "tag.field"},
		{`{"residency":"EU","name":"x"}`, "tag.field"},
		{`{"residency":{"allow":"EU"}}`, "tag.field"},
		{`{"residency":{"allow":[1]}}`, "tag.field"},
		{`{"residency":{"allow":[null]}}`, "tag.field"},
		{`{"residency":{"allow":[false]}}`, "tag.field"},
		{`{"residency":{"allow":["EU"],"deny":null}}`, "tag.field"},
		{`{"residency":{"allow":["!HU"]}}`, "tag.syntax"},
		{`{"residency":{"allow":["FR,DE"]}}`, "tag.syntax"},
		{`{"residency":{"allow":["FR DE"]}}`, "tag.syntax"},
		{`{"residency":{"allow":[""]}}`, "tag.syntax"},
		{`{"residency":{"allow":["*"]}}`, "tag.syntax"},
		{`{"residency":{"allow":["adequate(CA-QC)"]}}`, "tag.syntax"},
		{`{"residency":{"allow":["adequate(CN)"]}}`, "tag.unknown-exporter"},
		{`{"residency":{"allow":["Europe"]}}`, "tag.unknown-place"},
		{`{"residency":{"allow":["EU"],"deny":["ANY"]}}`, "tag.syntax"},
		{`{"residency":{"allow":["EU"],"deny":["!HU"]}}`, "tag.syntax"},
		{`{"residency":{"allow":["EU"],"prefer":["Paris"]}}`, "tag.unknown-place"},
		{`{"residency":{"allow":` + big + `}}`, "tag.too-long"},
		{`{"residency":{"allow":["` + strings.Repeat("a", 1025) + `"]}}`, "tag.too-long"},
		{`{"residency":{"allow":["EU"],"data":"Personal"}}`, "tag.field"},
		{`{"residency":{"allow":["EU"],"data":"pii"}}`, "tag.field"},
		{`{"residency":{"allow":["EU"],"exporter":"EFTA"}}`, "tag.unknown-exporter"},
		{`{"residency":{"allow":["EU"],"exporter":"CA-ON"}}`, "tag.unknown-exporter"},
		{`{"residency":{"allow":["EU"],"exporter":"Europe"}}`, "tag.unknown-exporter"},
		{`{"residency":{"allow":["EU"],"exporter":"ANY"}}`, "tag.unknown-exporter"},
		{`{"residency":{"allow":["EU"],"exporter":""}}`, "tag.unknown-exporter"},
		{`{"residency":{"allow":["EU"],"exporter":3}}`, "tag.field"},
		{`{"residency":{"allow":["EU"],"mechanisms":["none","adequacy"]}}`, "tag.field"},
		{`{"residency":{"allow":["EU"],"mechanisms":["derogation"]}}`, "tag.field"},
		{`{"residency":{"allow":["EU"],"mechanisms":["instrument:"]}}`, "tag.field"},
		{`{"residency":{"allow":["EU"],"mechanisms":["instrument:a b"]}}`, "tag.field"},
		{`{"residency":{"allow":["EU"],"mechanisms":"adequacy"}}`, "tag.field"},
		{scope(`["DE"]`, `["DE","FR"]`), "tag.scope"},
		{scope(`["EU"]`, `["EEA"]`), "tag.scope"},
		{scope(`["EU"]`, `["ANY"]`), "tag.scope"},
		{scope(`["CA-QC"]`, `["CA"]`), "tag.scope"},
		{scope(`["CA-QC"]`, `["CA-ON"]`), "tag.scope"},
		{scope(`["adequate(EU)"]`, `["FR"]`), "tag.scope"},
		{scope(`["EU"]`, `["adequate(EU)"]`), "tag.scope"},
		{scope(`["region:a"]`, `["FR"]`), "tag.scope"},
		{scope(`["EU"]`, `["nowhere"]`), "tag.unknown-place"},
		{`{"residency":{"allow":["EU"],"scope":{"disk":["EU"]}}}`, "tag.field"},
		{`{"residency":"EU","control":[]}`, "tag.field"},
		{`{"residency":"EU","control":{"operator":{"home":[]}}}`, "tag.field"},
		{`{"residency":"EU","control":{"operator":{"parent":["CA-QC"]}}}`, "tag.field"},
		{`{"residency":"EU","control":{"operator":{"parent":["ANY"]}}}`, "tag.field"},
		{`{"residency":"EU","control":{"operator":{"parent":["Europe"]}}}`, "tag.unknown-place"},
		{`{"residency":"EU","control":{"exposed_to":{"deny":["EU-GDPR-48"]}}}`, "tag.unknown-law"},
		{`{"residency":"EU","control":{"exposed_to":{"deny":["CLOUD-ACT"]}}}`, "tag.unknown-law"},
		{`{"residency":"EU","control":{"keys":{"holder":"a b"}}}`, "tag.field"},
		{`{"residency":"EU","transit":{"direct":"yes"}}`, "tag.field"},
		{`{"residency":"EU","transit":{"via":"EU"}}`, "tag.field"},
		{`{"residency":"EU","confidential":1}`, "tag.field"},
		{`{"residency":"EU","confidential":null}`, "tag.field"},
		{`{"residency":"EU","assurance":{"location":"certified"}}`, "tag.field"},
		{`{"residency":"EU","assurance":{"max_age":"90"}}`, "tag.field"},
		{`{"residency":"EU","assurance":{"max_age":90}}`, "tag.field"},
		{`{"residency":"EU","assurance":{"max_age":"-1d"}}`, "tag.field"},
		{`{"residency":"EU","assurance":{"max_age":"2h"}}`, "tag.field"},
		{`{"residency":"EU","assurance":{"framework":["CSF"]}}`, "tag.field"},
		{`{"residency":"EU","assurance":{"framework":["CSF:SEAL-9"]}}`, "tag.field"},
		{`{"residency":"EU","on_change":{"law":{}}}`, "tag.field"},
		{`{"residency":"EU","on_change":{"law":{"action":"finish"}}}`, "tag.field"},
		{`{"residency":"EU","on_change":{"partition":{"action":"drain"}}}`, "tag.field"},
		{`{"residency":"EU","on_change":{"law":{"action":"stop","grace":"soon"}}}`, "tag.field"},
		{`{"residency":"EU","on_change":{"law":{"action":"stop","max":"1h"}}}`, "tag.field"},
	} {
		_, _, err := read(tt.in, day(today))
		if code(err) != tt.code {
			t.Errorf("%.90s: %v (%s), want %s", tt.in, err, code(err), tt.code)
		} else if err.(*Error).Hint() == "" {
			t.Errorf("%.90s: no hint", tt.in)
		}
	}
}

func TestLongFormIsAMapping(t *testing.T) {
	for _, v := range []Value{{Kind: String, Text: "EU"}, {Kind: List}, {Kind: Null}} {
		if _, _, err := ParseLong(v, Embedded(), day(today)); code(err) != "tag.field" {
			t.Errorf("%s: %v, want tag.field", v.Kind, err)
		}
	}
}

func TestScopesThatLieWithin(t *testing.T) {
	for _, tt := range []struct{ allow, list string }{
		{`["DE","FR"]`, `["DE"]`}, {`["EU"]`, `["DE","RE"]`}, {`["EEA"]`, `["EU"]`}, {`["EEA"]`, `["GDPR-ZONE"]`},
		{`["CA"]`, `["CA-QC"]`}, {`["CA-QC"]`, `["CA-QC"]`}, {`["adequate(EU)"]`, `["US","CA-ON"]`}, {`["adequate(EU)"]`, `["adequate(EU)"]`},
		{`["ANY"]`, `["ANY","adequate(EU)","CN"]`}, {`["EU"]`, `["region:x","site:y"]`}, {`["EU"]`, `[]`}, {`["group:FR-ALL"]`, `["RE"]`},
	} {
		if _, _, err := read(`{"residency":{"allow":`+tt.allow+`,"scope":{"logs":`+tt.list+`}}}`, day(today)); err != nil {
			t.Errorf("%s within %s: %v", tt.list, tt.allow, err)
		}
	}
	// On that day: GB is inside the EU until the end of January 2020.
	in := `{"residency":{"allow":["EU"],"scope":{"rest":["GB"]}}}`
	if _, _, err := read(in, day("2020-01-31")); err != nil {
		t.Errorf("2020-01-31: %v", err)
	}
	if _, _, err := read(in, day("2020-02-01")); code(err) != "tag.scope" || err.(*Error).Hint() != "allow GB or drop it" {
		t.Errorf("2020-02-01: %v", err)
	}
}

func TestForScopeNarrows(t *testing.T) {
	p := policy(t, `{"residency":{"allow":["EEA"],"deny":["HU"],"scope":{"rest":["FR","HU"],"admin":[]}}}`)
	for _, tt := range []struct {
		scope, country string
		v              Verdict
	}{{"rest", "FR", Permitted}, {"rest", "DE", Refused}, {"rest", "HU", Refused}, {"logs", "DE", Permitted}, {"admin", "FR", Refused}} {
		if d := Evaluate(p.ForScope(tt.scope), at(tt.country), Embedded(), Options{On: day(today)}); d.Verdict != tt.v {
			t.Errorf("%s in %s: %s, want %s", tt.scope, tt.country, d.Verdict, tt.v)
		}
	}
}

// A YAML decoder may hand in Norway as a boolean; its literal says what it is.
func TestNorwayIsNotFalse(t *testing.T) {
	norway := Value{Kind: Bool, Text: "NO"}
	list := Value{Kind: Map, Fields: []Field{{Name: "allow", Value: Value{Kind: List, List: []Value{norway}}}}}
	for _, v := range []Value{norway, list} {
		tag, _, err := ParseLong(Value{Kind: Map, Fields: []Field{{Name: "residency", Value: v}}}, Embedded(), day(today))
		if err != nil || tag.Canonical() != "NO" {
			t.Errorf("%+v: %v, %v", v, tag.Canonical(), err)
		}
	}
	if _, _, err := ParseLong(Value{Kind: Map, Fields: []Field{{Name: "residency", Value: Value{Kind: Bool, Text: "false"}}}}, Embedded(), 0); code(err) != "tag.field" {
		t.Errorf("false: %v", err)
	}
}

func TestLongFormPositions(t *testing.T) {
	_, _, err := read("{\"residency\":\n  {\"allow\": [\"FR\",\n    \"Paris\"]}}", day(today))
	if e, ok := err.(*Error); !ok || e.Line != 3 || e.Column != 5 {
		t.Errorf("%+v, want line 3 column 5", err)
	}
	_, _, err = read("{\"residency\":\"EU\",\n\"transitt\":{}}", day(today))
	if e, ok := err.(*Error); !ok || e.Line != 2 || e.Column != 1 || !strings.Contains(e.Hint(), "did you mean transit?") {
		t.Errorf("%+v, want line 2 column 1 and the nearest field", err)
	}
}

// strayBits changes bits of the last letter that stand for nothing.
func strayBits(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return s[:len(s)-1] + string(alphabet[strings.IndexByte(alphabet, s[len(s)-1])|1])
}

func TestParseWire(t *testing.T) {
	for in, want := range map[string]string{
		"EU":     "EU",
		"eu,!hu": "EU,!HU",
		"json:" + b64(`{"confidential":true,"residency":{"allow":["EU"]}}`): "json:" + b64(`{"confidential":true,"residency":{"allow":["EU"]}}`),
	} {
		if tag, err := ParseWire(in, Embedded(), day(today)); err != nil || tag.Wire() != want {
			t.Errorf("ParseWire(%s) = %s, %v", in, tag.Wire(), err)
		}
	}
	canonical := `{"confidential":true,"residency":{"allow":["EU"]}}`
	for name, in := range map[string]string{
		"another order":        b64(`{"residency":{"allow":["EU"]},"confidential":true}`),
		"a blank":              b64(`{"confidential": true,"residency":{"allow":["EU"]}}`),
		"a default":            b64(`{"confidential":true,"residency":{"allow":["EU"],"deny":[]}}`),
		"lower case":           b64(`{"confidential":true,"residency":{"allow":["eu"]}}`),
		"a string":             b64(`{"confidential":true,"residency":"EU"}`),
		"no more than short":   b64(`{"residency":{"allow":["EU"]}}`),
		"padding":              base64.URLEncoding.EncodeToString([]byte(canonical+"  ")) + "=",
		"a line break":         b64(canonical)[:8] + "\n" + b64(canonical)[8:],
		"the other alphabet":   base64.RawStdEncoding.EncodeToString([]byte(`{"residency":"???>>>"}`)),
		"nothing":              "",
		"no JSON":              b64("EU"),
		"two documents":        b64(canonical + canonical),
		"oversize":             strings.Repeat("A", 6000),
		"a key twice":          b64(`{"confidential":true,"confidential":true,"residency":{"allow":["EU"]}}`),
		"stray bits":           strayBits(b64(canonical)),
		"an upper-case prefix": "",
	} {
		header := "json:" + in
		if name == "an upper-case prefix" {
			header = "JSON:" + b64(canonical)
		}
		if tag, err := ParseWire(header, Embedded(), day(today)); err == nil || !strings.HasPrefix(code(err), "tag.") {
			t.Errorf("%s: accepted as %s, %v", name, tag.Wire(), err)
		}
	}
}

// What cannot be carried in a header is refused when it is read.
func TestLongFormsTooLargeForTheWire(t *testing.T) {
	var names []string
	for i := range 64 {
		names = append(names, `"region:`+strings.Repeat("a", 50)+string(rune('a'+i%26))+string(rune('a'+i/26))+`"`)
	}
	list := "[" + strings.Join(names, ",") + "]"
	_, _, err := read(`{"residency":{"allow":["EU"],"prefer":`+list+`},"transit":{"via":`+list+`}}`, day(today))
	if code(err) != "tag.too-long" {
		t.Errorf("%v, want tag.too-long", err)
	}
	_, _, err = read(`{"residency":{"allow":`+list+`}}`, day(today))
	if code(err) != "tag.too-long" {
		t.Errorf("an allow list that no short form can hold: %v, want tag.too-long", err)
	}
}

func TestNeedsOnChange(t *testing.T) {
	if !mustRead(t, `{"residency":{"allow":["EU"],"data":"special"}}`).NeedsOnChange() {
		t.Error("special data without on_change is not noticed")
	}
	if mustRead(t, `{"residency":{"allow":["EU"],"data":"special"},"on_change":{"law":{"action":"stop"}}}`).NeedsOnChange() || mustRead(t, "EU").NeedsOnChange() {
		t.Error("on_change is asked for without need")
	}
}

func TestOptionsFor(t *testing.T) {
	open, said := mustRead(t, "EU"), mustRead(t, `{"residency":{"allow":["EU"],"data":"personal","exporter":"EU"}}`)
	for _, tt := range []struct {
		tag      Tag
		exp, dat string
		code     string
	}{
		{open, "", "", ""}, {open, "uk", "personal", ""}, {open, "CA-QC", "none", ""}, {open, "Europe", "", "tag.unknown-exporter"},
		{open, "", "pii", "tag.field"}, {said, "eu", "personal", ""}, {said, "GB", "", "tag.field"}, {said, "", "special", "tag.field"},
	} {
		o, _, err := OptionsFor(tt.tag, Options{Exporter: tt.exp, Data: tt.dat}, Embedded())
		if code(err) != tt.code {
			t.Errorf("%s %q %q: %v, want %s", tt.tag, tt.exp, tt.dat, err, tt.code)
		}
		if tt.exp == "uk" && o.Exporter != "GB" {
			t.Errorf("exporter uk is %s", o.Exporter)
		}
	}
}

func TestValueFromJSON(t *testing.T) {
	v, err := ValueFromJSON([]byte("{\"a\":[1,true,null,\"x\\u0041\"],\n \"a\":{}}"))
	if err != nil || len(v.Fields) != 2 || v.Fields[1].Line != 2 || v.Fields[1].Column != 2 || v.Fields[0].Value.List[3].Text != "xA" || v.Fields[0].Value.List[0].Text != "1" {
		t.Errorf("%+v, %v", v, err)
	}
	for _, in := range []string{"", "{", "[1,]", "{\"a\":1,}", "{} {}", "[1 2]", "\"\xff\"", "nul", strings.Repeat("[", 40) + strings.Repeat("]", 40), strings.Repeat(" ", maxValueBytes) + "1"} {
		if _, err := ValueFromJSON([]byte(in)); !strings.HasPrefix(code(err), "tag.") {
			t.Errorf("ValueFromJSON(%.20q): %v", in, err)
		}
	}
}
