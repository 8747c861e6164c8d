package residency

import (
	"fmt"
	"slices"
	"strings"
)

// longReader reads the parts of a long form into b.
type longReader struct {
	reader
	on Date
	b  *body
}

// at is the position of v as an error or a warning shows it.
func (r *longReader) at(v Value) { r.line = v.Line }

func (r *longReader) field(v Value, help, format string, args ...any) error {
	return &Error{Code: "tag.field", Message: fmt.Sprintf(format, args...), Help: help, Line: v.Line, Column: v.Column}
}

func under(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// fields takes a mapping apart and refuses what is not one, unknown keys and
// repeated ones.
func (r *longReader) fields(path string, v Value, allowed ...string) (map[string]Value, error) {
	valid := "valid here: " + strings.Join(allowed, ", ")
	if v.Kind != Map {
		return nil, r.field(v, valid, "%s must be a mapping, not %s", orTag(path), v.Kind)
	}
	out := make(map[string]Value, len(v.Fields))
	for _, f := range v.Fields {
		key := Value{Line: f.Line, Column: f.Column}
		if !slices.Contains(allowed, f.Name) {
			help := valid
			if s := nearest(f.Name, allowed); s != "" {
				help = "did you mean " + s + "? " + valid
			}
			return nil, r.field(key, help, "unknown field %s", quote(under(path, f.Name)))
		}
		if _, twice := out[f.Name]; twice {
			return nil, r.field(key, "keep one of them", "the field %s stands twice", under(path, f.Name))
		}
		out[f.Name] = f.Value
	}
	return out, nil
}

func orTag(path string) string {
	if path == "" {
		return "the tag"
	}
	return path
}

// text reads a scalar that is a word. A decoder of YAML 1.1 makes a boolean of
// Norway; its literal says what was meant.
func (r *longReader) text(path string, v Value) (string, error) {
	if v.Kind == String || v.Kind == Bool && lower(v.Text) == "no" {
		return v.Text, nil
	}
	return "", r.field(v, "write a string", "%s must be a string, not %s", path, v.Kind)
}

func (r *longReader) enum(path string, v Value, allowed ...string) (string, error) {
	s, err := r.text(path, v)
	if err != nil {
		return "", err
	}
	if !slices.Contains(allowed, s) {
		return "", r.field(v, "valid here: "+strings.Join(allowed, ", "), "%s cannot be %s", path, quote(s))
	}
	return s, nil
}

func (r *longReader) boolean(path string, v Value) (bool, error) {
	if s := lower(v.Text); v.Kind == Bool && (s == "true" || s == "false") {
		return s == "true", nil
	}
	return false, r.field(v, "write true or false", "%s must be true or false", path)
}

// list reads a list of words with its bound.
func (r *longReader) list(path string, v Value) ([]string, error) {
	if v.Kind != List {
		return nil, r.field(v, "write a list: ["+"EEA, CH"+"]", "%s must be a list, not %s", path, v.Kind)
	}
	if len(v.List) > maxTagItems {
		return nil, tooLong(fmt.Sprintf("%d items in %s; the most is %d", len(v.List), path, maxTagItems))
	}
	out := make([]string, 0, len(v.List))
	for i, e := range v.List {
		s, err := r.text(fmt.Sprintf("%s[%d]", path, i), e)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// places reads a list of places, each as the short form would, without "!".
// The result keeps the order written and is never nil.
func (r *longReader) places(path string, v Value) ([]item, error) {
	words, err := r.list(path, v)
	if err != nil {
		return nil, err
	}
	out := make([]item, 0, len(words))
	for i, w := range words {
		it, err := r.onePlace(w, v.List[i])
		if err != nil {
			return nil, err
		}
		out = append(out, it)
	}
	return out, nil
}

func (r *longReader) onePlace(w string, v Value) (item, error) {
	r.at(v)
	if len(w) > maxTagBytes {
		return item{}, tooLong(fmt.Sprintf("a place of %d bytes; the most is %d", len(w), maxTagBytes))
	}
	column := v.Column
	if trim(w) == "" {
		return item{}, r.syntax(column, "expected a place, found an empty string", "name a place, or remove the entry")
	}
	if err := readable(w); err != nil {
		bad := err.(*Error)
		bad.Line, bad.Column = v.Line, column
		return item{}, bad
	}
	if strings.Contains(w, ",") {
		return item{}, r.syntax(column, "expected one place per entry, found a comma", "make two entries of it")
	}
	s := trim(w)
	if s[0] == '!' {
		return item{}, r.syntax(column, "places of a list stand without !", "move it to deny, without the !")
	}
	return r.place(s, column)
}

// residency reads the short form or the mapping of that name.
func (r *longReader) residency(v Value) (*body, error) {
	empty := &Error{Code: "tag.empty", Message: "no place is allowed", Help: "matches nothing; use ANY if you mean anywhere", Line: v.Line, Column: v.Column}
	switch {
	case v.Kind == Null, v.Kind == List && len(v.List) == 0:
		return nil, empty
	case v.Kind == Map:
		return r.residencyMap(v, empty)
	}
	s, err := r.text("residency", v)
	if err != nil {
		return nil, r.field(v, "write the short form as a string, or a mapping with allow", "residency must be a string or a mapping, not %s", v.Kind)
	}
	t, warnings, err := Parse(s, r.p)
	if err != nil {
		bad := err.(*Error)
		if bad.Line = v.Line; bad.Column > 0 && v.Column > 0 {
			bad.Column += v.Column - 1
		}
		return nil, bad
	}
	for i := range warnings {
		warnings[i].Line = v.Line
	}
	r.warnings = append(r.warnings, warnings...)
	return t.b, nil
}

func (r *longReader) residencyMap(v Value, empty *Error) (*body, error) {
	f, err := r.fields("residency", v, "allow", "deny", "prefer", "data", "exporter", "mechanisms", "scope")
	if err != nil {
		return nil, err
	}
	if a := f["allow"]; a.Kind == Null || a.Kind == List && len(a.List) == 0 {
		return nil, empty
	}
	allow, err := r.places("residency.allow", f["allow"])
	if err != nil {
		return nil, err
	}
	for i, it := range allow {
		if it.kind == kindAny {
			r.at(f["allow"].List[i])
			r.warn("tag.any", f["allow"].List[i].Column, "ANY allows every place of the world; it needs the permission residency.any")
		}
	}
	var deny []item
	if d, ok := f["deny"]; ok {
		if deny, err = r.places("residency.deny", d); err != nil {
			return nil, err
		}
		for i, it := range deny {
			if it.kind == kindAny {
				r.at(d.List[i])
				return nil, r.syntax(d.List[i].Column, "ANY in deny would deny everything", "remove it; a tag denies what it does not allow")
			}
		}
	}
	r.b = newTag(allow, deny)
	if n := len(r.b.allow) + len(r.b.deny); n > maxTagItems || len(r.b.canonical) > maxTagBytes {
		return nil, tooLong(fmt.Sprintf("allow and deny hold %d items in %d bytes; the most is %d in %d", n, len(r.b.canonical), maxTagItems, maxTagBytes))
	}
	if err := r.dataFields(f); err != nil {
		return nil, err
	}
	if s, ok := f["scope"]; ok {
		err = r.scope("residency.scope", s)
	}
	return r.b, err
}

// dataFields reads what concerns the data and its transfer.
func (r *longReader) dataFields(f map[string]Value) error {
	long := &r.b.long
	if v, ok := f["prefer"]; ok {
		items, err := r.places("residency.prefer", v)
		if err != nil {
			return err
		}
		for _, t := range texts(items) {
			if !slices.Contains(long.Prefer, t) {
				long.Prefer = append(long.Prefer, t)
			}
		}
	}
	if v, ok := f["data"]; ok {
		s, err := r.enum("residency.data", v, dataWords()...)
		if err != nil {
			return err
		}
		long.Data = s
	}
	if v, ok := f["exporter"]; ok {
		s, err := r.text("residency.exporter", v)
		if err != nil {
			return err
		}
		r.at(v)
		if long.Exporter, err = r.exporter(s, v.Column); err != nil {
			return err
		}
	}
	if v, ok := f["mechanisms"]; ok {
		return r.mechanisms("residency.mechanisms", v)
	}
	return nil
}

func dataWords() []string { return []string{"none", "personal", "special", "confidential"} }

// exporter reads whose transfer law applies.
func (r *reader) exporter(s string, column int) (string, error) {
	w := trim(s)
	if readable(w) == nil && !strings.ContainsAny(w, ",!") {
		if it, err := r.place(w, column); err == nil {
			switch {
			case it.kind == kindCountry,
				it.kind == kindGroup && zoneGroup(it.code),
				it.kind == kindSubdivision && len(r.p.transfers[it.code]) > 0:
				return it.code, nil
			}
		}
	}
	err := r.noExporter(s, column).(*Error)
	err.Message = quote(s) + " cannot be an exporter"
	err.Help = "write a country, EU, EEA, GDPR-ZONE, or a subdivision with transfer rules of its own; who decides on adequacy: " + strings.Join(exporters(r.p), ", ")
	return "", err
}

func (r *longReader) mechanisms(path string, v Value) error {
	words, err := r.list(path, v)
	if err != nil {
		return err
	}
	help := "valid here: none alone, adequacy, instrument:<id> such as instrument:scc-7"
	out := []string{}
	for i, w := range words {
		prefix, id, _ := strings.Cut(w, ":")
		switch {
		case w == mechanismAdequacy:
		case w == mechanismNone && len(words) > 1:
			return r.field(v.List[i], help, "%s: none stands alone", path)
		case w == mechanismNone:
		case lower(prefix) == "instrument" && nameShape(id):
			w = lower(w)
		default:
			return r.field(v.List[i], help, "%s cannot hold %s", path, quote(w))
		}
		out = append(out, w)
	}
	if len(out) == 0 {
		out = []string{mechanismNone}
	}
	slices.Sort(out)
	if out = slices.Compact(out); !slices.Equal(out, []string{mechanismAdequacy}) {
		r.b.long.Mechanisms = out
	}
	return nil
}
