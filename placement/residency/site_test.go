package residency

import (
	"reflect"
	"testing"
)

func TestParseSites(t *testing.T) {
	got, err := ParseSites([]byte(`[
	 {"region":"FRA-2","site":"","country":"de","subdivision":"","operator":{"home":"DE","parent":"us"},"claims":{"DPF":"active"},"assurance":{"location":"documented","operator":"documented","as_of":"2026-10-01"}},
	 {"region":"a","subdivision":"ca-qc","operator":{"parent":"None"}},
	 {"region":"a","country":"ZZ","site":"Hall-1","claims":{"x":"whatever"},"assurance":{"as_of":"long ago","location":"hearsay"}}]`))
	want := []Site{
		{Region: "fra-2", Country: "DE", Operator: Operator{"DE", "US"}, Claims: map[string]string{"dpf": "active"}, Assurance: Assurance{"documented", "documented", "2026-10-01"}},
		{Region: "a", Subdivision: "CA-QC", Operator: Operator{"", "none"}},
		{Region: "a", Country: "ZZ", Site: "hall-1", Claims: map[string]string{"x": "whatever"}, Assurance: Assurance{Location: "hearsay", AsOf: "long ago"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

func TestSitesFaults(t *testing.T) {
	for _, in := range []string{
		``, `{}`, `[]`, `null`, `"x"`, `[1]`, `[{}]`, `[{"region":""}]`, `[{"region":"a b"}]`, `[{"region":"-a"}]`, `[{"region":1}]`,
		`[{"region":"a","regions":1}]`, `[{"region":"a","region":"a"}]`, `[{"Region":"a"}]`,
		`[{"region":"a","country":"FRA"}]`, `[{"region":"a","country":"F"}]`, `[{"region":"a","country":"F1"}]`, `[{"region":"a","country":null}]`, `[{"region":"a","country":" FR"}]`,
		`[{"region":"a","subdivision":"CA"}]`, `[{"region":"a","subdivision":"CA-QCQC"}]`, `[{"region":"a","subdivision":"CA_QC"}]`,
		`[{"region":"a","operator":"x"}]`, `[{"region":"a","operator":{"home":"none"}}]`, `[{"region":"a","operator":{"home":"FRA"}}]`, `[{"region":"a","operator":{"parent":"nobody"}}]`, `[{"region":"a","operator":{"name":"x"}}]`,
		`[{"region":"a","claims":{"dpf":true}}]`, `[{"region":"a","claims":["dpf"]}]`, `[{"region":"a","claims":{"dpf":"a","dpf":"b"}}]`, `[{"region":"a","claims":{"dpf":"a","DPF":"b"}}]`,
		`[{"region":"a","assurance":{"level":"x"}}]`, `[{"region":"a","assurance":{"as_of":20261001}}]`,
		`[{"region":"a"},]`, `[{"region":"a"}] x`, "[{\"region\":\"a\",\"site\":\"\xff\"}]",
	} {
		_, err := ParseSites([]byte(in))
		if code(err) != "input.sites" {
			t.Errorf("ParseSites(%s): %v, want input.sites", in, err)
		} else if err.(*Error).Hint() == "" {
			t.Errorf("ParseSites(%s): no hint", in)
		}
	}
}

func TestDates(t *testing.T) {
	for _, s := range []string{"2026-11-21", "1970-01-01", "1958-01-01", "2024-02-29", "9999-12-31"} {
		if d, err := ParseDate(s); err != nil || d.String() != s {
			t.Errorf("ParseDate(%s) = %s, %v", s, d, err)
		}
	}
	for _, s := range []string{"", "2026-02-29", "2026-13-01", "2026-1-1", "26-01-01", "2026-11-21T00:00:00Z", " 2026-11-21", "2026/11/21", "today"} {
		if _, err := ParseDate(s); code(err) != "input.date" {
			t.Errorf("ParseDate(%q): %v, want input.date", s, err)
		}
	}
}
