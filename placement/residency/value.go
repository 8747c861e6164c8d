package residency

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"unicode/utf8"
)

// Kind is the type of a decoded node.
type Kind uint8

// The kinds of YAML and JSON nodes.
const (
	Null Kind = iota
	Bool
	Number
	String
	List
	Map
)

// String names the kind as an error message does.
func (k Kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "a list", "a mapping"}[min(k, Map)]
}

// Value is a decoded YAML or JSON node. Whoever decodes YAML (the command
// line, the API) hands in plain values with positions: this package reads no
// YAML. Text is the literal of a scalar as it stands in the source, so that a
// plain NO is "NO" whatever the decoder makes of it.
type Value struct {
	Kind         Kind
	Text         string  // of scalars; the decoded text of a String
	List         []Value // of List
	Fields       []Field // of Map, in order of appearance, repeated keys included
	Line, Column int     // 1-based; 0 when unknown
}

// Field is one key of a mapping. Line and Column are those of the key.
type Field struct {
	Name         string
	Line, Column int
	Value        Value
}

// Bounds of a JSON document that holds a tag.
const (
	maxValueBytes = 256 << 10
	maxValueDepth = 16
)

// ValueFromJSON decodes one JSON document of at most 256 KiB and 16 levels. A
// repeated key stays repeated, so that [ParseLong] can refuse it. Its error
// has the code tag.syntax, or tag.too-long.
func ValueFromJSON(data []byte) (Value, error) {
	if len(data) > maxValueBytes {
		return Value{}, tooLong("a document of more than 256 KiB")
	}
	return decodeJSON(data, "tag.syntax")
}

func decodeJSON(data []byte, code string) (Value, error) {
	d := &jsonReader{data: data, code: code, line: 1, column: 1}
	if i := invalidUTF8(data); i >= 0 {
		d.moveTo(i)
		return Value{}, d.fault("not UTF-8")
	}
	// Valid first: a token reader alone accepts some documents that are not JSON.
	if !json.Valid(data) {
		return Value{}, d.notJSON()
	}
	d.in = json.NewDecoder(bytes.NewReader(data))
	d.in.UseNumber()
	return d.value(0)
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// jsonReader turns tokens into values and counts lines as it goes.
type jsonReader struct {
	data         []byte
	in           *json.Decoder
	code         string
	at           int // offset that line and column belong to
	line, column int
}

func (d *jsonReader) moveTo(offset int) {
	for ; d.at < offset; d.at++ {
		d.column++
		if d.data[d.at] == '\n' {
			d.line, d.column = d.line+1, 1
		}
	}
}

func (d *jsonReader) fault(message string) error {
	return &Error{Code: d.code, Message: message, Help: "give one JSON document", Line: d.line, Column: d.column}
}

func (d *jsonReader) notJSON() error {
	var any json.RawMessage
	err := json.Unmarshal(d.data, &any)
	if bad, ok := err.(*json.SyntaxError); ok {
		d.moveTo(min(max(int(bad.Offset)-1, 0), len(d.data)))
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return d.fault("not JSON: " + strings.ReplaceAll(err.Error(), "\n", " "))
}

// token reads one token and leaves line and column at its start.
func (d *jsonReader) token() (json.Token, error) {
	start := int(d.in.InputOffset())
	for start < len(d.data) && strings.IndexByte(" \t\r\n,:", d.data[start]) >= 0 {
		start++
	}
	d.moveTo(start)
	t, err := d.in.Token()
	if err != nil {
		return nil, d.fault("not JSON: " + err.Error())
	}
	return t, nil
}

func (d *jsonReader) value(depth int) (Value, error) {
	if depth > maxValueDepth {
		return Value{}, d.fault("nested too deeply")
	}
	t, err := d.token()
	if err != nil {
		return Value{}, err
	}
	v := Value{Line: d.line, Column: d.column}
	switch t := t.(type) {
	case nil:
		v.Kind, v.Text = Null, "null"
	case bool:
		v.Kind, v.Text = Bool, map[bool]string{true: "true", false: "false"}[t]
	case json.Number:
		v.Kind, v.Text = Number, t.String()
	case string:
		v.Kind, v.Text = String, t
	case json.Delim:
		if t == '[' {
			v.Kind = List
			err = d.list(&v, depth)
			return v, err
		}
		v.Kind = Map
		err = d.fields(&v, depth)
		return v, err
	}
	return v, nil
}

func (d *jsonReader) list(v *Value, depth int) error {
	for d.in.More() {
		e, err := d.value(depth + 1)
		if err != nil {
			return err
		}
		v.List = append(v.List, e)
	}
	_, err := d.token()
	return err
}

func (d *jsonReader) fields(v *Value, depth int) error {
	for d.in.More() {
		key, err := d.token()
		if err != nil {
			return err
		}
		f := Field{Line: d.line, Column: d.column}
		f.Name, _ = key.(string)
		if f.Value, err = d.value(depth + 1); err != nil {
			return err
		}
		v.Fields = append(v.Fields, f)
	}
	_, err := d.token()
	return err
}
