package ledger

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// MaxCheckpoint is the largest signed checkpoint that is read, in bytes. It
	// has room for more than 16 signatures of 5,000 bytes, as signed notes ask.
	MaxCheckpoint = 128 << 10
	// MaxSignatures is the largest number of signature lines.
	MaxSignatures = 64
	maxExtensions = 16
	maxExtension  = 1024 // bytes of a line
)

// Checkpoint is a log's statement about its tree
// (https://c2sp.org/tlog-checkpoint), before or without its signatures.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   Hash
	// Extensions are further lines, each not empty. We write none: nobody can
	// audit them. Other logs may.
	Extensions []string
}

// Head is the tree the checkpoint speaks of.
func (c Checkpoint) Head() Head { return Head{c.Size, c.Root} }

// body is the text that is signed.
func (c Checkpoint) body() string {
	body := c.Origin + "\n" + strconv.FormatUint(c.Size, 10) + "\n" + c.Root.Text() + "\n"
	for _, line := range c.Extensions {
		body += line + "\n"
	}
	return body
}

// validate refuses what would not be read back as it is.
func (c Checkpoint) validate() error {
	again, err := parseBody(c.body())
	if err == nil && again.body() != c.body() {
		err = fmt.Errorf("it reads back differently")
	}
	if err != nil {
		return fmt.Errorf("checkpoint of %q: %w", shorten(c.Origin), err)
	}
	return nil
}

// parseBody reads what body writes and nothing else.
func parseBody(body string) (Checkpoint, error) {
	var c Checkpoint
	if !validText(body) {
		return c, fmt.Errorf("it has control characters, or is no UTF-8")
	}
	lines := strings.Split(body, "\n")
	if len(lines) < 4 || lines[len(lines)-1] != "" {
		return c, fmt.Errorf("it has not the three lines origin, size and root")
	}
	lines = lines[:len(lines)-1]
	c.Origin = lines[0]
	if c.Origin == "" || len(c.Origin) > maxName {
		return c, fmt.Errorf("an origin has 1 to %d bytes, this has %d", maxName, len(c.Origin))
	}
	var err error
	if c.Size, err = parseNumber(lines[1]); err != nil {
		return c, fmt.Errorf("its size: %w", err)
	}
	if c.Size > MaxSize {
		return c, fmt.Errorf("its size %d is larger than %d", c.Size, uint64(MaxSize))
	}
	if c.Root, err = ParseHash(lines[2]); err != nil {
		return c, fmt.Errorf("its root: %w", err)
	}
	if empty := NewTree().Root(); c.Size == 0 && c.Root != empty {
		return c, fmt.Errorf("an empty tree has the root %s", empty.Text())
	}
	if len(lines) > 3 {
		c.Extensions = lines[3:]
	}
	if len(c.Extensions) > maxExtensions {
		return c, fmt.Errorf("%d extension lines are more than %d", len(c.Extensions), maxExtensions)
	}
	for _, line := range c.Extensions {
		if line == "" || len(line) > maxExtension {
			return c, fmt.Errorf("an extension line has 1 to %d bytes, this has %d", maxExtension, len(line))
		}
	}
	return c, nil
}

// validText reports what https://c2sp.org/signed-note asks of a note.
func validText(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' })
}

// Signature is a signature line of a note. It says who claims to have signed.
type Signature struct {
	Name  string
	ID    uint32 // of the key
	Bytes []byte // for cosignatures, the time and the signature
}

// Stamp is the time that the line says if it is a cosignature; ok is false where
// it says none. Nothing is verified.
func (s Signature) Stamp() (at time.Time, ok bool) {
	if len(s.Bytes) < 8 {
		return at, false
	}
	stamp := binary.BigEndian.Uint64(s.Bytes)
	if stamp == 0 || stamp > maxStamp {
		return at, false
	}
	return time.Unix(int64(stamp), 0).UTC(), true
}

const dash = "— " // U+2014 and a space begin every signature line

// line is the signature line with its newline.
func (s Signature) line() string {
	b := append(binary.BigEndian.AppendUint32(nil, s.ID), s.Bytes...)
	return dash + s.Name + " " + base64.StdEncoding.EncodeToString(b) + "\n"
}

// parseSignature reads a line without its newline.
func parseSignature(line string) (Signature, error) {
	text, ok := strings.CutPrefix(line, dash)
	name, code, two := strings.Cut(text, " ")
	b, err := parseBase64(code)
	if !ok || !two || err != nil || len(b) < 5 || !validName(name) {
		return Signature{}, fmt.Errorf("%q is no signature line: it is an em dash, a name and base64", shorten(line))
	}
	return Signature{name, binary.BigEndian.Uint32(b), b[4:]}, nil
}

// SignedCheckpoint is a checkpoint with signature lines that nobody has checked.
// [VerifyCheckpoint] makes of it something to rely on.
type SignedCheckpoint struct {
	checkpoint Checkpoint
	signatures []Signature
}

// NewSignedCheckpoint joins a checkpoint and signatures over it.
func NewSignedCheckpoint(c Checkpoint, signatures ...Signature) (*SignedCheckpoint, error) {
	s := &SignedCheckpoint{c, signatures}
	again, err := ParseSignedCheckpoint(s.Encode())
	if err != nil {
		return nil, err
	}
	return again, nil
}

// ParseSignedCheckpoint reads what [SignedCheckpoint.Encode] writes and nothing
// else.
func ParseSignedCheckpoint(data []byte) (*SignedCheckpoint, error) {
	if len(data) > MaxCheckpoint {
		return nil, fmt.Errorf("no checkpoint: %d bytes are more than %d", len(data), MaxCheckpoint)
	}
	text := string(data)
	if !validText(text) {
		return nil, fmt.Errorf("no checkpoint: it has control characters, or is no UTF-8")
	}
	end := strings.LastIndex(text, "\n\n")
	if end < 0 {
		return nil, fmt.Errorf("no checkpoint: no empty line stands between it and its signatures")
	}
	c, err := parseBody(text[:end+1])
	if err != nil {
		return nil, fmt.Errorf("no checkpoint: %w", err)
	}
	signatures, err := ParseSignatures([]byte(text[end+2:]))
	if err != nil {
		return nil, fmt.Errorf("checkpoint of %s: %w", c.Origin, err)
	}
	return &SignedCheckpoint{c, signatures}, nil
}

// ParseSignatures reads signature lines, at least one: the end of a signed
// checkpoint, or a witness's answer.
func ParseSignatures(data []byte) ([]Signature, error) {
	if len(data) > MaxCheckpoint {
		return nil, fmt.Errorf("%d bytes of signatures are more than %d", len(data), MaxCheckpoint)
	}
	var out []Signature
	for rest := string(data); rest != ""; {
		line, after, ok := cutLine(rest)
		if !ok {
			return nil, fmt.Errorf("its last signature line is cut: no newline ends it")
		}
		s, err := parseSignature(line)
		if err != nil {
			return nil, err
		}
		if out = append(out, s); len(out) > MaxSignatures {
			return nil, fmt.Errorf("it has more than %d signatures", MaxSignatures)
		}
		rest = after
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("it has no signature")
	}
	return out, nil
}

// EncodeSignatures writes signature lines.
func EncodeSignatures(signatures []Signature) []byte {
	var b strings.Builder
	for _, s := range signatures {
		b.WriteString(s.line())
	}
	return []byte(b.String())
}

// Encode is the signed note.
func (s *SignedCheckpoint) Encode() []byte {
	return append([]byte(s.checkpoint.body()+"\n"), EncodeSignatures(s.signatures)...)
}

// Unverified is what the checkpoint says, whoever wrote it: good for looking up
// whose keys to check it with, and for nothing else.
func (s *SignedCheckpoint) Unverified() Checkpoint { return s.checkpoint }

// Signatures are the signature lines, unchecked.
func (s *SignedCheckpoint) Signatures() []Signature { return s.signatures }

// With is the checkpoint with further signatures. One of a key that has signed
// before takes the place of the older.
func (s *SignedCheckpoint) With(more ...Signature) (*SignedCheckpoint, error) {
	var all []Signature
	for _, old := range s.signatures {
		replaced := false
		for _, m := range more {
			replaced = replaced || m.Name == old.Name && m.ID == old.ID
		}
		if !replaced {
			all = append(all, old)
		}
	}
	return NewSignedCheckpoint(s.checkpoint, append(all, more...)...)
}
