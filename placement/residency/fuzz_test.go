package residency

import (
	"strings"
	"testing"
)

func FuzzParse(f *testing.F) {
	for _, s := range []string{"EU", " fr , UK,eu,!hu,FR", "adequate( uk ),CA-qc", "!US", "*", "Europe", "group:FR-ALL,region:a,site:b", "FR-974,!!", "(,)", strings.Repeat("FR,", 70)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tag, _, err := Parse(s, Embedded())
		if err != nil {
			if e, ok := err.(*Error); !ok || !strings.HasPrefix(e.Code, "tag.") || e.Hint() == "" || len(e.Error()) > 2000 {
				t.Fatalf("%q: %#v", s, err)
			}
			return
		}
		again, _, err := Parse(tag.Canonical(), Embedded())
		if err != nil || again.Canonical() != tag.Canonical() || len(tag.Canonical()) > maxTagBytes {
			t.Fatalf("%q -> %q -> %q, %v", s, tag.Canonical(), again.Canonical(), err)
		}
		Explain(tag, Embedded(), day(today))
	})
}

func FuzzParseWire(f *testing.F) {
	for _, s := range []string{"EU", "json:", "json:e30", "json:" + b64(fullCanonical), "json:" + b64(`{"confidential":true,"residency":{"allow":["EU"]}}`)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tag, err := ParseWire(s, Embedded(), day(today))
		if err != nil {
			if !strings.HasPrefix(code(err), "tag.") {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		again, err := ParseWire(tag.Wire(), Embedded(), day(today))
		if err != nil || again.Wire() != tag.Wire() || strings.HasPrefix(s, wirePrefix) && tag.Wire() != s {
			t.Fatalf("%q -> %q -> %q, %v", s, tag.Wire(), again.Wire(), err)
		}
	})
}

func FuzzValueFromJSON(f *testing.F) {
	for _, s := range []string{`{"residency":"EU"}`, full, `[1,2,{"a":null}]`, `"\ud800"`, "{", "[[[["} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := ValueFromJSON(data)
		if err != nil {
			if !strings.HasPrefix(code(err), "tag.") {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		if tag, _, err := ParseLong(v, Embedded(), day(today)); err == nil {
			again, err := ParseWire(tag.Wire(), Embedded(), day(today))
			if err != nil || again.Wire() != tag.Wire() {
				t.Fatalf("%q -> %q -> %q, %v", data, tag.Wire(), again.Wire(), err)
			}
		}
	})
}

func FuzzParseSites(f *testing.F) {
	for _, s := range []string{`[{"region":"a"}]`, `[{"region":"FRA-2","country":"de","operator":{"parent":"NONE"},"claims":{"DPF":"x"}}]`, `[{"region":"a","assurance":{"as_of":""}}]`, `[]`} {
		f.Add([]byte(s))
	}
	eu, _, err := Parse("EU,adequate(EU),CA-QC,!site:b", Embedded())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sites, err := ParseSites(data)
		if err != nil {
			if code(err) != "input.sites" {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		for _, s := range sites {
			Evaluate(NewPolicy(Layer{OriginJob, eu}), s, Embedded(), Options{On: day(today), Data: "personal"})
		}
	})
}

func FuzzLoadPack(f *testing.F) {
	f.Add("groups.csv", []byte("group,code,from,to\nEU,FR,1958-01-01,\n"))
	f.Add("aliases.csv", []byte("input,canonical,action,reason\nUK,GB,accept-warn,x\n"))
	f.Add("countries.csv", []byte("code,name,gdpr_zone,special_status\nFR,France,yes,\n"))
	f.Add("x.csv", []byte("a,\"b\nc\"\n1,2\n"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		tables := Embedded().Tables()
		tables[name] = data
		p, err := LoadPack(tables)
		if err != nil {
			if code(err) != "law.pack" {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		tag, _, err := Parse("FR,GDPR-ZONE,adequate(EU),!FR-974", p)
		if err == nil {
			Evaluate(NewPolicy(Layer{OriginJob, tag}), Site{Region: "r", Country: "FR"}, p, Options{On: day(today), Data: "personal"})
		}
	})
}
