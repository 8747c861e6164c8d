package residency

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// A pack is small: what is larger than this is no law pack.
const (
	maxTables    = 64
	maxPackBytes = 4 << 20
)

// LoadPack reads the tables of a law pack, by file name ("groups.csv"). It is
// strict: a table it needs and lacks, a missing column, an unknown word where
// the law of the format lists them, a country that countries.csv does not
// have, an empty span of days. Its error has the code law.pack and names the
// table and the line. Tables that only inform must be CSV and nothing more.
func LoadPack(tables map[string][]byte) (*Pack, error) {
	l := &loader{p: &Pack{
		tables:       make(map[string][]byte, len(tables)),
		countries:    map[string]country{},
		groups:       map[string]map[string][]span{},
		aliases:      map[string]alias{},
		subdivisions: map[string]string{},
		complete:     map[string]bool{},
		transfers:    map[string][]transfer{},
		laws:         map[string][]law{},
		levels:       map[string][]string{},
	}}
	if err := l.open(tables); err != nil {
		return nil, err
	}
	for _, t := range packTables() {
		if err := l.table(t); err != nil {
			return nil, err
		}
	}
	for _, group := range []string{groupEU, groupEEA, groupZone} {
		if l.p.groups[group] == nil {
			return nil, packError("groups.csv", 1, "the group %s has no row", group)
		}
	}
	l.p.codes = slices.Sorted(maps.Keys(l.p.countries))
	l.p.hash = packHash(l.p.tables)
	return l.p, nil
}

func packError(table string, line int, format string, args ...any) *Error {
	return &Error{
		Code:    "law.pack",
		Message: fmt.Sprintf("law pack: %s line %d: ", table, line) + fmt.Sprintf(format, args...),
		Help:    "correct the table; its columns are described in the README beside the tables",
	}
}

type loader struct {
	p    *Pack
	rows map[string][]record
	cols map[string]map[string]int
}

type record struct {
	line   int
	table  string
	cols   map[string]int
	fields []string
}

func (r record) get(column string) string { return r.fields[r.cols[column]] }

func (r record) fault(format string, args ...any) error {
	return packError(r.table, r.line, format, args...)
}

// open checks sizes and names and splits every table into records.
func (l *loader) open(tables map[string][]byte) error {
	if len(tables) > maxTables {
		return packError("pack", 0, "%d tables; the most is %d", len(tables), maxTables)
	}
	l.rows, l.cols = map[string][]record{}, map[string]map[string]int{}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		data := tables[name]
		if total += len(data); total > maxPackBytes {
			return packError("pack", 0, "more than %d bytes", maxPackBytes)
		}
		if !tableName(name) {
			return packError(quote(name), 0, "a table is named in lower case and ends in .csv")
		}
		if err := l.split(name, data); err != nil {
			return err
		}
		l.p.tables[name] = bytes.Clone(data)
	}
	return nil
}

func tableName(name string) bool {
	base, ok := strings.CutSuffix(name, ".csv")
	return ok && base != "" && len(base) <= 63 && strings.Trim(base, "abcdefghijklmnopqrstuvwxyz0123456789_-") == "" && base[0] != '-'
}

func (l *loader) split(name string, data []byte) error {
	if !utf8.Valid(data) {
		return packError(name, 1, "not UTF-8")
	}
	if i := bytes.IndexAny(data, "\r\x00"); i >= 0 {
		return packError(name, 1+bytes.Count(data[:i], []byte("\n")), "a carriage return or NUL; lines end in LF")
	}
	in := csv.NewReader(bytes.NewReader(data))
	header, err := in.Read()
	if err != nil {
		return packError(name, 1, "no header line")
	}
	cols := make(map[string]int, len(header))
	for i, h := range header {
		if _, twice := cols[h]; twice {
			return packError(name, 1, "the column %s stands twice", quote(h))
		}
		cols[h] = i
	}
	l.cols[name] = cols
	rest, err := in.ReadAll()
	if bad := (*csv.ParseError)(nil); errors.As(err, &bad) {
		return packError(name, bad.Line, "%v", bad.Err)
	}
	// Quoted fields may hold line breaks, so a record's line is counted, not its index.
	line := 1
	for _, fields := range append([][]string{header}, rest...) {
		l.rows[name] = append(l.rows[name], record{line: line, table: name, cols: cols, fields: fields})
		line++
		for _, f := range fields {
			line += strings.Count(f, "\n")
		}
	}
	l.rows[name] = l.rows[name][1:]
	return nil
}

// packTable is a table that decides, with the columns it decides by.
type packTable struct {
	name    string
	columns []string
	row     func(*loader, record) error
}

// packTables stand in the order that lets each check words against the ones before.
func packTables() []packTable {
	return []packTable{
		{"countries.csv", []string{"code", "name", "gdpr_zone", "special_status"}, (*loader).country},
		{"groups.csv", []string{"group", "code", "from", "to"}, (*loader).group},
		{"aliases.csv", []string{"input", "canonical", "action", "reason"}, (*loader).alias},
		{"subdivisions.csv", []string{"subdivision", "country", "list"}, (*loader).subdivision},
		{"adequacy.csv", []string{"exporter", "importer", "mechanism", "effective_from", "effective_to", "claim"}, (*loader).transfer},
		{"operator_exposure.csv", []string{"id", "home", "from", "to", "kind", "reaches_foreign_subsidiaries"}, (*loader).law},
		{"assurance_levels.csv", []string{"framework", "level"}, (*loader).level},
	}
}

func (l *loader) table(t packTable) error {
	cols, ok := l.cols[t.name]
	if !ok {
		return packError(t.name, 0, "the table is missing")
	}
	for _, c := range t.columns {
		if _, ok := cols[c]; !ok {
			return packError(t.name, 1, "the column %s is missing", c)
		}
	}
	if len(l.rows[t.name]) == 0 {
		return packError(t.name, 1, "the table has no rows")
	}
	for _, r := range l.rows[t.name] {
		if err := t.row(l, r); err != nil {
			return err
		}
	}
	return nil
}

func (r record) span(from, to string) (span, error) {
	s := span{always, forever}
	for _, end := range []struct {
		column string
		day    *Date
	}{{from, &s.from}, {to, &s.to}} {
		if text := r.get(end.column); text != "" {
			d, err := ParseDate(text)
			if err != nil {
				return s, r.fault("%s: %v", end.column, err)
			}
			*end.day = d
		}
	}
	if s.from >= s.to {
		return s, r.fault("%s is not before %s: the row never holds", from, to)
	}
	return s, nil
}
