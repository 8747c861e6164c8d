package state

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// KindCommitSegment is the kind of [CommitSegment].
const KindCommitSegment Kind = "receipt.segment"

// CommitSegment records one Merkle segment of a node's inference receipts: the
// requests that it answered in about a second. Segments of a node are chained
// by sequence and previous root, so that one left out shows. The node itself is
// its actor: nobody continues the chain of another.
type CommitSegment struct {
	Node placement.NodeID `json:"node"`
	// Seq counts the node's segments from 1, Prev is the root of the one before
	// (zero for the first).
	Seq  uint64      `json:"seq"`
	Prev ledger.Hash `json:"prev"`
	// Root is the RFC 6962 root of Count receipts.
	Count uint64      `json:"count"`
	Root  ledger.Hash `json:"root"`
	// From and To bound the times of the requests.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Dropped counts requests answered without a receipt, as their evidence was
	// best-effort and the node could not keep up.
	Dropped uint64 `json:"dropped,omitempty"`
	// Recovered: these receipts were found in the node's file after a crash.
	Recovered bool `json:"recovered,omitempty"`
	// Missing counts receipts that were promised and are lost.
	Missing uint64 `json:"missing,omitempty"`
}

// Kind names the command.
func (CommitSegment) Kind() Kind { return KindCommitSegment }

func segmentReader(k Kind) func([]byte) (Command, error) {
	if k == KindCommitSegment {
		return read[CommitSegment]
	}
	return auditReader(k)
}

// Segment is where the chain of a node's segments ends.
type Segment struct {
	Node placement.NodeID `json:"node"`
	// Chain is the opaque id under which leaves know the node's segments.
	Chain string      `json:"chain"`
	Seq   uint64      `json:"seq"`
	Root  ledger.Hash `json:"root"`
	Leaf  uint64      `json:"leaf"` // of the last segment
}

// Segment is the end of a node's chain, nil before its first segment.
func (v *View) Segment(node placement.NodeID) *Segment {
	seg, _ := v.segments.get(string(node))
	return seg
}

// maxSegment bounds the receipts of one segment.
const maxSegment = 1 << 20

func (s *State) commitSegment(c *call, k CommitSegment) *Refused {
	c.subject = ledger.Opaque(c.head.Salt, string(k.Node))
	last := Segment{Node: k.Node, Chain: c.subject}
	if have := s.Segment(k.Node); have != nil {
		last = *have
	}
	switch {
	case s.Node(k.Node) == nil:
		return refuse("node.unknown", "join again", "there is no node %q", clip(string(k.Node)))
	case c.head.Actor != "node:"+string(k.Node):
		return refuse("segment.actor", "let the node commit it", "the chain of receipts of node %s is its own alone", k.Node)
	case k.Seq != last.Seq+1 || k.Prev != last.Root:
		return refuse("segment.chain", fmt.Sprintf("continue after segment %d", last.Seq), "segment %d does not follow segment %d of node %s", k.Seq, last.Seq, k.Node)
	// An empty one opens a chain, which has its name from then on, or says that a
	// segment was begun before a crash and nothing was promised in it.
	case k.Count > maxSegment || k.Count == 0 && k.Dropped == 0 && k.Missing == 0 && k.Seq != 1 && !k.Recovered:
		return refuse("segment.count", "send what there is to record", "a segment of %d receipts is not possible", k.Count)
	case k.To.Before(k.From):
		return refuse("segment.time", "send the earlier time first", "the segment ends before it begins")
	}
	s.segments.put(string(k.Node), &Segment{k.Node, last.Chain, k.Seq, k.Root, s.tree.Size()})
	c.showSegment(last.Chain, &k)
	c.id = string(k.Node) + "/" + strconv.FormatUint(k.Seq, 10)
	return nil
}

func (c *call) showSegment(chain string, k *CommitSegment) {
	c.show(ledger.ShownChain, chain)
	c.show(ledger.ShownSegment, strconv.FormatUint(k.Seq, 10))
	c.show(ledger.ShownCount, strconv.FormatUint(k.Count, 10))
	c.show(ledger.ShownRoot, hex.EncodeToString(k.Root[:]))
	c.show(ledger.ShownPrev, hex.EncodeToString(k.Prev[:]))
	c.show(ledger.ShownFrom, k.From.UTC().Format(time.RFC3339Nano))
	c.show(ledger.ShownTo, k.To.UTC().Format(time.RFC3339Nano))
	if k.Dropped > 0 {
		c.show(ledger.ShownDropped, strconv.FormatUint(k.Dropped, 10))
	}
	if k.Missing > 0 {
		c.show(ledger.ShownMissing, strconv.FormatUint(k.Missing, 10))
	}
	if k.Recovered {
		c.show(ledger.ShownRecovered, "true")
	}
}
