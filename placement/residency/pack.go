package residency

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
)

// Pack is one law pack: dated tables, read once, indexed and never changed.
// It is safe for concurrent use.
type Pack struct {
	hash         string
	tables       map[string][]byte
	countries    map[string]country
	codes        []string // of countries, sorted
	groups       map[string]map[string][]span
	aliases      map[string]alias
	subdivisions map[string]string // to the country that the pack gives it
	complete     map[string]bool   // by prefix: every code of that country is listed
	transfers    map[string][]transfer
	laws         map[string][]law
	lawIDs       []string            // of kind exposure, in the order of the table
	levels       map[string][]string // by framework, lowest first
}

type country struct {
	name        string
	zoneCheck   bool // membership of GDPR-ZONE is unknown
	territoryUS bool // counts as US for the exposure of operators
}

type alias struct{ canonical, action, reason string }

// transfer is a row of adequacy.csv: a rule from its exporter to importer.
type transfer struct {
	span
	importer, mechanism, claim string
}

// law is a row of operator_exposure.csv.
type law struct {
	span
	home   string
	shield bool
	partly bool // reach through a parent alone is disputed
}

//go:embed law/*.csv
var lawFiles embed.FS

var embedded = sync.OnceValue(func() *Pack {
	tables := map[string][]byte{}
	names, err := fs.Glob(lawFiles, "law/*.csv")
	for _, name := range names {
		var data []byte
		if data, err = lawFiles.ReadFile(name); err == nil {
			tables[name[len("law/"):]] = data
		}
	}
	var p *Pack
	if err == nil {
		p, err = LoadPack(tables)
	}
	if err != nil {
		panic(fmt.Sprintf("residency: the embedded law pack: %v", err))
	}
	return p
})

// Embedded is the law pack this program was built with. It seeds a new region;
// a running region decides by the pack that its state holds.
func Embedded() *Pack { return embedded() }

// Hash is "sha256:" and the SHA-256 of the manifest that `sha256sum *.csv`
// prints for the tables in byte order of their names, so that anyone can
// recompute it with ordinary tools.
func (p *Pack) Hash() string { return p.hash }

// Tables gives what [LoadPack] took: CSV by table name. The caller owns it.
func (p *Pack) Tables() map[string][]byte {
	out := make(map[string][]byte, len(p.tables))
	for name, data := range p.tables {
		out[name] = slices.Clone(data)
	}
	return out
}

func packHash(tables map[string][]byte) string {
	manifest := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		sum := sha256.Sum256(tables[name])
		fmt.Fprintf(manifest, "%x  %s\n", sum, name)
	}
	return "sha256:" + hex.EncodeToString(manifest.Sum(nil))
}

// Countries lists the ISO 3166-1 codes of the pack, sorted.
func (p *Pack) Countries() []string { return slices.Clone(p.codes) }

// CountryName is the short name of a code, or "" when the pack does not list it.
func (p *Pack) CountryName(code string) string { return p.countries[code].name }

// Members lists the countries of a group on a day, sorted. An unknown group
// has none.
func (p *Pack) Members(group string, on Date) []string {
	var out []string
	for code, spans := range p.groups[group] {
		if holds(spans, on) {
			out = append(out, code)
		}
	}
	slices.Sort(out)
	return out
}

func holds(spans []span, on Date) bool {
	for _, s := range spans {
		if s.holds(on) {
			return true
		}
	}
	return false
}

// The three groups whose territory is one area of data protection law.
const (
	groupEU   = "EU"
	groupEEA  = "EEA"
	groupZone = "GDPR-ZONE"
)

// bareGroup reports whether a group is written without "group:".
func bareGroup(name string) bool {
	return name == groupEU || name == groupEEA || name == groupZone || name == "EFTA"
}

func zoneGroup(name string) bool {
	return name == groupEU || name == groupEEA || name == groupZone
}

// inZone reports whether a country surely is in EU, EEA or GDPR-ZONE on a day.
func (p *Pack) inZone(code string, on Date) bool {
	return holds(p.groups[groupEU][code], on) || holds(p.groups[groupEEA][code], on) || holds(p.groups[groupZone][code], on)
}

// everInZone reports whether a country was ever in one of the three.
func (p *Pack) everInZone(code string) bool {
	return len(p.groups[groupEU][code])+len(p.groups[groupEEA][code])+len(p.groups[groupZone][code]) > 0
}

// decides reports whether an exporter has rows of adequacy, of whatever date.
func (p *Pack) decides(exporter string) bool {
	return slices.ContainsFunc(p.transfers[exporter], func(t transfer) bool { return t.mechanism == mechanismAdequacy })
}
