package receipt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// The leaf of a receipt, version 1. All integers are big endian; a string is a
// two-byte length and that many bytes of UTF-8; a time is nanoseconds since
// 1970-01-01T00:00Z in eight bytes, zero for none.
//
//	version     1 byte, 0x01
//	salt        16 bytes: see [SaltOf]
//	request id, continues            strings
//	request, response                32 bytes each: see [Commit]
//	model, tag, law pack             strings
//	policy      32 bytes, SHA-256 of the effective policy in canonical form
//	entry, exec, region, peer        strings
//	start, end  times
//	outcome     1 byte
//	status      2 bytes
//	evidence    1 byte
const leafVersion = 1

// MaxLeaf is the largest leaf, in bytes; MaxText the longest string in one.
const (
	MaxLeaf = 8 << 10
	MaxText = 1 << 10
)

// ErrLeaf is what every refusal to read or write a leaf wraps.
var ErrLeaf = errors.New("no receipt leaf")

// Outcome is what became of a request.
type Outcome uint8

// The outcomes. Open is the leaf of a request that was not over when its
// segment was closed: another leaf continues it. Lost stands in the place of a
// leaf that was promised and cannot be found.
const (
	Open Outcome = iota + 1
	Answered
	Failed // the model server, or the way to it, gave an error
	Cut    // a part of an answer was passed on
	Refused
	Lost
)

var outcomes = []string{"", "open", "answered", "failed", "cut", "refused", "missing"}

func (o Outcome) String() string {
	if int(o) < len(outcomes) {
		return outcomes[o]
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}

// Evidence is what was asked for.
type Evidence uint8

// Required evidence holds answers back; best effort counts what was dropped.
const (
	BestEffort Evidence = iota
	Required
)

func (e Evidence) String() string {
	if e == Required {
		return "required"
	}
	return "best-effort"
}

// Leaf is one receipt. It names nobody: nodes are opaque ids, and the bodies
// are commitments that only the receipt's key opens.
type Leaf struct {
	Salt      ledger.Salt // keeps the leaf's hash from being guessed; of the key
	RequestID string
	// Continues is the receipt of which this is the end.
	Continues string
	// Request and Response are commitments to the bodies; the response's is zero
	// where none was passed on.
	Request, Response   ledger.Hash
	Model, Tag, LawPack string
	Policy              ledger.Hash
	// Entry and Exec are the nodes, as ids that the receipt's key opens. Region
	// is where it was executed, Peer the receipt that the other region keeps.
	Entry, Exec, Region, Peer string
	Start, End                time.Time
	Outcome                   Outcome
	Status                    uint16
	Evidence                  Evidence
}

func (l *Leaf) texts() [9]*string {
	return [9]*string{&l.RequestID, &l.Continues, &l.Model, &l.Tag, &l.LawPack, &l.Entry, &l.Exec, &l.Region, &l.Peer}
}

func (l *Leaf) check() error {
	switch {
	case l.Outcome < Open || l.Outcome > Lost:
		return fmt.Errorf("%w: it has %s", ErrLeaf, l.Outcome)
	case l.Evidence > Required:
		return fmt.Errorf("%w: evidence of class %d", ErrLeaf, l.Evidence)
	}
	for _, s := range l.texts() {
		if len(*s) > MaxText || !utf8.ValidString(*s) {
			return fmt.Errorf("%w: a field of %d bytes is too long or no UTF-8", ErrLeaf, len(*s))
		}
	}
	return nil
}

// Encode gives the leaf's one encoding. It refuses what [Decode] would.
func (l *Leaf) Encode() ([]byte, error) { return l.Append(make([]byte, 0, 512)) }

// Append is [Leaf.Encode] behind what b has.
func (l *Leaf) Append(b []byte) ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	start := len(b)
	text := func(all ...string) {
		for _, s := range all {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
		}
	}
	b = append(append(b, leafVersion), l.Salt[:]...)
	text(l.RequestID, l.Continues)
	b = append(append(b, l.Request[:]...), l.Response[:]...)
	text(l.Model, l.Tag, l.LawPack)
	b = append(b, l.Policy[:]...)
	text(l.Entry, l.Exec, l.Region, l.Peer)
	b = binary.BigEndian.AppendUint64(b, Nanos(l.Start))
	b = binary.BigEndian.AppendUint64(b, Nanos(l.End))
	b = append(b, byte(l.Outcome))
	b = binary.BigEndian.AppendUint16(b, l.Status)
	b = append(b, byte(l.Evidence))
	if n := len(b) - start; n > MaxLeaf {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrLeaf, n, MaxLeaf)
	}
	return b, nil
}

// Decode reads what [Leaf.Encode] wrote and nothing else.
func Decode(data []byte) (*Leaf, error) {
	if len(data) == 0 || len(data) > MaxLeaf || data[0] != leafVersion {
		return nil, fmt.Errorf("%w: %d bytes, or another version than %d", ErrLeaf, len(data), leafVersion)
	}
	r := reader{b: data[1:]}
	l := &Leaf{}
	r.fill(l.Salt[:])
	l.RequestID, l.Continues = r.text(), r.text()
	r.fill(l.Request[:])
	r.fill(l.Response[:])
	l.Model, l.Tag, l.LawPack = r.text(), r.text(), r.text()
	r.fill(l.Policy[:])
	l.Entry, l.Exec, l.Region, l.Peer = r.text(), r.text(), r.text(), r.text()
	l.Start, l.End = Moment(r.number(8)), Moment(r.number(8))
	l.Outcome, l.Status, l.Evidence = Outcome(r.number(1)), uint16(r.number(2)), Evidence(r.number(1))
	if r.short || len(r.b) != 0 {
		return nil, fmt.Errorf("%w: it is cut short, or %d bytes too long", ErrLeaf, len(r.b))
	}
	return l, l.check()
}

// Nanos is a time as leaves and files have it: nanoseconds since 1970, zero for
// none; [Moment] reads it.
func Nanos(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

// Moment is the time that [Nanos] wrote, in UTC.
func Moment(n uint64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n)).UTC()
}

// reader takes fields; after the end it gives nothing, and never panics.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if r.short || len(r.b) < n {
		r.short = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) fill(into []byte) { copy(into, r.take(len(into))) }

func (r *reader) number(n int) (v uint64) {
	for _, b := range r.take(n) {
		v = v<<8 | uint64(b)
	}
	return v
}

func (r *reader) text() string {
	return string(r.take(int(r.number(2))))
}
