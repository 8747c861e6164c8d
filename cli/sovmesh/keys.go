package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// keyReader reads the keys of a file of ours and gathers every problem, each
// with its place: a person mends a file once, not once per problem.
type keyReader struct {
	name, code string
	problems   []problem
}

type problem struct {
	at            residency.Value
	message, help string
}

func (r *keyReader) fault(at residency.Value, help, format string, args ...any) {
	r.problems = append(r.problems, problem{at, fmt.Sprintf(format, args...), help})
}

// err is all that was found, nil if nothing was.
func (r *keyReader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b problem) int {
		if d := a.at.Line - b.at.Line; d != 0 {
			return d
		}
		return a.at.Column - b.at.Column
	})
	e := &api.InputError{Code: r.code, Help: r.problems[0].help}
	var lines []string
	for _, p := range r.problems {
		place := r.name
		if p.at.Line > 0 {
			place = fmt.Sprintf("%s:%d:%d", r.name, p.at.Line, p.at.Column)
		}
		line := place + ": " + p.message
		if len(r.problems) > 1 && p.help != "" {
			line += " (" + p.help + ")"
		}
		lines = append(lines, line)
	}
	if len(lines) > 1 {
		e.Help = "mend these lines; nothing was started"
	}
	e.Message = strings.Join(lines, "\n")
	return e
}

// mapping is the fields of a mapping; anything else is a problem.
func (r *keyReader) mapping(v residency.Value, key string) []residency.Field {
	if v.Kind != residency.Map {
		r.fault(v, "write key: value lines", "%s must be a mapping, not %s", nonEmpty(key, "the file"), v.Kind)
		return nil
	}
	return v.Fields
}

// each calls set for the keys of a mapping; unknown and repeated keys are
// problems.
func (r *keyReader) each(v residency.Value, key string, valid []string, set func(key string, v residency.Value)) {
	seen := map[string]bool{}
	for _, f := range r.mapping(v, key) {
		at := residency.Value{Line: f.Line, Column: f.Column}
		switch {
		case seen[f.Name]:
			r.fault(at, "keep one of them", "%s stands here a second time", f.Name)
		case !slices.Contains(valid, f.Name):
			help := "valid here: " + strings.Join(valid, ", ")
			if near := nearest(f.Name, valid); near != "" {
				help = "did you mean " + near + "?"
			}
			r.fault(at, help, "there is no key %s%s", quoteWord(f.Name), nonEmpty(prefixed(" in ", key), ""))
		default:
			seen[f.Name] = true
			set(f.Name, f.Value)
		}
	}
}

func (r *keyReader) text(v residency.Value, key string) string {
	if v.Kind == residency.List || v.Kind == residency.Map || v.Kind == residency.Null {
		r.fault(v, "write a text", "%s must be a text, not %s", key, v.Kind)
		return ""
	}
	return v.Text
}

func (r *keyReader) list(v residency.Value, key string) []string {
	if v.Kind != residency.List {
		r.fault(v, "write "+key+": [first, second]", "%s must be a list, not %s", key, v.Kind)
		return nil
	}
	var out []string
	for _, item := range v.List {
		out = append(out, r.text(item, key))
	}
	return out
}

// word reads one of a closed list.
func (r *keyReader) word(v residency.Value, key string, valid ...string) string {
	s := r.text(v, key)
	if !slices.Contains(valid, s) {
		r.fault(v, "write one of: "+strings.Join(valid, ", "), "%s cannot be %s", key, quoteWord(s))
	}
	return s
}

func nonEmpty(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}
