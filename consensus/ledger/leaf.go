package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// The leaf format, version 1. All integers are big endian; a string is a
// two-byte length and that many bytes of UTF-8.
//
//	version     1 byte, 0x01
//	index       8 bytes
//	time        8 bytes, nanoseconds since 1970-01-01T00:00Z, two's complement
//	kind, actor, subject, code      strings
//	judgements  2 bytes, and so many times:
//	    subject, place, verdict, rule, tag, law pack, on        strings
//	    facts   1 byte, 0 or 1; if 1:
//	        region, site, country, subdivision, home, parent,
//	        location, operator, as of                           strings
//	        claims, 2 bytes, and so often: name, value          strings, sorted by name
//	shown       2 bytes, and so many times: name, value         strings, in their order
//	salt        16 bytes
//	commitment  32 bytes
//
// An entry of a C2SP log is at most 65,535 bytes
// (https://c2sp.org/tlog-tiles, entry bundles); a leaf keeps below that.
const (
	leafVersion = 1
	// MaxLeaf is the largest encoding of a leaf, in bytes.
	MaxLeaf = 65535
	// maxClaims bounds what one region may say about itself.
	maxClaims = 256
)

// ErrLeaf is what every refusal to read or write a leaf wraps.
var ErrLeaf = errors.New("no ledger leaf")

// Encode gives the leaf's one encoding. It refuses what [Decode] would.
func (l *Leaf) Encode() ([]byte, error) {
	w := writer{b: make([]byte, 0, 320)}
	w.b = append(w.b, leafVersion)
	w.b = binary.BigEndian.AppendUint64(w.b, l.Index)
	w.b = binary.BigEndian.AppendUint64(w.b, uint64(l.Time.UnixNano()))
	w.strings(l.Kind, l.Actor, l.Subject, l.Code)
	w.judgements(l.Judged)
	w.shown(l.Shown)
	w.b = append(w.b, l.Salt[:]...)
	w.b = append(w.b, l.Commitment[:]...)
	if w.err == nil && len(w.b) > MaxLeaf {
		w.err = fmt.Errorf("%w: %d bytes are more than the %d of a log entry", ErrLeaf, len(w.b), MaxLeaf)
	}
	return w.b, w.err
}

// Decode reads a leaf and refuses everything that [Leaf.Encode] does not write:
// other versions and flags, bad UTF-8, unsorted claims, trailing bytes.
func Decode(data []byte) (*Leaf, error) {
	if len(data) > MaxLeaf {
		return nil, fmt.Errorf("%w: %d bytes are more than the %d of a log entry", ErrLeaf, len(data), MaxLeaf)
	}
	r := reader{b: data}
	if version := r.byte(); r.err == nil && version != leafVersion {
		return nil, fmt.Errorf("%w: version %d, this program reads version %d", ErrLeaf, version, leafVersion)
	}
	l := &Leaf{Index: r.uint64(), Time: time.Unix(0, int64(r.uint64())).UTC()}
	l.Kind, l.Actor, l.Subject, l.Code = r.string(), r.string(), r.string(), r.string()
	l.Judged = r.judgements()
	l.Shown = r.shown()
	copy(l.Salt[:], r.bytes(len(l.Salt)))
	copy(l.Commitment[:], r.bytes(len(l.Commitment)))
	if r.err != nil {
		return nil, r.err
	}
	if len(r.b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes too many", ErrLeaf, len(r.b))
	}
	return l, nil
}

type writer struct {
	b   []byte
	err error
}

func (w *writer) strings(all ...string) {
	for _, s := range all {
		if len(s) > MaxLeaf || !utf8.ValidString(s) {
			w.err = fmt.Errorf("%w: a field of %d bytes is too long or no UTF-8", ErrLeaf, len(s))
			return
		}
		w.b = binary.BigEndian.AppendUint16(w.b, uint16(len(s)))
		w.b = append(w.b, s...)
	}
}

func (w *writer) judgements(all []Judgement) {
	if len(all) > MaxLeaf {
		w.err = fmt.Errorf("%w: %d judgements", ErrLeaf, len(all))
		return
	}
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(len(all)))
	for i := range all {
		j := &all[i]
		w.strings(j.Subject, j.Place, j.Verdict, j.Rule, j.Tag, j.LawPack, j.On)
		w.facts(j.Facts)
	}
}

func (w *writer) shown(all []Shown) {
	if len(all) > MaxLeaf {
		w.err = fmt.Errorf("%w: %d shown fields", ErrLeaf, len(all))
		return
	}
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(len(all)))
	for i := range all {
		w.strings(all[i].Name, all[i].Value)
	}
}

func (w *writer) facts(f *Facts) {
	if f == nil {
		w.b = append(w.b, 0)
		return
	}
	w.b = append(w.b, 1)
	w.strings(f.Region, f.Site, f.Country, f.Subdivision, f.Home, f.Parent, f.Location, f.Operator, f.AsOf)
	if len(f.Claims) > maxClaims {
		w.err = fmt.Errorf("%w: %d claims are more than %d", ErrLeaf, len(f.Claims), maxClaims)
		return
	}
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(len(f.Claims)))
	for i, c := range f.Claims {
		if i > 0 && f.Claims[i-1].Name >= c.Name {
			w.err = fmt.Errorf("%w: claim %q is not sorted", ErrLeaf, c.Name)
		}
		w.strings(c.Name, c.Value)
	}
}

type reader struct {
	b   []byte
	err error
}

// bytes takes n bytes; after an error it gives nothing, and never panics.
func (r *reader) bytes(n int) []byte {
	if r.err == nil && len(r.b) < n {
		r.err = fmt.Errorf("%w: it ends too early", ErrLeaf)
	}
	if r.err != nil {
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) uint16() int {
	if b := r.bytes(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reader) string() string {
	b := r.bytes(r.uint16())
	if r.err == nil && !utf8.Valid(b) {
		r.err = fmt.Errorf("%w: a field is no UTF-8", ErrLeaf)
	}
	return string(b)
}

func (r *reader) judgements() (all []Judgement) {
	for n := r.uint16(); n > 0 && r.err == nil; n-- {
		all = append(all, Judgement{Subject: r.string(), Place: r.string(), Verdict: r.string(), Rule: r.string(),
			Tag: r.string(), LawPack: r.string(), On: r.string(), Facts: r.facts()})
	}
	return all
}

func (r *reader) shown() (all []Shown) {
	for n := r.uint16(); n > 0 && r.err == nil; n-- {
		all = append(all, Shown{Name: r.string(), Value: r.string()})
	}
	return all
}

func (r *reader) facts() *Facts {
	switch has := r.byte(); {
	case has == 0 || r.err != nil:
		return nil
	case has > 1:
		r.err = fmt.Errorf("%w: facts marked %d", ErrLeaf, has)
		return nil
	}
	f := &Facts{Region: r.string(), Site: r.string(), Country: r.string(), Subdivision: r.string(), Home: r.string(),
		Parent: r.string(), Location: r.string(), Operator: r.string(), AsOf: r.string()}
	n := r.uint16()
	if r.err == nil && n > maxClaims {
		r.err = fmt.Errorf("%w: %d claims are more than %d", ErrLeaf, n, maxClaims)
	}
	for i := 0; i < n && r.err == nil; i++ {
		c := Claim{Name: r.string(), Value: r.string()}
		if i > 0 && f.Claims[i-1].Name >= c.Name && r.err == nil {
			r.err = fmt.Errorf("%w: claim %q is not sorted", ErrLeaf, c.Name)
		}
		f.Claims = append(f.Claims, c)
	}
	return f
}
