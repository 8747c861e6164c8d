package state

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	strictjson "github.com/go-json-experiment/json"
)

// The command format. Integers are big endian.
//
//	version  1 byte, the state version the command was written for, from 1
//	kind     1 byte length, that many bytes of a-z 0-9 . -
//	time     8 bytes, nanoseconds since 1970-01-01T00:00Z
//	salt     16 bytes
//	actor    2 bytes length, UTF-8
//	body     the rest: one JSON value (RFC 8259), unknown fields refused; that
//	         of a submit is compact, see [compactForm], and may be JSON
const (
	// MaxVersion is the newest state version this program applies.
	MaxVersion = 1
	// MaxCommand bounds an encoded command, in bytes. A law pack is the largest.
	MaxCommand = 8 << 20
	// maxBody bounds the body of any command but those that carry a law pack.
	maxBody  = 1 << 20
	maxActor = 256
	maxKind  = 32
)

// A Malformed error says why bytes are no command of a known version. Apply
// records it as a refusal, the same on every replica.
type Malformed struct{ Reason string }

func (e *Malformed) Error() string { return "no command: " + e.Reason }

// Unknown says that a command needs a newer program.
type Unknown struct {
	Version uint8
	Kind    Kind
}

func (e *Unknown) Error() string {
	return fmt.Sprintf("command %q of state version %d is not known to this program, which knows version %d: upgrade this node", e.Kind, e.Version, MaxVersion)
}

// Encode writes a command. The same head and command give the same bytes.
func Encode(h Head, c Command) ([]byte, error) {
	body, err := encodeBody(c)
	if err != nil {
		return nil, fmt.Errorf("encode command %s: %w", c.Kind(), err)
	}
	kind := c.Kind()
	if len(h.Actor) > maxActor || !utf8.ValidString(h.Actor) {
		return nil, fmt.Errorf("encode command %s: the actor is longer than %d bytes or no UTF-8", kind, maxActor)
	}
	if len(body) > bodyLimit(kind) {
		return nil, &Refused{Code: "command.too-large", Message: fmt.Sprintf("command %s has %d bytes, more than %d", kind, len(body), bodyLimit(kind)), Advice: "send less at once"}
	}
	out := make([]byte, 0, 28+len(kind)+len(h.Actor)+len(body))
	out = append(out, h.Version, byte(len(kind)))
	out = append(out, kind...)
	out = binary.BigEndian.AppendUint64(out, uint64(h.Time.UnixNano()))
	out = append(out, h.Salt[:]...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(h.Actor)))
	out = append(out, h.Actor...)
	return append(out, body...), nil
}

func encodeBody(c Command) ([]byte, error) {
	if k, ok := c.(SubmitJob); ok {
		return encodeSubmit(k)
	}
	return json.Marshal(c)
}

// Decode reads a command. Its errors are *[Malformed] and *[Unknown]; the head
// is given as far as it could be read.
func Decode(raw []byte) (Head, Command, error) {
	h, kind, body, err := decodeHead(raw)
	if err != nil {
		return h, nil, err
	}
	read := reader(kind)
	if h.Version > MaxVersion || read == nil {
		return h, nil, &Unknown{h.Version, kind}
	}
	if len(body) > bodyLimit(kind) {
		return h, nil, &Malformed{fmt.Sprintf("a %s of %d bytes", kind, len(body))}
	}
	c, err := read(body)
	if err != nil {
		return h, nil, &Malformed{fmt.Sprintf("%s: %v", kind, err)}
	}
	return h, c, nil
}

// DecodeHead reads a command's head alone.
func DecodeHead(raw []byte) (Head, Kind, error) {
	h, kind, _, err := decodeHead(raw)
	return h, kind, err
}

func decodeHead(raw []byte) (h Head, kind Kind, body []byte, err error) {
	if len(raw) > MaxCommand {
		return h, "", nil, &Malformed{fmt.Sprintf("%d bytes are more than %d", len(raw), MaxCommand)}
	}
	if len(raw) < 2 || raw[0] == 0 {
		return h, "", nil, &Malformed{"no version"}
	}
	h.Version = raw[0]
	n := int(raw[1])
	rest := raw[2:]
	if n == 0 || n > maxKind || len(rest) < n+26 {
		return h, "", nil, &Malformed{"its head ends too early"}
	}
	kind, rest = Kind(rest[:n]), rest[n:]
	if !validKind(kind) {
		return h, "", nil, &Malformed{"its kind is no word"}
	}
	h.Time = time.Unix(0, int64(binary.BigEndian.Uint64(rest))).UTC()
	copy(h.Salt[:], rest[8:])
	n = int(binary.BigEndian.Uint16(rest[24:]))
	rest = rest[26:]
	if n > maxActor || len(rest) < n || !utf8.Valid(rest[:n]) {
		return h, kind, nil, &Malformed{"its actor is too long or no UTF-8"}
	}
	h.Actor = string(rest[:n])
	return h, kind, rest[n:], nil
}

func validKind(k Kind) bool {
	for i := 0; i < len(k); i++ {
		c := k[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

func bodyLimit(k Kind) int {
	if k == KindInitRegion || k == KindImportLawPack {
		return MaxCommand - 1024
	}
	return maxBody
}

// read is the strict reading of one kind.
func read[C Command](body []byte) (Command, error) {
	var c C
	if err := strict(body, &c); err != nil {
		return nil, err
	}
	return c, nil
}

// strict refuses unknown fields, a name in another case or given twice, and
// whatever follows the value. Every replica decodes every command, so this is
// most of what a commit costs: the reader of encoding/json needs three times as
// long, and is less strict.
func strict(data []byte, into any) error {
	return strictjson.Unmarshal(data, into, strictjson.RejectUnknownMembers(true))
}
