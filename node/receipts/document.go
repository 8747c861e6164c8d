package receipts

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// Document is a receipt as its owner is given it. What it says in words comes
// from the leaf; nothing but the leaf and what proves it needs to be believed.
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
	// Promise is a statement of the node: the id, a newline and the leaf, with
	// the node's certificates. It needs no ledger.
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

// Document writes down what was found.
func (f *Found) Document() (*Document, error) {
	d := &Document{ID: f.ID, State: f.State, Leaf: f.Leaf, Next: f.Next}
	if f.Known {
		d.Ledger = &LedgerProof{Leaf: f.LedgerLeaf}
	}
	if f.Leaf == nil {
		return d, nil
	}
	d.Key = f.Key[:]
	l, err := Decode(f.Leaf)
	if err != nil {
		return nil, err
	}
	d.Says = l.says()
	if f.Path != nil || f.Count == 1 {
		d.Segment = &SegmentProof{Seq: f.Seq, Index: f.Index, Count: f.Count, Root: hex.EncodeToString(f.Root[:]), Path: []string{}}
		for _, h := range f.Path {
			d.Segment.Path = append(d.Segment.Path, hex.EncodeToString(h[:]))
		}
	}
	return d, nil
}

func (l *Leaf) says() *Says {
	return &Says{
		RequestID: l.RequestID, Continues: l.Continues, Request: hex.EncodeToString(l.Request[:]), Response: hex.EncodeToString(l.Response[:]),
		Model: l.Model, Tag: l.Tag, LawPack: l.LawPack, Policy: hex.EncodeToString(l.Policy[:]), Entry: l.Entry, Exec: l.Exec,
		Region: l.Region, Peer: l.Peer, Start: l.Start, End: l.End, Outcome: l.Outcome.String(), Status: l.Status, Evidence: l.Evidence.String(),
	}
}

// Payload is what a node signs of a receipt.
func (d *Document) Payload() []byte { return append([]byte(d.ID+"\n"), d.Leaf...) }

// ErrDocument is what every refusal of a document wraps.
var ErrDocument = errors.New("the receipt does not hold")

// Check holds the document against itself: the leaf against its words and
// against the segment's root, and that root against the leaf of the ledger that
// entry holds, nil for none. Whether the entry stands in the ledger is its
// proof's to say.
func (d *Document) Check(entry []byte) error {
	l, err := Decode(d.Leaf)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if d.Says == nil || *d.Says != *l.says() {
		return fmt.Errorf("%w: its words are not those of its leaf", ErrDocument)
	}
	id, err := ParseID(d.ID)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDocument, err)
	}
	s := d.Segment
	if s == nil {
		return nil
	}
	root, err := unhex(s.Root)
	if err != nil || s.Seq != id.Seq || s.Index != id.Index {
		return fmt.Errorf("%w: the proof is for receipt %d of segment %d", ErrDocument, s.Index, s.Seq)
	}
	way := make([]ledger.Hash, len(s.Path))
	for i := range way {
		if way[i], err = unhex(s.Path[i]); err != nil {
			return err
		}
	}
	if err := VerifyInclusion(d.Leaf, s.Index, s.Count, way, root); err != nil {
		return fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if entry == nil {
		return nil
	}
	return s.stands(id, entry)
}

// stands compares the segment with what the ledger's leaf shows.
func (s *SegmentProof) stands(id ID, entry []byte) error {
	leaf, err := ledger.Decode(entry)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDocument, err)
	}
	for name, want := range map[string]string{
		ledger.ShownChain: "h:" + id.Chain, ledger.ShownSegment: strconv.FormatUint(s.Seq, 10),
		ledger.ShownCount: strconv.FormatUint(s.Count, 10), ledger.ShownRoot: s.Root,
	} {
		if got := leaf.Get(name); got != want {
			return fmt.Errorf("%w: the ledger's leaf has %s %q, the receipt %q", ErrDocument, name, got, want)
		}
	}
	return nil
}

func unhex(s string) (h ledger.Hash, err error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(h) {
		return h, fmt.Errorf("%w: %.80q is no hash", ErrDocument, s)
	}
	return ledger.Hash(raw), nil
}

// CheckPromise verifies the node's statement, by the roots that v has, and gives
// who signed it and when.
func (d *Document) CheckPromise(v *identity.Verifier, now time.Time) (identity.ID, time.Time, error) {
	payload, who, at, err := identity.Open(d.Promise, PromiseContext, v, now)
	if err == nil && !bytes.Equal(payload, d.Payload()) {
		err = fmt.Errorf("%w: %s signed another leaf", ErrDocument, who)
	}
	return who, at, err
}
