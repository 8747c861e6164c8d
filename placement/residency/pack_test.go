package residency

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

// The manifest is computed here from the files, as sha256sum would print it.
func TestPackHashIsThatOfTheFiles(t *testing.T) {
	paths, err := filepath.Glob("law/*.csv")
	if err != nil || len(paths) != 11 {
		t.Fatalf("%d tables, %v", len(paths), err)
	}
	sort.Strings(paths)
	var manifest bytes.Buffer
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		manifest.WriteString(hex.EncodeToString(sum[:]) + "  " + filepath.Base(path) + "\n")
	}
	sum := sha256.Sum256(manifest.Bytes())
	if want := "sha256:" + hex.EncodeToString(sum[:]); Embedded().Hash() != want {
		t.Errorf("Hash() = %s, want %s", Embedded().Hash(), want)
	}
}

func TestPackRoundTrip(t *testing.T) {
	tables := Embedded().Tables()
	again, err := LoadPack(tables)
	if err != nil || again.Hash() != Embedded().Hash() {
		t.Fatalf("LoadPack(Tables()): %v", err)
	}
	tables["groups.csv"][0] = 'x' // the caller owns what Tables gave
	if _, err := LoadPack(Embedded().Tables()); err != nil {
		t.Errorf("Tables shares memory with the pack: %v", err)
	}
}

// countries.csv shows membership for people; groups.csv decides. They agree.
func TestCountryFlagsAgreeWithGroups(t *testing.T) {
	p := Embedded()
	l := &loader{p: p}
	if err := l.open(p.Tables()); err != nil {
		t.Fatal(err)
	}
	on := day(today)
	for _, r := range l.rows["countries.csv"] {
		for column, group := range map[string]string{"eu_territory": "EU", "eea": "EEA", "efta": "EFTA", "gdpr_zone": "GDPR-ZONE"} {
			want := r.get(column) == "yes"
			if got := holds(p.groups[group][r.get("code")], on); got != want {
				t.Errorf("%s in %s: groups.csv says %v, countries.csv %s", r.get("code"), group, got, r.get(column))
			}
		}
	}
	if n := len(p.Countries()); n != 249 {
		t.Errorf("%d countries, want 249", n)
	}
}

func TestBadPacks(t *testing.T) {
	change := func(table, from, to string) func(map[string][]byte) {
		return func(m map[string][]byte) {
			if !bytes.Contains(m[table], []byte(from)) {
				panic(table + " lacks " + from)
			}
			m[table] = bytes.Replace(m[table], []byte(from), []byte(to), 1)
		}
	}
	add := func(table, line string) func(map[string][]byte) {
		return func(m map[string][]byte) { m[table] = append(m[table], line+"\n"...) }
	}
	for _, tt := range []struct {
		name, says string
		change     func(map[string][]byte)
	}{
		{"a table is missing", "groups.csv", func(m map[string][]byte) { delete(m, "groups.csv") }},
		{"a table is empty", "groups.csv line 1", func(m map[string][]byte) { m["groups.csv"] = nil }},
		{"a table has no rows", "groups.csv", func(m map[string][]byte) { m["groups.csv"] = []byte("group,code,from,to\n") }},
		{"a column is missing", "column claim", change("adequacy.csv", ",claim,", ",claims,")},
		{"a column twice", "stands twice", change("groups.csv", "group,code,from,to,role", "group,code,from,to,to")},
		{"a short row", "groups.csv line 134", add("groups.csv", "EU,FR")},
		{"a bare quote", "groups.csv line 134", add("groups.csv", `EU,F"R,,,,,`)},
		{"carriage returns", "groups.csv line 1", change("groups.csv", "\n", "\r\n")},
		{"no UTF-8", "aliases.csv", add("aliases.csv", "A,\xff,reject,x")},
		{"a bad date", "groups.csv line 2", change("groups.csv", "1995-01-01", "1995-02-30")},
		{"an empty span", "never holds", change("groups.csv", "1973-01-01,2020-02-01", "2020-02-01,2020-02-01")},
		{"an unlisted member", "countries.csv", change("groups.csv", "EU,AT,", "EU,XK,")},
		{"no zone", "GDPR-ZONE", func(m map[string][]byte) {
			m["groups.csv"] = bytes.ReplaceAll(m["groups.csv"], []byte("GDPR-ZONE,"), []byte("OTHER-ZONE,"))
			m["aliases.csv"] = bytes.Replace(m["aliases.csv"], []byte("GDPR-ZONE,GDPR-ZONE,group"), []byte("GDPR-ZONE,,reject"), 1)
		}},
		{"a group called ANY", "name of a place", add("groups.csv", "ANY,FR,,,,,")},
		{"a country twice", "countries.csv", change("countries.csv", "\nAE,", "\nAD,")},
		{"a country of three letters", "countries.csv", change("countries.csv", "\nAE,", "\nARE,")},
		{"an unknown zone", "gdpr_zone", change("countries.csv", "no,no,no,no,no,", "no,no,no,no,maybe,")},
		{"another alias accepted", "aliases.csv line 7", change("aliases.csv", "EUROPE,,reject,", "EUROPE,FR,accept-warn,")},
		{"an unknown action", "aliases.csv line 2", change("aliases.csv", "accept-warn", "accept")},
		{"a bad subdivision", "subdivisions.csv line 2", change("subdivisions.csv", "AE-AJ", "AE_AJ")},
		{"an unknown list", "subdivisions.csv line 2", change("subdivisions.csv", "complete", "all")},
		{"an unknown exporter", "adequacy.csv line 2", change("adequacy.csv", "EU,AD,", "EUX,AD,")},
		{"an unknown importer", "adequacy.csv line 2", change("adequacy.csv", "EU,AD,", "EU,XX,")},
		{"adequacy for the world", "adequacy.csv line 2", change("adequacy.csv", "EU,AD,", "EU,*,")},
		{"a claim in capitals", "claim", change("adequacy.csv", ",pipeda,", ",PIPEDA,")},
		{"an unknown kind of law", "operator_exposure.csv line 2", change("operator_exposure.csv", "exposure", "reach")},
		{"an unknown reach", "operator_exposure.csv", change("operator_exposure.csv", ",yes,partly,", ",yes,maybe,")},
		{"a level twice", "assurance_levels.csv line 3", change("assurance_levels.csv", "SEAL-1", "SEAL-0")},
		{"a table that informs is no CSV", "watchlist.csv", func(m map[string][]byte) { m["watchlist.csv"] = []byte("a,b\n1\n") }},
		{"a name that is a path", "named", func(m map[string][]byte) { m["../x.csv"] = []byte("a\n") }},
		{"no table at all", "named", func(m map[string][]byte) { m["README.md"] = []byte("a\n") }},
		{"oversize", "bytes", func(m map[string][]byte) { m["big.csv"] = bytes.Repeat([]byte("a\n"), maxPackBytes) }},
		{"too many", "tables", func(m map[string][]byte) {
			for i := range maxTables {
				m["t"+strings.Repeat("x", i)+".csv"] = []byte("a\n")
			}
		}},
	} {
		tables := Embedded().Tables()
		tt.change(tables)
		_, err := LoadPack(tables)
		if code(err) != "law.pack" || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want law.pack and %q", tt.name, err, tt.says)
		}
	}
}

func TestPacksMayGrow(t *testing.T) {
	tables := Embedded().Tables()
	tables["extra.csv"] = []byte("a,b\n1,2\n")
	tables["assurance_levels.csv"] = []byte("new,level,framework\nx,GOLD,OWN\ny,GOLD-2,OWN\n")
	p, err := LoadPack(tables)
	if err != nil {
		t.Fatal(err)
	}
	if p.Hash() == Embedded().Hash() {
		t.Error("another pack has the same hash")
	}
	if got := strings.Join(p.frameworkLevels(), " "); got != "OWN:GOLD OWN:GOLD-2" {
		t.Errorf("levels %s", got)
	}
}

// A tag may be older than the pack it is evaluated under: what that pack does
// not know satisfies nothing.
func TestWordsThatThePackLacks(t *testing.T) {
	tables := Embedded().Tables()
	drop := func(table, prefix string) {
		var kept [][]byte
		for _, line := range bytes.SplitAfter(tables[table], []byte("\n")) {
			if !bytes.HasPrefix(line, []byte(prefix)) {
				kept = append(kept, line)
			}
		}
		tables[table] = bytes.Join(kept, nil)
	}
	drop("groups.csv", "FR-ALL,")
	drop("operator_exposure.csv", "AU-TOLA,")
	drop("assurance_levels.csv", "CADA,")
	small, err := LoadPack(tables)
	if err != nil {
		t.Fatal(err)
	}
	s := siteNamed(t, "fra-1")
	for _, tag := range []string{"group:FR-ALL", "ANY,!group:FR-ALL", `{"residency":"FR","control":{"exposed_to":{"deny":["AU-TOLA"]}}}`, `{"residency":"FR","assurance":{"framework":["CADA:UAL-1"]}}`} {
		if d := Evaluate(policy(t, tag), s, small, Options{On: day(today)}); d.Verdict != Unknown || d.Rule != "law.unknown" {
			t.Errorf("%s: %s %s, want law.unknown", tag, d.Verdict, d.Rule)
		}
	}
}

// An emergency pack ends a decision on a day; the old pack still replays.
func TestAnnulledDecision(t *testing.T) {
	tables := Embedded().Tables()
	old, ended := "EU,US,adequacy,(EU) 2023/1795,2023-07-10,,", "EU,US,adequacy,(EU) 2023/1795,2023-07-10,2026-11-21,"
	tables["adequacy.csv"] = bytes.Replace(tables["adequacy.csv"], []byte(old), []byte(ended), 1)
	emergency, err := LoadPack(tables)
	if err != nil || emergency.Hash() == Embedded().Hash() {
		t.Fatalf("%v", err)
	}
	p, s := policy(t, "adequate(EU)"), siteNamed(t, "iad-1")
	for _, tt := range []struct {
		pack *Pack
		on   string
		v    Verdict
	}{{Embedded(), "2026-11-21", Permitted}, {emergency, "2026-11-20", Permitted}, {emergency, "2026-11-21", Refused}} {
		if d := Evaluate(p, s, tt.pack, Options{On: day(tt.on)}); d.Verdict != tt.v || d.Pack != tt.pack.Hash() {
			t.Errorf("on %s: %s under %s, want %s", tt.on, d.Verdict, d.Pack, tt.v)
		}
	}
}
