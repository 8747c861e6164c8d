package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// modelMax is the longest model name in bytes; the inference head has the same bound.
const modelMax = 256

// keysMax bounds the members of a request's object. The OpenAI API has some forty.
const keysMax = 1024

// request is what the gateway reads of a body; the rest passes unread.
type request struct {
	Model  string
	Stream bool
	// IncludeUsage: the client itself asked for the usage chunk of a stream.
	IncludeUsage bool

	options span // of the value of stream_options; empty when there is none
	end     int  // offset of the object's closing brace
}

// span is a part of the body, [from, to).
type span struct{ from, to int }

// errBody is wrapped by every refusal of a body.
var errBody = errors.New("the body cannot be read")

// sniff reads model, stream and stream_options of a JSON object without
// decoding the rest. The body must be one valid JSON value. A repeated key is
// refused, there and in stream_options, and so is one that differs from those that
// are read in case only: model servers disagree on which of the two counts, and
// what was judged here has to be what is run there.
func sniff(body []byte) (request, error) {
	var r request
	if !json.Valid(body) {
		return r, fmt.Errorf("%w: it is not one JSON value", errBody)
	}
	at := blanks(body, 0)
	if body[at] != '{' {
		return r, fmt.Errorf("%w: it is not a JSON object", errBody)
	}
	var err error
	if r.end, err = members(body, at, func(name string, value span) error {
		return r.member(body, name, value)
	}); err != nil {
		return r, err
	}
	if r.Model == "" {
		return r, fmt.Errorf("%w: it names no model", errBody)
	}
	return r, nil
}

// members hands do every member of the object that begins at at, and returns the
// offset of its closing brace. A key that is repeated is refused.
func members(body []byte, at int, do func(name string, value span) error) (int, error) {
	seen := make(map[string]bool)
	at = blanks(body, at+1)
	for body[at] != '}' {
		if body[at] == ',' {
			at = blanks(body, at+1)
		}
		key, value := span{at, skip(body, at)}, span{}
		value.from = blanks(body, blanks(body, key.to)+1) // over the colon
		value.to = skip(body, value.from)
		name, err := text(body[key.from:key.to])
		switch {
		case err != nil:
			return at, err
		case len(seen) == keysMax:
			return at, fmt.Errorf("%w: an object has more than %d members", errBody, keysMax)
		case seen[name]:
			return at, fmt.Errorf("%w: %.40q stands there twice", errBody, name)
		}
		seen[name] = true
		if err := do(name, value); err != nil {
			return at, err
		}
		at = blanks(body, value.to)
	}
	return at, nil
}

// member takes over one member of the object.
func (r *request) member(body []byte, name string, value span) (err error) {
	raw := body[value.from:value.to]
	switch name {
	case "model":
		if r.Model, err = text(raw); err != nil {
			return fmt.Errorf("%w: model is not a string", errBody)
		}
		return validModel(r.Model)
	case "stream":
		return flag(name, raw, &r.Stream)
	case "stream_options":
		r.options = value
		if string(raw) == "null" {
			return nil
		}
		if raw[0] != '{' {
			return fmt.Errorf("%w: stream_options is not an object", errBody)
		}
		_, err := members(body, value.from, func(name string, value span) error {
			if name == "include_usage" {
				return flag(name, body[value.from:value.to], &r.IncludeUsage)
			}
			return lowerCase(name, "include_usage")
		})
		return err
	}
	return lowerCase(name, "model", "stream", "stream_options")
}

// lowerCase refuses a key that some decoders, encoding/json among them, take for
// one of the known, and others do not.
func lowerCase(name string, known ...string) error {
	for _, k := range known {
		if strings.EqualFold(name, k) {
			return fmt.Errorf("%w: %.40q is not %q: keys are lower case", errBody, name, k)
		}
	}
	return nil
}

func flag(name string, raw []byte, into *bool) error {
	switch string(raw) {
	case "true":
		*into = true
	case "false", "null":
	default:
		return fmt.Errorf("%w: %s is neither true nor false", errBody, name)
	}
	return nil
}

// validModel keeps names short and printable: they go into heads, paths and logs.
func validModel(name string) error {
	if name == "" || len(name) > modelMax || !utf8.ValidString(name) {
		return fmt.Errorf("%w: a model name has 1 to %d bytes", errBody, modelMax)
	}
	for _, c := range name {
		if c < 0x20 || c == 0x7f {
			return fmt.Errorf("%w: a control character in the model name", errBody)
		}
	}
	return nil
}

// withUsage is the body with stream_options.include_usage set, so that the
// model server ends its stream with the count of tokens. The rest of the body
// is left byte for byte.
func (r request) withUsage(body []byte) []byte {
	if !r.Stream || r.IncludeUsage {
		return body
	}
	const asked = `"include_usage":true`
	if r.options == (span{}) {
		return splice(body, span{r.end, r.end}, `,"stream_options":{`+asked+`}`)
	}
	fields := map[string]json.RawMessage{}
	if json.Unmarshal(body[r.options.from:r.options.to], &fields) != nil || fields == nil {
		return splice(body, r.options, "{"+asked+"}") // null
	}
	fields["include_usage"] = json.RawMessage("true")
	merged, err := json.Marshal(fields)
	if err != nil {
		return body
	}
	return splice(body, r.options, string(merged))
}

func splice(body []byte, s span, with string) []byte {
	out := make([]byte, 0, len(body)+len(with))
	out = append(out, body[:s.from]...)
	out = append(out, with...)
	return append(out, body[s.to:]...)
}

// text decodes a JSON string.
func text(raw []byte) (string, error) {
	var s string
	if len(raw) == 0 || raw[0] != '"' {
		return "", fmt.Errorf("%w: a string was expected", errBody)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("%w: %w", errBody, err)
	}
	return s, nil
}

// blanks is the offset of the first byte from at on that is no JSON white space.
func blanks(b []byte, at int) int {
	for at < len(b) && (b[at] == ' ' || b[at] == '\t' || b[at] == '\n' || b[at] == '\r') {
		at++
	}
	return at
}

// skip is the offset behind the JSON value that begins at at. The text is known
// to be valid, so only strings and brackets need to be told apart.
func skip(b []byte, at int) int {
	depth := 0
	for ; at < len(b); at++ {
		switch b[at] {
		case '"':
			at = quoted(b, at)
			if depth == 0 {
				return at + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return at + 1
			}
			if depth < 0 {
				return at // the bracket around a bare value
			}
		case ',', ' ', '\t', '\n', '\r', ':':
			if depth == 0 {
				return at // the end of a number, true, false or null
			}
		}
	}
	return at
}

// quoted is the offset of the quote that ends the string beginning at at.
func quoted(b []byte, at int) int {
	for at++; at < len(b); at++ {
		switch b[at] {
		case '\\':
			at++
		case '"':
			return at
		}
	}
	return len(b) - 1
}
