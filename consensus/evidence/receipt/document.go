package receipt

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// MaxDocument is the largest document that is read, in bytes.
const MaxDocument = 1 << 20

// Document is a receipt as its owner is given it, and as it is verified offline.
// What it says in words comes from the leaf; nothing but the leaf and what proves
// it needs to be believed.
type Document struct {
	ID    string `json:"id"`
	State State  `json:"state"`
	// Leaf is the receipt in its one encoding, Key opens its commitments and the
	// opaque ids in it.
	Leaf []byte `json:"leaf,omitempty"`
	Key  []byte `json:"key,omitempty"`
	Says *Says  `json:"says,omitempty"`
	// Next is the receipt that continues this one.
	Next string `json:"next,omitempty"`
	// Promise is a statement of the node about [Document.Payload], with the node's
	// certificates. It needs no ledger.
	Promise string        `json:"promise,omitempty"`
	Segment *SegmentProof `json:"segment,omitempty"`
	Ledger  *LedgerProof  `json:"ledger,omitempty"`
}

// Says is a leaf in words.
type Says struct {
	RequestID string    `json:"request_id"`
	Continues string    `json:"continues,omitempty"`
	Request   string    `json:"request"`  // hex, SHA-256(key || 0x01 || body)
	Response  string    `json:"response"` // hex, SHA-256(key || 0x02 || body)
	Model     string    `json:"model"`
	Tag       string    `json:"tag"`
	LawPack   string    `json:"law_pack"`
	Policy    string    `json:"policy"`
	Entry     string    `json:"entry_node"`
	Exec      string    `json:"exec_node,omitempty"`
	Region    string    `json:"region,omitempty"`
	Peer      string    `json:"peer,omitempty"`
	Start     time.Time `json:"start"`
	End       time.Time `json:"end,omitzero"`
	Outcome   string    `json:"outcome"`
	Status    uint16    `json:"status,omitempty"`
	Evidence  string    `json:"evidence"`
}

// SegmentProof is the way from the leaf to the segment's root.
type SegmentProof struct {
	Seq   uint64   `json:"seq"`
	Index uint64   `json:"index"`
	Count uint64   `json:"count"`
	Root  string   `json:"root"` // hex, as the hashes of the path
	Path  []string `json:"path"`
}

// LedgerProof is where the segment stands. Proof is a receipt file of one leaf,
// as `sovmesh audit verify` reads it; empty while no checkpoint covers it.
type LedgerProof struct {
	Leaf  uint64 `json:"leaf"`
	Proof string `json:"proof,omitempty"`
}

// PromiseContext is the context of a node's statement about a receipt.
const PromiseContext = "sovmesh inference receipt v1"

// Words are what the leaf says.
func (l *Leaf) Words() *Says {
	return &Says{
		RequestID: l.RequestID, Continues: l.Continues, Request: hex.EncodeToString(l.Request[:]), Response: hex.EncodeToString(l.Response[:]),
		Model: l.Model, Tag: l.Tag, LawPack: l.LawPack, Policy: hex.EncodeToString(l.Policy[:]), Entry: l.Entry, Exec: l.Exec,
		Region: l.Region, Peer: l.Peer, Start: l.Start, End: l.End, Outcome: l.Outcome.String(), Status: l.Status, Evidence: l.Evidence.String(),
	}
}

// Prove notes the place of the leaf in its segment.
func (d *Document) Prove(seq, index, count uint64, root ledger.Hash, path []ledger.Hash) {
	d.Segment = &SegmentProof{Seq: seq, Index: index, Count: count, Root: hex.EncodeToString(root[:]), Path: []string{}}
	for _, h := range path {
		d.Segment.Path = append(d.Segment.Path, hex.EncodeToString(h[:]))
	}
}

// Payload is what a node signs of a receipt: its id, a newline, the receipt that
// continues it, a newline, and the leaf.
func (d *Document) Payload() []byte { return append([]byte(d.ID+"\n"+d.Next+"\n"), d.Leaf...) }

// ErrDocument is what every refusal of a document wraps.
var ErrDocument = errors.New("the receipt does not hold")

// Encode writes the document's one encoding.
func (d *Document) Encode() ([]byte, error) { return json.Marshal(d) }

// ParseDocument reads what [Document.Encode] wrote and nothing else. That the
// parts are there which its state asks for, it checks too; nothing is believed
// yet.
func ParseDocument(data []byte) (*Document, error) {
	if len(data) > MaxDocument {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrDocument, len(data), MaxDocument)
	}
	var d Document
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("%w: it is no document of one: %w", ErrDocument, err)
	}
	if again, err := d.Encode(); err != nil || !bytes.Equal(again, data) {
		return nil, fmt.Errorf("%w: it is not in its one encoding: keep the bytes as the node sent them", ErrDocument)
	}
	if _, err := ParseID(d.ID); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	return &d, d.parts()
}

// parts compares what is there with what the state says.
func (d *Document) parts() error {
	whole := d.Leaf != nil && d.Key != nil && d.Says != nil && d.Promise != ""
	ok := false
	switch d.State {
	case Promised:
		ok = whole && d.Ledger == nil
	case Committed:
		ok = whole && d.Segment != nil && d.Ledger != nil
	case Missing, Erased:
		ok = d.Leaf == nil && d.Key == nil && d.Says == nil && d.Promise == "" && d.Next == "" && d.Segment == nil && (d.Ledger == nil || d.Ledger.Proof == "")
	}
	if !ok {
		return fmt.Errorf("%w: a receipt that is %.20q does not have these parts", ErrDocument, string(d.State))
	}
	return nil
}

// Check holds the document against itself: the leaf against its words and
// against the segment's root, and that root against the leaf of the ledger that
// entry holds, nil for none. Whether the entry stands in the ledger is its
// proof's to say.
func (d *Document) Check(entry []byte) (*Leaf, error) {
	l, err := Decode(d.Leaf)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if d.Says == nil || *d.Says != *l.Words() {
		return nil, fmt.Errorf("%w: its words are not those of its leaf", ErrDocument)
	}
	if len(d.Key) != len(ledger.Salt{}) || SaltOf(ledger.Salt(d.Key)) != l.Salt {
		return nil, fmt.Errorf("%w: its key is not that of its leaf", ErrDocument)
	}
	id, err := ParseID(d.ID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if d.Segment != nil {
		err = d.Segment.holds(id, d.Leaf)
	}
	if err == nil && entry != nil {
		err = d.stands(id, l, entry)
	}
	return l, err
}

// holds verifies the way from the leaf to the segment's root.
func (s *SegmentProof) holds(id ID, leaf []byte) error {
	root, err := unhex(s.Root)
	if err != nil {
		return err
	}
	if s.Seq != id.Seq || s.Index != id.Index {
		return fmt.Errorf("%w: the proof is for receipt %d of segment %d", ErrDocument, s.Index, s.Seq)
	}
	way := make([]ledger.Hash, min(len(s.Path), 64))
	if len(s.Path) > len(way) {
		return fmt.Errorf("%w: a proof of %d hashes is none", ErrDocument, len(s.Path))
	}
	for i := range way {
		if way[i], err = unhex(s.Path[i]); err != nil {
			return err
		}
	}
	if err := VerifyInclusion(leaf, s.Index, s.Count, way, root); err != nil {
		return fmt.Errorf("%w: %w", ErrDocument, err)
	}
	return nil
}

// ErrTimes is wrapped as well if what a receipt says of time is not what its
// segment in the ledger says.
var ErrTimes = errors.New("the request's times are not of its segment")

// stands compares the segment with what the ledger's leaf shows.
func (d *Document) stands(id ID, l *Leaf, entry []byte) error {
	if d.Segment == nil {
		return fmt.Errorf("%w: nothing leads from it to the ledger", ErrDocument)
	}
	leaf, err := ledger.Decode(entry)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDocument, err)
	}
	s := d.Segment
	for _, w := range [][2]string{
		{ledger.ShownChain, "h:" + id.Chain}, {ledger.ShownSegment, strconv.FormatUint(s.Seq, 10)},
		{ledger.ShownCount, strconv.FormatUint(s.Count, 10)}, {ledger.ShownRoot, s.Root},
	} {
		if got := leaf.Get(w[0]); got != w[1] {
			return fmt.Errorf("%w: the ledger's leaf has %s %.80q, the receipt %q", ErrDocument, w[0], got, w[1])
		}
	}
	from, err := time.Parse(time.RFC3339Nano, leaf.Get(ledger.ShownFrom))
	to, err2 := time.Parse(time.RFC3339Nano, leaf.Get(ledger.ShownTo))
	if err != nil || err2 != nil || l.Start.Before(from) || l.Start.After(to) || l.End.After(to) {
		return fmt.Errorf("%w: %w: from %s to %s", ErrDocument, ErrTimes, leaf.Get(ledger.ShownFrom), leaf.Get(ledger.ShownTo))
	}
	return nil
}

func unhex(s string) (h ledger.Hash, err error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(h) || hex.EncodeToString(raw) != s {
		return h, fmt.Errorf("%w: %.80q is no hash", ErrDocument, s)
	}
	return ledger.Hash(raw), nil
}

// CheckPromise verifies the node's statement, by the roots that v has, as of when
// it was made, and gives who signed it and when. The signer must be the node that
// the leaf says took the request.
func (d *Document) CheckPromise(v *identity.Verifier, now time.Time) (identity.ID, time.Time, error) {
	payload, who, at, err := identity.OpenPast(d.Promise, PromiseContext, v, now)
	if err != nil {
		return who, at, err
	}
	if !bytes.Equal(payload, d.Payload()) {
		return who, at, fmt.Errorf("%w: %s signed another", ErrDocument, who)
	}
	l, err := Decode(d.Leaf)
	if err != nil || len(d.Key) != len(ledger.Salt{}) || l.Entry != ledger.Opaque(ledger.Salt(d.Key), string(who.Node)) {
		return who, at, fmt.Errorf("%w: %s is not the node that the leaf says took the request", ErrDocument, who)
	}
	return who, at, nil
}
