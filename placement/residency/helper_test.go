package residency

import (
	"errors"
	"strings"
	"testing"
)

// today is the day of the worked examples.
const today = "2026-11-21"

func day(s string) Date {
	d, err := ParseDate(s)
	if err != nil {
		panic(err)
	}
	return d
}

// mesh is the sample mesh of the specification: 14 sites, operators local,
// documented and parentless unless said.
func mesh() []Site {
	local := func(region, country string) Site {
		return Site{
			Region: region, Country: country,
			Operator:  Operator{Home: country, Parent: "none"},
			Assurance: Assurance{Location: "documented", Operator: "documented", AsOf: "2026-10-01"},
		}
	}
	sites := []Site{
		local("fra-1", "FR"), local("fra-2", "DE"), local("osl-1", "NO"), local("reu-1", "RE"), local("zrh-1", "CH"),
		local("lon-1", "GB"), local("gru-1", "BR"), local("mtl-1", "CA"), local("iad-1", "US"), local("iad-2", "US"),
		local("bom-1", "IN"), local("sha-1", "CN"), local("hkg-1", "HK"), local("led-1", "RU"),
	}
	sites[1].Operator.Parent = "US"
	sites[7].Subdivision = "CA-QC"
	sites[8].Claims = map[string]string{"dpf": "active"}
	sites[9].Claims = map[string]string{"dpf": "none"}
	return sites
}

func siteNamed(t testing.TB, region string) Site {
	t.Helper()
	for _, s := range mesh() {
		if s.Region == region {
			return s
		}
	}
	t.Fatalf("the sample mesh has no %s", region)
	return Site{}
}

// read takes a short form, or a long one when it starts with a brace.
func read(text string, on Date) (Tag, []Warning, error) {
	if !strings.HasPrefix(text, "{") {
		return Parse(text, Embedded())
	}
	v, err := ValueFromJSON([]byte(text))
	if err != nil {
		return Tag{}, nil, err
	}
	return ParseLong(v, Embedded(), on)
}

func mustRead(t testing.TB, text string) Tag {
	t.Helper()
	tag, _, err := read(text, day(today))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return tag
}

func policy(t testing.TB, texts ...string) Policy {
	t.Helper()
	var p Policy
	for _, text := range texts {
		p = p.Meet(NewPolicy(Layer{OriginJob, mustRead(t, text)}))
	}
	return p
}

// code is the code of an error, "" for none.
func code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return "not an *Error: " + err.Error()
	}
	return ""
}
