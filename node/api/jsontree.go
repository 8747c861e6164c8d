package api

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/sovmesh/sovmesh/placement/residency"
)

// jsonTree reads a JSON document (RFC 8259) into values with positions in one
// pass: a submit costs a tenth of what encoding/json's tokens do. It reports
// false for whatever is not plain JSON; then [residency.ValueFromJSON] is asked,
// which says what is wrong. Keys that stand twice stay twice.
type jsonTree struct {
	data      []byte
	at        int
	line      int // of at
	lineStart int // offset of its first byte
}

func readJSONTree(data []byte) (residency.Value, bool) {
	if !utf8.Valid(data) {
		return residency.Value{}, false
	}
	t := &jsonTree{data: data, line: 1}
	t.space()
	v, ok := t.value(0)
	if !ok {
		return v, false
	}
	t.space()
	return v, t.at == len(data)
}

func (t *jsonTree) space() {
	for ; t.at < len(t.data); t.at++ {
		switch t.data[t.at] {
		case '\n':
			t.line++
			t.lineStart = t.at + 1
		case ' ', '\t', '\r':
		default:
			return
		}
	}
}

func (t *jsonTree) here() residency.Value {
	return residency.Value{Line: t.line, Column: t.at - t.lineStart + 1}
}

func (t *jsonTree) eat(c byte) bool {
	if t.at < len(t.data) && t.data[t.at] == c {
		t.at++
		return true
	}
	return false
}

func (t *jsonTree) value(depth int) (residency.Value, bool) {
	v := t.here()
	if t.at >= len(t.data) || depth > maxTreeDepth {
		return v, false
	}
	var ok bool
	switch c := t.data[t.at]; {
	case c == '{':
		return t.object(v, depth)
	case c == '[':
		return t.array(v, depth)
	case c == '"':
		v.Kind = residency.String
		v.Text, ok = t.text()
		return v, ok
	case c == 't':
		v.Kind, v.Text = residency.Bool, "true"
	case c == 'f':
		v.Kind, v.Text = residency.Bool, "false"
	case c == 'n':
		v.Kind, v.Text = residency.Null, "null"
	default:
		v.Kind = residency.Number
		v.Text, ok = t.number()
		return v, ok
	}
	if !strings.HasPrefix(string(t.data[t.at:min(len(t.data), t.at+5)]), v.Text) {
		return v, false
	}
	t.at += len(v.Text)
	return v, true
}

func (t *jsonTree) object(v residency.Value, depth int) (residency.Value, bool) {
	v.Kind = residency.Map
	t.at++
	t.space()
	if t.eat('}') {
		return v, true
	}
	for {
		t.space()
		key := t.here()
		if t.at >= len(t.data) || t.data[t.at] != '"' {
			return v, false
		}
		name, ok := t.text()
		t.space()
		if !ok || !t.eat(':') {
			return v, false
		}
		t.space()
		value, ok := t.value(depth + 1)
		if !ok {
			return v, false
		}
		v.Fields = append(v.Fields, residency.Field{Name: name, Line: key.Line, Column: key.Column, Value: value})
		t.space()
		if t.eat('}') {
			return v, true
		}
		if !t.eat(',') {
			return v, false
		}
	}
}

func (t *jsonTree) array(v residency.Value, depth int) (residency.Value, bool) {
	v.Kind = residency.List
	t.at++
	t.space()
	if t.eat(']') {
		return v, true
	}
	for {
		t.space()
		item, ok := t.value(depth + 1)
		if !ok {
			return v, false
		}
		v.List = append(v.List, item)
		t.space()
		if t.eat(']') {
			return v, true
		}
		if !t.eat(',') {
			return v, false
		}
	}
}

// text reads a string; one with escapes is left to encoding/json.
func (t *jsonTree) text() (string, bool) {
	start := t.at
	t.at++
	escaped := false
	for ; t.at < len(t.data); t.at++ {
		switch c := t.data[t.at]; {
		case c == '"':
			t.at++
			if !escaped {
				return string(t.data[start+1 : t.at-1]), true
			}
			var s string
			err := json.Unmarshal(t.data[start:t.at], &s)
			return s, err == nil
		case c == '\\':
			escaped = true
			t.at++
		case c < ' ':
			return "", false
		}
	}
	return "", false
}

func (t *jsonTree) number() (string, bool) {
	start := t.at
	for t.at < len(t.data) && strings.IndexByte("+-0123456789.eE", t.data[t.at]) >= 0 {
		t.at++
	}
	text := t.data[start:t.at]
	return string(text), len(text) > 0 && json.Valid(text)
}
